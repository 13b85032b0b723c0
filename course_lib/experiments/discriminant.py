"""A classical baseline: statistics of images, and a linear discriminant on them."""

from __future__ import annotations

import hashlib
import json
from time import perf_counter
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from course_lib.clips import Clips
from course_lib.experiments.form import FrontEndForm
from course_lib.experiments.recipe import Fold, OfClips, Prediction
from course_lib.layers import BandStatistics

_FOLDS = 5
_latest: dict[tuple[str, str], np.ndarray] = {}  # the next fold or seed does not wait for them


class Discriminant(FrontEndForm, OfClips):
    """A linear discriminant on the statistics of each clip's image: what averages tell, without a network.

    The layers of `front_end` make the image, `layers.BandStatistics` the statistics. One covariance for all classes is
    estimated with the shrinkage of Ledoit and Wolf. A temperature, chosen in folds by group within the training side,
    brings the probabilities to the size of their errors; it changes no decision.

    Notebook: 07_acoustic_scenes
    """

    baseline: Literal["discriminant"]

    @property
    def hash(self) -> str:
        """Eight hex digits that change when anything that can change a score does."""
        without = {"name", "title", "protocols", "front_end"}
        form = self.model_dump(mode="json", exclude=without, exclude_defaults=True) | {"layers": self.identity()}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:8]

    def predict(self, fold: Fold, inputs: Clips | None = None, **fit_options: Any) -> Prediction:
        """Fit the discriminant to the training side of a fold, and predict the clips of its test side."""
        started = perf_counter()
        self.require_no_copies(fold)
        clips = self.inputs(fold, **fit_options) if inputs is None else inputs
        statistics, recording = self.statistics(clips), clips.recording.numpy()
        train, test = (np.isin(recording, rows) for rows in (fold.split.train, fold.split.test))
        labels, groups = clips.labels.numpy()[train], clips.groups.numpy()[train]
        classifier = _calibrated(labels, groups).fit(statistics[train], labels)
        probabilities = np.zeros((test.sum(), len(fold.recordings.class_names)))
        probabilities[:, classifier.classes_] = classifier.predict_proba(statistics[test])
        names = fold.recordings.table["recording"].to_numpy(str)
        predicted = pd.DataFrame(probabilities, index=names[recording[test]])
        facts = {"train": len(fold.split.train), "validation": 0, "parameters": 0, "kept_epoch": 0}
        facts |= {"seconds": round(perf_counter() - started, 2), "device": "cpu", "precision": "", "threads": 0}
        return Prediction(predicted, predicted[:0], facts)

    def statistics(self, clips: Clips) -> np.ndarray:
        """The statistics of the images of clips, shape (clips, features). Raises RecipeError."""
        layers = self.build_front_end().append(BandStatistics()).eval()
        key = clips.digest(), self.hash
        if key not in _latest:
            _latest.clear()
            with torch.no_grad():
                batches = [layers(clips.batch(index)[0]) for index in clips.index_batches()]
            _latest[key] = torch.cat(batches).double().numpy()
        return _latest[key]


def _calibrated(labels: np.ndarray, groups: np.ndarray) -> ClassifierMixin:
    discriminant = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if fewest < 2:  # no class has two groups to choose a temperature on
        return discriminant
    folds = StratifiedGroupKFold(min(_FOLDS, fewest)).split(labels, labels, groups)
    return CalibratedClassifierCV(discriminant, method="temperature", cv=list(folds), ensemble=False)
