"""Exercises of lesson 7: three places, averages over time, folds by place, pooled segments, paired differences.

Notebook: 07_acoustic_scenes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats

from course_lib.datasets import Recordings
from course_lib.datasets.dcase2016 import CLASS_NAMES
from course_lib.exercises.exercise import (
    Exercise,
    Mistake,
    NotDone,
    Prediction,
    Wrong,
    agrees,
    is_stub,
    numbers,
    require_function,
)

# (a) Where am I?

_PLACES = {"A": "park", "B": "cafe/restaurant", "C": "metro_station"}
_SEGMENTS = {"A": "a017_120_130", "B": "a107_150_160", "C": "a157_20_30"}  # clear ones, where they are on this disk
_CLOSE = {
    ("A", "forest_path"): "A: birds sing in both, but below them is the steady rumble of a town.",
    ("A", "residential_area"): "A: close, there are birds and a town; but no car and no door is near.",
    ("B", "grocery_store"): "B: there are voices in a shop, too, but they pass by; here people sit, and dishes clink.",
    ("B", "home"): "B: too many people talk at once for a home.",
    ("C", "train"): "C: there is a train, but you are not in it: it comes nearer.",
    ("C", "tram"): "C: it does run on rails, but you are not in it: it comes nearer.",
}


def three_places(recordings: Recordings) -> dict[str, int]:
    """The rows of the segments A, B and C; where the chosen ones are not on this disk, the first of their scene."""
    names = list(recordings.table["recording"])
    rows = {}
    for letter, scene in _PLACES.items():
        first = int(recordings.find(label=CLASS_NAMES.index(scene))[0])
        rows[letter] = names.index(_SEGMENTS[letter]) if _SEGMENTS[letter] in names else first
    return rows


def _check_places(answer: Any) -> None:
    if not isinstance(answer, dict) or set(answer) != set(_PLACES):
        raise Wrong(answer, "{'A': ..., 'B': ..., 'C': ...}", "Give one scene for each of A, B and C.")
    for letter, scene in answer.items():
        if scene not in CLASS_NAMES:
            raise Wrong(f"{letter}: {scene!r}", "a name from the list", "Copy the names from the list of fifteen.")
    wrong = [letter for letter in _PLACES if answer[letter] != _PLACES[letter]]
    if wrong:
        letter = wrong[0]
        far = f"{letter}: listen again. Is it indoors? Does it move? Are there people, and what else?"
        raise Wrong(f"{3 - len(wrong)} of 3 places", "3 of 3", _CLOSE.get((letter, answer[letter]), far))


WHERE = Exercise(
    "Where am I?",
    _check_places,
    _PLACES,
    [
        "First decide for each: indoors, outdoors, or in a vehicle?",
        "In A something sings; in B something clinks; in C something arrives, and its motor whines lower and lower.",
        "A is outdoors, with a town around it; B is a room full of people; in C you stand and wait.",
    ],
    [
        *(Mistake(_PLACES | {letter: scene}, sentence) for (letter, scene), sentence in _CLOSE.items()),
        Mistake(
            _PLACES | {"C": "library"},
            "C: listen again. Is it indoors? Does it move? Are there people, and what else?",
        ),
        Mistake(_PLACES | {"B": "restaurant"}, "Copy the names from the list of fifteen."),
        Mistake({"A": "park"}, "Give one scene for each of A, B and C."),
    ],
    why="Some of it you knew from one event, some from how the whole ten seconds sound. A machine can use both.",
    worked="\n".join(f"{letter}: {scene}" for letter, scene in _PLACES.items()),
)


# (b) Averages over time


def averages(images: torch.Tensor) -> torch.Tensor:
    """Images in dB (clips, bands, frames) -> mean, log spread and log change of each band, (clips, 3 * bands)."""
    mean = images.mean(dim=2)
    spread = images.std(dim=2, correction=0)
    change = images.diff(dim=2).abs().mean(dim=2)
    return torch.cat([mean, (spread + 0.1).log(), (change + 0.1).log()], dim=1)


def _images(random: np.random.Generator) -> Iterator[tuple[torch.Tensor]]:
    for clips, bands, frames in ((2, 5, 12), (3, 4, 30)):
        images = random.normal(-40, 8, size=(clips, bands, frames)).cumsum(axis=2) / np.arange(1, frames + 1)
        images[0, 0] = -80  # silence
        yield (torch.from_numpy(images),)


def _averages(
    mean: Callable[[torch.Tensor], torch.Tensor] = lambda x: x.mean(dim=2),
    spread: Callable[[torch.Tensor], torch.Tensor] = lambda x: x.std(dim=2, correction=0),
    change: Callable[[torch.Tensor], torch.Tensor] = lambda x: x.diff(dim=2).abs().mean(dim=2),
    log: Callable[[torch.Tensor], torch.Tensor] = lambda x: (x + 0.1).log(),
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: torch.cat([mean(images), log(spread(images)), log(change(images))], dim=1)


AVERAGES = Exercise(
    "Averages over time",
    agrees(averages, _images),
    averages,
    [
        "images.mean(dim=2) is one number for each band of each clip: time is the last axis.",
        "images.diff(dim=2) has the steps from each frame to the next; a step down counts as much as a step up.",
        "torch.cat([mean, (spread + 0.1).log(), (change + 0.1).log()], dim=1) puts the three side by side.",
    ],
    [
        Mistake(
            lambda images: averages(images.transpose(1, 2)),
            "You averaged over the bands of each frame; average over the frames of each band, dim=2.",
        ),
        Mistake(
            _averages(spread=lambda x: x.var(dim=2, correction=0)),
            "This is the variance; the spread is its square root, in dB.",
        ),
        Mistake(
            _averages(spread=lambda x: x.std(dim=2)),
            "torch divides by the frames minus one unless you say correction=0; here the frames are all there is.",
        ),
        Mistake(
            _averages(mean=lambda x: 10 * (10 ** (x / 10)).mean(dim=2).log10()),
            "This is the level of the mean power, which one loud moment decides; take the mean of the decibels.",
        ),
        Mistake(
            _averages(change=lambda x: x.diff(dim=2).mean(dim=2)),
            "Steps up and down cancel: their mean is the last frame minus the first. Take absolute values.",
        ),
        Mistake(_averages(log=lambda x: x), "Spread and change are still in dB; take the logarithm of both."),
        Mistake(
            _averages(log=lambda x: x.log()),
            "A silent band has no spread, and log(0) is minus infinity; add 0.1 dB first.",
        ),
    ],
    why="Three numbers for each band, and all order in time is gone. See how far they go.",
)


# Predict first: the leak

LEAK = Prediction(
    "Gain from a random split",
    "points",
    close=4,
    good="The place was known, not the kind of place.",
    too_high="It is less: even with the same places in training, scenes that sound alike stay alike.",
    too_low="It is more: the test segment's neighbour, of the same place and the same minutes, is in the training.",
)


# (c) Folds by place


def folds_by_place(locations: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    """The fold, 0 to 3, of each segment: no location in two folds, every scene in each."""
    fold = np.zeros(len(locations), dtype=int)
    for scene in np.unique(scenes):
        for number, location in enumerate(np.unique(locations[scenes == scene])):
            fold[locations == location] = number % 4
    return fold


def _segments() -> tuple[np.ndarray, np.ndarray]:
    """Locations and scenes of 120 segments, in random order: ten scenes of five to eight locations each."""
    random = np.random.default_rng(11)
    scene_of = np.repeat(np.arange(10), random.integers(5, 9, size=10))
    names = np.array([f"a{number:03d}" for number in random.permutation(len(scene_of))])
    location = np.concatenate([np.arange(len(names)), random.integers(len(names), size=120 - len(names))])
    random.shuffle(location)
    return names[location], scene_of[location]


def _check_folds(answer: Any) -> None:
    require_function(answer)
    given = answer(*_segments())
    if is_stub(given):
        raise NotDone
    locations, scenes = _segments()
    fold = numbers(given, locations.shape)
    if np.iscomplexobj(fold) or not np.isin(fold, range(4)).all():
        raise Wrong(
            f"folds {sorted(set(fold.tolist()), key=str)[:6]}", "0, 1, 2 and 3", "Folds are numbered from 0 to 3."
        )
    if len(np.unique(fold)) < 4:
        raise Wrong(f"{len(np.unique(fold))} folds", "4 folds", "A fold is empty: it tests nothing.")
    pairs = len(np.unique(np.stack([np.unique(locations, return_inverse=True)[1], fold]), axis=1).T)
    twice = pairs - len(np.unique(locations))
    if twice and (np.diff(fold) >= 0).all():
        sentence = "Blocks of rows cut locations apart: the table need not be sorted by location."
        raise Wrong(f"{twice} pairs too many of location and fold", "one fold for each location", sentence)
    if twice:
        sentence = "Segments were dealt out one by one; deal out locations, with all their segments."
        raise Wrong(f"{twice} pairs too many of location and fold", "one fold for each location", sentence)
    table = np.zeros((10, 4), dtype=int)
    np.add.at(table, (scenes, fold.astype(int)), 1)
    if (np.count_nonzero(table, axis=1) == 1).all():
        sentence = "Each scene is in one fold only: a network is tested on scenes that it has never met."
        raise Wrong("1 fold for each scene", "every scene in each fold", sentence)
    if (table == 0).any():
        scene, empty = np.argwhere(table == 0)[0]
        sentence = "A scene is missing from a fold: deal out the locations of each scene by themselves."
        raise Wrong(f"no segment of scene {scene} in fold {empty}", "every scene in each fold", sentence)


def _numbers_of(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]


FOLDS = Exercise(
    "Folds by place",
    _check_folds,
    folds_by_place,
    [
        "np.unique(locations) has each location once; number them 0, 1, 2, 3, 0, 1 and so on.",
        "fold[locations == location] = number % 4 puts all segments of a location into one fold.",
        "Do this for the locations of each scene by themselves: np.unique(locations[scenes == scene]).",
    ],
    [
        Mistake(
            lambda locations, scenes: np.arange(len(locations)) % 4,
            "Segments were dealt out one by one; deal out locations, with all their segments.",
        ),
        Mistake(
            lambda locations, scenes: np.arange(len(locations)) * 4 // len(locations),
            "Blocks of rows cut locations apart: the table need not be sorted by location.",
        ),
        Mistake(
            lambda locations, scenes: _numbers_of(locations) % 4,
            "A scene is missing from a fold: deal out the locations of each scene by themselves.",
        ),
        Mistake(
            lambda locations, scenes: scenes % 4,
            "Each scene is in one fold only: a network is tested on scenes that it has never met.",
        ),
        Mistake(lambda locations, scenes: folds_by_place(locations, scenes) + 1, "Folds are numbered from 0 to 3."),
        Mistake(
            lambda locations, scenes: np.minimum(folds_by_place(locations, scenes), 2),
            "A fold is empty: it tests nothing.",
        ),
    ],
    why="Every score that follows is for places that the network has never been to.",
)


# (d) Several segments of one place


def pool(probabilities: np.ndarray, locations: np.ndarray) -> np.ndarray:
    """Probabilities (segments, classes) -> those of each location, (locations, classes), locations sorted by name."""
    means = [np.log(probabilities[locations == location]).mean(axis=0) for location in np.unique(locations)]
    pooled = np.exp(means)
    return pooled / pooled.sum(axis=1, keepdims=True)


def _segments_of_places(random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for classes, segments in ((3, 9), (4, 16)):
        locations = np.array(["lake", "hall", "dock", "cave"])[np.arange(segments) % 4]
        random.shuffle(locations[1:])  # the first one stays first, though it is the last by name
        yield 0.96 * random.dirichlet(np.full(classes, 0.5), size=segments) + 0.04 / classes, locations


def _pooled(of_place: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda p, locations: np.array([of_place(p[locations == each]) for each in np.unique(locations)])


def _share(values: np.ndarray) -> np.ndarray:
    return values / values.sum()


def _in_order_of_appearance(probabilities: np.ndarray, locations: np.ndarray) -> np.ndarray:
    first = np.sort(np.unique(locations, return_index=True)[1])
    return pool(probabilities, locations)[np.unique(locations).searchsorted(locations[first])]


POOL = Exercise(
    "Several segments of one place",
    agrees(pool, _segments_of_places),
    pool,
    [
        "np.log(probabilities[locations == location]).mean(axis=0) is the mean log-probability of each class.",
        "np.exp of it is no probability yet: divide by the sum over the classes.",
        "np.unique(locations) has the locations in the order that is asked for.",
    ],
    [
        Mistake(
            _pooled(lambda p: p.mean(axis=0)),
            "This is the mean of the probabilities; average their logarithms.",
        ),
        Mistake(
            _pooled(lambda p: np.exp(np.log(p).mean(axis=0))),
            "These do not add up to 1 over the classes: divide by their sum, which is what a softmax does.",
        ),
        Mistake(_pooled(lambda p: np.log(p).mean(axis=0)), "These are still logarithms; take np.exp and normalise."),
        Mistake(
            _pooled(lambda p: _share(p.prod(axis=0))),
            "A product treats the segments as independent: the more there are, the surer it gets. Take the mean of the "
            "logarithms, not their sum.",
        ),
        Mistake(
            _pooled(lambda p: np.bincount(p.argmax(axis=1), minlength=p.shape[1]) / len(p)),
            "This counts votes: it forgets how sure each segment is, and two against two is a tie.",
        ),
        Mistake(
            _pooled(lambda p: p[p.max(axis=1).argmax()]),
            "This is the surest segment alone; the others count, too.",
        ),
        Mistake(_in_order_of_appearance, "The numbers are right, their order is not: sort the locations by name."),
    ],
    why="A segment that is unsure leaves the decision to its neighbours.",
)


# (e) A difference with its interval


def paired(first: np.ndarray, second: np.ndarray, locations: np.ndarray) -> tuple[float, float, float]:
    """How much better the second system is, and the 95 % t interval over locations: (mean, low, high)."""
    difference = second - first
    means = np.array([difference[locations == location].mean() for location in np.unique(locations)])
    error = means.std(ddof=1) / np.sqrt(len(means))
    reach = stats.t.ppf(0.975, len(means) - 1) * error
    return means.mean(), means.mean() - reach, means.mean() + reach


def _two_systems(random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for places in (7, 12):
        locations = np.repeat([f"a{number:03d}" for number in range(places)], random.integers(1, 6, size=places))
        hard = np.repeat(random.uniform(0.2, 0.9, size=places), np.unique(locations, return_counts=True)[1])
        first, second = (random.uniform(size=len(locations)) < chance for chance in (hard, hard + 0.1))
        yield first.astype(float), second.astype(float), locations


def _interval_of(means: np.ndarray, error: float, factor: float | None = None) -> tuple[float, float, float]:
    reach = error * (stats.t.ppf(0.975, len(means) - 1) if factor is None else factor)
    return means.mean(), means.mean() - reach, means.mean() + reach


def _by_place(values: np.ndarray, locations: np.ndarray) -> np.ndarray:
    return np.array([values[locations == location].mean() for location in np.unique(locations)])


def _error(values: np.ndarray, ddof: int = 1) -> float:
    return values.std(ddof=ddof) / np.sqrt(len(values))


def _unpaired(first: np.ndarray, second: np.ndarray, locations: np.ndarray) -> tuple[float, float, float]:
    one, other = _by_place(first, locations), _by_place(second, locations)
    return _interval_of(other - one, np.hypot(_error(one), _error(other)))


def _every_segment(first: np.ndarray, second: np.ndarray, locations: np.ndarray) -> tuple[float, float, float]:
    return _interval_of(second - first, _error(second - first))


def _of_means(
    error: Callable[[np.ndarray], float] = _error, factor: float | None = None
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float, float]]:
    def answer(first: np.ndarray, second: np.ndarray, locations: np.ndarray) -> tuple[float, float, float]:
        means = _by_place(second - first, locations)
        return _interval_of(means, error(means), factor)

    return answer


PAIRED = Exercise(
    "A difference with its interval",
    agrees(paired, _two_systems),
    paired,
    [
        "Subtract first: second - first is +1, 0 or -1 for each segment. Then average within each location.",
        "The standard error of n values is their standard deviation (ddof=1) divided by the root of n.",
        "stats.t.ppf(0.975, n - 1) standard errors on each side, where n is the number of locations.",
    ],
    [
        Mistake(
            _every_segment,
            "This takes all segments for independent; those of one location are right or wrong together.",
        ),
        Mistake(
            _unpaired,
            "This is the interval for systems tested at different places; subtract first, segment by segment.",
        ),
        Mistake(
            lambda first, second, locations: paired(second, first, locations),
            "The sign is the wrong way round: above zero means that the second system is better.",
        ),
        Mistake(_of_means(lambda means: _error(means, 0)), "The standard deviation of a sample needs ddof=1."),
        Mistake(
            _of_means(factor=1.96),
            "1.96 is right for very many locations; for n of them it is stats.t.ppf(0.975, n - 1).",
        ),
        Mistake(
            _of_means(lambda means: means.std(ddof=1)),
            "This is how much locations differ; the error of their mean is smaller by the root of their number.",
        ),
    ],
    why="Both systems met the same hard places, so what is hard about them cancels.",
    worked=paired,
)
