"""Trained networks that come with the course, for sounds from anywhere: `kept("digits/cnn").classify(samples, rate)`.

The weights lie beside this module, each with a card that says what it was trained on and what it scored. The recipe of
the same name says how.
"""

from functools import cache
from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from course_lib import CourseError, audio, datasets, experiments, training
from course_lib.experiments import Ensemble, Logistic, Recipe
from course_lib.kept_models.sounds import find_word, mono

__all__ = ["KeptModel", "KeptModelError", "find_word", "kept", "names"]

FOLDER = Path(__file__).parent
# Sound that is left around a word, in seconds: the answer is the mean over these, since none is right for every word.
MARGINS = (0.0, 0.04, 0.1)
# A word is also played slower and faster, as by a longer and a shorter vocal tract: strangers' voices differ in that.
SPEEDS = (0.9, 1.0, 1.1)


class KeptModelError(CourseError, ValueError):
    """There is no kept network of that name; the message lists those there are."""


class KeptModel:
    """A trained network, the names of its classes, the sample rate that it works at (Hz), and its card (Markdown).

    Of an Ensemble, `network` is the `nn.ModuleList` of its members' networks, in their order.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(
        self, recipe: Recipe | Logistic | Ensemble, network: nn.Module, class_names: tuple[str, ...], card: str = ""
    ) -> None:
        self.name, self.recipe, self.network = recipe.name, recipe, network.eval()
        self.class_names, self.card = class_names, card
        several = isinstance(recipe, Ensemble)
        self.members = list(zip(recipe.recipes, network, strict=True)) if several else [(recipe, network)]
        self.sample_rate = _rate(self.members[0][0])

    def classify(self, samples: ArrayLike | Tensor, rate: float) -> dict[str, float]:
        """The probability of each class for a sound, shape (samples,) or (channels, samples), at `rate` Hz.

        Any level, rate and type of numbers: what the network was trained on decides whether the loudest word is looked
        for, in any length and with silence around it, or the whole recording counts. The clips' answers are pooled by
        the geometric mean, and those of several networks again. Raises ValueError for no samples, NaN, no sound, rates
        outside 100 Hz .. 768 kHz and, where recordings are prepared first, for those that are too short, of too low a
        rate, or flat once they are prepared.

        Notebook: 02_spoken_digits_cnn
        """
        waveform = mono(samples)
        with torch.inference_mode():
            logs = [
                network(_clips(recipe, waveform, rate, SPEEDS)).double().log_softmax(dim=1).mean(dim=0)
                for recipe, network in self.members
            ]
        probabilities = torch.stack(logs).mean(dim=0).softmax(dim=0)
        return dict(zip(self.class_names, probabilities.tolist(), strict=True))

    def clips(self, samples: ArrayLike | Tensor, rate: float) -> Tensor:
        """What the (first) network is shown of a sound at its own speed, shape (clips, samples), at its own rate.

        Raises as `classify` does.
        """
        return _clips(self.members[0][0], mono(samples), rate)


def _rate(recipe: Recipe | Logistic) -> int:
    return recipe.preparation.sample_rate if recipe.preparation else datasets.get(recipe.dataset).sample_rate


def _clips(recipe: Recipe | Logistic, waveform: Tensor, rate: float, speeds: tuple[float, ...] = (1.0,)) -> Tensor:
    """Clips of a waveform (samples,) as a recipe's network takes them: of its word, or of all of it."""
    preparation, clip, own_rate = recipe.preparation, recipe.clip, _rate(recipe)
    if preparation is not None and rate < own_rate:
        raise ValueError(f"a sample rate of {rate:g} Hz is too low; it must be at least {own_rate:,} Hz")
    waveform = audio.resample(waveform, rate, preparation.from_rate if preparation else own_rate)
    if preparation is not None:
        try:
            waveform = preparation(waveform)
        except audio.AudioError as error:
            raise ValueError(f"the sound {str(error).split(';')[0]}; record again") from None
    length = round(clip.seconds * own_rate)
    if clip.hop_seconds is None and clip.starts is None:
        start, end = find_word(waveform, own_rate, longest=clip.seconds)
        margins = [round(margin * own_rate) for margin in MARGINS]
        pieces = [waveform[max(0, start - margin) : end + margin] for margin in margins]
        pieces = [audio.resample(piece, round(speed * own_rate), own_rate) for speed in speeds for piece in pieces]
    else:
        hop = round((clip.hop_seconds or clip.seconds) * own_rate)
        last = max(0, len(waveform) - length)
        starts = sorted({*range(0, last + 1, hop), last})  # the last clip ends with the recording
        pieces = [waveform[start : start + length] for start in starts]
    return torch.stack([audio.fix_length(piece, length) for piece in pieces])


def names() -> list[str]:
    """The names of the kept networks.

    Notebook: 02_spoken_digits_cnn
    """
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.safetensors"))


def build(recipe: Recipe | Logistic | Ensemble, n_classes: int, n_groups: int | None = None) -> nn.Module:
    """The network of a recipe with fresh weights; of an Ensemble, the `nn.ModuleList` of its members' networks."""
    if isinstance(recipe, Ensemble):
        return nn.ModuleList(member.build(n_classes, n_groups) for member in recipe.recipes)
    return recipe.build(n_classes, n_groups)


@cache
def kept(name: str) -> KeptModel:
    """The kept network of that name, FOLDER/NAME as its recipe. Raises KeptModelError and CheckpointError.

    Notebook: 02_spoken_digits_cnn
    """
    if name not in names():
        raise KeptModelError(f"there is no kept network {name!r}; there are: {', '.join(names()) or 'none'}")
    path = FOLDER / f"{name}.safetensors"
    recipe = experiments.load(name)
    _, about = training.state.load(path)
    class_names = tuple(about["class_names"])
    network = build(recipe, len(class_names), about.get("groups"))
    training.load_model(path, network)
    card = path.with_suffix(".md")
    return KeptModel(recipe, network, class_names, card.read_text(encoding="utf-8") if card.is_file() else "")
