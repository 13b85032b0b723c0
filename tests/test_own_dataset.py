"""A data set of one's own, with a preparation and a protocol, is one file outside the library."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from course_lib import datasets
from course_lib.clips import Clips
from course_lib.datasets import ENTRIES, Dataset, DatasetError, catalogue, get, load, stand_in
from course_lib.datasets.check import check
from course_lib.datasets.decoded import decode

TOY = '''
"""Toy birds: three kinds that sing one note each, recorded in four woods."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import soundfile as sf
import torch

from course_lib.datasets import Dataset, Preparation, Protocol, Recordings, Words, listing, splits

CLASSES = ("finch", "tit", "wren")


@dataclass
class Factor:
    times: float = 2.0


class Louder(Preparation):
    """Every waveform `times` as loud."""

    from_rate: int = 4000
    sample_rate: int = 4000
    times: float = Factor().times

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        return (self.times * waveform).clamp(-1, 1)


def read(folder, source):
    rows = []
    for path in listing.sounds(folder):
        bird, wood, number = path.stem.split("_")
        rows.append((path.stem, str(path), CLASSES.index(bird), wood))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group"])
    return Recordings("birds", table, CLASSES, 4000, source)


def write(folder, progress=False, takes=3):
    random = np.random.default_rng(0)
    for label, bird in enumerate(CLASSES):
        for wood in "abcd":
            for take in range(takes):
                note = 0.2 * np.sin(np.arange(2000) * (0.3 + 0.4 * label)) + random.normal(0, 0.01, 2000)
                sf.write(folder / f"{bird}_{wood}_{take}.wav", note, 4000, "PCM_16")


def one_wood(recordings, seed):
    return [replace(splits.leave_one_group_out(recordings)[seed % 4], name="one_wood")]


DATASET = Dataset(
    name="birds",
    title="Toy birds",
    read=read,
    protocols=(Protocol("one_wood", "one wood", one_wood, unit="group"),),
    sample_rate=4000,
    words=Words("bird", "taken for", "wood"),
    preparation=Louder,
    write_stand_in=write,
    class_counts=dict.fromkeys(CLASSES, 12),
)
'''


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The toy's file; whatever it adds to the catalogue is taken out again."""
    path = tmp_path / "my sets" / "birds.py"
    path.parent.mkdir()
    path.write_text(TOY)
    before = dict(ENTRIES)
    yield path
    ENTRIES.clear()
    ENTRIES.update(before)
    catalogue._FILES_READ.clear()


def defined_in(path: Path) -> Dataset:
    spec = importlib.util.spec_from_file_location("birds_of_a_test", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.DATASET


@pytest.mark.parametrize("way", ["COURSE_DATASETS", "register"])
def test_a_data_set_from_outside_is_loaded_divided_and_prepared(
    file: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "register":
        assert datasets.register(defined_in(file)).name == "birds"
    else:
        monkeypatch.setenv("COURSE_DATASETS", str(file))
    birds = load("birds")
    assert (birds.source, len(birds), birds.class_names) == ("stand-in", 36, ("finch", "tit", "wren"))
    assert len(stand_in("birds", takes=1)) == 12
    dataset = get("birds")
    assert dataset.words.group == "wood" and dataset.protocol("one_wood").unit == "group"
    (split,) = dataset.protocol("one_wood").splits(birds, 1)
    assert split.name == "one_wood" and set(birds.table["group"].iloc[split.test]) == {"b"}
    louder = dataset.preparation(times=3.0)
    clips = Clips.cut(birds.prepared(louder), 0.25, 0.25, progress=False)
    assert len(clips) == 72
    assert np.allclose(birds.waveform(0) * 3, birds.prepared(louder).waveform(0))
    keys = {decode(birds.prepared(dataset.preparation(times=times))).fingerprint for times in (1.0, 2.0)}
    assert len(keys) == 2
    assert check(dataset, Path(birds.table["path"][0]).parent, progress=False) == []


def test_a_protocol_that_is_not_there_names_those_that_are(file: Path) -> None:
    with pytest.raises(DatasetError, match="birds has no protocol two_woods; it has one_wood"):
        datasets.register(defined_in(file)).protocol("two_woods")


def test_registering_again_replaces_ones_own_and_never_one_of_the_course(file: Path) -> None:
    first, second = datasets.register(defined_in(file)), datasets.register(defined_in(file))
    assert get("birds") is second is not first
    file.write_text(TOY.replace('name="birds"', f'name="{next(iter(ENTRIES))}"'))
    with pytest.raises(DatasetError, match="give yours another name"):
        datasets.register(defined_in(file))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must end in DATASET"),
        ("DATASET = 3", "must end in DATASET"),
        ("import no_such_package", "cannot be used .ModuleNotFoundError"),
        ("def (", "cannot be used .SyntaxError"),
        ("raise SystemExit(3)", "cannot be used .SystemExit"),
        (None, "cannot be used"),
    ],
)
def test_a_file_that_defines_no_data_set_is_named(
    text: str | None, problem: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.unlink() if text is None else file.write_text(text)
    monkeypatch.setenv("COURSE_DATASETS", str(file))
    with pytest.raises(DatasetError, match=rf"COURSE_DATASETS: .*birds\.py {problem}"):
        load("birds")


def test_two_files_that_define_one_name_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = file.with_name("again.py")
    other.write_text(TOY)
    monkeypatch.setenv("COURSE_DATASETS", os.pathsep.join(map(str, (file, other))))
    with pytest.raises(DatasetError, match=r"again\.py defines birds, as something else did"):
        load("birds")


def test_the_stand_in_of_one_s_own_has_the_sizes_that_it_takes(file: Path) -> None:
    datasets.register(defined_in(file))
    for size in ({"takes": -1}, {"takes": "../2"}, {"takes": 1.5}, {"birds": 2}):
        with pytest.raises(DatasetError, match="stand-in for birds"):
            stand_in("birds", **size)


@pytest.mark.parametrize("name", ["", "../birds", "a/b", ".birds", "x" * 300, "birds\0", "bi\nrds", "-birds"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str, file: Path) -> None:
    file.write_text(TOY.replace('name="birds"', f"name={name!r}"))
    with pytest.raises(DatasetError, match="name"):
        datasets.register(defined_in(file))
