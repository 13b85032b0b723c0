"""Every plot of the course; a figure made from stand-in data says so in its title."""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay
from torch import Tensor

from course_lib import audio, environment, evaluation
from course_lib.datasets import Recordings, Words
from course_lib.files import write_whole
from course_lib.layers import MFCC
from course_lib.training import History

IMAGE_COLOURS = "magma"
logger = logging.getLogger(__name__)


def use_course_style() -> None:
    """Set matplotlib to the look of the course: light grid, readable sizes, 100 dpi."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams |= {"figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True, "axes.grid": True}
    plt.rcParams |= {"image.cmap": IMAGE_COLOURS, "axes.titlesize": "medium", "figure.titlesize": "medium"}


def save(figure: Figure, name: str, source: str = "real") -> None:
    """Write a figure to `media/{name}.png`, unless it shows stand-in data or the profile is smoke.

    Where nothing can be written a warning says so, and the lesson goes on.
    """
    if source == "real" and environment.profile() != "smoke":
        path = environment.CHECKOUT / "media" / f"{name}.png"
        try:
            write_whole(path, small_png(png(figure)))
        except OSError as error:
            logger.warning("the figure is not written to %s: %s", path, error)


def png(figure: Figure, **options: Any) -> bytes:
    """The picture of a figure; `options` go to `savefig`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    return buffer.getvalue()


def small_png(png: bytes) -> bytes:
    """The same picture with 64 colours: a third of the size, and on these figures no visible difference."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    # Maximum coverage: the default, median cut, spoils colours that are rare in a picture, such as thin lines; k-means
    # then moves the colours to where the pixels are, or pale areas would get that of their neighbours.
    few = picture.quantize(64, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def film(figure: Figure, draw: Callable[[int], None], frames: int, seconds: float = 0.4) -> bytes:
    """An animated GIF of a figure on which `draw(0)`, `draw(1)` ... draw the `frames` pictures, `seconds` each.

    Closes the figure. The last picture stays for two seconds.
    """
    pictures = []
    for number in range(frames):
        draw(number)
        picture = Image.open(io.BytesIO(png(figure, dpi=64)))  # small: there are many of them
        pictures.append(picture.convert("RGB").quantize(16, dither=Image.Dither.NONE))
    plt.close(figure)
    buffer = io.BytesIO()
    times = [round(1000 * seconds)] * (frames - 1) + [2000]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    return buffer.getvalue()


def labelled(title: str, source: str) -> str:
    """The title, with a note when the data is a stand-in."""
    return title if source == "real" else f"{title} - STAND-IN DATA"


def stft_decibels(waveform: Tensor, n_fft: int = 256, hop_length: int = 64, top_db: float = 80.0) -> np.ndarray:
    """Spectrogram of one waveform (samples,) in dB below its maximum, shape (n_fft // 2 + 1, frames)."""
    power = np.abs(librosa.stft(waveform.numpy(), n_fft=n_fft, hop_length=hop_length)) ** 2
    level = 10 * np.log10(np.maximum(power, 1e-10))
    return np.maximum(level - level.max(), -top_db)


def waveform(samples: Tensor, sample_rate: int, title: str, axes: Axes | None = None, **line: Any) -> Axes:
    """Amplitude of one waveform (samples,) against time in seconds."""
    axes = axes or plt.subplots(figsize=(8, 2.5))[1]
    axes.plot(np.arange(len(samples)) / sample_rate, samples, **{"linewidth": 0.8} | line)
    axes.set(xlabel="time (s)", ylabel="amplitude", title=title, xlim=(0, len(samples) / sample_rate))
    return axes


def spectrogram(
    image: np.ndarray, sample_rate: int, hop_length: int, title: str, axes: Axes | None = None, y_axis: str = "hz"
) -> Axes:
    """A time-frequency image (bands, frames) in dB, its rows equally spaced from 0 Hz to Nyquist in "hz" or "mel".

    Mel bands are those of HTK's formula, and each is drawn around its centre. Frames are centred on multiples of
    `hop_length` samples.
    """
    axes = axes or plt.subplots(figsize=(8, 3))[1]
    step, top = hop_length / sample_rate, sample_rate / 2
    low, high = -top / (2 * len(image) - 2), top + top / (2 * len(image) - 2)
    if y_axis == "mel":  # the bands' centres are the inner corners of their triangles
        spacing = librosa.hz_to_mel(top, htk=True) / (len(image) + 1)
        low, high = 0.5 * spacing, (len(image) + 0.5) * spacing
        hertz = [tick for tick in (250, 500, 1000, 2000, 4000, 8000) if librosa.hz_to_mel(tick, htk=True) < high]
        axes.set_yticks(librosa.hz_to_mel(hertz, htk=True), labels=hertz)
    mesh = _image(axes, image, (-step / 2, (image.shape[1] - 0.5) * step, low, high), interpolation="nearest")
    axes.set(xlabel="time (s)", ylabel="frequency (Hz)", title=title)
    if y_axis == "hz":
        axes.set_ylim(0, top)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.figure.colorbar(mesh, ax=axes, label="level (dB)")
    return axes


def side_by_side(recordings: Recordings, rows: Sequence[int], title: str) -> Figure:
    """Spectrograms of recordings side by side on one frequency axis, each under the name of its class."""
    figure, axes = _panels(len(rows), title=labelled(title, recordings.source), width=4, height=3, sharey=True)
    for row, panel in zip(rows, axes, strict=True):
        entry = recordings.table.iloc[row]
        image = _spectrogram_alone(panel, stft_decibels(recordings.waveform(row)), recordings, entry)
        panel.set(title=f"“{recordings.class_names[entry['label']]}”", xlabel="time (s)")
    axes[0].set_ylabel("frequency (Hz)")
    figure.colorbar(image, ax=axes, label="level (dB)")
    return figure


def takes_by_class(recordings: Recordings, group: str, title: str, takes: int = 4) -> Figure:
    """A grid of spectrograms of one group: a column for each class, a row for each of its recordings."""
    classes = len(recordings.class_names)
    figure, axes = plt.subplots(takes, classes, figsize=(0.85 * classes, 0.8 * takes), squeeze=False)
    for label in range(classes):
        for take, row in enumerate(recordings.find(group=group, label=label)[:takes]):
            level = stft_decibels(recordings.waveform(row), hop_length=128, top_db=60)
            _spectrogram_alone(axes[take, label], level, recordings, recordings.table.iloc[row])
        axes[0, label].set_title(recordings.class_names[label])
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    figure.supxlabel("time, each recording from its start to its end", fontsize="small")
    figure.supylabel(f"0 to {recordings.sample_rate // 2:,} Hz", fontsize="small")
    figure.suptitle(labelled(title, recordings.source))
    return figure


def mfcc(samples: Tensor, sample_rate: int, title: str, n_mfcc: int = 13, hop_length: int = 64) -> Figure:
    """Mel-frequency cepstral coefficients 1 and up of one waveform (samples,), each scaled by its own largest value.

    Unscaled, coefficient 1, the slope of the spectrum, would leave the others pale.
    """
    image = MFCC(sample_rate, n_mfcc, hop_length=hop_length)(samples[None])[0, 1:]
    figure, axes = plt.subplots(figsize=(6, 3))
    extent = (0, len(samples) / sample_rate, 0.5, n_mfcc - 0.5)
    scaled = image / image.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
    mesh = _image(axes, scaled, extent, cmap="coolwarm", vmin=-1, vmax=1)
    axes.set(xlabel="time (s)", ylabel="coefficient", title=title)
    figure.colorbar(mesh, ax=axes, label="share of its largest value")
    return figure


def training_curves(history: History, title: str, figure: Figure | None = None) -> Figure:
    """Loss and accuracy against the epoch, training and (where there is one) validation part."""
    figure = figure or plt.figure(figsize=(9, 3))
    figure.clear()
    table = history.table()
    for panel, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in (("train", "-"), ("validation", "--")):
            values = table[f"{part}_{quantity}"]
            if values.notna().any():
                panel.plot(table.index, values, style, label={"train": "training"}.get(part, part))
        panel.set(xlabel="epoch", ylabel=quantity)
    panel.set_ylim(top=1.0)
    panel.legend()
    figure.suptitle(title)
    return figure


class LiveCurves:
    """Draws `training_curves` anew in the notebook while a model trains: `fit(..., on_epoch=LiveCurves(title))`."""

    def __init__(self, title: str, every: int = 1) -> None:
        from IPython.display import DisplayHandle

        self.title, self.every, self.handle = title, every, DisplayHandle()
        self.figure = plt.figure(figsize=(9, 3))
        plt.close(self.figure)  # shown by the handle alone, not once more at the end of the cell
        self.show = self.handle.display

    def __call__(self, history: History) -> None:
        if len(history.epochs) % self.every == 0:
            training_curves(history, self.title, self.figure)
            self.show(self.figure)
            self.show = self.handle.update


def confusions(
    matrices: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    title: str,
    words: Words | None = None,
    errors: bool = False,
) -> Figure:
    """Confusion matrices side by side, in percent of each true class; zeros are left blank.

    With `errors` only these are shown, counted, on one scale for all matrices: where nearly everything is right, the
    diagonal would take all the ink. `words` are those of the data set, for the axes.
    """
    words = words or Words()
    figure, axes = _panels(len(matrices), title, width=5, height=4.4)
    wrong = {name: np.where(np.eye(len(matrix), dtype=bool), 0, matrix) for name, matrix in matrices.items()}
    highest = max(1, *(matrix.max() for matrix in wrong.values())) if errors else 100
    for panel, (name, matrix) in zip(axes, matrices.items(), strict=True):
        shown = wrong[name] if errors else 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        text = np.where(shown > 0, np.char.mod("%.0f", shown), "")
        sns.heatmap(
            shown, annot=text, fmt="", cmap="Blues" if errors else "cividis", vmin=0, vmax=highest, cbar=False,
            square=True, linewidths=0.3, linecolor="0.9", xticklabels=list(class_names), yticklabels=list(class_names),
            annot_kws={"size": 8}, ax=panel,
        )  # fmt: skip
        panel.set(xlabel=words.predicted, ylabel=words.true, title=name)
    return figure


def scores_by_group(scores: pd.DataFrame, title: str, chance: float, group: str = "group") -> Figure:
    """Accuracy in percent by left-out group: a dot for each seed, a line at each recipe's mean.

    `scores` has the columns group, accuracy (fraction) and recipe; `chance` is the accuracy of guessing (fraction),
    `group` what the groups are called.
    """
    figure, axes = plt.subplots(figsize=(8, 3.6))
    table = scores.assign(percent=100 * scores["accuracy"])
    sns.stripplot(table, x="group", y="percent", hue="recipe", dodge=True, size=7, alpha=0.8, ax=axes)
    for colour, (_, part) in zip(sns.color_palette(), table.groupby("recipe", sort=False), strict=False):
        axes.axhline(part["percent"].mean(), color=colour, linewidth=1, linestyle="--")
    axes.axhline(100 * chance, color="grey", linewidth=1, linestyle=":")
    axes.set(xlabel=f"left-out {group}", ylabel="accuracy (%)", ylim=(0, 101), title=title)
    axes.legend(title=None, loc="lower right")
    return figure


def top_classes(
    waveforms: Sequence[Tensor], answers: Sequence[Mapping[str, float]], names: Sequence[str], sample_rate: int,
    title: str, most: int = 3,
) -> Figure:  # fmt: skip
    """Spectrograms of waveforms (samples,), two in a row, and beside each its likeliest classes with their probability.

    `names` are the true classes; the bar of the right one is darker.
    """
    figure, axes = plt.subplots(-(-len(answers) // 2), 4, figsize=(9, 1.1 * len(answers) / 2 + 0.6), squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for number, (waveform, answer, name) in enumerate(zip(waveforms, answers, names, strict=True)):
        picture, bars = axes[number // 2, 2 * (number % 2) :][:2]
        image = stft_decibels(waveform, top_db=60)
        _image(picture, image, (0, len(waveform) / sample_rate, 0, sample_rate / 2))
        picture.set_title(f"“{name}”", fontsize="small", pad=2)
        best = sorted(answer, key=answer.get, reverse=True)[:most][::-1]
        colours = [sns.color_palette()[0] if each == name else "0.75" for each in best]
        drawn = bars.barh(best, [answer[each] for each in best], color=colours)
        bars.bar_label(drawn, [f"{each}: {answer[each]:.0%}" for each in best], fontsize="x-small", padding=2)
        bars.set_xlim(0, 1.5)
    figure.suptitle(title)
    return figure


def embedding(points: np.ndarray, colourings: Mapping[str, Sequence[str]], title: str) -> Figure:
    """A two-dimensional embedding (points, 2), drawn once for each way to colour it."""
    figure, axes = _panels(len(colourings), title, width=5.5, height=4.4)
    for panel, (name, values) in zip(axes, colourings.items(), strict=True):
        order = sorted(set(values))
        palette = "tab10" if len(order) > 6 else "colorblind"
        sns.scatterplot(
            x=points[:, 0], y=points[:, 1], hue=values, hue_order=order, palette=palette, s=14, linewidth=0, ax=panel
        )
        panel.set(title=f"coloured by {name}", xticks=[], yticks=[])
        panel.legend(title=None, fontsize="x-small", markerscale=1.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def in_noise(scores: pd.DataFrame, title: str, chance: float) -> Figure:
    """Accuracy in percent against the signal-to-noise ratio, a panel for each kind of noise, a line for each model.

    `scores` is what `evaluation.accuracy_in_noise` returns, `chance` the accuracy of guessing (fraction).
    """
    kinds = [kind for kind in scores["noise"].unique() if kind != "none"]
    figure, axes = _panels(len(kinds), title, width=5, height=3.6, sharey=True)
    lines = {"hue": "model", "hue_order": scores["model"].unique(), "style": "model", "markers": True, "dashes": False}
    for panel, kind in zip(axes, kinds, strict=True):
        part = scores[scores["noise"] == kind].assign(percent=lambda table: 100 * table["accuracy"])
        sns.lineplot(part, x="snr", y="percent", **lines, legend=kind == kinds[-1], ax=panel)
        panel.axhline(100 * chance, color="grey", linewidth=1, linestyle=":")
        panel.set(xlabel="signal-to-noise ratio (dB)", ylabel="accuracy (%)", title=kind, ylim=(0, 101))
        panel.invert_xaxis()
    axes[-1].legend(title=None, fontsize="small")
    return figure


def two_class_curves(decided: Mapping[str, pd.DataFrame], title: str, positive: str) -> Figure:
    """ROC, precision against recall, calibration and abstention of several models, from `experiments.decisions` each.

    `positive` is the name of class 1.

    Notebook: 05_heart_sounds_physionet
    """
    figure, axes = plt.subplots(2, 2, figsize=(10, 9))
    for name, table in decided.items():
        given = (table["label"], table["probability"])
        RocCurveDisplay.from_predictions(*given, name=name, ax=axes[0, 0])
        PrecisionRecallDisplay.from_predictions(*given, name=name, ax=axes[0, 1])
        CalibrationDisplay.from_predictions(*given, n_bins=8, strategy="quantile", name=name, ax=axes[1, 0])
        shares = evaluation.abstention(table["label"], table["margin"])
        axes[1, 1].plot(100 * shares["coverage"], 100 * shares["balanced_accuracy"], marker=".", label=name)
    axes[0, 0].set(xlabel="false positive rate", ylabel="sensitivity")
    axes[0, 1].set(xlabel="sensitivity", ylabel="precision")
    axes[1, 0].set(xlabel=f"predicted probability of {positive}", ylabel=f"share that is {positive}")
    axes[1, 1].set(xlabel="decided, the surest (%)", ylabel="balanced accuracy (%)")
    for panel in axes.flat:
        panel.legend(fontsize="small")
    figure.suptitle(title)
    return figure


def filters(responses: np.ndarray, sample_rate: int, title: str) -> Figure:
    """Frequency responses (filters, frequencies), 0 Hz to Nyquist, as an image: filters sorted by their peak."""
    order = np.argsort(responses.argmax(axis=1), kind="stable")
    level = 20 * np.log10(np.maximum(responses / responses.max(axis=1, keepdims=True), 1e-3))
    figure, axes = plt.subplots(figsize=(6, 4))
    mesh = _image(axes, level[order].T, (0.5, len(responses) + 0.5, 0, sample_rate / 2), vmin=-30)
    axes.set(xlabel="filter, by frequency of its maximum", ylabel="frequency (Hz)", title=title)
    figure.colorbar(mesh, ax=axes, label="gain (dB below the maximum)")
    return figure


def estimates(table: pd.DataFrame, title: str, chance: float | None = None) -> Figure:
    """Accuracies with intervals as dots and bars: columns name, mean, low and high (fractions); a row each, in order.

    A column `protocol`, where there is one, colours the dots. `chance` is the accuracy of guessing (fraction).
    """
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.36 * table["name"].nunique()))
    names = list(table["name"].unique())
    kinds = list(table["protocol"].unique()) if "protocol" in table else [None]
    for number, kind in enumerate(kinds):
        part = table if kind is None else table[table["protocol"] == kind]
        height = np.array([names.index(name) for name in part["name"]]) + 0.18 * (number - (len(kinds) - 1) / 2)
        reach = 100 * np.maximum([part["mean"] - part["low"], part["high"] - part["mean"]], 0)
        label = kind and kind.replace("_", " ")
        axes.errorbar(100 * part["mean"], height, xerr=reach, fmt="o", capsize=2, markersize=5, label=label)
    if chance is not None:
        axes.axvline(100 * chance, color="grey", linewidth=1, linestyle=":")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="accuracy (%)", title=title, xlim=(0, 101))
    axes.set_ylim(len(names) - 0.5, -0.5)
    if len(kinds) > 1:
        axes.legend(title=None, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def benchmark(report: Mapping[str, Any], ours: str) -> Figure:
    """Time and kept memory of a training step, as multiples of those of `ours`: a line for each case.

    `report` is what `benchmarks.gammatone.run` returns or has written. A fixed front end has the time of its forward
    pass, and no dot for memory.
    """
    rows = [row | {"case": case["case"]} for case in report["cases"] for row in case["rows"] if "left_out" not in row]
    table = pd.DataFrame(rows)
    saved = table[table["candidate"] == ours].set_index("case")["saved_mb"]
    table = table[table["candidate"] != ours]
    table["memory"] = (table["saved_mb"] / table["case"].map(saved).clip(lower=1e-3)).where(table["saved_mb"] > 0)
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.6 + 0.45 * table["case"].nunique()), sharey=True)
    titles = {"step_to_ours": "time of a training step", "memory": "memory kept for it"}
    for panel, (column, title) in zip(axes, titles.items(), strict=True):
        looks = {"hue": "candidate", "style": "candidate", "s": 90, "legend": column == "memory"}
        sns.scatterplot(table, y="case", x=column, **looks, ax=panel)
        panel.axvline(1, color="black", linewidth=1)
        panel.set(xscale="log", xlabel=f"times “{ours}”", ylabel="", title=title)
    axes[1].legend(title=None, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _panels(count: int, title: str, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, **options)
    figure.suptitle(title)
    return figure, axes[0]


def _image(axes: Axes, image: ArrayLike, extent: tuple[float, ...] | None = None, **options: Any) -> AxesImage:
    axes.grid(False)
    return axes.imshow(image, extent=extent, **{"origin": "lower", "aspect": "auto", "cmap": IMAGE_COLOURS} | options)


def _spectrogram_alone(axes: Axes, image: np.ndarray, recordings: Recordings, entry: pd.Series) -> AxesImage:
    extent = (0, audio.seconds(entry["path"]), 0, recordings.sample_rate / 2)
    return _image(axes, image, extent, interpolation="nearest")
