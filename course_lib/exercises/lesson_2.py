"""Exercises of lesson 2: the training loop, leaks, intervals and a speaker probe.

The stubs of the lesson are

    def fit(model, images, labels, epochs=20): ...     # FIT: trains the model in place, in batches, shuffled
    def leaks(groups, train, test): ...                # LEAKS: the groups with recordings on both sides of a split
    def proportion(right, tested): ...                 # PROPORTION: (low, high), Clopper-Pearson, 95 %
    def over_speakers(values): ...                     # INTERVALS: (low, high), t interval of the mean, 95 %
    def probe(features, speakers): ...                 # PROBE: cross-validated accuracy of logistic regression

and GEORGE is a guess in percent.

Notebook: 02_spoken_digits_cnn
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

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
)  # fmt: skip

# (a) The training loop

CLIPS, EPOCHS, LOW = 200, 20, 0.2


def fit(model, images, labels, epochs=20):
    """Train a classifier in place: images (n, height, width), labels (n,)."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(20):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def _clips_and_model() -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    """Noisy pictures (200, 16, 16) of ten kinds, their labels, and a small network."""
    random = torch.Generator().manual_seed(3)
    kinds = torch.randn(10, 16, 16, generator=random)
    labels = torch.arange(10).repeat(CLIPS // 10)
    images = 0.2 * (kinds[labels] + 1.5 * torch.randn(CLIPS, 16, 16, generator=random))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))
    return images, labels, model


def _check_fit(answer: Any) -> None:
    require_function(answer)
    images, labels, model = _clips_and_model()
    before = copy.deepcopy(model.state_dict())
    steps = _watch_gradients(model)
    torch.manual_seed(0)
    result = answer(model, images.clone(), labels.clone(), EPOCHS)
    after = model.state_dict()
    if all(torch.equal(before[name], after[name]) for name in before):
        if not steps["backward"] and is_stub(result):
            raise NotDone
        sentence = "Gradients alone change nothing: optimiser.step() is missing."
        raise Wrong("parameters as they were", "trained parameters", sentence if steps["backward"] else _NO_GRADIENTS)
    with torch.no_grad():
        loss = float(functional.cross_entropy(model.eval()(images), labels))
    if steps["piled_up"]:
        raise Wrong(
            f"gradients of several batches added up in {steps['piled_up']} of {steps['backward']} steps",
            "the gradient of one batch for each step",
            "backward() adds to the gradients that are there: call optimiser.zero_grad() before it.",
        )
    if loss < LOW:
        return
    text = f"a loss of {loss:.2f} after {EPOCHS} epochs, {steps['backward']} steps"
    if not np.isfinite(loss) or loss > 4:
        sentence = "The loss went up: the learning rate is too large, or the sign of the step is wrong."
    elif steps["backward"] <= EPOCHS:
        sentence = "One step for each epoch is too few: go through the clips in batches of 10 to 30."
    elif loss > 2.1:
        sentence = "The loss stays high: are images and labels shuffled with the same rows?"
    else:
        sentence = "It learns, but slowly: take a larger learning rate (Adam: about 1e-3), or smaller batches."
    raise Wrong(text, f"less than {LOW}", sentence)


_NO_GRADIENTS = "Nothing was trained: call loss.backward(), then optimiser.step(), on the model that was given."


def _watch_gradients(model: nn.Module) -> dict[str, int]:
    """Counts backward passes, and those whose gradient is not that of their own batch."""
    counted = {"backward": 0, "piled_up": 0}
    weight = next(model.parameters())
    own: list[torch.Tensor] = []
    weight.register_hook(lambda gradient: own.append(gradient.detach().clone()))

    def accumulated(parameter: torch.Tensor) -> None:
        counted["backward"] += 1
        counted["piled_up"] += not torch.allclose(parameter.grad, own.pop(), rtol=1e-4, atol=1e-7)

    weight.register_post_accumulate_grad_hook(accumulated)
    return counted


def _loop(
    step: bool = True, zero: bool = True, size: int = 20, rate: float = 2e-3, together: bool = True, sign: int = 1
) -> Any:
    """A training loop with one mistake."""

    def fit(model, images, labels, epochs=20):
        optimiser = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(epochs):
            order = torch.randperm(len(images))
            other = order if together else torch.randperm(len(images))
            for rows, label_rows in zip(order.split(size), other.split(size), strict=True):
                loss = sign * functional.cross_entropy(model(images[rows]), labels[label_rows])
                if zero:
                    optimiser.zero_grad()
                loss.backward()
                if step:
                    optimiser.step()

    return fit


FIT = Exercise(
    "The training loop",
    _check_fit,
    fit,
    [
        "An optimiser, a loop over the epochs, in it a loop over batches, in it four lines.",
        "torch.randperm(len(images)).split(20) gives the shuffled rows of each batch.",
        "For each batch: the loss, optimiser.zero_grad(), loss.backward(), optimiser.step().",
    ],
    [
        Mistake(_loop(step=False), "Gradients alone change nothing: optimiser.step() is missing."),
        Mistake(
            _loop(zero=False),
            "backward() adds to the gradients that are there: call optimiser.zero_grad() before it.",
        ),
        Mistake(_loop(size=CLIPS), "One step for each epoch is too few: go through the clips in batches of 10 to 30."),
        Mistake(_loop(sign=-1), "The loss went up: the learning rate is too large, or the sign of the step is wrong."),
        Mistake(
            _loop(together=False),
            "The loss stays high: are images and labels shuffled with the same rows?",
        ),
        Mistake(
            _loop(rate=1e-4),
            "It learns, but slowly: take a larger learning rate (Adam: about 1e-3), or smaller batches.",
        ),
        Mistake(lambda model, images, labels, epochs: model(images), _NO_GRADIENTS),
    ],
    why="Every training of this course is this loop; the library adds a schedule, a seed and a validation part.",
)

# (b) Leaks

SPEAKERS = ("ann", "bob", "cleo", "dina", "emil", "fay")


def leaks(groups, train, test):
    """The groups that have recordings on both sides: groups (n,) names, train and test row numbers."""
    return sorted(set(groups[train].tolist()) & set(groups[test].tolist()))


def _splits() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, groups, train and test rows: by take, at random, by speaker, and by speaker with one leak."""
    random = np.random.default_rng(11)
    groups = random.permutation(np.repeat(SPEAKERS, 20))
    rows = np.arange(len(groups))
    takes = np.array([int((groups[:row] == groups[row]).sum()) for row in rows])
    yield "the official split", groups, rows[takes >= 2], rows[takes < 2]
    mixed = random.permutation(rows)
    yield "a random split", groups, mixed[20:], mixed[:20]
    left_out = np.isin(groups, ("bob", "fay"))
    yield "a split by speaker", groups, rows[~left_out], rows[left_out]
    planted = rows[groups == "fay"][:1]
    yield (
        "a split by speaker with one leak",
        groups,
        np.append(rows[~left_out], planted),
        rows[left_out][~np.isin(rows[left_out], planted)],
    )


def _check_leaks(answer: Any) -> None:
    require_function(answer)
    for number, (name, groups, train, test) in enumerate(_splits()):
        right = leaks(groups, train, test)
        given = answer(groups.copy(), train.copy(), test.copy())
        if is_stub(given) and not (isinstance(given, list | tuple) and len(given) == 0):
            if number == 0:
                raise NotDone
            raise Wrong(f"for {name}: {given!r}", right, "Return a list, also where there is no leak: an empty one.")
        if isinstance(given, bool | int | float | np.generic):
            raise Wrong(f"for {name}: {given!r}", right, "Return the names of the groups: which, not how many.")
        if not isinstance(given, list | tuple | set | frozenset | np.ndarray) or len(given) > len(groups):
            raise Wrong(f"for {name}: {given!r}", right, "Return a list of the names of groups.")
        found = sorted({str(each) for each in given})
        if found != sorted(right):
            raise Wrong(f"for {name}: {found or 'no leak'}", right or "no leak", _leak_mistake(found, right, groups))


def _leak_mistake(found: list[str], right: list[str], groups: np.ndarray) -> str:
    if not found and len(right) > 1:
        return "No recording is on both sides, but a voice is: compare the groups of the rows, not the rows."
    if set(found) == set(groups):
        return "These are the groups of either side together; a leak is a group on both."
    if found and all(each.isdigit() for each in found):
        return "These are row numbers; look up their groups first."
    return "A group with a single recording on the other side is a leak, too."


def _only_if_many(groups: np.ndarray, train: np.ndarray, test: np.ndarray) -> list[str]:
    return [each for each in leaks(groups, train, test) if (groups[train] == each).sum() > 1]


LEAKS = Exercise(
    "Who is on both sides?",
    _check_leaks,
    leaks,
    [
        "groups[train] are the names on the training side, one for each recording.",
        "A set keeps each name once.",
        "What two sets share is their intersection: one & other.",
    ],
    [
        Mistake(
            lambda groups, train, test: sorted(set(train) & set(test)),
            "No recording is on both sides, but a voice is: compare the groups of the rows, not the rows.",
        ),
        Mistake(
            lambda groups, train, test: len(leaks(groups, train, test)),
            "Return the names of the groups: which, not how many.",
        ),
        Mistake(
            lambda groups, train, test: sorted(set(groups[train]) | set(groups[test])),
            "These are the groups of either side together; a leak is a group on both.",
        ),
        Mistake(
            lambda groups, train, test: [row for row in test if groups[row] in set(groups[train])],
            "These are row numbers; look up their groups first.",
        ),
        Mistake(_only_if_many, "A group with a single recording on the other side is a leak, too."),
        Mistake(
            lambda groups, train, test: leaks(groups, train, test) or None,
            "Return a list, also where there is no leak: an empty one.",
        ),
    ],
    why="Run it on every split you are given: most published scores on shared voices were never checked like this.",
)

# (c) Two intervals


def proportion(right, tested):
    """95 % interval (low, high) of Clopper and Pearson for `right` of `tested`."""
    low = stats.beta.ppf(0.025, right, tested - right + 1) if right > 0 else 0.0
    high = stats.beta.ppf(0.975, right + 1, tested - right) if right < tested else 1.0
    return low, high


def _ends_without_exceptions(right: int, tested: int) -> tuple[float, float]:
    return stats.beta.ppf(0.025, right, tested - right + 1), stats.beta.ppf(0.975, right + 1, tested - right)


def _ends(right: int, tested: int, each: float) -> tuple[float, float]:
    interval = stats.binomtest(right, tested).proportion_ci(1 - 2 * each, method="exact")
    return interval.low, interval.high


def _normal(right: int, tested: int, z: float = 1.959964) -> tuple[float, float]:
    mean = right / tested
    half = z * (mean * (1 - mean) / tested) ** 0.5
    return mean - half, mean + half


def _wilson(right: int, tested: int) -> tuple[float, float]:
    interval = stats.binomtest(right, tested).proportion_ci(method="wilson")
    return interval.low, interval.high


def _counts(random: np.random.Generator) -> Iterator[tuple[int, int]]:
    yield from ((293, 300), (150, 150), (0, 20))
    for tested in random.integers(10, 500, 10):
        yield int(random.integers(1, tested)), int(tested)


PROPORTION = Exercise(
    "The interval of 293 out of 300",
    agrees(proportion, _counts, within=1e-6),
    proportion,
    [
        "Each end is a quantile of a beta distribution: scipy.stats.beta.ppf(probability, a, b).",
        "The lower end has a = right and b = tested - right + 1 at 2.5 %; the upper a = right + 1, b = tested - right.",
        "With none right the lower end is 0, with all right the upper end is 1.",
    ],
    [
        Mistake(
            _normal,
            "This is the normal approximation; for 150 of 150 it has no width. Clopper and Pearson's is exact.",
        ),
        Mistake(
            _ends_without_exceptions,
            "With none or all right one end is not a number: set it to 0 or to 1 yourself.",
        ),
        Mistake(
            lambda right, tested: _ends(right, tested, 0.05),
            "This is a 90 % interval: 5 % are to be left out in all, 2.5 % at each end.",
        ),
        Mistake(_wilson, "This is Wilson's interval, which is good, too, but shorter; the exact one is asked for."),
        Mistake(
            lambda right, tested: stats.beta.ppf([0.025, 0.975], right + 1, tested - right + 1),
            "These are the ends of a Bayesian interval: each end has its own a and b, one of them without the + 1.",
        ),
        Mistake(
            lambda right, tested: tuple(100 * end for end in proportion(right, tested)),
            "These are percent; give fractions between 0 and 1.",
        ),
    ],
    why="It says that 100 % of 150 may well be 97.6 %: a score without an error still has an interval.",
)


def over_speakers(values):
    """95 % t interval (low, high) of the mean of the speakers' scores, values (speakers,)."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return np.mean(values) - half, np.mean(values) + half


def _t_like(values: np.ndarray, quantile: float, ddof: int = 1, root: bool = True) -> tuple[float, float]:
    half = quantile * np.std(values, ddof=ddof) / (len(values) ** 0.5 if root else 1)
    return np.mean(values) - half, np.mean(values) + half


INTERVALS = Exercise(
    "The interval over six speakers",
    agrees(over_speakers, lambda random: ((random.uniform(0.4, 1.0, n),) for n in (6, 6, 6, 4, 10)), within=1e-6),
    over_speakers,
    [
        "The mean of n speakers is uncertain by their standard deviation (ddof=1), divided by the root of n.",
        "Few speakers need a wider interval than 1.96 of these: scipy.stats.t.ppf(0.975, n - 1) of them.",
        "For six speakers that is 2.57.",
    ],
    [
        Mistake(
            lambda values: _t_like(values, 1.959963985),
            "1.96 is for many values; for six, Student's t distribution with 5 degrees of freedom asks for 2.57.",
        ),
        Mistake(
            lambda values: _t_like(values, stats.t.ppf(0.975, len(values) - 1), ddof=0),
            "np.std divides by n unless told otherwise: ddof=1 makes it the estimate from a sample.",
        ),
        Mistake(
            lambda values: _t_like(values, stats.t.ppf(0.975, len(values) - 1), root=False),
            "This is where single speakers lie; the mean of n is more certain by the root of n.",
        ),
        Mistake(
            lambda values: _t_like(values, stats.t.ppf(0.95, len(values) - 1)),
            "This is a 90 % interval: 2.5 % are to be left out at each end, so ask for the quantile 0.975.",
        ),
        Mistake(
            lambda values: _t_like(values, stats.t.ppf(0.975, len(values))),
            "The degrees of freedom are one less than the number of speakers.",
        ),
        Mistake(
            lambda values: np.percentile(
                np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1), [2.5, 97.5]
            ),
            "This is a percentile bootstrap: over six values it covers 86 %, not 95 %.",
        ),
    ],
    why="The question is about the next speaker, so the speakers are what is counted, not the recordings.",
)

# (d) A speaker probe


def probe(features, speakers):
    """Accuracy (fraction) of logistic regression that reads the speaker from features (n, d), over 5 folds."""
    reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_score(reader, features, speakers, cv=folds).mean()


def _features() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, features and speakers, sorted by speaker: a clear voice, a faint one, and none."""
    random = np.random.default_rng(21)
    speakers = np.repeat(SPEAKERS, 80)
    for name, strength in (("a clear voice", 0.9), ("a faint voice", 0.35), ("no voice at all", 0.0)):
        voices = strength * random.normal(size=(len(SPEAKERS), 32))
        yield name, np.repeat(voices, 80, axis=0) + random.normal(size=(480, 32)), speakers


def _check_probe(answer: Any) -> None:
    require_function(answer)
    scores = []
    for number, (name, features, speakers) in enumerate(_features()):
        value = answer(features.copy(), speakers.copy())
        if is_stub(value) and number == 0:
            raise NotDone
        scores.append((name, float(numbers(value, ()).real), _probed(number)))
    if max(score for _, score, _ in scores) > 1.5:
        raise Wrong([f"{score:.1f}" for _, score, _ in scores], "fractions", "These are percent; give a fraction.")
    for name, score, right in scores:
        if abs(score - right) <= 0.05:
            continue
        if abs(scores[-1][1] - _probed(2)) > 0.12:
            high = "Features without any voice are read, too: test on other rows than those it learns from."
            low = "The rows are sorted by speaker: shuffle the folds, or some hold a speaker that was never learned."
            sentence = high if scores[-1][1] > _probed(2) else low
        elif score > right:
            sentence = "This is better than five folds give: no test row may be used for learning."
        else:
            sentence = _TOO_LOW
        raise Wrong(f"{name}: {100 * score:.0f} %", f"{100 * right:.0f} %, within 5", sentence)


_KNOWN: dict[int, float] = {}


def _probed(number: int) -> float:
    if not _KNOWN:
        _KNOWN.update({i: float(probe(x, y)) for i, (_, x, y) in enumerate(_features())})
    return _KNOWN[number]


_TOO_LOW = "This is less than a logistic regression reads: learn from four fifths of the rows, test on the last fifth."


def _reader() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _shuffled() -> StratifiedKFold:
    return StratifiedKFold(5, shuffle=True, random_state=0)


def _few_rows(features: np.ndarray, speakers: np.ndarray) -> float:
    swapped = [(test, train) for train, test in _shuffled().split(features, speakers)]
    return cross_val_score(_reader(), features, speakers, cv=swapped).mean()


PROBE = Exercise(
    "Is the speaker still in there?",
    _check_probe,
    probe,
    [
        "sklearn's LogisticRegression is the reader; the speakers are its labels.",
        "cross_val_score trains on four fifths and tests on the last fifth, five times.",
        "StratifiedKFold(5, shuffle=True, random_state=0) mixes the rows; return the mean of the five accuracies.",
    ],
    [
        Mistake(
            lambda features, speakers: _reader().fit(features, speakers).score(features, speakers),
            "Features without any voice are read, too: test on other rows than those it learns from.",
        ),
        Mistake(
            lambda features, speakers: cross_val_score(_reader(), features, speakers, cv=KFold(5)).mean(),
            "The rows are sorted by speaker: shuffle the folds, or some hold a speaker that was never learned.",
        ),
        Mistake(lambda features, speakers: 100 * probe(features, speakers), "These are percent; give a fraction."),
        Mistake(
            _few_rows,
            _TOO_LOW,
        ),
    ],
    why="A network that was trained for digits alone still knows the voice; strangers need a test of their own.",
)

# (e) Predict first

GEORGE = Prediction(
    "George, when the network has never heard him",
    "%",
    close=8,
    good="A good guess; most people expect far more.",
    too_high="Most people expect more: the score with known voices says little about a voice that is new.",
    too_low="He is understood better than that: chance is 10 %, and a new voice does not leave only chance.",
)
