"""Images of clips, made once where a front end makes the same of a clip each time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from course_lib.clips import Clips
from course_lib.layers.front_end import FrontEnd
from course_lib.models.base import in_evaluation_mode
from course_lib.training.state import digest_of_tensors

_latest: dict[tuple[str, str], Tensor] = {}  # the next fold or seed does not wait for them


@dataclass(frozen=True)
class ImageClips(Clips):
    """Clips whose `batch` gives images that were made before, in place of waveforms.

    `images` has the shape (images, bands, frames); `image` (clips,) is the row of each clip in it.

    Notebook: 07_acoustic_scenes
    """

    _of_each: ClassVar = (*Clips._of_each, "image")

    images: Tensor
    image: Tensor

    @classmethod
    def of(cls, clips: Clips, front_end: FrontEnd, progress: bool = True) -> ImageClips:
        """The images that a front end without parameters makes of clips; the latest ones stay in memory."""
        state = {name: tensor.cpu() for name, tensor in front_end.state_dict().items()}
        about = {"front_end": type(front_end).__name__, "precision": str(front_end.precision)}
        key = clips.digest(), digest_of_tensors(state, about)
        if key not in _latest:
            _latest.clear()
            batches = tqdm([*clips.index_batches()], "making images", disable=not progress, delay=2)
            with torch.no_grad(), in_evaluation_mode(front_end):
                _latest[key] = torch.cat([front_end(clips.batch(index)[0]) for index in batches])
        parts = {field.name: getattr(clips, field.name) for field in fields(clips)}
        return cls(**parts, images=_latest[key], image=torch.arange(len(clips), device=clips.start.device))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (batch, bands, frames) and labels (batch,), for the clips at `index`."""
        rows = self.image[index]
        return self.images[rows.to(self.images.device)].to(rows.device), self.labels[index]
