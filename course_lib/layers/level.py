"""The level of waveforms: how loud a recording came out says nothing of what was recorded."""

from torch import Tensor, nn

from course_lib.layers.arguments import number
from course_lib.layers.waveforms import require_waveforms, single_at_least, sounding_length

_SILENCE = 1e-14  # power: a level of 1e-7, where the smallest step of 16 bits is 3e-5


class NormaliseLevel(nn.Module):
    """Waveforms (batch, samples) brought to one level, in decibels relative to full scale; silence stays silent.

    The level is the root mean square of the part before the padding zeros.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(self, level_db: float = -20.0) -> None:
        super().__init__()
        self.level_db = number("level_db", level_db)

    def forward(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms)
        precise = waveforms.to(single_at_least(waveforms.dtype))
        power = precise.square().sum(dim=1, keepdim=True) / sounding_length(waveforms).clamp(min=1)
        return (precise * 10 ** (self.level_db / 20) / power.clamp(min=_SILENCE).sqrt()).to(waveforms.dtype)

    def extra_repr(self) -> str:
        return f"level_db={self.level_db}"
