"""The layer as a plain convolution, to be taken elsewhere."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.gammatone.compression import Pcen, compress
from course_lib.layers.gammatone.pooling import Pooling


class GammatoneConvolution(nn.Module):
    """Waveforms (..., samples) -> images (..., n_filters, frames), by convolution with frozen, cut-off responses.

    `GammatoneFilterbank.to_conv` makes it. It is made of PyTorch's own operators, and clips and batches of any size go
    through an exported program. It has no parameters, and learns nothing.

    kernels: responses (n_filters, taps), in buffers as everything else.
    pooling: which samples make a frame.
    compression: log, log1p, pcen or None.
    eps: the energy that compression takes for silence.
    pcen: the values of that compression.

    Notebook: 04_learnable_gammatone
    """

    kernels: Tensor

    def __init__(
        self, kernels: Tensor, pooling: Pooling, compression: str | None, eps: float, pcen: Pcen | None = None
    ) -> None:
        super().__init__()
        # conv1d correlates; reversed in time it convolves.
        self.register_buffer("kernels", kernels.detach().flip(1)[:, None].clone())
        for name, values in ({} if pcen is None else pcen._asdict()).items():
            self.register_buffer(name, values.detach().clone())
        self.pooling, self.compression, self.eps = pooling, compression, eps

    def forward(self, waveforms: Tensor) -> Tensor:
        filters, _, taps = self.kernels.shape
        rows = waveforms.reshape(-1, 1, waveforms.shape[-1])
        outputs = functional.conv1d(functional.pad(rows.to(self.kernels.dtype), (taps - 1, 0)), self.kernels)
        energies = self.pooling.mean(outputs.square())
        if self.compression == "pcen":
            images = Pcen(self.speed, self.power, self.offset, self.root)(energies, self.eps)
        else:
            images = compress(energies, self.compression, self.eps)
        return images.reshape(*waveforms.shape[:-1], filters, images.shape[-1])

    def extra_repr(self) -> str:
        filters, _, taps = self.kernels.shape
        return f"{filters} filters of {taps} taps, window {self.pooling.window} and hop {self.pooling.hop} samples"
