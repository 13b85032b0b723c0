"""What is wrong with the data, in words, worst first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from course_lib.report.facts import SILENT_DB, Facts, alike
from course_lib.report.groups import ENOUGH, Groups
from course_lib.report.score import FACTS, Division, Estimate, Score

_CLEAR = 0.05  # above chance, so that what is certain but tiny is not reported
_FEW_RECORDINGS, _UNEQUAL, _SHORT_S = 10, 3.0, 0.1
_MOSTLY, _OFFSET, _OTHER_UNITS, _QUIET_DB = 0.8, 0.02, 2.0, -50.0
# What a network learns from each kind of fact where the classes differ in it, and what can be done.
_LEARNED = {
    "sample rate": (
        "A network sees it from the highest frequencies, which are empty in what was recorded at a low rate. "
        "Resample every recording to the lowest rate before you train, as this report does: that takes most of the "
        "difference away."
    ),
    "channels": "In the mean of the channels noise is weaker. Save one channel of every recording.",
    "format": (
        "Coding leaves traces, such as missing high frequencies. Take the original recordings, or code all of them in "
        "the same way, and cut off the frequencies that one of the formats lacks."
    ),
    "duration": (
        "If the recordings were cut by hand or by a program, it is an accident: cut all of them to one length. If the "
        "sounds themselves differ in length, it is a property that may be learned."
    ),
    "level": (
        "It tells how the microphone was set and how far away it was, or how loud the things are. Bring all recordings "
        "to one level, as this report does before it trains, unless the loudness itself is what you want to learn."
    ),
    "silence": (
        "If it comes from how the recordings were cut or padded, trim it away. If pauses belong to the sounds, it is a "
        "property that may be learned."
    ),
    "offset": "It comes from the recorder. Take the mean off every recording, or the lowest frequencies.",
}
DIFFER = "classes differ in "  # the kind of a finding, before the name of the fact
_TECHNICAL = ("sample rate", "channels", "format")


@dataclass(frozen=True)
class Finding:
    """One fault: the weight that orders them, its kind, a title, what it means and what to do, and the names."""

    weight: int
    kind: str
    title: str
    text: str
    names: list[str] = field(default_factory=list)

    @property
    def grade(self) -> str:
        """How bad it is, in words."""
        return "spoils a score" if self.weight >= 70 else "worth mending" if self.weight >= 40 else "good to know"


def collect(
    facts: Facts,
    groups: Groups,
    equal: list[list[str]],
    near: list[list[str]],
    division: Division | None,
    reached: Mapping[str, Estimate],
    score: Score | None,
) -> list[Finding]:
    """Every fault, worst first. `equal` and `near` are copies, `reached` the score of each fact without listening."""
    parts = (_files(facts), _copies(facts, equal, near), _groups(facts, groups), _classes(facts), _sounds(facts))
    every = [finding for part in parts for finding in part]
    if division:
        every += _confounds(facts, division, reached, score)
    return sorted(every, key=lambda finding: -finding.weight)


def _files(facts: Facts) -> Iterator[Finding]:
    found, table = facts.found, facts.table
    if found.problems:
        names = [f"{name}: {why}" for name, why in sorted(found.problems.items())]
        yield Finding(
            75, "unreadable", f"{_count(names, 'file or folder', 'files or folders')} cannot be used",
            "Mend them, or move them elsewhere; everything else in this report is about the others.", names,
        )  # fmt: skip
    cancelled = table["recording"][table["cancels"]].tolist()
    if cancelled:
        yield Finding(
            72, "cancelling", f"The channels of {_count(cancelled, 'recording', 'recordings')} cancel each other",
            "Their mean is nearly silent, as when one of two is upside down. Save one channel as a mono file.",
            cancelled,
        )  # fmt: skip
    if pairs := [f"{one} and {other}" for one, other in alike(facts.class_names)]:
        yield Finding(
            85, "alike", "Class folders have names that some disks do not tell apart",
            "They are more likely one class than two. Rename or join them.", pairs,
        )  # fmt: skip
    if found.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.left_out.items()))
        yield Finding(
            45, "left out", f"Sounds of other formats are left out: {kinds}",
            "Only WAV, FLAC, OGG and MP3 are read. This report is not about the others; convert them to FLAC.",
        )  # fmt: skip
    if found.loose:
        yield Finding(
            45, "loose", f"{_count(found.loose, 'sound lies', 'sounds lie')} in no class folder",
            "What belongs to no class is left out.", found.loose,
        )  # fmt: skip


def _copies(facts: Facts, equal: list[list[str]], near: list[list[str]]) -> Iterator[Finding]:
    table = facts.table.set_index("recording")
    for copies, how, kind in ((equal, "the same samples", "copies"), (near, "nearly the same sound", "near copies")):
        across = [names for names in copies if table.loc[names, "class"].nunique() > 1]
        torn = [names for names in copies if names not in across and table.loc[names, "side"].nunique() > 1]
        within = [names for names in copies if names not in across and names not in torn]
        if across:
            yield Finding(
                100, f"{kind} in two classes", f"{_count(across, 'sound is', 'sounds are')} in two classes ({how})",
                "At least one of the labels is wrong, in training and in any test. Listen to them, and delete what is "
                "wrong.", _same(across),
            )  # fmt: skip
        if torn:
            yield Finding(
                95, f"{kind} on two sides",
                f"{_count(torn, 'sound is', 'sounds are')} on two sides of the split ({how})",
                "A network is tested on what it has learned by heart. Delete one of the two.", _same(torn),
            )  # fmt: skip
        if within:
            yield Finding(
                60, kind, f"{_count(within, 'sound is', 'sounds are')} there under several names ({how})",
                "A split can put one of them into training and the other into the test, whose score is then too good. "
                "Delete all but one. The split of this report keeps them on one side.", _same(within),
            )  # fmt: skip


def _groups(facts: Facts, groups: Groups) -> Iterator[Finding]:
    if not groups.known:
        yield Finding(
            70, "no groups", "It is not known which recordings belong together",
            "Two recordings of one person, device, place or day are more alike than recordings of strangers. If such "
            "pairs are on both sides of a split, a score is too good for anything new, and there is no telling by how "
            "much. Put the recordings of each speaker, device, place or day into a folder of its own below the class.",
        )  # fmt: skip
        return
    counts = groups.of.groupby(facts.table["class"]).nunique()
    few = counts[counts < ENOUGH]
    if len(few):
        yield Finding(
            65, "few groups", f"{_count(few, 'class has', 'classes have')} recordings of fewer than {ENOUGH} groups",
            "A score can be no more certain than the number of groups allows: those in the test stand for all others. "
            "More recordings of the same groups do not help; more groups do.",
            [f"{name}: {count}" for name, count in few.items()],
        )  # fmt: skip


def _classes(facts: Facts) -> Iterator[Finding]:
    counts = facts.table["class"].value_counts()
    few = counts[counts < _FEW_RECORDINGS]
    if len(few):
        yield Finding(
            62, "few recordings", f"{_count(few, 'class has', 'classes have')} fewer than {_FEW_RECORDINGS} recordings",
            "What is learned of them, and their share of the score, are nearly chance. Record more.",
            [f"{name}: {count}" for name, count in few.items()],
        )  # fmt: skip
    if counts.max() > _UNEQUAL * counts.min():
        yield Finding(
            40, "imbalance", f"{counts.index[0]} has {counts.max():,} recordings, {counts.index[-1]} {counts.min():,}",
            f"A program that always answers {counts.index[0]} is right in {percent(counts.max() / counts.sum())} of "
            "the cases. Look at balanced accuracy, as this report does, and draw each class equally often in training.",
        )  # fmt: skip


def _sounds(facts: Facts) -> Iterator[Finding]:
    table = facts.table

    def those(chosen: pd.Series, values: pd.Series | None = None, unit: str = "") -> list[str]:
        rows = table[chosen]
        if values is None:
            return rows["recording"].tolist()
        return [f"{name} ({value:.3g}{unit})" for name, value in zip(rows["recording"], values[chosen], strict=True)]

    silent = table["flat"] | (table["silence"] > 1 - 1e-9)
    if names := those(silent):
        yield Finding(
            74, "silent", f"{_count(names, 'recording is', 'recordings are')} silent",
            f"Nothing in them is above {SILENT_DB:.0f} dB of full scale. A label without content teaches nothing: "
            "delete what is silent, or record it again.", names,
        )  # fmt: skip
    if names := those(table["clipped"]):
        share = table["clipped"].mean()
        yield Finding(
            55 if share > 0.05 else 42, "clipped", f"{_count(names, 'recording is', 'recordings are')} clipped",
            "The tops of the waves are cut off, or lie beyond full scale, which adds frequencies that were not there. "
            "It cannot be undone: record again at a lower level.", names,
        )  # fmt: skip
    if names := those(table["beyond"] > _OTHER_UNITS, table["beyond"]):
        yield Finding(
            58, "units", f"{_count(names, 'recording goes', 'recordings go')} far beyond full scale, which is 1",
            "The samples are in other units, such as whole numbers stored as floats. Divide them by their full scale.",
            names,
        )  # fmt: skip
    mostly = (table["silence"] > _MOSTLY) & ~silent
    if names := those(mostly, 100 * table["silence"], " % silence"):
        yield Finding(
            48, "mostly silence", f"{_count(names, 'recording is', 'recordings are')} mostly silence",
            "A clip that is cut from them at random holds nothing but a label. Trim the silence away.", names,
        )  # fmt: skip
    if names := those((table["rms"] < _QUIET_DB) & ~silent & ~mostly, table["rms"], " dB"):
        yield Finding(
            35, "quiet", f"{_count(names, 'recording is', 'recordings are')} very quiet",
            f"Their level is below {_QUIET_DB:.0f} dB of full scale, so the recorder's own noise may be louder than "
            "the thing itself.", names,
        )  # fmt: skip
    if names := those(table["seconds"] < _SHORT_S, 1000 * table["seconds"], " ms"):
        yield Finding(
            46, "short", f"{_count(names, 'recording is', 'recordings are')} shorter than {_SHORT_S:g} s",
            "That is too short for most sounds. Were they cut in the wrong place?", names,
        )  # fmt: skip
    if names := those(table["dc"].abs() > _OFFSET, 100 * table["dc"], " % of full scale"):
        yield Finding(
            25, "offset", f"{_count(names, 'recording has', 'recordings have')} an offset",
            "Their mean is not zero, which costs headroom and gives a click where a clip is cut.", names,
        )  # fmt: skip
    rates = table["rate"].value_counts()
    if len(rates) > 1:
        kinds = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in rates.items())
        yield Finding(
            20, "rates", "The recordings have several sample rates",
            f"They are {kinds}. A network needs one rate for all: everything is resampled, and what was recorded at a "
            "lower rate has nothing at the highest frequencies.",
        )  # fmt: skip


def _confounds(
    facts: Facts, division: Division, reached: Mapping[str, Estimate], score: Score | None
) -> Iterator[Finding]:
    chance = division.chance
    clear = {name: each for name, each in reached.items() if each.interval.low > chance + _CLEAR}
    for name, each in clear.items():
        if name not in FACTS:
            continue
        technical = name in _TECHNICAL
        strength = (each.mean - chance) / (1 - chance)
        beside = ""
        if score is not None and each.mean > score.network.interval.low:
            beside = (
                f" The network, which has the sound, reaches {percent(score.network.mean)}; no more may be in that."
            )
        yield Finding(
            (88 if technical else 66) + round(6 * strength), f"{DIFFER}{name}",
            f"The {name} alone tells the classes apart",
            f"A decision tree that is given the {name} and nothing else reaches {said(each)} balanced accuracy; "
            f"guessing reaches {percent(chance)}.{beside} {_LEARNED[name]}", _by_class(facts.table, name),
        )  # fmt: skip
    if "all of these" in clear and len(clear) == 1:
        yield Finding(
            64, f"{DIFFER}several facts", "Facts about the files tell the classes apart",
            f"Trees that are given {', '.join(FACTS)}, and no sound, reach {said(clear['all of these'])} balanced "
            f"accuracy together; guessing reaches {percent(chance)}. No single one of these facts stands out.",
        )  # fmt: skip


def _by_class(table: pd.DataFrame, fact: str) -> list[str]:
    """What the recordings of each class have of a fact, in words."""
    [*columns] = FACTS[fact]
    lines = []
    for name, rows in table.groupby("class"):
        if fact in _TECHNICAL:
            unit = {"sample rate": " Hz", "channels": " channels", "format": ""}[fact]
            counts = rows[columns[0]].value_counts()
            form = "{:,}" if fact == "sample rate" else "{}"
            line = ", ".join(f"{form.format(value)}{unit} ({count:,})" for value, count in counts.items())
        else:
            column, unit, factor = {
                "duration": ("seconds", " s", 1), "level": ("rms", " dB", 1), "silence": ("silence", " %", 100),
                "offset": ("dc", " % of full scale", 100),
            }[fact]  # fmt: skip
            low, middle, high = factor * np.quantile(rows[column], [0.1, 0.5, 0.9])
            line = f"median {middle:.3g}{unit}, most from {low:.3g} to {high:.3g}{unit}"
        lines.append(f"{name}: {line}")
    return lines


def _same(copies: list[list[str]]) -> list[str]:
    return [" = ".join(names) for names in copies]


def _count(what: object, one: str, several: str) -> str:
    number = len(what)  # type: ignore[arg-type]
    return f"{number:,} {one if number == 1 else several}"


def percent(fraction: float) -> str:
    """A fraction as it is written in a sentence."""
    return f"{100 * fraction:.0f} %"


def said(estimate: Estimate) -> str:
    """A score with its interval, as it is written in a sentence."""
    low, high = estimate.interval
    return f"{100 * estimate.mean:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


__all__ = ["DIFFER", "Finding", "collect", "percent", "said"]
