"""The heart sounds of PhysioNet 2016: the published layout, its lists, and every fault of a folder named."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from course_lib import environment
from course_lib.datasets import ENTRIES, DatasetError, Recordings, load, physionet2016, splits
from course_lib.datasets.check import check, fingerprint, write_manifest
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.physionet2016 import FLAGGED_FILE, read
from course_lib.datasets.recordings import LayoutError

USERS_DATA = environment.data_folder()
# Of each subset: the labels of its recordings, in the words of REFERENCE.csv.
LABELS = {"a": "1 1 -1", "b": "-1 -1 1", "c": "1 -1", "d": "-1 1", "e": "-1 -1 -1 1", "f": "-1 1"}
COUNTS = {letter: {"normal": text.count("-1"), "abnormal": text.split().count("1")} for letter, text in LABELS.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen recordings of 3 s in the published layout, those of e as FLAC, in their place in `COURSE_DATA`."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "physionet2016"
    random = np.random.default_rng(0)
    for letter, labels in LABELS.items():
        place = folder / f"training-{letter}"
        place.mkdir(parents=True)
        lines = []
        for number, label in enumerate(labels.split(), start=1):
            name = f"{letter}{number:04d}"
            lines.append(f"{name},{label}")
            ending = "flac" if letter == "e" else "wav"
            sf.write(place / f"{name}.{ending}", random.uniform(-0.5, 0.5, 6000), 2000, "PCM_16")
        (place / "REFERENCE.csv").write_text("\n".join(lines) + "\n")
    flagged = folder / "folds_spectnet" / FLAGGED_FILE
    flagged.parent.mkdir()
    flagged.write_text("e0002\n\n\n")
    return folder


@pytest.fixture
def small(folder: Path, tmp_path: Path) -> Dataset:
    """The data set of the catalogue, with the counts and the samples of the small folder."""
    dataset = replace(
        ENTRIES["physionet2016"],
        class_counts={"normal": 9, "abnormal": 7},
        manifest=tmp_path / "small.sha256",
    )
    write_manifest(dataset, folder, dataset.manifest)
    return dataset


def row(recordings: Recordings, name: str) -> pd.Series:
    return recordings.table.set_index("recording").loc[name]


def faults(folder: Path) -> list[str]:
    with pytest.raises(LayoutError) as caught:
        read(folder, "real")
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert "\n" not in str(caught.value)
    return caught.value.problems


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def test_the_published_layout(folder: Path) -> None:
    for name in ("a0001.hea", "a0001.dat", "RECORDS", "._a0001.wav", ".DS_Store"):
        (folder / "training-a" / name).write_text("not a recording")
    recordings = load("physionet2016")
    assert (recordings.name, recordings.source, recordings.sample_rate) == ("physionet2016", "real", 2000)
    assert recordings.class_names == ("normal", "abnormal") and len(recordings) == 16
    assert row(recordings, "a0003")[["label", "group", "quality", "flagged"]].tolist() == [0, "a", "unknown", False]
    assert row(recordings, "e0004")["label"] == 1 and row(recordings, "e0004")["path"].endswith("e0004.flac")
    counted = recordings.table.groupby(["group", "label"]).size()
    assert all(
        counted[letter, label] == count for letter in COUNTS for label, count in enumerate(COUNTS[letter].values())
    )
    assert recordings.waveform(0).shape == (6000,)


def test_spaces_a_byte_order_mark_and_windows_lines_do_no_harm(folder: Path) -> None:
    lines = "\ufeffc0001 , 1\r\n\r\nc0002,-1\r\n"
    (folder / "training-c" / "REFERENCE.csv").write_bytes(lines.encode())
    assert row(read(folder, "real"), "c0001")["label"] == 1


def test_quality_comes_from_the_official_list_where_there_is_one(folder: Path) -> None:
    derived = folder / "training-a" / "REFERENCE_withSQI_derived.csv"
    derived.write_text("a0001,1,0\na0002,1,\n")
    recordings = read(folder, "real")
    assert [row(recordings, f"a000{i}")["quality"] for i in (1, 2, 3)] == ["noisy", "unknown", "unknown"]
    official = folder / "annotations" / "updated" / "training-a" / "REFERENCE_withSQI.csv"
    official.parent.mkdir(parents=True)
    official.write_text("a0001,1,1\na0002,1,1\na0003,-1,0\n")
    recordings = read(folder, "real")
    assert [row(recordings, f"a000{i}")["quality"] for i in (1, 2, 3)] == ["clean", "clean", "noisy"]


def test_flagged_recordings_are_marked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    recordings = read(folder, "real")
    assert recordings.table["recording"][recordings.find(flagged=True)].tolist() == ["e0002"]
    assert not caplog.records


def test_without_their_list_it_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "folds_spectnet" / FLAGGED_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        recordings = read(folder, "real")
    assert not recordings.table["flagged"].any()
    assert "87 recordings" in caplog.text and FLAGGED_FILE in caplog.text


def test_a_list_of_flagged_recordings_from_elsewhere(folder: Path) -> None:
    (folder / "folds_spectnet" / FLAGGED_FILE).write_bytes(b"e0002\ne7777\n\xff\n")
    assert faults(folder) == [f"{FLAGGED_FILE} names unknown recordings: e7777, \ufffd"]


def write_lists(folder: Path, number: int, train: str, validation: str) -> None:
    for name, names in (("train", train), ("validation", validation)):
        (folder / "folds_spectnet" / f"{name}{number}.txt").write_text("\n".join(names.split()) + "\n")


def test_the_published_lists_become_splits(folder: Path) -> None:
    for number in range(4):
        write_lists(folder, number, "a0001 b0001 e0003", f"f000{1 + number % 2} d0001")
    recordings = read(folder, "real")
    folds = physionet2016.published_lists(recordings)
    names = recordings.table["recording"].to_numpy()
    assert [fold.name for fold in folds] == ["list_0", "list_1", "list_2", "list_3"]
    assert set(names[folds[1].train]) == {"a0001", "b0001", "e0003"} and set(names[folds[1].test]) == {"f0002", "d0001"}
    without = recordings.subset(recordings.find(group="d"))
    with pytest.raises(DatasetError, match="training side of split list_0 is empty"):
        physionet2016.published_lists(without)


def test_without_the_lists_it_tells_what_to_do(folder: Path) -> None:
    write_lists(folder, 0, "a0001", "a0002")
    with pytest.raises(DatasetError, match=r"lists are of the complete data set.*validation0\.txt.*stratified_folds"):
        physionet2016.published_lists(read(folder, "real"))


@pytest.mark.parametrize(
    ("train", "validation", "problem"),
    [
        ("a0001 z0009", "a0002", "list 2 names unknown recordings: z0009"),
        ("a0001 a0002", "a0002", "list 2 has on both sides: a0002"),
        ("a0001 b0001 a0001", "a0002", "list 2 has more than once: a0001"),
    ],
)
def test_a_list_that_contradicts_the_folder(folder: Path, train: str, validation: str, problem: str) -> None:
    write_lists(folder, 2, train, validation)
    assert any(problem in each for each in faults(folder))


def test_a_list_without_its_other_half(folder: Path) -> None:
    (folder / "folds_spectnet" / "train3.txt").write_text("a0001\n")
    (problem,) = faults(folder)
    assert "list 3 cannot be read" in problem and "validation3.txt" in problem


NAMES = [f"{letter}{number:04d}" for letter, labels in LABELS.items() for number in range(1, len(labels.split()) + 1)]


@pytest.fixture
def complete(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small folder as if it were all that was published, lists included: each tests two, and e0002 is flagged."""
    usable = [name for name in NAMES if name != "e0002"]
    published = {f"list_{number}": set(usable[2 * number : 2 * number + 2]) for number in range(4)}
    monkeypatch.setattr(physionet2016, "_published", lambda: {"flagged": {"e0002"}, **published})
    for number in range(4):
        test = published[f"list_{number}"]
        write_lists(folder, number, " ".join(name for name in usable if name not in test), " ".join(sorted(test)))
    assert read(folder, "real").table["list_3"].value_counts().to_dict() == {"train": 13, "test": 2, "": 1}
    return folder


@pytest.mark.parametrize("name", ["train0", "train3", "validation0", "validation2"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_a_published_list_that_is_cut_off_is_refused(complete: Path, name: str, share: float) -> None:
    path = complete / "folds_spectnet" / f"{name}.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: int(share * len(lines))]))
    problems = faults(complete)
    expected = f"{name}.txt is empty" if int(share * len(lines)) == 0 else f"list {name[-1]} is cut off; it lacks: "
    assert any(expected in problem for problem in problems)


def test_a_list_of_ones_own_is_taken_and_named(complete: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not caplog.records
    write_lists(complete, 1, "a0001 b0001", "c0001")
    assert read(complete, "real").table["list_1"].value_counts().to_dict() == {"": 13, "train": 2, "test": 1}
    assert "list 1 in " in caplog.text and "is not the published one" in caplog.text


def test_a_list_of_flagged_recordings_that_is_cut_off_is_refused(complete: Path) -> None:
    (complete / "folds_spectnet" / FLAGGED_FILE).write_text("")
    assert f"{FLAGGED_FILE} is cut off; it lacks: e0002" in faults(complete)


def test_a_list_of_flagged_recordings_that_cannot_be_read(complete: Path) -> None:
    (complete / "folds_spectnet" / FLAGGED_FILE).unlink()
    (complete / "annotations" / "updated").mkdir(parents=True)
    (complete / "annotations" / "updated" / FLAGGED_FILE).mkdir()
    assert read(complete, "real").table["flagged"].sum() == 1  # a folder is none


def test_qualities_that_are_cut_off_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "training-a" / "REFERENCE_withSQI.csv").write_text("a0001,1,0\na0002,1,1\n")
    assert row(read(folder, "real"), "a0003")["quality"] == "unknown"
    assert "training-a/REFERENCE_withSQI.csv lacks a0003, whose quality is unknown" in caplog.text


@pytest.mark.parametrize("name", ["train0.txt", "validation0.txt", FLAGGED_FILE])
def test_lists_with_a_byte_order_mark_and_windows_lines(complete: Path, name: str) -> None:
    before = read(complete, "real").table
    path = complete / "folds_spectnet" / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(complete, "real").table.equals(before)


def test_leaving_one_device_out(folder: Path) -> None:
    recordings = read(folder, "real")
    folds = splits.leave_one_group_out(recordings)
    assert [fold.name for fold in folds] == list("abcdef")
    assert set(recordings.table["group"].iloc[folds[2].test]) == {"c"}


def test_the_table_of_the_data(folder: Path) -> None:
    table = physionet2016.data_table(read(folder, "real"))
    assert table.columns.tolist() == ["subset", "device", "normal", "abnormal", "flagged", "hours"]
    assert table["subset"].tolist() == list("abcdeef")
    assert table["normal"].tolist() == [1, 2, 1, 1, 3, 0, 1] and table["abnormal"].tolist() == [2, 1, 1, 1, 0, 1, 1]
    assert table["flagged"].tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert table["hours"].tolist() == pytest.approx([n * 3 / 3600 for n in (3, 3, 2, 2, 3, 1, 2)])
    assert table["device"][4:6].tolist() == ["MLT201/Piezo", "3M Littmann"]


def test_what_is_known_of_the_subsets_is_said_of_each() -> None:
    assert physionet2016.DIAGNOSES.keys() == physionet2016.DEVICES.keys()
    assert physionet2016.CONFOUNDED == ("e",), "one class, one device"


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(LayoutError) as caught:
        read(tmp_path, "real")
    assert len(caught.value.problems) == 6 and caught.value.sound is None
    assert "training-a is missing" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_missing_subset(folder: Path) -> None:
    shutil.rmtree(folder / "training-d")
    assert faults(folder) == [f"the folder training-d is missing from {folder}"]


def test_a_missing_label_file(folder: Path) -> None:
    (folder / "training-c" / "REFERENCE.csv").unlink()
    missing, unlabelled = faults(folder)
    assert missing == "training-c/REFERENCE.csv is missing"
    assert unlabelled == "training-c holds recordings without a label in REFERENCE.csv: c0001, c0002"


def test_a_label_file_that_is_none(folder: Path) -> None:
    (folder / "training-c" / "REFERENCE.csv").write_bytes(b"\xff\xfe\x00c0001")
    assert "training-c/REFERENCE.csv cannot be read" in faults(folder)[0]


@pytest.mark.parametrize("label", ["0", "2", "normal", "", "1.0"])
def test_an_unknown_label(folder: Path, label: str) -> None:
    (folder / "training-f" / "REFERENCE.csv").write_text(f"f0001,-1\nf0002,{label}\n")
    unknown, unlabelled = faults(folder)
    assert f"training-f/REFERENCE.csv has lines whose label is none of '-1', '1': 'f0002,{label}'" in unknown
    assert "f0002" in unlabelled


def test_many_bad_lines_make_a_short_message(folder: Path) -> None:
    (folder / "training-f" / "REFERENCE.csv").write_text("".join(f"f{i:05d};1\n" for i in range(60_000)))
    problems = faults(folder)
    assert "and 59990 more" in problems[0] and len("; ".join(problems)) < 800


def test_a_recording_listed_twice(folder: Path) -> None:
    append(folder / "training-b" / "REFERENCE.csv", "b0002,1")
    assert faults(folder) == ["training-b/REFERENCE.csv lists more than once: b0002"]


def test_a_recording_that_is_listed_but_not_there(folder: Path) -> None:
    (folder / "training-b" / "b0003.wav").unlink()
    assert faults(folder) == ["training-b/REFERENCE.csv lists recordings that are not there: b0003"]


def test_a_recording_in_two_formats(folder: Path) -> None:
    (folder / "training-e" / "e0001.wav").touch()
    assert faults(folder) == ["training-e holds several files of: e0001"]


def test_an_unknown_quality(folder: Path) -> None:
    (folder / "training-a" / "REFERENCE_withSQI.csv").write_text("a0001,1,good\n")
    (problem,) = faults(folder)
    assert "whose quality is none of '1', '0', '': 'a0001,1,good'" in problem


def test_every_fault_is_named_at_once(folder: Path) -> None:
    shutil.rmtree(folder / "training-d")
    append(folder / "training-a" / "REFERENCE.csv", "a0001,1")
    (folder / "training-c" / "c0002.wav").unlink()
    assert len(faults(folder)) == 3


def test_what_is_as_published_passes(small: Dataset) -> None:
    assert check(small, progress=False) == []


def test_the_check_lists_faults_of_folder_and_files_together(small: Dataset, folder: Path) -> None:
    shutil.rmtree(folder / "training-d")
    append(folder / "training-b" / "REFERENCE.csv", "b0002,-1")
    sf.write(folder / "training-a" / "a0001.wav", np.zeros(6000), 2000, "PCM_16")
    sf.write(folder / "training-a" / "a0002.wav", np.random.default_rng(1).uniform(-1, 1, 3000), 2000, "PCM_16")
    sf.write(folder / "training-f" / "f0001.wav", np.random.default_rng(2).uniform(-1, 1, 9000), 4000, "PCM_16")
    path = folder / "training-e" / "e0003.flac"
    path.write_bytes(path.read_bytes()[:3000])
    problems = check(small, progress=False)
    for expected in (
        "training-d is missing",
        "training-b/REFERENCE.csv lists more than once: b0002",
        "14 recordings instead of 16",
        "class abnormal has 6 recordings instead of 7",
        "class normal has 8 recordings instead of 9",
        "1 not at 2000 Hz: f0001 (4000 Hz)",
        "1 unreadable: e0003 (",
        "1 flat lines: a0001",
        "2 shorter than 2.5 s: a0002 (1.50 s), f0001 (2.25 s)",
        "2 missing: d0001, d0002",
        "3 different from the published ones: a0001, a0002, f0001",
    ):
        assert any(expected in problem for problem in problems), expected
    assert len(problems) == 11


def test_a_swapped_label_is_noticed_by_the_counts(small: Dataset, folder: Path) -> None:
    (folder / "training-c" / "REFERENCE.csv").write_text("c0001,-1\nc0002,-1\n")
    assert check(small, progress=False) == [
        "class abnormal has 6 recordings instead of 7",
        "class normal has 10 recordings instead of 9",
        "1 not labelled as published: c0001",
    ]


def test_labels_exchanged_within_a_device_are_noticed(small: Dataset, folder: Path) -> None:
    (folder / "training-c" / "REFERENCE.csv").write_text("c0001,-1\nc0002,1\n")
    assert check(small, progress=False) == ["2 not labelled as published: c0001, c0002"]


def test_a_header_file_that_contradicts_the_label_is_named(small: Dataset, folder: Path) -> None:
    for name, comment in (("c0001", "# Normal"), ("c0002", "# Normal"), ("b0001", "# Abnormal"), ("b0002", "# 12 s")):
        header = f"{name} 1 2000 6000\n{name}.wav 16+44 1 16 0 0 0 0 PCG\n{comment}\n"
        (folder / f"training-{name[0]}" / f"{name}.hea").write_text(header)
    assert check(small, progress=False) == ["2 labelled otherwise in their .hea file: b0001, c0001"]


def test_lists_and_flags_other_than_published_are_named(
    small: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"flagged": {"e0001"}, **{f"list_{number}": {"a0001", "e0001"} for number in range(3)}}
    monkeypatch.setattr(physionet2016, "_published", lambda: published | {"list_3": {"a0001", "z9999"}})
    names = "a0002 a0003 b0001 b0002 b0003 c0001 c0002 d0001 d0002 e0002 e0003 e0004 f0001 f0002"
    write_lists(folder, 0, names, "a0001 e0001")
    write_lists(folder, 1, f"{names} a0001", "e0001")
    write_lists(folder, 3, "a0001", "a0002")
    assert check(small, progress=False) == [
        "2 flagged otherwise than published: e0001, e0002",
        "1 on another side of list 1 than published: a0001",
        "1 on another side of list 2 than published: e0002",
    ]


def test_a_recording_in_two_folders_is_named_with_all_else(small: Dataset, folder: Path) -> None:
    shutil.copy(folder / "training-c" / "c0001.wav", folder / "training-b")
    append(folder / "training-b" / "REFERENCE.csv", "c0001,1")
    shutil.rmtree(folder / "training-d")
    append(folder / "training-f" / "REFERENCE.csv", "f0001,7")
    problems = check(small, progress=False)
    for expected in ("c0001 is in several folders: training-b, training-c", "training-d is missing", "'f0001,7'"):
        assert any(expected in problem for problem in problems), expected


def test_the_check_without_samples_spares_the_manifest(small: Dataset) -> None:
    assert check(replace(small, manifest=Path("nowhere")), progress=False, samples=False) == []


rows = st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdef")), min_size=6, max_size=80)


@hypothesis_settings(max_examples=15)
@given(rows, st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_stratified_folds_share_out_every_class_of_every_device(
    pairs: list[tuple[int, str]], n_folds: int, seed: int
) -> None:
    table = pd.DataFrame(pairs, columns=["label", "group"])
    table["recording"] = table["path"] = [f"r{number}" for number in range(len(table))]
    recordings = Recordings("tiny", table, physionet2016.CLASS_NAMES, 2000, "real")
    strata = table.groupby(["group", "label"]).size()
    if strata.max() < n_folds:  # as scikit-learn has it
        with pytest.raises(DatasetError, match=f"cannot make {n_folds} folds"):
            splits.stratified_folds(recordings, n_folds, seed)
        return
    folds = splits.stratified_folds(recordings, n_folds, seed)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(table)))
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(len(table)))
        tested = table.iloc[fold.test].groupby(["group", "label"]).size()
        for stratum, count in strata.items():
            assert abs(tested.get(stratum, 0) - count / n_folds) < 1 + 1e-9
    again = splits.stratified_folds(recordings, n_folds, seed)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, again, strict=True))


def test_stratified_folds_of_some_rows(folder: Path) -> None:
    recordings = read(folder, "real")
    usable = recordings.find(flagged=False)
    folds = splits.stratified_folds(recordings, 2, rows=usable)
    assert [fold.name for fold in folds] == ["fold_0", "fold_1"]
    assert sorted(np.concatenate([fold.test for fold in folds])) == usable.tolist()
    for impossible in (1, 0, 50):
        with pytest.raises(DatasetError, match=f"cannot make {impossible} folds"):
            splits.stratified_folds(recordings, impossible)


@pytest.fixture(scope="module")
def hearts() -> Recordings:
    """The real recordings; skips the test on a computer that does not have them."""
    if not (USERS_DATA / "physionet2016").is_dir():
        pytest.skip("the real heart sounds are not here; run: python -m course_lib data fetch physionet2016")
    return read(USERS_DATA / "physionet2016", "real")


def test_the_real_recordings_are_the_published_ones(hearts: Recordings) -> None:
    known = ENTRIES["physionet2016"]
    assert hearts.table["label"].value_counts().to_dict() == dict(enumerate(known.class_counts.values()))
    manifest = known.manifest.read_text().splitlines()
    expected = {name: digest for digest, _, name in (line.split("  ") for line in manifest)}
    assert expected.keys() == set(hearts.table["recording"])
    for index in range(7, len(hearts), 500):
        assert fingerprint(hearts.waveform(index)) == expected[hearts.table["recording"][index]]


def test_the_complete_data_set_needs_no_lists_in_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "folds_spectnet" / FLAGGED_FILE).unlink()
    ours = {"flagged": {"e0002"}} | {f"list_{number}": {f"a000{1 + number % 2}", "e0004"} for number in range(4)}
    monkeypatch.setattr(physionet2016, "_published", lambda: ours)
    recordings = read(folder, "real")
    assert recordings.table["recording"][recordings.find(flagged=True)].tolist() == ["e0002"] and not caplog.records
    fold = physionet2016.published_lists(recordings)[1]
    names = recordings.table["recording"].to_numpy()
    assert set(names[fold.test]) == {"a0002", "e0004"}
    assert set(names[fold.train]) == set(names) - {"a0002", "e0004", "e0002"}
    write_lists(folder, 1, "a0001 b0001 e0003", "f0001 d0001")  # what is in the folder goes first
    assert set(names[physionet2016.published_lists(read(folder, "real"))[1].test]) == {"f0001", "d0001"}


def test_the_lists_of_the_course_are_the_published_ones(hearts: Recordings) -> None:
    if not (USERS_DATA / "physionet2016" / "folds_spectnet" / "validation0.txt").exists():
        pytest.skip("the published lists are not beside the data")
    ours = physionet2016._published()
    names = hearts.table["recording"]
    assert ours["flagged"] == set(names[hearts.table["flagged"]])
    for number in physionet2016.LISTS:
        side = hearts.table[f"list_{number}"]
        assert ours[f"list_{number}"] == set(names[side == "test"])
        assert set(names[side == "train"]) == set(names) - ours[f"list_{number}"] - ours["flagged"]


def test_the_real_lists_leave_nothing_out_but_flagged_recordings(hearts: Recordings) -> None:
    if "list_0" not in hearts.table:
        pytest.skip("the fold lists are not here")
    folds = physionet2016.published_lists(hearts)
    assert [len(fold.test) for fold in folds] == [297, 342, 342, 342]  # list 0 as published has four flagged ones more
    assert len(np.unique(np.concatenate([fold.test for fold in folds]))) == 297 + 3 * 342
    flagged = hearts.find(flagged=True)
    assert len(flagged) == 87
    for fold in folds:
        used = np.concatenate([fold.train, fold.test])
        assert np.setdiff1d(np.arange(len(hearts)), used).tolist() == flagged.tolist()
