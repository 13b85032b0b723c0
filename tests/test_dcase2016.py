"""Acoustic scenes: both layouts, folds by location, the evaluation part, faults named at once, and the stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from course_lib import datasets, evaluation, experiments, layers
from course_lib.clips import Clips
from course_lib.datasets import dcase2016, splits
from course_lib.datasets.dataset import Protocol
from course_lib.datasets.recordings import DatasetError, LayoutError
from course_lib.datasets.stand_ins import scenes
from course_lib.experiments import Ensemble, Recipe, recipes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scenes")
    scenes.write(made, locations=4, segments=2, seconds=1.0)
    return made


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy of the lists beside the same sounds, to be damaged."""
    for part in ("development", "evaluation"):
        (tmp_path / part / "evaluation_setup").mkdir(parents=True)
        (tmp_path / part / "audio").symlink_to(folder / part / "audio")
        for path in [folder / part / "meta.txt", *(folder / part / "evaluation_setup").iterdir()]:
            (tmp_path / path.relative_to(folder)).write_bytes(path.read_bytes())
    return tmp_path


def protocol(name: str) -> Protocol:
    return datasets.get("dcase2016").protocol(name)


def test_locations_scenes_and_parts_are_read_from_names_and_lists(folder: Path) -> None:
    recordings = dcase2016.read(folder, "stand-in")
    table = recordings.table
    assert recordings.class_names[2] == "cafe/restaurant" and len(recordings.class_names) == 15
    assert (table["part"] == "development").sum() == 15 * 4 * 2 and (table["part"] == "evaluation").sum() == 15 * 2
    first = table.iloc[0]
    assert (first["recording"], first["group"], first["fold"]) == ("a000_0_1", "a000", 1)
    assert not set(table["group"][table["part"] == "development"]) & set(table["group"][table["part"] == "evaluation"])
    counted = dcase2016.data_table(recordings)
    assert counted["development"].loc["beach"].tolist() == [4, 8]


def test_the_four_folds_share_no_location_and_random_segments_share_nearly_all(folder: Path) -> None:
    recordings = dcase2016.read(folder, "stand-in")
    groups, part = recordings.table["group"].to_numpy(str), recordings.table["part"].to_numpy(str)
    folds = protocol("folds").splits(recordings, 0)
    assert [split.name for split in folds] == ["fold_1", "fold_2", "fold_3", "fold_4"]
    tested = np.concatenate([split.test for split in folds])
    assert sorted(tested) == np.flatnonzero(part == "development").tolist()
    for split in folds:
        assert not set(groups[split.train]) & set(groups[split.test])
    leaky = protocol("random_segments").splits(recordings, 0)
    assert all(set(groups[split.train]) & set(groups[split.test]) for split in leaky)
    assert protocol("random_segments").leaky and not protocol("folds").leaky


def test_the_evaluation_part_is_tested_by_all_of_development(folder: Path, changed: Path) -> None:
    recordings = dcase2016.read(folder, "stand-in")
    (split,) = protocol("evaluation").splits(recordings, 0)
    part = recordings.table["part"].to_numpy(str)
    assert set(part[split.train]) == {"development"} and set(part[split.test]) == {"evaluation"}
    assert len(split.train) == (part == "development").sum() and len(split.test) == (part == "evaluation").sum()
    (changed / "evaluation").rename(changed / "elsewhere")
    with pytest.raises(DatasetError, match="no folder evaluation"):
        protocol("evaluation").splits(dcase2016.read(changed, "stand-in"), 0)


def test_a_recipe_is_run_on_the_evaluation_part_as_soon_as_it_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dcase2016").mkdir()
    (tmp_path / "dcase2016" / "development").symlink_to(folder / "development")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    recipe = recipes.load("dcase2016/gammatone_16").with_training(epochs=1, precision="32-true")
    assert "evaluation" in recipe.protocols
    form = recipe.model_dump() | {"name": "mine/short", "clip": {"seconds": 1.0}}
    form["model"]["settings"] |= {"channels": [2, 2, 2]}
    short = Recipe.model_validate(form)
    with pytest.raises(DatasetError, match="no folder evaluation beside development"):
        experiments.run(short, protocol="evaluation", progress=False)
    (tmp_path / "dcase2016" / "evaluation").symlink_to(folder / "evaluation")
    (result,) = experiments.run(short, protocol="evaluation", progress=False)
    assert (result.train, result.test, result.validation) == (15 * 4 * 2, 15 * 2, 0)
    assert result.note == "120 of 3,510 segments"


def test_every_recipe_has_the_evaluation_protocol_and_cuts_all_of_a_long_recording() -> None:
    for name in experiments.names("dcase2016"):
        recipe = recipes.load(name)
        assert {"folds", "evaluation"} <= recipe.protocols.keys()
        if not isinstance(recipe, Ensemble):
            assert recipe.clip.hop_seconds == recipe.clip.seconds, "published recordings last 30 s"


def test_segments_with_faults_are_tested_and_not_trained_on(changed: Path) -> None:
    (changed / "development" / "error.txt").write_text("audio/a000_0_1.wav\t0.2\t0.5\tmobile phone\n")
    recordings = dcase2016.read(changed, "stand-in")
    (faulty,) = np.flatnonzero(recordings.table["faulty"])
    folds = protocol("folds").splits(recordings, 0)
    assert not any(faulty in split.train for split in folds)
    assert sum(faulty in split.test for split in folds) == 1


def test_every_fault_is_named_at_once(changed: Path) -> None:
    meta = changed / "development" / "meta.txt"
    lines = meta.read_text().splitlines()
    lines[0] = lines[0].replace("beach", "moon")
    meta.write_text("\n".join([*lines, lines[5], "audio/gone_0_1.wav\tbus", "audio/alone.wav"]))
    fold = changed / "development" / "evaluation_setup" / "fold1_train.txt"
    fold.write_text(fold.read_text() + "audio/a000_1_2.wav\tbeach\naudio/never_0_1.wav\tbus\n")
    with pytest.raises(LayoutError) as caught:
        dcase2016.read(changed, "real")
    told = str(caught.value)
    for fault in (
        "moon", "lists more than once", "gone_0_1", "whose scene is none of", "audio/alone.wav", "never_0_1",
        "fold 1 has locations on both sides: a000", "without a scene: a000_0_1",
    ):  # fmt: skip
        assert fault in told
    assert caught.value.sound is not None


def test_a_location_of_both_parts_is_named(changed: Path) -> None:
    audio = changed / "evaluation" / "audio"
    audio.unlink()
    audio.mkdir()
    (audio / "a000_5_6.wav").symlink_to(changed / "development" / "audio" / "a000_0_1.wav")
    (changed / "evaluation" / "meta.txt").write_text("audio/a000_5_6.wav\tbeach\n")
    with pytest.raises(LayoutError, match="locations of both parts: a000"):
        dcase2016.read(changed, "real")


def test_the_published_layout_has_two_channels_of_24_bits(tmp_path: Path) -> None:
    scenes.write(tmp_path, locations=1, segments=1, seconds=0.2, published=1)
    (tmp_path / "development").rename(tmp_path / "TUT-acoustic-scenes-2016-development")
    recordings = dcase2016.read(tmp_path, "real")
    assert recordings.note == "15 of 3,510 segments"
    path = recordings.table["path"].iloc[0]
    with sf.SoundFile(path) as file:
        assert (file.channels, file.subtype, file.samplerate) == (2, "PCM_24", 44_100)
    left, right = torch.from_numpy(sf.read(path, dtype="float32")[0].T)
    for channel, expected in (
        ("left", left),
        ("right", right),
        ("side", (left - right) / 2),
        ("mean", (left + right) / 2),
    ):
        prepared = recordings.prepared(dcase2016.ScenePreparation(channel=channel))
        torch.testing.assert_close(prepared.waveform(0), expected, atol=1e-6, rtol=0)


def test_the_stand_in_is_harder_by_location_than_by_random_segments(folder: Path) -> None:
    """A linear discriminant on the mean and spread of mel bands: what ten lines reach."""
    recordings = dcase2016.read(folder, "stand-in")
    clips = Clips.cut(recordings, 1.0, progress=False)
    log_mel = layers.LogMel(44_100, 40, n_fft=2048, hop_length=2048)
    images = torch.cat([log_mel(clips.batch(index)[0]) for index in clips.index_batches()])
    features, labels = torch.cat([images.mean(2), images.std(2)], dim=1).numpy(), clips.labels.numpy()

    def accuracy(made: list[splits.Split]) -> float:
        right = []
        for split in made:
            classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            predicted = classifier.fit(features[split.train], labels[split.train]).predict(features[split.test])
            right.append(evaluation.scores(labels[split.test], predicted, 15)["accuracy"])
        return float(np.mean(right))

    by_location, by_segment = (accuracy(protocol(name).splits(recordings, 0)) for name in ("folds", "random_segments"))
    assert 3 / 15 < by_location < by_segment - 0.05


def test_the_same_arguments_give_the_same_samples(tmp_path: Path) -> None:
    for name in ("first", "second"):
        scenes.write(tmp_path / name, locations=1, segments=1, seconds=0.2)
    first, second = (sorted((tmp_path / name).rglob("*.wav")) for name in ("first", "second"))
    assert len(first) == 30 and [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
