"""The report of one's own data: it names every fault that is there, and none that is not."""

from __future__ import annotations

import re
import shutil
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from course_lib import audio, evaluation, report
from course_lib.__main__ import main
from course_lib.report import ReportError, Results, examine, facts, groups, score
from course_lib.report.copies import in_phase

RATE = 16_000
CLASSES = ("cat", "dog", "wren")


def sound(seed: int, centre: float, rate: int = RATE) -> np.ndarray:
    """Half a second or so of noise around a frequency, in bursts, at a level of its own."""
    random = np.random.default_rng(seed)
    samples = int(rate * random.uniform(0.4, 0.7))
    spectrum = np.fft.rfft(random.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    noise = np.fft.irfft(spectrum * (0.02 + np.exp(-(((frequency - centre) / 500) ** 2))), samples)
    bursts = np.interp(np.arange(samples), np.linspace(0, samples, 12), random.uniform(0.05, 1, 12))
    wave = noise * bursts
    return random.uniform(0.1, 0.6) * wave / np.abs(wave).max()


def clean(
    folder: Path,
    seed: int = 0,
    layout: str = "{of_class}/{group}/{take}",
    rates: dict[str, int] | None = None,
    n_groups: int = 6,
) -> Path:
    """Two recordings, a WAV and an MP3, of each of six groups of each class."""
    for number, of_class in enumerate(CLASSES):
        for group in range(n_groups):
            for take, ending in enumerate(("wav", "mp3")):
                rate = (rates or {}).get(of_class, RATE)
                samples = sound(hash((seed, number, group, take)) % 2**32, 600 + 900 * number, rate)
                name = layout.format(of_class=of_class, group=f"{of_class}{'abcdef'[group]}", take=take)
                path = folder / f"{name}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                sf.write(path, samples, rate)
    return folder


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "smoke")


@pytest.fixture(autouse=True)
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each class, on the pages that are not looked at."""
    monkeypatch.setattr(report.page, "_OF_EACH_CLASS", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean folder. Read only."""
    return clean(tmp_path_factory.mktemp("clean") / "pets")


@pytest.fixture(scope="module")
def faulty(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one fault of each kind; wrens are recorded at another rate. Read only."""
    pets = tmp_path_factory.mktemp("faulty") / "pets"
    shutil.copytree(folder, pets)
    shutil.rmtree(pets / "wren")
    clean(pets.parent / "others", rates={"wren": 8000})
    shutil.copytree(pets.parent / "others" / "wren", pets / "wren")
    cat, rate = sf.read(pets / "cat" / "cata" / "0.wav", dtype="int16")
    sf.write(pets / "dog" / "doga" / "copy.flac", cat, rate)
    dog, rate = sf.read(pets / "dog" / "dogb" / "0.wav")
    sf.write(pets / "dog" / "dogf" / "converted.mp3", 0.7 * dog, rate)
    sf.write(pets / "cat" / "catb" / "loud.wav", np.clip(8 * sound(991, 700), -1, 1), RATE)
    sf.write(pets / "cat" / "catc" / "silent.wav", np.zeros(RATE), RATE)
    (pets / "dog" / "dogc" / "broken.wav").write_bytes(b"no sound at all")
    whole = (pets / "cat" / "catd" / "1.mp3").read_bytes()
    (pets / "cat" / "catd" / "cut off.mp3").write_bytes(whole[: len(whole) // 2])
    (pets / "dog" / "dogd" / "phone.m4a").touch()
    (pets / "loose.wav").write_bytes((pets / "dog" / "dogc" / "0.wav").read_bytes())
    (pets / "dog" / "notes.txt").write_text("not a sound")
    return pets


def kinds(results: Results) -> dict[str, list[str]]:
    return {finding.kind: finding.names for finding in results.findings}


@pytest.fixture(scope="module")
def looked_at(faulty: Path) -> Results:
    return examine(faulty, with_score=False, progress=False)


def test_every_fault_is_named_and_no_other(looked_at: Results) -> None:
    found = kinds(looked_at)
    assert set(found) == {
        "copies in two classes",
        "near copies",
        "unreadable",
        "silent",
        "clipped",
        "left out",
        "loose",
        "rates",
        "classes differ in sample rate",
    }
    assert found["copies in two classes"] == ["cat/cata/0.wav = dog/doga/copy.flac"]
    assert found["near copies"] == ["dog/dogb/0.wav = dog/dogf/converted.mp3"]
    assert [name.split(":")[0] for name in found["unreadable"]] == ["cat/catd/cut off.mp3", "dog/dogc/broken.wav"]
    assert "truncated" in found["unreadable"][0]
    assert found["silent"] == ["cat/catc/silent.wav"]
    assert found["clipped"] == ["cat/catb/loud.wav"]
    assert found["loose"] == ["loose.wav"]
    assert "wren: 8,000 Hz (12)" in found["classes differ in sample rate"]


def test_the_worst_comes_first(looked_at: Results) -> None:
    weights = [finding.weight for finding in looked_at.findings]
    assert weights == sorted(weights, reverse=True)
    assert looked_at.findings[0].kind == "copies in two classes"
    assert looked_at.findings[1].kind == "classes differ in sample rate"


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_a_clean_folder(seed: int, tmp_path: Path) -> None:
    results = examine(clean(tmp_path, seed), with_score=False, progress=False)
    assert kinds(results) == {}
    assert results.groups.count == 18 and results.groups.nested(results.facts.table["class"])


def test_files_that_are_linked_are_read_and_links_that_lead_nowhere_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "circle").symlink_to(tmp_path / "pets")
    (tmp_path / "pets" / "dog" / "nowhere.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "pets" / "newt").symlink_to(folder / "wren")
    shutil.rmtree(tmp_path / "pets" / "wren")
    found = facts.find(tmp_path / "pets")
    assert found.classes == ["cat", "dog", "newt"] and len(found.files) == 36
    assert found.problems == {
        "cat/circle": "is a link to a folder that was read already",
        "dog/nowhere.wav": "is a link that leads nowhere",
    }


def test_what_is_measured_does_not_depend_on_the_parts(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = facts.read(faulty, progress=False)
    monkeypatch.setattr(facts, "_PART", 3000)
    in_parts = facts.read(faulty, progress=False)
    pd.testing.assert_frame_equal(whole.table, in_parts.table, rtol=1e-6, atol=1e-6)
    assert (whole.clips.samples - in_parts.clips.samples).abs().max() <= 1


def test_every_file_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: Counter[str] = Counter()
    parts = audio.parts

    def counted(path: Path, samples: int):
        times[path.name + path.parent.name] += 1
        return parts(path, samples)

    monkeypatch.setattr(audio, "parts", counted)
    monkeypatch.setattr(audio, "read_channels", None)
    examine(folder, with_score=False, progress=False)
    assert len(times) == 36 and set(times.values()) == {1}


def test_measurements_are_right(tmp_path: Path) -> None:
    time = np.arange(2 * RATE) / RATE
    tone = np.where(time < 1, 0.5 * np.sin(2 * np.pi * 440 * time), 0.0) + 0.1
    for number in range(2):
        for of_class in ("a", "b"):
            (tmp_path / of_class).mkdir(exist_ok=True)
            sf.write(tmp_path / of_class / f"{number}.wav", np.stack([tone, tone], 1), RATE, "PCM_24")
    row = facts.read(tmp_path, progress=False).table.iloc[0]
    assert (row["rate"], row["channels"], row["seconds"], row["coding"]) == (RATE, 2, 2.0, "WAV PCM_24")
    assert row["rms"] == pytest.approx(10 * np.log10(0.5**2 / 4), abs=0.01)
    assert row["peak"] == pytest.approx(20 * np.log10(0.6), abs=0.01)
    assert row["dc"] == pytest.approx(0.1, abs=1e-3) and row["silence"] == pytest.approx(0.5)
    assert not row["clipped"] and not row["flat"] and not row["cancels"]


def test_few_recordings_of_many_are_kept_for_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.environment, "by_profile", lambda smoke, laptop: 10 * RATE)
    read = facts.read(folder, progress=False)
    assert len(read.table) == 36 and 12 <= len(read.clips) <= 18
    assert set(read.table["label"].iloc[read.clips.recording.numpy()]) == {0, 1, 2}


# Groups


def table_of(names: list[str]) -> pd.DataFrame:
    split = [name.split("/") for name in names]
    folders = [parts[1] if len(parts) > 2 else "" for parts in split]
    return pd.DataFrame({"recording": names, "class": [parts[0] for parts in split], "folder": folders})


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{of_class}/{who}/{take}.wav", {"mia", "tom", "zoe"}),
        ("{of_class}/{of_class}_{who}_{take}.wav", {"mia", "tom", "zoe"}),
        ("{of_class}/{who} {take}.mp3", {"mia", "tom", "zoe"}),
        ("{of_class}/{who}{take}.mp3", {"mia", "tom", "zoe"}),
        ("{of_class}/speaker{number}-take{take}.wav", {"speaker1034", "speaker88", "speaker412"}),
        ("{of_class}/{number}-0-{take}.wav", {"1034", "88", "412"}),
        ("{of_class}/{who}{number}_{take}.wav", {"mia1034", "tom88", "zoe412"}),
        ("{of_class}/p{number}.wav", {"p1034", "p88", "p412"}),
        ("{of_class}/{take}.wav", None),
        ("{of_class}/{of_class}_{take}.wav", None),
        ("{of_class}/recording {take}.wav", None),
    ],
)
def test_groups_are_guessed_from_names(form: str, expected: set[str] | None) -> None:
    names = [
        form.format(of_class=of_class, who=who, number=number, take=take)
        for of_class in ("yes", "no")
        for who, number in (("mia", 1034), ("tom", 88), ("zoe", 412))
        for take in range(5)
    ]
    found = groups.known_or_guessed(table_of(list(dict.fromkeys(names))))
    assert found.known == (expected is not None)
    assert set(found.of) == (expected or set(names))


def test_without_groups_the_page_says_that_the_score_is_too_good(tmp_path: Path, smoke: None) -> None:
    pets = clean(tmp_path / "pets", layout="{of_class}/{take}{group}", n_groups=2)
    for path in list(pets.rglob("*.*")):
        path.rename(path.with_name(f"{zlib.crc32(str(path).encode()):x}{path.suffix}"))
    path, results = report.report(pets, tmp_path / "page.html", 0.5, progress=False)
    assert "no groups" in kinds(results) and not results.division.by_group
    assert "probably too good" in path.read_text(encoding="utf-8")


def test_copies_are_in_one_group() -> None:
    names = pd.Series(["a", "b", "c", "d"])
    number = groups.joined(pd.Series(["x", "x", "y", "z"]), [["b", "c"]], names)
    assert number[0] == number[1] == number[2] != number[3]


# Score


@pytest.fixture(scope="module")
def page(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Results]:
    """The page of the faulty folder, with a score in the smallest profile."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PROFILE", "smoke")
        patch.setenv("COURSE_THREADS", "1")
        path, results = report.report(
            faulty, tmp_path_factory.mktemp("page") / "new" / "page.html", 1, progress=False, say=lines.append
        )
    assert len(lines) == 1 and re.search(r"2 trainings of \d+ epochs .* at most about a minute", lines[0])
    return path.read_text(encoding="utf-8"), results


def test_the_score_is_of_every_recording_that_has_a_sound(page: tuple[str, Results]) -> None:
    _, results = page
    assert results.score.confusion.sum() == results.score.recordings == len(results.facts.table) - 1
    low, high = results.score.network.interval
    assert 0 <= low <= results.score.network.mean <= high <= 1
    assert results.score.majority.mean == pytest.approx(1 / 3)


def test_no_group_and_no_copy_is_on_two_sides(looked_at: Results) -> None:
    table, of = looked_at.facts.table, looked_at.groups.of
    together = groups.joined(of, [["cat/cata/0.wav", "dog/doga/copy.flac"]], table["recording"])
    for train, test in looked_at.division.folds:
        assert not set(together[train]) & set(together[test])
        assert set(table["label"].iloc[train]) == set(table["label"].iloc[test]) == {0, 1, 2}


def test_the_page_needs_nothing_else_and_can_be_read_aloud(page: tuple[str, Results]) -> None:
    text, results = page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)|@import|<script|url\(|<link|https?://", text)
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) == 3 * 3 + 3 and all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    for finding in results.findings:
        assert finding.title in text and all(name.split(" = ")[0] in text for name in finding.names)
    assert text.count("<h1>") == 1 and 'lang="en"' in text and "{{" not in text


def test_a_page_shows_names_as_they_are(tmp_path: Path) -> None:
    pets = clean(tmp_path / "a & b", n_groups=2)
    (pets / "cat").rename(pets / "<script>cats")
    path, results = report.report(pets, tmp_path / "page.html", with_score=False, progress=False)
    assert "<script" not in path.read_text(encoding="utf-8") and "&lt;script&gt;cats" in path.read_text(
        encoding="utf-8"
    )
    assert results.score is None


@pytest.mark.parametrize(("rate", "longest"), [(100, 3.0), (96_000, 0.2)])
def test_odd_recordings_are_reported_on(rate: int, longest: float, tmp_path: Path, smoke: None) -> None:
    """Two classes with odd names, in one channel or three, of one sample or more, at any rate."""
    random = np.random.default_rng(0)
    for of_class in ("$5^", "\u4e94 & <i>"):
        (tmp_path / "odd" / of_class).mkdir(parents=True)
        for number, length in enumerate((1, 2, 30, *[round(rate * longest)] * 5)):
            samples = random.normal(0, 0.1, (length, 1 + 2 * (number % 2)))
            sf.write(tmp_path / "odd" / of_class / f"{number}.wav", samples, rate)
    path, results = report.report(tmp_path / "odd", tmp_path / "page.html", 0.2, progress=False)
    table = results.facts.table
    assert results.score.confusion.sum() == len(table) - (table["flat"] | table["cancels"]).sum() >= 12
    assert "<i>" not in path.read_text(encoding="utf-8")
    assert not {"unreadable", "clipped", "near copies", "copies"} & set(kinds(results))


def test_training_ends_when_the_time_is_up(folder: Path, smoke: None) -> None:
    results = examine(folder, minutes=1e-4, progress=False)
    assert results.score.folds == 1 and "time was up" in " ".join(results.score.words)


def test_the_interval_over_groups_is_students_where_every_group_has_every_class() -> None:
    random = np.random.default_rng(0)
    labels, members = np.tile([0, 0, 1, 1], 60), np.repeat(np.arange(6), 40)
    correct = random.random(240) < (0.4 + 0.1 * members)
    low, high = score.estimate(labels, correct, members).interval
    means = [evaluation.mean_of_cells(correct[members == group], labels[members == group]) for group in range(6)]
    assert (low, high) == pytest.approx(evaluation.t_interval(means), abs=0.02)
    alone = score.estimate(labels, correct, np.arange(240)).interval
    assert alone == pytest.approx(evaluation.interval(correct, cells=labels))
    assert low < alone.low and high > alone.high


def test_a_class_of_one_group_is_left_out_of_the_score(folder: Path, tmp_path: Path) -> None:
    pets = tmp_path / "pets"
    shutil.copytree(folder, pets)
    (pets / "wren").rename(tmp_path / "wren")
    shutil.copytree(tmp_path / "wren" / "wrena", pets / "wren" / "wrena")
    results = examine(pets, with_score=False, progress=False)
    assert results.division.left_out == ["wren"] and len(results.division.rows) == 24
    assert {"few groups", "few recordings", "imbalance"} == set(kinds(results))


@pytest.mark.parametrize("fact", ["duration", "level", "format", "silence", "offset"])
def test_a_fact_that_tells_the_classes_apart_is_found(fact: str, folder: Path, tmp_path: Path) -> None:
    pets = tmp_path / "pets"
    shutil.copytree(folder, pets)
    for path in list((pets / "dog").rglob("*.*")):
        samples, rate = sf.read(path)
        path.unlink()
        if fact == "duration":
            samples = np.tile(samples, 3)
        elif fact == "level":
            samples = 0.1 * samples
        elif fact == "silence":
            samples[rate // 5 :] = 0
        elif fact == "offset":
            samples = 0.9 * samples + 0.015
        sf.write(path.with_suffix(".flac") if fact == "format" else path, samples, rate)
    results = examine(pets, with_score=False, progress=False)
    worst = results.findings[0]
    assert worst.kind == f"classes differ in {fact}" and "dog: " in worst.names[1]
    reached = results.without_listening[fact]
    assert 1 / 3 < reached.interval.low < 2 / 3 <= reached.mean + 0.05


# Copies


def test_only_copies_are_in_phase(tmp_path: Path) -> None:
    one = sound(1, 900)
    for container, subtype in (("MP3", None), ("OGG", "VORBIS"), ("WAV", "ULAW")):
        sf.write(tmp_path / "coded", 0.5 * one, RATE, subtype, format=container)
        assert in_phase(one, audio.read(tmp_path / "coded").numpy()) > 0.8
    assert in_phase(one, sound(2, 900)) < 0.3
    time = np.arange(RATE) / RATE
    tones = [
        np.sin(2 * np.pi * 440 * time + phase) + np.random.default_rng(0).normal(0, 0.01, RATE) for phase in (0, 1)
    ]
    assert in_phase(*tones) < 0.3


def test_a_copy_on_two_sides_of_a_split_is_named(folder: Path, tmp_path: Path) -> None:
    for side in ("train", "test"):
        shutil.copytree(folder, tmp_path / "pets" / side, dirs_exist_ok=True)
    results = examine(tmp_path / "pets", with_score=False, progress=False)
    assert results.facts.class_names == CLASSES
    assert len(kinds(results)["copies on two sides"]) == 36


# Bad input


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (None, "is not a folder"),
        ([], "holds no class folder"),
        (["cat/notes.txt", "dog/notes.txt"], "holds no class folder"),
        (["1.wav", "2.wav"], "the sounds of each class go into a folder of its own"),
        (["cat/1.m4a", "dog/1.m4a"], "only M4A"),
        (["cat/1.wav", "cat/2.wav"], "one class only, cat"),
        (["cat/1.wav", "cat/2.wav", "dog/1.bad.wav"], "only cat has files that can be read"),
        (["cat/1.wav", "dog/1.wav"], "one recording of each class"),
        (["cat/1.bad.wav", "dog/1.bad.mp3"], "none of the 2 sound files"),
    ],
)
def test_what_cannot_be_reported_on_ends_in_a_sentence(
    files: list[str] | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pets = tmp_path / "pets"
    if files is not None:
        pets.mkdir()
    for number, name in enumerate(files or []):
        (pets / name).parent.mkdir(exist_ok=True)
        if ".bad" in name or not name.endswith(".wav"):
            (pets / name).write_text("nothing")
        else:
            sf.write(pets / name, sound(number, 900), RATE)
    output = tmp_path / "page.html"
    assert problem in complaint([str(pets), "--output", str(output)], capsys)
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_named_before_anything_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "examine", lambda *_: pytest.fail("it was read"))
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "page.html", tmp_path / ("x" * 300 + ".html")):
        assert "cannot be written" in complaint([str(folder), "--output", str(output)], capsys)
    with pytest.raises(ReportError, match="cannot be written"):
        report.report(folder, tmp_path / "nul\0" / "page.html")


def test_the_command_names_the_findings_and_the_page(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(faulty), "--no-score"]) == 0
    shown = capsys.readouterr().out
    assert "spoils a score: 1 sound is in two classes" in shown and "pets_report.html" in shown
    assert (tmp_path / "pets_report.html").stat().st_size < 2_000_000
