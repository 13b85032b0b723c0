"""The silence around a word, cut off."""

from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.arguments import number, whole
from course_lib.layers.waveforms import moved, require_waveforms, single_at_least


class TrimSilence(nn.Module):
    """Waveforms (batch, samples) moved to begin where they become loud, and set to zero where they stay soft.

    Loud is a frame of `frame` samples (half overlapping) whose power is at most `below_db` under that of the clip's
    loudest frame; the first and the last such frame are the ends. A silent clip stays silent. Raises ValueError for
    clips of fewer than `frame` samples.
    Source: energy end-pointing, Rabiner and Sambur 1975, in its simplest form.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, below_db: float = 30.0, frame: int = 160) -> None:
        super().__init__()
        self.below_db, self.frame = number("below_db", below_db, above=0), whole("frame", frame, at_least=2)

    def forward(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms, self.frame)
        if len(waveforms) == 0:
            return waveforms
        hop = self.frame // 2
        power = waveforms.to(single_at_least(waveforms.dtype)).square()
        power = functional.avg_pool1d(power[:, None], self.frame, hop, ceil_mode=True)[:, 0]
        loud = (power > power.amax(dim=1, keepdim=True) * 10 ** (-self.below_db / 10)).int()
        first = loud.argmax(dim=1, keepdim=True) * hop
        last = (loud.shape[1] - 1 - loud.flip(1).argmax(dim=1, keepdim=True)) * hop + self.frame
        return moved(waveforms, first, last.clamp(max=waveforms.shape[1]))  # the last frame may be a part of one

    def extra_repr(self) -> str:
        return f"below_db={self.below_db}, frame={self.frame}"
