"""How accurate a model is in noise."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.clips import Clips
from course_lib.evaluation.decisions import EvaluationError
from course_lib.layers.waveform_augmentation import mixed
from course_lib.models.base import in_evaluation_mode, require_fitting


@torch.no_grad()
def accuracy_in_noise(
    models: Mapping[str, tuple[nn.Module, Clips]], snrs: Sequence[float] = (20, 15, 10, 5, 0, -5), voices: int = 4,
    seed: int = 0, batch_size: int = 256, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of models in white noise and in babble, a row for each model, noise and signal-to-noise ratio in dB.

    Each model comes with the clips it is tested on. Babble is `voices` other recordings of the same clips at once,
    each begun at random and repeated. Noise is as long as the recording; the padding stays silent. The noise of a
    clip depends on `seed`, its position and `batch_size` alone. Columns: model, noise, snr, accuracy (fraction); snr is
    infinite without noise.

    Notebook: 03b_rivals_and_noise
    """
    cases = [("none", float("inf")), *((noise, float(snr)) for noise in ("white", "babble") for snr in snrs)]
    rows = []
    bar = tqdm(total=len(models) * len(cases), desc="testing in noise", disable=not progress, leave=False)
    for name, (model, clips) in models.items():
        require_fitting(model, clips)
        for noise, snr in cases:
            random, correct = torch.Generator().manual_seed(seed), 0
            for index in torch.arange(len(clips)).split(batch_size):
                waveforms, labels = clips.batch(index)
                if noise == "white":
                    waveforms = mixed(waveforms, torch.randn(waveforms.shape, generator=random), snr)
                elif noise == "babble":
                    waveforms = mixed(waveforms, babble(clips, index, voices, random), snr)
                correct += int((_classes(name, model, waveforms) == labels).sum())
            rows.append((name, noise, snr, correct / len(clips)))
            bar.update()
    bar.close()
    return pd.DataFrame(rows, columns=["model", "noise", "snr", "accuracy"])


def _classes(name: str, model: nn.Module, waveforms: Tensor) -> Tensor:
    with in_evaluation_mode(model):
        logits = model(waveforms.to(next(model.parameters()).device)).cpu()
    if not logits.isfinite().all():
        raise EvaluationError(f"the output of {name} is not finite (NaN); its weights are damaged")
    return logits.argmax(dim=1)


def babble(clips: Clips, index: Tensor, voices: int, random: torch.Generator) -> Tensor:
    """For each clip at `index`, `voices` other clips at once, each repeated without its padding: (batch, samples)."""
    step = torch.arange(clips.clip_samples)
    total = torch.zeros(len(index), clips.clip_samples)
    for _ in range(voices):
        other = (index + torch.randint(1, len(clips), index.shape, generator=random)) % len(clips)
        length = clips.length[other, None]
        begin = (torch.rand(len(index), 1, generator=random) * length).long()
        total += clips.batch(other)[0].gather(1, (begin + step) % length)
    return total
