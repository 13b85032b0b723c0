"""Exercises of lesson 5: MAcc, knocks, a threshold, the mean of devices, and two networks that disagree.

The stubs of the lesson and of its appendix are

    def macc(labels, predicted): ...                      # MACC: mean of sensitivity and specificity
    def knocks(heart): ...                                # KNOCKS: heights of one knock that stays and one that goes
    def highest_macc(labels, probabilities): ...          # THRESHOLD: the threshold of the highest MAcc
    def mean_of_devices(decisions): ...                   # DEVICES: the mean over devices of MAcc
    def disagreement(first, second, labels): ...          # DISAGREEMENT: how many recordings, and p

and ALONE, SYSTOLE and GAIN are guesses, in % of MAcc, in log-odds and in recordings.

Notebook: 05_heart_sounds_physionet
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from course_lib.datasets.hearts.preparation import remove_spikes
from course_lib.datasets.stand_ins.heart_sounds import heart as synthetic_heart
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

# (a) MAcc


def macc(labels, predicted):
    """The mean of sensitivity and specificity; labels and predicted classes (recordings,) are 0 or 1."""
    sensitivity = (predicted[labels == 1] == 1).mean()
    specificity = (predicted[labels == 0] == 0).mean()
    return (sensitivity + specificity) / 2


def _draws(random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for draw in range(200):
        size = int(random.integers(10, 60))
        labels = (random.uniform(size=size) < random.uniform(0.1, 0.9)).astype(int)
        labels[:2] = 0, 1
        if draw < 10:  # the same answer for everyone
            yield labels, np.full(size, draw % 2)
        else:
            yield labels, np.where(random.uniform(size=size) < 0.3, 1 - labels, labels)


MACC = Exercise(
    "MAcc",
    agrees(macc, _draws),
    macc,
    [
        "Sensitivity is the mean of predicted == 1 over those recordings whose label is 1.",
        "predicted[labels == 1] are the predictions for abnormal hearts.",
        "Specificity is the same for class 0; take the mean of the two.",
    ],
    [
        Mistake(
            lambda labels, predicted: (labels == predicted).mean(),
            "This is the accuracy: whoever is in the majority decides it.",
        ),
        Mistake(
            lambda labels, predicted: (predicted[labels == 1] == 1).mean(),
            "This is the sensitivity alone; calling every heart abnormal would have 100 %.",
        ),
        Mistake(
            lambda labels, predicted: np.mean(
                [(labels[predicted == c] == c).mean() if (predicted == c).any() else 0 for c in (0, 1)]
            ),
            "You took shares of those that are classified alike (precision); take shares of those with the same label.",
        ),
        Mistake(lambda labels, predicted: 100 * macc(labels, predicted), "Give a fraction from 0 to 1."),
        Mistake(
            lambda labels, predicted: np.sqrt(
                (predicted[labels == 1] == 1).mean() * (predicted[labels == 0] == 0).mean()
            ),
            "This is the geometric mean; MAcc is the arithmetic one.",
        ),
    ],
    why="The same answer for everyone has 0.5, whatever the share of abnormal hearts.",
)


# Predict first: the device alone

ALONE = Prediction(
    "MAcc of the device alone, list 1",
    "%",
    close=5,
    good="Most of what looks like skill on list 1 needs no sound.",
    too_high="So much the device does not give away; but compare it with 50 %.",
    too_low="On list 1 some devices were mostly put on ill hearts and others on healthy ones, and that is enough.",
)


# (b) Two knocks


def knocks(heart):
    """Heights of two knocks on a heart (samples,) at 1 kHz: one just below the limit of the rule, one just above."""
    peaks = heart.abs().reshape(-1, 500).amax(dim=1)  # of half-seconds
    limit = 3 * peaks.median()
    return 0.9 * limit, 1.1 * limit


def _hearts() -> list[torch.Tensor]:
    """Ten seconds at 1 kHz; in half of them the heart beats harder for a while, which moves means but not medians."""
    made = []
    for seed in range(6):
        samples = synthetic_heart(10, None, np.random.default_rng(seed), loudness=0.3).waveform[::2]
        peaks = np.abs(samples).reshape(-1, 500).max(axis=1)
        samples = samples * np.repeat(np.median(peaks) / peaks, 500)  # every half-second has one peak ...
        if seed % 2:
            samples[6000:9000] *= 2.7  # ... but for these six
        made.append(torch.from_numpy(0.05 * (1 + seed) * samples))
    return made


def _knocked(heart: torch.Tensor, height: float) -> torch.Tensor:
    knocked = heart.clone()
    knocked[2250:2255] = height * torch.sin(torch.pi * (torch.arange(5, dtype=heart.dtype) + 0.5) / 5)
    return knocked


def _stays(heart: torch.Tensor, height: float) -> bool:
    return bool(remove_spikes(_knocked(heart, height), 1000)[2252] != 0)


def _check_knocks(answer: Any) -> None:
    require_function(answer)
    hearts, given = _hearts(), []
    for number, heart in enumerate(hearts):
        value = answer(heart.clone())
        if is_stub(value):
            if number == 0:
                raise NotDone
            raise Wrong("None", "two numbers for every heart")
        pair = numbers(value, (2,))
        if np.iscomplexobj(pair) or not np.isfinite(pair).all() or (pair <= 0).any():
            raise Wrong(f"heights {pair}", "two heights above 0")
        given.append(pair / float(heart.abs().max()))  # mistakes are compared at one scale
    for heart, pair in zip(hearts, given, strict=True):
        stays, goes = pair * float(heart.abs().max())
        limit = 3 * float(heart.abs().reshape(-1, 500).amax(dim=1).median())
        if not _stays(heart, stays):
            raise Wrong(f"a knock of {stays:.3g} that should stay, but goes", f"less than {limit:.3g}", values=given)
        if _stays(heart, goes):
            raise Wrong(f"a knock of {goes:.3g} that should go, but stays", f"more than {limit:.3g}", values=given)
        if stays < 0.8 * limit or goes > 1.2 * limit:
            raise Wrong(
                f"knocks of {stays:.3g} and {goes:.3g}", f"both within a fifth of the limit, {limit:.3g}", values=given
            )


def _from_peaks(low: float, high: float, middle: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def answer(heart: torch.Tensor) -> tuple[float, float]:
        limit = float(middle(heart.abs().reshape(-1, 500).amax(dim=1)))
        return low * limit, high * limit

    return answer


KNOCKS = Exercise(
    "Two knocks",
    _check_knocks,
    knocks,
    [
        "heart.abs().reshape(-1, 500) has a row for each half-second; amax(dim=1) is its peak.",
        "The limit is three times the median of these peaks.",
        "Take nine tenths of the limit and eleven tenths.",
    ],
    [
        Mistake(
            _from_peaks(2.7, 3.3, torch.mean), "The limit comes from the median of the peaks, not from their mean."
        ),
        Mistake(_from_peaks(0.9, 1.1, torch.median), "The limit is three times the median of the peaks."),
        Mistake(_from_peaks(3.3, 2.7, torch.median), "Give first the knock that stays, then the one that is silenced."),
        Mistake(
            _from_peaks(2.7, 3.3, torch.max),
            "One loud moment does not set the limit: it is three medians of the peaks.",
        ),
        Mistake(
            lambda heart: (2.7 * heart.abs().median(), 3.3 * heart.abs().median()),
            "The median is that of the peaks of half-seconds, not of all samples.",
        ),
        Mistake(
            _from_peaks(1.5, 30, torch.median),
            "Right, but any knock would do: come within a fifth of the limit on both sides.",
        ),
    ],
    why="The rule knows only heights: a soft knock stays, and a recording full of knocks raises its own limit.",
)


# (c) The best threshold


def highest_macc(labels, probabilities):
    """The threshold with the highest MAcc on these recordings; from it up, a probability means abnormal."""
    return max(np.unique(probabilities), key=lambda threshold: macc(labels, (probabilities >= threshold).astype(int)))


def _sides() -> list[tuple[np.ndarray, np.ndarray]]:
    random, sides = np.random.default_rng(7), []
    for share, easy in ((0.2, 1.0), (0.8, 0.6), (0.1, 1.5), (0.5, 0.4), (0.3, 0.8), (0.9, 1.2)):
        labels = (random.uniform(size=80) < share).astype(int)
        labels[:4] = 0, 1, 0, 1
        odds = easy * (2 * labels - 1) + random.normal(0.7 * (1 - 2 * share), 1, size=80)
        sides.append((labels, 1 / (1 + np.exp(-odds))))
    return sides


def _check_threshold(answer: Any) -> None:
    require_function(answer)
    sides, given = _sides(), []
    for number, (labels, probabilities) in enumerate(sides):
        value = answer(labels.copy(), probabilities.copy())
        if is_stub(value):
            if number == 0:
                raise NotDone
            raise Wrong("None", "a threshold for all recordings")
        threshold = numbers(value, ())
        if np.iscomplexobj(threshold) or not 0 <= threshold <= 1:
            raise Wrong(f"the threshold {threshold}", "a probability from 0 to 1")
        given.append(float(threshold))
    for threshold, (labels, probabilities) in zip(given, sides, strict=True):
        reached = macc(labels, (probabilities >= threshold).astype(int))
        right = highest_macc(labels, probabilities)
        best = macc(labels, (probabilities >= right).astype(int))
        if reached < best - 1e-9:
            raise Wrong(
                f"threshold {threshold:.4f}, MAcc {reached:.3f}", f"MAcc {best:.3f}, as at {right:.4f}", values=given
            )


def _best_by(score: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda labels, probabilities: max(
        np.unique(probabilities), key=lambda threshold: score(labels, (probabilities >= threshold).astype(int))
    )


THRESHOLD = Exercise(
    "The threshold with the highest MAcc",
    _check_threshold,
    highest_macc,
    [
        "Only the probabilities themselves need to be tried as thresholds: between two of them nothing changes.",
        "For each candidate compute macc(labels, (probabilities >= candidate).astype(int)).",
        "max(candidates, key=...) gives the candidate with the highest score.",
    ],
    [
        Mistake(lambda labels, probabilities: 0.5, "One half is right only where the probabilities are."),
        Mistake(
            _best_by(lambda labels, predicted: (labels == predicted).mean()),
            "This threshold has the highest accuracy; where one class is rare, it gives that class up.",
        ),
        Mistake(
            lambda labels, probabilities: np.median(probabilities),
            "The median classifies half of the recordings as abnormal, whether they are or not.",
        ),
        Mistake(
            lambda labels, probabilities: np.quantile(probabilities, 1 - labels.mean()),
            "As many are classified as abnormal as there are; that balances the errors, it does not maximise MAcc.",
        ),
        Mistake(
            _best_by(lambda labels, predicted: -macc(labels, predicted)), "This is the worst threshold: min, not max."
        ),
    ],
    why="The same search on the test side would find a higher score, and it would not hold for the next hearts.",
)


# (d) The mean of devices


def mean_of_devices(decisions):
    """The mean over the devices of MAcc; decisions has the columns label, group (the device) and predicted."""
    devices = [device for _, device in decisions.groupby("group")]
    return np.mean([macc(device["label"].to_numpy(), device["predicted"].to_numpy()) for device in devices])


def _decisions(random: np.random.Generator) -> Iterator[tuple[pd.DataFrame]]:
    for _ in range(8):
        tables = []
        for device, size in zip("abcef", random.integers(8, 90, size=5), strict=True):
            labels = (random.uniform(size=size) < random.uniform(0.15, 0.85)).astype(int)
            labels[:4] = 0, 1, 0, 1
            wrong = random.uniform(size=size) < random.uniform(0, 0.5)
            predicted = np.where(wrong, 1 - labels, labels)
            tables.append(pd.DataFrame({"label": labels, "group": device, "predicted": predicted}))
        yield (pd.concat(tables, ignore_index=True).sample(frac=1, random_state=int(random.integers(1000))),)


def _of_all(decisions: pd.DataFrame) -> float:
    return macc(decisions["label"].to_numpy(), decisions["predicted"].to_numpy())


def _weighted(decisions: pd.DataFrame) -> float:
    parts = [part for _, part in decisions.groupby("group")]
    return float(np.average([_of_all(part) for part in parts], weights=[len(part) for part in parts]))


DEVICES = Exercise(
    "The mean of devices",
    agrees(mean_of_devices, _decisions),
    mean_of_devices,
    [
        'for device, part in decisions.groupby("group") goes through the devices.',
        'macc(part["label"], part["predicted"]) is the score of one device.',
        "Take the plain mean of these scores: every device counts alike.",
    ],
    [
        Mistake(_of_all, "This is the MAcc of all recordings together, in which large devices count most."),
        Mistake(
            lambda decisions: (decisions["label"] == decisions["predicted"]).groupby(decisions["group"]).mean().mean(),
            "This is the mean of the devices' accuracies; take their MAcc.",
        ),
        Mistake(_weighted, "Every device counts alike, however many recordings it made: take the plain mean."),
        Mistake(lambda decisions: 100 * mean_of_devices(decisions), "Give a fraction from 0 to 1, not percent."),
    ],
    why="A large device on which the task is easy can carry a pooled score; here it counts once.",
)


# Predict first: where the evidence is

SYSTOLE = Prediction(
    "Systole against a random part, abnormal hearts",
    "log-odds",
    close=0.4,
    good="That is where most murmurs are.",
    too_high="Systole matters more: that is where most murmurs are.",
    too_low="The rest of the beat counts, too.",
)


# Predict first: how many recordings a published gain is

GAIN = Prediction(
    "The published gain",
    "recordings",
    close=1,
    good="Three answers of 284 are different.",
    too_high="Of 284 recordings these are 1.02 points of MAcc.",
    too_low="The score did rise; each of the 146 normal hearts is worth a third of a point.",
)


# (e) Two networks that disagree


def disagreement(first, second, labels):
    """How many recordings only one of two networks classifies correctly, and the p value of the sign test."""
    first_only = int(((first == labels) & (second != labels)).sum())
    second_only = int(((first != labels) & (second == labels)).sum())
    return first_only + second_only, stats.binomtest(first_only, first_only + second_only).pvalue


def _opinions(random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for rate in (0.05, 0.1, 0.2, 0.3, 0.15, 0.4):
        labels = random.integers(0, 2, size=300)
        shared = random.uniform(size=300) < 0.1
        first, second = (
            np.where(shared | (random.uniform(size=300) < share), 1 - labels, labels) for share in (rate, rate / 2)
        )
        yield first, second, labels


def _only(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    return int(((first == labels) & (second != labels)).sum()), int(((first != labels) & (second == labels)).sum())


def _with_p(p: Callable[[int, int], float]) -> Callable[..., tuple[int, float]]:
    def answer(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
        one, other = _only(first, second, labels)
        return one + other, p(one, other)

    return answer


DISAGREEMENT = Exercise(
    "Two networks that disagree",
    agrees(disagreement, _opinions, within=1e-6),
    disagreement,
    [
        "(first == labels) & (second != labels) marks the recordings that only the first network gets right.",
        "If neither network were better, each of these recordings would be a fair coin.",
        "scipy.stats.binomtest(heads, tosses).pvalue; the tosses are all recordings that only one gets right.",
    ],
    [
        Mistake(
            _with_p(lambda one, other: stats.binomtest(one, 300).pvalue),
            "Recordings on which both are right, or both wrong, do not tell them apart: leave them out of the tosses.",
        ),
        Mistake(
            _with_p(lambda one, other: stats.binomtest(max(one, other), one + other, alternative="greater").pvalue),
            "Either network might have been the better one: the test is two-sided.",
        ),
        Mistake(
            lambda first, second, labels: (abs(np.subtract(*_only(first, second, labels))), 1.0),
            "This is the difference in the number of errors; count the recordings that only one network gets right.",
        ),
        Mistake(
            lambda first, second, labels: (
                disagreement(first, second, labels)[1],
                disagreement(first, second, labels)[0],
            ),
            "Give the count first, then p.",
        ),
    ],
    why="Only recordings on which two systems differ can tell which is better, and usually they are few.",
)
