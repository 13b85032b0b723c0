"""Listing a folder of sounds: whatever could be a recording is listed, named in a warning, or refused with a reason."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from course_lib.datasets import DatasetError, folder, fsdd, get, load, splits

SOUND = np.sin(np.arange(800))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes with a sound each."""
    return write(tmp_path / "pets", "dog/1.wav", "cat/1.wav")


def write(where: Path, *names: str) -> Path:
    for name in names:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(where / name, SOUND, 8000)
    return where


def names(where: Path) -> list[str]:
    return load(where).table["recording"].tolist()


@pytest.mark.parametrize("ending", ["mp2", "aiff", "AIF", "m4a", "opus", "wave", "w64"])
@pytest.mark.parametrize("where", ["dog", "dog/rex", "dog/rex/deep"])
def test_sounds_of_other_kinds_are_counted(
    pets: Path, ending: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    (pets / where).mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (pets / where / f"{number}.{ending}").touch()
    assert names(pets) == ["cat/1.wav", "dog/1.wav"]
    assert len(caplog.records) == 1 and f"left out: 3 {ending.upper()}" in caplog.text and str(pets) in caplog.text


def test_texts_pictures_and_files_of_the_system_are_passed_over_quietly(
    pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("readme.txt", "dog/._1.wav", "dog/.DS_Store", "dog/Thumbs.db", "dog/rex.jpg", "desktop.ini"):
        (pets / name).write_bytes(b"x")
    assert names(pets) == ["cat/1.wav", "dog/1.wav"] and not caplog.records


@pytest.mark.parametrize(
    "hidden", [".old", "dog/.trash", "dog/rex/@eaDir", "dog/rex/.x/deep", "__MACOSX", "cat/$RECYCLE.BIN"]
)
def test_sounds_in_hidden_folders_are_counted_at_every_level(
    pets: Path, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(pets, f"{hidden}/1.wav", f"{hidden}/2.flac", f"{hidden}/3.mp3")
    assert names(pets) == ["cat/1.wav", "dog/1.wav"]
    assert "left out: 3 in the hidden folder" in caplog.text


def test_sounds_beside_the_class_folders_are_named(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(pets, "loose.wav")
    assert names(pets) == ["cat/1.wav", "dog/1.wav"]
    assert "in no class folder: loose.wav" in caplog.text


def test_a_folder_may_be_called_like_a_sound(pets: Path) -> None:
    write(pets, "dog/take.wav/1.wav", "fox.flac/1.wav")
    assert names(pets) == ["cat/1.wav", "dog/1.wav", "dog/take.wav/1.wav", "fox.flac/1.wav"]


def test_links_are_followed(pets: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "1.wav", "deep/2.wav")
    (pets / "dog" / "rex").symlink_to(tmp_path / "elsewhere")
    (pets / "fox").symlink_to(tmp_path / "elsewhere")
    (pets / "cat" / "2.wav").symlink_to(tmp_path / "elsewhere" / "1.wav")
    assert len(names(pets)) == 7
    assert {"dog/rex/deep/2.wav", "fox/1.wav", "cat/2.wav"} <= set(names(pets))


@pytest.mark.parametrize("target", [".", "..", "../..", "rex"])
def test_links_in_a_circle_are_refused(pets: Path, target: str) -> None:
    (pets / "dog" / "rex").mkdir()
    (pets / "dog" / "rex" / "again").symlink_to(target if target != "rex" else "../rex")
    with pytest.raises(DatasetError, match="link to a folder that it lies in"):
        load(pets)


def test_links_that_lead_nowhere_are_refused(pets: Path) -> None:
    (pets / "dog" / ".#1.wav").symlink_to("nowhere")  # an editor's
    assert len(names(pets)) == 2
    (pets / "dog" / "2.wav").symlink_to("nowhere")
    (pets / "dog" / "3.wav").symlink_to("3.wav")
    with pytest.raises(DatasetError, match=r"dog holds links that lead nowhere: 2\.wav, 3\.wav;"):
        load(pets)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(pets: Path) -> None:
    os.mkfifo(pets / "dog" / "2.wav")
    with pytest.raises(DatasetError, match=r"2\.wav is no file"):
        load(pets)


@pytest.mark.parametrize("closed", ["dog", "dog/rex", "dog/rex/deep"])
def test_a_folder_that_cannot_be_listed_is_named(pets: Path, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pets, "dog/rex/deep/1.wav")
    scan = os.scandir

    def scandir(path: Path) -> object:
        if str(path) == str(pets / closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=rf"{closed} cannot be listed \(Permission denied\)"):
        load(pets)


def test_a_hidden_folder_that_cannot_be_listed_does_no_harm(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / "lost+found").mkdir()
    scan = os.scandir

    def scandir(path: Path) -> object:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(names(pets)) == 2


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names themselves")


@on_linux
@pytest.mark.parametrize("strange", [b"dog/\xff.wav", b"dog/\xff/1.wav", b"\xff/1.wav"])
def test_names_that_are_not_utf_8_are_refused(pets: Path, strange: bytes) -> None:
    path = os.path.join(os.fsencode(pets), strange)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(os.fsencode(pets / "dog" / "1.wav"), path)
    Path(os.fsdecode(os.fsencode(pets / "dog") + b"/notes\xff.txt")).touch()  # none of ours
    with pytest.raises(DatasetError, match=r"not UTF-8: '\\udcff(\.wav)?'; rename"):
        load(pets)


@on_linux
def test_a_folder_that_is_not_named_in_utf_8_is_refused(pets: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(pets.parent) + b"/\xff"))
    pets.rename(strange)
    with pytest.raises(DatasetError) as caught:
        load(strange)
    str(caught.value).encode()


def test_a_tilde_is_the_home_folder(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pets.parent))
    assert len(load("~/pets")) == len(load(Path("~/pets"))) == len(folder.read(Path("~/pets"))) == 2
    assert get("~/pets").folder == pets.resolve()


@pytest.mark.parametrize("name", ["", "\0", "~nobody-of-this-name/x", "x" * 5000, "/nowhere", "no\nsuch"])
def test_a_name_that_is_no_folder_is_one_clear_error(name: str) -> None:
    with pytest.raises(DatasetError, match="no data set or folder"):
        load(name)


def split_folder(where: Path, *sides: str) -> Path:
    return write(
        where, *(f"{side}/{label}/{side}{take}.wav" for side in sides for label in ("dog", "cat") for take in (1, 2))
    )


@pytest.mark.parametrize("sides", [("train", "test"), ("Training", "Eval"), ("TRAIN", "Testing")])
def test_train_and_test_folders_are_a_split_and_not_classes(tmp_path: Path, sides: tuple[str, str]) -> None:
    recordings = load(split_folder(tmp_path / "pets", *sides))
    assert recordings.class_names == ("cat", "dog") and len(recordings) == 8
    split = splits.official(recordings)
    paths = recordings.table["path"]
    assert paths.iloc[split.train].str.contains(f"/{sides[0]}/").all() and len(split.train) == 4
    assert paths.iloc[split.test].str.contains(f"/{sides[1]}/").all() and len(split.test) == 4
    assert (
        get(str(tmp_path / "pets")).protocol("official").splits(recordings, 0)[0].test.tolist() == split.test.tolist()
    )


@pytest.mark.parametrize("name", ["val", "validation", "dev"])
def test_a_validation_folder_is_the_third_side(tmp_path: Path, name: str) -> None:
    recordings = load(split_folder(tmp_path / "pets", "train", name, "test"))
    split = splits.official(recordings)
    assert recordings.class_names == ("cat", "dog")
    assert len(split.train) == len(split.test) == len(split.validation) == 4


def test_groups_on_both_sides_of_a_folder_of_ones_own_are_refused(tmp_path: Path) -> None:
    where = write(tmp_path / "pets", *(f"{side}/{label}/rex/1.wav" for side in ("train", "test") for label in "ab"))
    with pytest.raises(DatasetError, match="group rex"):
        splits.official(load(where))


def test_what_is_beside_the_sides_is_refused(tmp_path: Path) -> None:
    where = split_folder(tmp_path / "pets", "train", "test")
    write(where, "extra/dog/1.wav")
    with pytest.raises(DatasetError, match="holds extra beside test, train"):
        load(where)


def test_a_train_is_a_vehicle_too(tmp_path: Path) -> None:
    assert load(write(tmp_path / "street", "train/1.wav", "tram/1.wav", "bus/1.wav")).class_names == (
        "bus",
        "train",
        "tram",
    )


@pytest.mark.parametrize(("first", "second"), [("Dog", "dog"), ("caf\u00e9", "cafe\u0301"), ("dog ", "dog")])
def test_classes_and_groups_that_are_too_alike_are_refused(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(DatasetError, match=r"class folders .* too alike"):
        load(write(tmp_path / "classes", f"{first}/1.wav", f"{second}/2.wav", "cat/1.wav"))
    with pytest.raises(DatasetError, match=r"group folders .* too alike"):
        load(write(tmp_path / "groups", f"a/{first}/1.wav", f"b/{second}/2.wav"))


def test_one_voice_of_ones_own_beside_the_digits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = ["7_Ahmed_0.wav", "7_mary-ann_0.wav", "0_theo_0.WAV", "3_d'Arc jr._12.flac", "4_Zo\u00eb_1.wav"]
    write(tmp_path / "recordings", "0_theo_1.wav", *own)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt"):
        (tmp_path / "recordings" / name).touch()
    recordings = fsdd.read(tmp_path, "real")
    assert len(recordings) == 6 and not caplog.records
    assert set(recordings.table["group"]) == {"theo", "ahmed", "mary-ann", "d'arc jr.", "zo\u00eb"}


def test_digits_in_folders_below_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "recordings", "0_theo_1.wav", "more/0_theo_2.wav", "more/0_theo_3.wav")
    (tmp_path / "recordings" / "0_theo_4.m4a").touch()
    assert len(fsdd.read(tmp_path, "real")) == 1
    assert "1 M4A, 2 in the folder more" in caplog.text
