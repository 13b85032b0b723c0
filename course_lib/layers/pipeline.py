"""Layers of a front end one after the other."""

from __future__ import annotations

from torch import Tensor, nn

from course_lib.layers.front_end import FrontEnd


class Pipeline(nn.Sequential):
    """Waveforms (batch, samples) -> images (batch, bands, frames), layer by layer.

    Images that the first layer has made before may be given in place of the waveforms; they enter behind it. This
    saves the first layer where its images are always the same, see `fixed`.

    Notebook: 07_acoustic_scenes
    """

    @property
    def fixed(self) -> FrontEnd | None:
        """The first layer, if it makes the same image of a clip each time: it learns nothing and draws nothing."""
        first = next(iter(self), None)
        return first if isinstance(first, FrontEnd) and not any(True for _ in first.parameters()) else None

    def forward(self, batch: Tensor) -> Tensor:
        for layer in self[1:] if batch.ndim == 3 and self.fixed is not None else self:
            batch = layer(batch)
        return batch
