"""The report as one page of HTML that needs nothing else."""

import base64
import html
import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from course_lib import figures
from course_lib.report.facts import Facts
from course_lib.report.findings import DIFFER, Finding, percent, said
from course_lib.report.groups import Groups
from course_lib.report.score import FACTS, Division, Estimate, Score, duration, pairs

_MOST_SPECTROGRAMS, _OF_EACH_CLASS = 60, 3
_MOST_CLASSES_DRAWN = 30
_MOST_GROUPS = 20
_MOST_NAMES = 200


@dataclass(frozen=True)
class Results:
    """All that a report says: facts, groups, scores and findings; `why_no_score` where there is none."""

    facts: Facts
    groups: Groups
    division: Division | None
    without_listening: dict[str, Estimate]
    group_alone: Estimate | None
    score: Score | None
    why_no_score: str
    findings: list[Finding]


def render(results: Results) -> str:
    """The page, with its figures inside."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"duration": duration, "percent": percent, "said": said}
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    facts, score = results.facts, results.score
    with plt.rc_context(), warnings.catch_warnings():
        figures.use_course_style()
        plt.rcParams["text.parse_math"] = False  # names may hold a dollar sign
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # or be in another script
        return template.render(
            results=results,
            facts=facts,
            groups=results.groups,
            score=score,
            name=facts.folder.name,
            made=f"{datetime.now():%d %B %Y, %H:%M}",
            hours=_time(facts.table["seconds"].sum()),
            by_group=_by_group(facts, results.groups),
            by_class=_by_class(facts.table),
            levels=_levels(facts),
            spectrograms=_spectrograms(facts, results.groups),
            confusion=_confusion(results) if score else None,
            confused=list(pairs(score.confusion, _scored(results))) if score else [],
            estimates=_estimates(results) if results.without_listening else None,
            rows=_rows(results),
            confounds=[name for name in FACTS if DIFFER + name in {each.kind for each in results.findings}],
            chance=results.division.chance if results.division else 0,
            most_names=_MOST_NAMES,
        )


def _scored(results: Results) -> list[str]:
    """The classes that the score is of, in the order of its confusion matrix."""
    left_out = results.division.left_out if results.division else []
    return [name for name in results.facts.class_names if name not in left_out]


def _rows(results: Results) -> list[tuple[str, Estimate]]:
    """What was reached, by the sound and without it."""
    rows = []
    if results.score:
        rows += [("network, from the sound", results.score.network)]
        rows += [("always the commonest class", results.score.majority)]
    rows += [(f"{name} alone" if name != "all of these" else "all of these facts", each)
             for name, each in results.without_listening.items()]  # fmt: skip
    if results.group_alone:
        rows.append(("group alone, where it is known", results.group_alone))
    return rows


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _by_group(facts: Facts, groups: Groups) -> pd.DataFrame | None:
    """Recordings of each class in each group, where the groups are few enough for a table."""
    if not groups.known or groups.count > _MOST_GROUPS:
        return None
    counts = pd.crosstab(groups.of, facts.table["class"])
    return counts.assign(all=counts.sum(axis=1))


def _by_class(table: pd.DataFrame) -> list[dict[str, str]]:
    """The row of each class in the table of facts, and one of all."""
    return [_summary(name, rows) for name, rows in [*table.groupby("class"), ("all", table)]]


def _summary(name: str, rows: pd.DataFrame) -> dict[str, str]:
    def spread(values: pd.Series, form: str = "{:.1f}") -> str:
        low, middle, high = (form.format(value) for value in (values.min(), values.median(), values.max()))
        return low if low == high else f"{middle} ({low} to {high})"

    def kinds(values: pd.Series, form: str = "{}") -> str:
        counts = values.value_counts()
        if len(counts) == 1:
            return form.format(counts.index[0])
        return ", ".join(f"{form.format(value)}: {count:,}" for value, count in counts.items())

    return {
        "class": name,
        "recordings": f"{len(rows):,}",
        "in all": _time(rows["seconds"].sum()),
        "seconds": spread(rows["seconds"], "{:.2f}"),
        "rate in Hz": kinds(rows["rate"], "{:,}"),
        "channels": kinds(rows["channels"]),
        "format": kinds(rows["coding"]),
        "level in dB": spread(rows["rms"], "{:.0f}"),
        "highest peak in dB": f"{rows['peak'].max():.0f}",
        "largest offset in %": f"{100 * rows['dc'].abs().max():.1f}",
        "silence in %": spread(100 * rows["silence"], "{:.0f}"),
        "clipped": f"{rows['clipped'].sum():,}",
    }


def _levels(facts: Facts) -> str:
    """Duration and level of each recording, by class."""
    table = facts.table
    names = list(table["class"].value_counts().index[:_MOST_CLASSES_DRAWN].sort_values())
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.2 + 0.32 * len(names)), sharey=True)
    shown = table[table["class"].isin(names)]
    shown = shown.sample(min(len(shown), 4000), random_state=0)
    for panel, column, label in zip(
        axes, ("seconds", "rms"), ("duration (s)", "level (dB of full scale)"), strict=True
    ):
        sns.stripplot(shown, x=column, y="class", order=names, size=3, alpha=0.5, jitter=0.3, ax=panel)
        panel.set(xlabel=label, ylabel="")
    if shown["seconds"].max() > 20 * shown["seconds"].min():
        axes[0].set_xscale("log")
    figure.suptitle("A dot for each recording")
    medians = ", ".join(
        f"{name} {rows['seconds'].median():.2g} s and {rows['rms'].median():.0f} dB"
        for name, rows in table.groupby("class") if name in names
    )  # fmt: skip
    return _image(figure, f"Duration and level of each recording, by class. Medians: {medians}.")


def _spectrograms(facts: Facts, groups: Groups) -> list[tuple[str, list[str]]]:
    """Spectrograms of a few excerpts of each class, of different groups where there are some, all on one scale."""
    clips, table = facts.clips, facts.table
    takes = max(1, min(_OF_EACH_CLASS, _MOST_SPECTROGRAMS // len(facts.class_names)))
    n_fft = min(2 ** round(np.log2(0.032 * clips.sample_rate)), clips.clip_samples)
    shown = []
    for label, name in enumerate(facts.class_names[:_MOST_SPECTROGRAMS]):
        rows = np.intersect1d(clips.recording.numpy(), np.flatnonzero((table["label"] == label) & ~table["flat"]))
        order = pd.Series(rows).groupby(groups.of.iloc[rows].to_numpy()).cumcount().sort_values(kind="stable").index
        drawn = [_spectrogram(facts, int(row), n_fft) for row in rows[order][:takes]]
        shown.append((name, drawn))
    return shown


def _spectrogram(facts: Facts, row: int, n_fft: int) -> str:
    clips, recording = facts.clips, facts.table.iloc[row]
    number = int((clips.recording == row).nonzero()[0, 0])
    waveform = clips.batch(torch.tensor([number]))[0][0, : int(clips.length[number])]
    hop = max(1, n_fft // 4)
    image = figures.stft_decibels(torch.nn.functional.pad(waveform, (0, max(0, n_fft - len(waveform)))), n_fft, hop)
    figure, axes = plt.subplots(figsize=(4.2, 2.7))
    figures.spectrogram(image, clips.sample_rate, hop, "", axes)
    axes.images[0].set_clim(-80, 0)
    axes.set_facecolor("0.93")
    axes.set_xlim(0, facts.clip_seconds)
    axes.set_title(_shortened(recording["recording"]), fontsize="x-small")
    loudest = image.mean(axis=1).argmax() * clips.sample_rate / n_fft
    seconds = len(waveform) / clips.sample_rate
    about = f"{seconds:.2g} of {recording['seconds']:.2g} s, 0 to {clips.sample_rate // 2:,} Hz"
    what = f"{recording['recording']}, class {recording['class']}"
    return _image(figure, f"Spectrogram of {what}: the first {about}, loudest near {loudest:,.0f} Hz.")


def _shortened(name: str, most: int = 44) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _confusion(results: Results) -> str:
    score, names = results.score, _scored(results)
    figure = figures.confusions({"": score.confusion}, names, "Shares of each true class, in percent")
    side = 2.4 + 0.34 * len(names)
    figure.set_size_inches(max(4.0, side + 0.6), max(3.4, side))
    right = ", ".join(
        f"{name} {100 * right:.0f} %"
        for name, right in zip(names, np.diag(score.confusion) / score.confusion.sum(axis=1).clip(min=1), strict=True)
    )
    return _image(figure, f"Confusion matrix. Recordings of each class that are classified correctly: {right}.")


def _estimates(results: Results) -> str:
    rows = _rows(results)
    table = pd.DataFrame(
        [(name, each.mean, *each.interval) for name, each in rows], columns=["name", "mean", "low", "high"]
    )
    figure = figures.estimates(table, "With the sound, and without it", results.division.chance)
    figure.axes[0].set_xlabel("balanced accuracy (%); dotted: guessing")
    return _image(
        figure, "Balanced accuracy with intervals: " + ", ".join(f"{name} {said(each)}" for name, each in rows) + "."
    )


def _image(figure: Figure, text: str) -> str:
    """A figure as an HTML image with its text; closes it."""
    png = figures.png(figure)
    plt.close(figure)
    data = base64.b64encode(figures.small_png(png)).decode()
    width = round(100 * figure.get_size_inches()[0])
    return f'<img alt="{html.escape(text)}" width="{width}" src="data:image/png;base64,{data}">'
