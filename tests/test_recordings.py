"""Tables of recordings: their rules, the layouts on disk, and which source `load` takes."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from course_lib import CourseError, environment
from course_lib.audio import AudioError
from course_lib.datasets import ENTRIES, DatasetError, Recordings, folder, fsdd, load, source, stand_in
from course_lib.datasets.recordings import LayoutError
from course_lib.datasets.stand_ins import digits


def table(**columns: object) -> pd.DataFrame:
    rows = {"recording": ["a", "b", "c"], "path": ["a.wav", "b.wav", "c.wav"], "label": [0, 1, 0], "group": [1, 1, 2]}
    return pd.DataFrame(rows | columns)


def recordings_of(rows: pd.DataFrame) -> Recordings:
    return Recordings("tiny", rows, ("no", "yes"), 8000, "real")


@pytest.fixture
def small_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes the stand-in for `fsdd` one voice and one take; the list tells where one was written."""
    written = []

    def write(where: Path, **options: object) -> None:
        written.append(where)
        digits.write(where, **{"speakers": 1, "takes": 1} | options)

    monkeypatch.setitem(ENTRIES, "fsdd", replace(ENTRIES["fsdd"], write_stand_in=write))
    return written


def hidden(where: Path) -> list[str]:
    return [path.name for path in where.rglob("*") if path.name.startswith(".")] if where.exists() else []


@pytest.mark.parametrize("column", ["recording", "path", "label", "group"])
def test_every_column_is_needed(column: str) -> None:
    with pytest.raises(DatasetError, match=f"no column {column}"):
        recordings_of(table().drop(columns=column))


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(DatasetError, match="no recordings found"):
        recordings_of(table().iloc[:0])


def test_a_recording_is_listed_once() -> None:
    with pytest.raises(DatasetError, match="more than once: a"):
        recordings_of(table(recording=["a", "b", "a"]))


@pytest.mark.parametrize("label", [-1, 2, np.nan])
def test_a_label_is_an_index_of_a_class(label: float) -> None:
    with pytest.raises(DatasetError, match=r"outside 0 \.\. 1"):
        recordings_of(table(label=[0, 1, label]))


def test_rows_are_found_by_conditions() -> None:
    recordings = recordings_of(table())
    assert recordings.find(label=0).tolist() == [0, 2]
    assert recordings.find(label=0, group=2).tolist() == [2]
    assert recordings.find(group=7).tolist() == []
    assert recordings.find().tolist() == [0, 1, 2]


def test_a_subset_has_its_rows_in_order_and_counts_anew() -> None:
    recordings = recordings_of(table())
    chosen = recordings.subset(np.array([2, 0]))
    assert chosen.table["recording"].tolist() == ["c", "a"] and chosen.table.index.tolist() == [0, 1]
    assert (chosen.class_names, chosen.sample_rate, chosen.source) == (("no", "yes"), 8000, "real")
    assert recordings.table["recording"].tolist() == ["a", "b", "c"]


def test_the_table_handed_in_stays_as_it_was() -> None:
    rows = table().set_index(pd.Index([7, 8, 9]))
    assert recordings_of(rows).table.index.tolist() == [0, 1, 2]
    assert rows.index.tolist() == [7, 8, 9]


def test_a_waveform_comes_at_the_rate_of_the_data_set(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((1600, 2)), 16000)
    recordings = recordings_of(table(path=[str(tmp_path / "a.wav")] * 3))
    assert recordings.waveform(1).shape == (800,)


def test_a_waveform_that_cannot_be_read_is_an_audio_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        recordings_of(table(path=[str(tmp_path / "a.wav")] * 3)).waveform(0)


def test_the_published_layout_of_fsdd(recordings: Recordings) -> None:
    rows = recordings.table
    assert len(recordings) == 240 and recordings.class_names == tuple("0123456789")
    assert recordings.sample_rate == 8000 and recordings.source == "real"
    seven = rows[rows["recording"] == "7_bob_4"].iloc[0]
    assert (seven["label"], seven["group"], seven["take"], seven["official"]) == (7, "bob", 4, "test")
    assert ((rows["take"] < 5) == (rows["official"] == "test")).all()
    assert rows["label"].value_counts().eq(24).all()


@pytest.mark.parametrize("name", ["12_ann_0.wav", "3_ann.wav", "x_ann_0.wav", "3__0.WAV"])
def test_a_file_that_does_not_follow_the_layout_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "0_ann_0.wav").touch()
    (tmp_path / "recordings" / name).touch()
    with pytest.raises(DatasetError, match=name):
        fsdd.read(tmp_path, "real")


def test_an_empty_fsdd_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no recordings found"):
        fsdd.read(tmp_path, "real")


def sounds(where: Path, *names: str, rate: int = 8000) -> Path:
    for name in names:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(where / name, np.zeros(100), rate)
    return where


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    sounds(tmp_path / "pets", "dog/rex/1.wav", "dog/rex/deep/2.flac", "dog/3.ogg", "cat/tom/1.WAV", ".old/x.wav")
    (tmp_path / "pets" / "dog" / "._3.wav").write_bytes(b"left by a file manager")
    (tmp_path / "pets" / "readme.txt").touch()
    (tmp_path / "pets" / "cat" / "notes.txt").touch()
    recordings = load(str(tmp_path / "pets"))
    assert (recordings.name, recordings.class_names) == ("pets", ("cat", "dog"))
    assert (recordings.sample_rate, recordings.source) == (8000, "real")
    found = dict(zip(recordings.table["recording"], recordings.table["group"], strict=True))
    assert found == {
        "cat/tom/1.WAV": "tom",
        "dog/3.ogg": "dog/3.ogg",
        "dog/rex/1.wav": "rex",
        "dog/rex/deep/2.flac": "rex",
    }
    assert recordings.find(label=1).tolist() == [1, 2, 3]
    assert recordings.waveform(1).shape == (100,)


def test_a_folder_takes_the_commonest_rate_unless_told(tmp_path: Path) -> None:
    sounds(tmp_path, "a/1.wav", "a/2.wav", "b/1.wav", rate=16000)
    sounds(tmp_path, "b/2.wav", "b/3.wav", rate=8000)
    assert folder.read(tmp_path).sample_rate == 16000
    assert folder.read(tmp_path, sample_rate=22050).sample_rate == 22050


@pytest.mark.parametrize("names", [(), ("a/1.wav",), ("1.wav", "2.wav")])
def test_a_folder_needs_two_class_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match="class folders"):
        folder.read(sounds(tmp_path, *names))


def test_a_class_without_sounds_is_named(tmp_path: Path) -> None:
    sounds(tmp_path, "a/1.wav")
    (tmp_path / "quiet").mkdir()
    with pytest.raises(DatasetError, match="quiet holds no"):
        folder.read(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        folder.read(tmp_path / "nowhere")


def test_a_folder_with_a_bad_file_names_it(tmp_path: Path) -> None:
    sounds(tmp_path, "a/1.wav", "b/1.wav")
    (tmp_path / "b" / "2.wav").write_bytes(b"not a sound")
    (tmp_path / "b" / "3.wav").touch()
    with pytest.raises(LayoutError, match=r"2\.wav .*3\.wav ") as caught:
        folder.read(tmp_path)
    assert caught.value.sound.table["recording"].tolist() == ["a/1.wav", "b/1.wav"]


@pytest.mark.parametrize("source", ["auto", "real"])
def test_recordings_on_disk_are_taken(fsdd_data: Path, small_stand_in: list[Path], source: str) -> None:
    stand_in("fsdd")
    recordings = load("fsdd", source)
    assert recordings.source == "real" and len(recordings) == 240


def test_without_recordings_and_offline_a_stand_in_is_made_once(
    small_stand_in: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        recordings = load("fsdd", progress=False)
    assert recordings.source == "stand-in" and len(recordings) == 10
    assert "stand-in" in caplog.text
    assert load("fsdd").table.equals(recordings.table) and len(small_stand_in) == 1
    assert recordings.waveform(0).abs().max() > 0
    assert not hidden(environment.cache_folder()) and not list(environment.data_folder().iterdir())


def test_a_stand_in_made_before_spares_the_download(
    small_stand_in: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("fsdd")
    monkeypatch.setattr(source, "fetch", lambda *_, **__: pytest.fail("tried to download"))
    assert load("fsdd").source == "stand-in"


def test_a_failed_download_also_ends_in_a_stand_in(small_stand_in: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, progress: bool) -> Path:
        raise DatasetError("the server is away")

    monkeypatch.setattr(source, "fetch", fail)
    assert load("fsdd").source == "stand-in"


def test_a_download_is_taken_as_real(
    fsdd_folder: Path, small_stand_in: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "fetch", lambda name, progress: fsdd_folder)
    assert load("fsdd").source == "real" and not small_stand_in


def test_the_stand_in_can_be_asked_for(fsdd_data: Path, small_stand_in: list[Path]) -> None:
    assert load("fsdd", "stand-in").source == "stand-in"


def test_real_recordings_are_never_made_up(small_stand_in: list[Path]) -> None:
    stand_in("fsdd")
    with pytest.raises(DatasetError) as caught:
        load("fsdd", "real")
    message = str(caught.value)
    assert "COURSE_DATA" in message and "python -m course_lib data fetch fsdd" in message
    assert str(environment.data_folder()) in message


def test_unknown_names_and_sources_list_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"'fsd'; known: .*fsdd"):
        load("fsd")
    with pytest.raises(DatasetError, match="auto, real, stand-in"):
        load("fsdd", "fake")
    with pytest.raises(DatasetError, match=r"known: .*fsdd"):
        stand_in("fsd")


def test_stand_ins_of_other_sizes_live_side_by_side(small_stand_in: list[Path]) -> None:
    assert len(stand_in("fsdd", speakers=2)) == 20
    assert len(stand_in("fsdd", takes=3)) == 30
    assert len(stand_in("fsdd")) == 10
    assert len(small_stand_in) == 3


def fails(error: BaseException) -> Callable[..., None]:
    def write(where: Path, **_: object) -> None:
        (where / "recordings").mkdir()
        sf.write(where / "recordings" / "0_ann_0.wav", np.zeros(10), 8000)
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DatasetError),
        (sf.LibsndfileError(2), DatasetError),
        (RuntimeError("eSpeak NG did not start"), DatasetError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=lambda case: getattr(case, "__name__", type(case).__name__),
)
def test_a_stand_in_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    monkeypatch.setitem(ENTRIES, "fsdd", replace(ENTRIES["fsdd"], write_stand_in=fails(error)))
    with pytest.raises(raised):
        stand_in("fsdd")
    assert not list((environment.cache_folder() / "stand_in").iterdir())


def test_a_stand_in_that_another_process_finished_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(where: Path, **_: object) -> None:
        digits.write(where, speakers=1, takes=1)
        digits.write(environment.cache_folder() / "stand_in" / "fsdd", speakers=1, takes=1)

    monkeypatch.setitem(ENTRIES, "fsdd", replace(ENTRIES["fsdd"], write_stand_in=write))
    assert len(stand_in("fsdd")) == 10
    assert not hidden(environment.cache_folder())


@pytest.mark.parametrize("use", [partial(stand_in, "fsdd"), partial(load, "fsdd")], ids=["stand_in", "load"])
def test_a_cache_folder_that_cannot_be_made_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[], Recordings]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CourseError, match="COURSE_CACHE"):
        use()


def test_the_real_recordings_follow_the_layout(real_data: Path) -> None:
    recordings = load("fsdd", "real")
    assert len(recordings) == 3000 and recordings.table["group"].nunique() == 6
    assert len(recordings.waveform(0)) > 1000
