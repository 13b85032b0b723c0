"""A first honest score: a log-mel CNN, and what can be reached without listening."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from course_lib import environment, evaluation, layers, training
from course_lib.clips import Clips
from course_lib.datasets import DatasetError, splits
from course_lib.evaluation import Interval
from course_lib.layers.pipeline import Pipeline
from course_lib.models import LogMelCNN
from course_lib.report.facts import Facts, ReportError
from course_lib.training.images import ImageClips

FOLDS = 5
# What is known of a recording without listening; the first three say nothing of its sound.
FACTS = {
    "sample rate": ["rate"],
    "channels": ["channels"],
    "format": ["coding"],
    "duration": ["log_seconds"],
    "level": ["rms", "peak"],
    "silence": ["silence"],
    "offset": ["dc"],
}
_SOME_OFFSET = 0.002  # of full scale; what is smaller comes from the sound itself
_ABOUT = 0.9  # of the best score: what is as good as the best
_FEWEST_EPOCHS = 4
_PROBED = 128
_FEWEST_CLIPS = 32  # of each class; if the time is too short for them, the training is stopped when it is up
_SETTINGS = training.Settings(
    epochs=40, batch_size=64, optimizer="adamw", learning_rate=3e-3, weight_decay=0.02, schedule="one_cycle",
    label_smoothing=0.1, balance="class",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A balanced accuracy with its interval, and the accuracy; all fractions."""

    mean: float
    interval: Interval
    accuracy: float


@dataclass
class Division:
    """Folds (train, test) of the rows of a table, which are the `rows` used; `left_out` classes are in none of them.

    `chance` is what guessing reaches.
    """

    folds: list[tuple[np.ndarray, np.ndarray]]
    rows: np.ndarray
    left_out: list[str]
    by_group: bool
    chance: float


@dataclass
class Score:
    """What was reached. `confusion` has a row for each class; `words` say how, and what did not go as planned."""

    network: Estimate
    majority: Estimate
    confusion: np.ndarray
    folds: int
    epochs: int
    minutes: float
    clips: int
    recordings: int
    words: list[str] = field(default_factory=list)


class _OutOfTime(Exception):
    pass


def divide(table: pd.DataFrame, groups: np.ndarray, known: bool) -> Division | None:
    """Folds in which no group is on both sides, and every class on each; None where that cannot be.

    Classes with a single group are left out.
    """
    labels = table["label"].to_numpy()
    usable = ~(table["flat"] | table["cancels"]).to_numpy()
    of_class = {label: np.unique(groups[usable & (labels == label)]) for label in np.unique(labels)}
    tested = [label for label, members in of_class.items() if len(members) > 1]
    if len(tested) < 2:
        return None
    rows = np.flatnonzero(usable & np.isin(labels, tested))
    names = table.drop_duplicates("label").set_index("label")["class"]
    left_out = [names[label] for label in of_class if label not in tested]
    fewest = min(len(of_class[label]) for label in tested)
    wanted = environment.by_profile(smoke=2, laptop=FOLDS)
    for count, seed in itertools.product(range(min(wanted, max(2, fewest)), 1, -1), range(10)):
        kind = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            folds = [(rows[a], rows[b]) for a, b in kind.split(rows, labels[rows], groups[rows])]
        if all(len(test) and set(labels[train]) == set(tested) for train, test in folds):
            return Division(folds, rows, left_out, known, 1 / len(tested))
    return None


def estimate(labels: np.ndarray, correct: np.ndarray, groups: np.ndarray, level: float = 0.95) -> Estimate:
    """The score of recordings that are `correct` (fractions), with an interval for other recordings and other groups.

    It is the wider of Wilson's over the recordings, and Student's over the groups with the linearised variance of the
    mean of the classes' means (Woodruff 1971).
    """
    correct = correct.astype(float)
    mean = evaluation.mean_of_cells(correct, labels)
    low, high = evaluation.interval(correct, cells=labels, level=level)
    classes, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    recall = np.bincount(of_class, correct) / sizes
    influence = (correct - recall[of_class]) / (sizes[of_class] * len(classes))
    names, of_group = np.unique(groups, return_inverse=True)
    if 1 < len(names) < len(labels):
        nested = pd.Series(labels).groupby(of_group).nunique().max() == 1
        freedom = max(1, len(names) - (len(classes) if nested else 1))
        variance = len(names) / freedom * float((np.bincount(of_group, influence) ** 2).sum())
        reach = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(variance)
        low, high = min(low, mean - reach), max(high, mean + reach)
    return Estimate(mean, Interval(max(0.0, float(low)), min(1.0, float(high))), float(correct.mean()))


def hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often each recording is right whose class is guessed among those with about the best score (recordings,)."""
    best = scores >= _ABOUT * scores.max(axis=1, keepdims=True)
    return best[np.arange(len(labels)), labels] / best.sum(axis=1)


def without_listening(table: pd.DataFrame, groups: np.ndarray, division: Division) -> dict[str, Estimate]:
    """What trees reach that are given facts about the recordings, each kind alone and all together.

    Facts that do not vary are left out. The intervals hold for all of them at once (Bonferroni).
    """
    offset = table["dc"].where(table["dc"].abs() > _SOME_OFFSET, 0.0)
    table = table.assign(log_seconds=np.log(table["seconds"]), dc=offset)
    kinds = {name: columns for name, columns in FACTS.items() if table[columns].nunique().max() > 1}
    if len(kinds) > 1:
        kinds["all of these"] = [column for columns in kinds.values() for column in columns]
    labels, n_classes = table["label"].to_numpy(), table["label"].max() + 1
    reached = {}
    for name, columns in kinds.items():
        values = pd.get_dummies(table[columns], dtype=float).to_numpy()
        balanced = {"class_weight": "balanced", "random_state": 0}
        if name == "all of these":
            tree = RandomForestClassifier(50, min_samples_leaf=2, **balanced)
        else:
            tree = DecisionTreeClassifier(max_leaf_nodes=4 * n_classes, min_samples_leaf=2, **balanced)
        correct = np.zeros(len(table))
        for train, test in division.folds:
            tree.fit(values[train], labels[train])
            likely = np.zeros((len(test), n_classes))
            likely[:, tree.classes_] = tree.predict_proba(values[test])
            correct[test] = hits(likely, labels[test])
        rows, level = division.rows, 1 - 0.05 / len(kinds)
        reached[name] = estimate(labels[rows], correct[rows], groups[rows], level)
    return reached


def by_group_alone(facts: Facts, groups: pd.Series, division: Division) -> Estimate:
    """What the name of the group reaches, where other recordings of the group are known: a random split invites it."""
    labels, names, n_classes = facts.table["label"].to_numpy(), groups.to_numpy(str), len(facts.class_names)
    count = min(FOLDS, int(np.unique(labels[division.rows], return_counts=True)[1].min()))
    recordings, rows = facts.recordings(groups), division.rows
    try:
        folds = splits.stratified_folds(recordings, count, rows=rows)
    except DatasetError:  # no class has so many recordings in any group
        folds = splits.stratified_folds(recordings, count, rows=rows, within_groups=False)
    correct = np.zeros(len(labels))
    for fold in folds:
        train, test = fold.train, fold.test
        shares = evaluation.group_prior(labels[train], names[train], n_classes)(names[test]).to_numpy()
        often = np.bincount(labels[train], minlength=n_classes) / len(train)
        correct[test] = hits(shares / np.maximum(often, 1e-9), labels[test])
    return estimate(labels[rows], correct[rows], names[rows])


def train_and_test(
    facts: Facts, groups: pd.Series, joined: np.ndarray, division: Division, minutes: float,
    say: Callable[[str], None], progress: bool = True,
) -> Score:  # fmt: skip
    """Train a log-mel CNN on each fold and test it, within about `minutes`. `say` is told beforehand how long it takes.

    `groups` name the group of each recording, `joined` number them with copies of one recording in one group.
    """
    started = perf_counter()
    numbers = {label: number for number, label in enumerate(sorted(facts.table["label"].iloc[division.rows].unique()))}
    clips = facts.clips.of_recordings(division.rows)
    front_end = _front_end(clips)
    images = ImageClips.of(clips, front_end[0], progress)
    images.labels.copy_(torch.tensor([numbers[int(label)] for label in images.labels]))
    recordings = facts.recordings(groups)

    def build() -> LogMelCNN:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LogMelCNN(len(numbers), front_end[0].settings["n_mels"], front_end=front_end)

    sides = [[images.of_recordings(rows) for rows in fold] for fold in division.folds]
    longest = max(len(train) for train, _ in sides)
    of_a_clip = _seconds_of_a_clip(build(), images)
    epochs, share = _plan(60 * minutes - (perf_counter() - started), len(sides) * longest * of_a_clip)
    used = min(longest, max(_FEWEST_CLIPS * len(numbers), round(share * longest)))
    settings = _SETTINGS.but(epochs=epochs)
    expected = len(sides) * used * epochs * of_a_clip / 60
    words = []
    if epochs < _SETTINGS.epochs or used < longest:
        words.append(
            f"For want of time each training had {epochs} epochs instead of {_SETTINGS.epochs}, on {used:,} of "
            f"{longest:,} excerpts. With more time (--minutes) the score may be higher."
        )
    trainings = f"{len(sides)} trainings of {epochs} epochs on about {used:,} excerpts of {facts.clip_seconds:.1f} s"
    say(f"A first score: {trainings}. This takes about {duration(expected)}, at most about {duration(minutes)}.")
    deadline = started + 60 * minutes

    def watch(_: training.History) -> None:
        if perf_counter() > deadline:
            raise _OutOfTime

    tables = []
    for number, (train, test) in enumerate(sides):
        model = build()
        order = torch.from_numpy(np.random.default_rng(number).permutation(len(train))[:used])
        in_time = True
        try:
            training.fit(model, train[order], None, settings, seed=number, progress=progress, on_epoch=watch)
        except _OutOfTime:
            in_time = False
        if in_time or not tables:
            tables.append(evaluation.predict_recordings(model, test, recordings))
        if not in_time:
            words.append(
                f"The time was up in training {number + 1} of {len(sides)}: the score is of {len(tables)}"
                + (", which was not finished, and too low." if number == 0 else ", and of their recordings only.")
            )
            break
    decided = pd.concat(tables)
    labels = decided["label"].map(numbers).to_numpy()
    row = pd.Series(joined, index=facts.table["recording"])
    predicted, of_group = decided["predicted"].to_numpy(), row[decided.index].to_numpy()
    originals = np.array(list(numbers))
    chance = 1 / len(numbers)
    confusion = evaluation.confusion_matrix(originals[labels], originals[predicted], len(facts.class_names))
    return Score(
        network=estimate(labels, labels == predicted, of_group),
        majority=Estimate(chance, Interval(chance, chance), float(np.bincount(labels).max() / len(labels))),
        confusion=confusion[np.ix_(originals, originals)],
        folds=len(tables),
        epochs=epochs,
        minutes=(perf_counter() - started) / 60,
        clips=used,
        recordings=len(decided),
        words=words,
    )


def _front_end(clips: Clips) -> Pipeline:
    """Log-mel images with frames of 32 ms, or other ones where the clips are short; as many bands as they can have."""
    samples = clips.clip_samples
    n_fft = 2 ** round(math.log2(min(0.032 * clips.sample_rate, samples / 4)))
    for n_mels, longer in itertools.product((40, 32, 24, 16, 8), (1, 2, 4)):
        frame = max(2, n_fft) * longer
        hop = max(1, min(frame // 2, samples // 32))
        try:
            mel = layers.LogMel(clips.sample_rate, n_mels, frame, hop)
        except ValueError:  # a band would be empty
            continue
        if samples >= max(mel.shortest, 8 * hop):
            return Pipeline(mel, layers.Standardise(), layers.SpecAugment(frequency_width=n_mels // 8, time_width=6))
    raise ReportError(f"recordings of {samples} samples are too short for a spectrogram.")


def _seconds_of_a_clip(model: LogMelCNN, clips: Clips) -> float:
    """How long a clip takes in an epoch, by a trial."""
    few = clips[torch.arange(min(_PROBED, len(clips)))]
    settings = _SETTINGS.but(epochs=4, balance="none")
    history = training.fit(model, few, None, settings, progress=False)  # the first epoch takes longer, for once
    return float(np.median([epoch.seconds for epoch in history.epochs[1:]])) / len(few)


def _plan(seconds: float, of_an_epoch: float) -> tuple[int, float]:
    """How many epochs fit into a time, and what share of the clips, if even few epochs do not."""
    most = environment.by_profile(smoke=3, laptop=_SETTINGS.epochs)
    fitting = 0.8 * max(seconds, 1e-3) / of_an_epoch  # other programs may want the processor too
    epochs = int(min(most, max(_FEWEST_EPOCHS, fitting)))
    return epochs, min(1.0, fitting / epochs)


def duration(minutes: float) -> str:
    """So many minutes in words."""
    if minutes < 1:
        seconds = max(1, math.ceil(60 * minutes))
        return f"{seconds} seconds" if seconds > 1 else "a second"
    return "a minute" if minutes == 1 else f"{minutes:.2g} minutes"


def pairs(confusion: np.ndarray, names: list[str], most: int = 5) -> Iterator[tuple[str, str, int, int]]:
    """The commonest confusions: true class, predicted class, how often, of how many."""
    wrong = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        true, predicted = np.unravel_index(flat, wrong.shape)
        if wrong[true, predicted]:
            yield names[true], names[predicted], int(wrong[true, predicted]), int(confusion[true].sum())
