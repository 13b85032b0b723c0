"""Classical baselines: numbers of each clip, and a linear classifier on them."""

from __future__ import annotations

import hashlib
import json
from time import perf_counter
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import expit
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from course_lib.clips import Clips
from course_lib.datasets import splits
from course_lib.experiments.form import FrontEndForm, RecipeError
from course_lib.experiments.recipe import Fold, OfClips, Prediction
from course_lib.layers import BandStatistics
from course_lib.layers.pipeline import Pipeline

_FOLDS, _MOST_FOLDS = 5, 10
_LEAST_SCALE = 0.01  # the order of recordings is never reversed
_FURTHEST = 4.0  # standard deviations; what is further off is noise
_latest: dict[tuple[str, str], np.ndarray] = {}  # the next fold or seed does not wait for them


class OfFeatures(FrontEndForm, OfClips):
    """An experiment on numbers of each clip: the layers of `front_end` make an image, and `last_layer` numbers of it.

    A subclass has the classifier.
    """

    @property
    def hash(self) -> str:
        """Eight hex digits that change when anything that can change a score does."""
        without = {"name", "title", "protocols", "front_end"}
        form = self.model_dump(mode="json", exclude=without, exclude_defaults=True) | {"layers": self.identity()}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:8]

    def last_layer(self) -> nn.Module:
        """What makes numbers (clips, features) of images."""
        raise NotImplementedError

    def features(self, clips: Clips) -> np.ndarray:
        """The numbers of clips, shape (clips, features). Raises RecipeError."""
        layers = self.build_front_end().append(self.last_layer()).eval()
        key = clips.digest(), self.hash
        if key not in _latest:
            _latest.clear()
            with torch.no_grad():
                batches = [layers(clips.batch(index)[0]) for index in clips.index_batches()]
            _latest[key] = torch.cat(batches).double().numpy()
        return _latest[key]


class Discriminant(OfFeatures):
    """A linear discriminant on the statistics of each clip's image: what averages tell, without a network.

    `layers.BandStatistics` makes the statistics of the image. One covariance for all classes is
    estimated with the shrinkage of Ledoit and Wolf. A temperature, chosen in folds by group within the training side,
    brings the probabilities to the size of their errors; it changes no decision.

    Notebook: 07_acoustic_scenes
    """

    baseline: Literal["discriminant"]

    def last_layer(self) -> nn.Module:
        """The statistics of an image."""
        return BandStatistics()

    def predict(self, fold: Fold, inputs: Clips | None = None, **fit_options: Any) -> Prediction:
        """Fit the discriminant to the training side of a fold, and predict the clips of its test side."""
        started = perf_counter()
        self.require_no_copies(fold)
        clips = self.inputs(fold, **fit_options) if inputs is None else inputs
        statistics, recording = self.features(clips), clips.recording.numpy()
        train, test = (np.isin(recording, rows) for rows in (fold.split.train, fold.split.test))
        labels, groups = clips.labels.numpy()[train], clips.groups.numpy()[train]
        classifier = _calibrated(labels, groups).fit(statistics[train], labels)
        probabilities = np.zeros((test.sum(), len(fold.recordings.class_names)))
        probabilities[:, classifier.classes_] = classifier.predict_proba(statistics[test])
        names = fold.recordings.table["recording"].to_numpy(str)
        predicted = pd.DataFrame(probabilities, index=names[recording[test]])
        return Prediction(predicted, predicted[:0], _facts(fold, started, parameters=0))


class LinearModel(nn.Module):
    """Waveforms (batch, samples) -> the log-probabilities of two classes (batch, 2), from a weighted sum of numbers.

    The numbers are those of the front end's image, standardised with `mean` and `deviation` and bounded to four
    deviations. `calibration` is the scale and the shift that bring the sum to the size of its errors.
    """

    def __init__(self, front_end: Pipeline, features: int) -> None:
        super().__init__()
        self.front_end = front_end
        for name in ("mean", "deviation", "weight"):
            self.register_buffer(name, torch.zeros(features))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.classify(self.front_end(waveforms).flatten(1))

    def classify(self, features: Tensor) -> Tensor:
        """The log-probabilities of numbers (batch, features)."""
        scale, shift = self.calibration
        log_odds = scale * (self.standardised(features) @ self.weight + self.bias) + shift
        return functional.logsigmoid(torch.stack([-log_odds, log_odds], dim=1))

    def standardised(self, features: Tensor) -> Tensor:
        """The numbers (batch, features) in deviations from their mean."""
        return ((features - self.mean) / self.deviation).clamp(-_FURTHEST, _FURTHEST)

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """The log-odds of class 1 for numbers (clips, features)."""
        logs = self.classify(torch.from_numpy(features).to(self.weight))
        return (logs[:, 1] - logs[:, 0]).double().numpy()


class Logistic(OfFeatures):
    """A logistic regression on the image of each clip: between two classes, with the same say for every group.

    Every class of every group has the same weight in the loss, and so has every recording within them. `penalty` is
    that of half the sum of squared weights, beside the mean loss. The probabilities are calibrated on the training
    side, on recordings that were held out: whole groups where the test side has groups of its own, else a fifth of
    each group at a time. There 0.5 is the best threshold for the mean over the groups, or about so.

    Notebook: 06_adversarial_devices
    """

    baseline: Literal["logistic_regression"]
    penalty: float = Field(1.0, gt=0)

    def last_layer(self) -> nn.Module:
        """The image itself."""
        return nn.Flatten()

    def build(self, n_classes: int, n_groups: int | None = None) -> LinearModel:
        """The model with weights of zero. Raises RecipeError for other than two classes."""
        if n_classes != 2:
            raise RecipeError(f"{self.name}: this logistic regression tells two classes apart, not {n_classes}")
        front_end = self.build_front_end()
        features = getattr(front_end[-1], "features", None) if len(front_end) else None
        if features is None:
            raise RecipeError(f"{self.name}: the last layer of the front end must make images of one size: CycleBands")
        return LinearModel(front_end, features).eval()

    def train(
        self, fold: Fold, clips: Clips | None = None, **fit_options: Any
    ) -> tuple[LinearModel, pd.DataFrame, Clips]:
        """Fit to the training side of a fold.

        Returns the model, the class probabilities of the training side's clips, each by a model that was fitted
        without its recording, and the clips of all recordings. Raises RecipeError and DatasetError.

        Notebook: 06_adversarial_devices
        """
        self.require_no_copies(fold)
        clips = self.inputs(fold, **fit_options) if clips is None else clips
        features = self.features(clips)
        recording, table = clips.recording.numpy(), fold.recordings.table
        labels, groups = table["label"].to_numpy(), table["group"].to_numpy(str)
        rows = fold.split.train

        def fitted(rows: np.ndarray) -> LinearModel:
            model, chosen = self.build(len(fold.recordings.class_names)), np.isin(recording, rows)
            _fit(model, features[chosen], labels, groups, recording[chosen], self.penalty)
            return model

        model, log_odds = fitted(rows), np.zeros(len(recording))
        for held_out in _held_out(fold):
            chosen = np.isin(recording, held_out)
            log_odds[chosen] = fitted(np.setdiff1d(rows, held_out)).log_odds(features[chosen])
        trained = np.isin(recording, rows)
        calibration = _calibration(log_odds[trained], labels, groups, recording[trained])
        model.calibration.copy_(torch.tensor(calibration))
        scale, shift = calibration
        return model, _probabilities(fold, recording[trained], scale * log_odds[trained] + shift), clips

    def predict(self, fold: Fold, inputs: Clips | None = None, **fit_options: Any) -> Prediction:
        """Fit to the training side of a fold, and predict the clips of its test side, and those of its training side
        that were held out in turn: their threshold is chosen there."""
        started = perf_counter()
        model, held_out, clips = self.train(fold, inputs, **fit_options)
        test = np.isin(clips.recording.numpy(), fold.split.test)
        predicted = _probabilities(fold, clips.recording.numpy()[test], model.log_odds(self.features(clips)[test]))
        facts = _facts(fold, started, parameters=len(model.weight) + 1)
        return Prediction(predicted, held_out, facts, model=model)


def _held_out(fold: Fold) -> list[np.ndarray]:
    """Rows of the training side that are held out in turn: groups, unless the test side has groups of the training."""
    rows, groups = fold.split.train, fold.recordings.table["group"].to_numpy(str)
    names = np.unique(groups[rows])
    if len(names) > 2 and not np.isin(groups[fold.split.test], names).any():
        return [
            rows[np.isin(groups[rows], names[number::_MOST_FOLDS])] for number in range(min(_MOST_FOLDS, len(names)))
        ]
    return [each.test for each in splits.stratified_folds(fold.recordings, _FOLDS, fold.seed, rows)]


def _fit(
    model: LinearModel,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    recording: np.ndarray,
    penalty: float,
) -> None:
    """Fit a model to the numbers of clips (clips, features), whose recordings are rows of `labels` and `groups`."""
    weights = _weights(labels, groups, recording)
    mean = np.average(features, axis=0, weights=weights)
    deviation = np.sqrt(np.average(np.square(features - mean), axis=0, weights=weights)) + 1e-6
    model.mean.copy_(torch.from_numpy(mean))
    model.deviation.copy_(torch.from_numpy(deviation))
    standard = model.standardised(torch.from_numpy(features)).numpy()
    regression = LogisticRegression(C=1 / (penalty * len(recording)), max_iter=1000)
    regression.fit(standard, labels[recording], sample_weight=weights)
    model.weight.copy_(torch.from_numpy(regression.coef_[0]))
    model.bias.copy_(torch.from_numpy(regression.intercept_)[0])


def _weights(labels: np.ndarray, groups: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """The weight of each clip, 1 on average: equal sums for each class of each group, and within it each recording."""
    cell = np.unique(np.stack([groups[recording], labels[recording].astype(str)]), axis=1, return_inverse=True)[1]
    weights = 1 / np.bincount(recording)[recording]
    weights /= np.bincount(cell, weights)[cell]
    return weights / weights.mean()


def _calibration(
    log_odds: np.ndarray, labels: np.ndarray, groups: np.ndarray, recording: np.ndarray
) -> tuple[float, float]:
    """Scale and shift of recordings' mean log-odds, for the least loss. Source: Platt 1999."""
    rows, clips = np.unique(recording, return_counts=True)
    pooled = np.bincount(recording, log_odds)[rows] / clips
    regression = LogisticRegression(C=1e6).fit(pooled[:, None], labels[rows], _weights(labels, groups, rows))
    return max(float(regression.coef_[0, 0]), _LEAST_SCALE), float(regression.intercept_[0])


def _probabilities(fold: Fold, recording: np.ndarray, log_odds: np.ndarray) -> pd.DataFrame:
    names = fold.recordings.table["recording"].to_numpy(str)
    probability = expit(log_odds)
    return pd.DataFrame(np.stack([1 - probability, probability], axis=1), index=names[recording])


def _facts(fold: Fold, started: float, parameters: int) -> dict[str, Any]:
    facts = {"train": len(fold.split.train), "validation": 0, "parameters": parameters, "kept_epoch": 0}
    return facts | {"seconds": round(perf_counter() - started, 2), "device": "cpu", "precision": "", "threads": 0}


def _calibrated(labels: np.ndarray, groups: np.ndarray) -> ClassifierMixin:
    discriminant = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if fewest < 2:  # no class has two groups to choose a temperature on
        return discriminant
    folds = StratifiedGroupKFold(min(_FOLDS, fewest)).split(labels, labels, groups)
    return CalibratedClassifierCV(discriminant, method="temperature", cv=list(folds), ensemble=False)
