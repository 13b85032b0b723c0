"""What every notebook needs at its start and end."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import soundfile as sf
from IPython.display import Audio, display
from torch import Tensor

from course_lib import environment, figures
from course_lib.datasets import Recordings


def start() -> None:
    """Set the course's plotting style, and say so when the profile is not the default one.

    Notebook: 01_waveforms_and_spectrograms
    """
    figures.use_course_style()
    if environment.profile() != "laptop":
        print(f"Profile {environment.profile()}: this run is not the one the text of the lesson was written for.")


def shortened(recordings: Recordings, smoke: int) -> Recordings:
    """All recordings; in the smoke profile, the first `smoke` of each class of each group, so that tests are quick.

    Notebook: 04_learnable_gammatone
    """
    if environment.profile() != "smoke":
        return recordings
    return recordings.subset(recordings.table.groupby(["group", "label"]).head(smoke).index.to_numpy())


def announce(recordings: Recordings) -> None:
    """One line on the data in use; a banner when it is a stand-in.

    Notebook: 01_waveforms_and_spectrograms
    """
    groups = recordings.table["group"].nunique()
    print(
        f"{recordings.name}: {len(recordings):,} recordings, {len(recordings.class_names)} classes, "
        f"{groups} groups, {recordings.sample_rate:,} Hz, {recordings.source} data"
        f"{' (' + recordings.note + ')' if recordings.note else ''}"
    )
    if recordings.source != "real":
        lines = (
            f"STAND-IN DATA: synthetic recordings in place of {recordings.name}.",
            "No number below says anything about real sound. For the real data, run:",
            f"    python -m course_lib data fetch {recordings.name}",
        )
        print("*" * 72, *lines, "*" * 72, sep="\n")


def play(waveform: Tensor, sample_rate: int, recording: bool = False, credit: str = "", autoplay: bool = False) -> None:
    """Show a player for one waveform (samples,) in [-1, 1], at its own level: nothing is made louder or softer.

    Say `recording=True` for what comes from a data set, changed or not: the player's output is then marked
    `{"course": {"recording": true}}`, and while `COURSE_PUBLISH` is set a line of text takes its place, so that no
    published lesson holds a recording. With `credit`, the licence and whom to name, the recording may be published:
    the line stands below the player. Raises ValueError beyond [-1, 1], where a player would clip.

    Notebook: 01_waveforms_and_spectrograms
    """
    peak = float(waveform.abs().max())
    if peak > 1:
        raise ValueError(f"the waveform reaches {peak:.2f} and would clip at 1; make it softer before playing it")
    if recording and not credit and environment.publishing():
        print("(run this cell to hear the recording)")
        return
    buffer = io.BytesIO()  # FLAC: the same 16 bits as WAV, in a third of the space, and every browser plays it
    sf.write(buffer, waveform.detach().cpu().numpy(), sample_rate, "PCM_16", format="FLAC")
    player = Audio(buffer.getvalue(), autoplay=autoplay)
    player.mimetype = "audio/flac"
    marks = {"recording": True} | ({"credit": credit} if credit else {})
    display(player, metadata={"course": marks} if recording else None)
    if credit:
        print(credit)


def slider(
    draw: Callable[[Any], Tensor], sample_rate: int, label: str, values: Sequence[Any], start: Any, **player: Any
) -> None:
    """A slider over `values`: `draw(value)` draws a figure and returns the sound (samples,) to play with it.

    Each move draws and plays anew; `player` goes to `play`. While `COURSE_PUBLISH` is set there is no slider, only
    what it shows at `start`; in the smoke profile its two ends are drawn as well, so that an error stops the lesson.

    Notebook: 01_waveforms_and_spectrograms
    """
    import ipywidgets
    import matplotlib.pyplot as plt

    def show(value: Any, autoplay: bool = False) -> None:
        sound = draw(value)
        plt.show()
        play(sound, sample_rate, autoplay=autoplay, **player)

    if environment.profile() == "smoke":
        show(values[0])
        show(values[-1])
    if environment.publishing():
        show(start)
        return
    control = ipywidgets.SelectionSlider(
        options=values, value=start, description=label, continuous_update=False,
        style={"description_width": "initial"}, layout={"width": "500px"},
    )  # fmt: skip
    output = ipywidgets.Output()
    with output:
        show(start)

    def moved(change: dict[str, Any]) -> None:
        with output:
            output.clear_output(wait=True)
            show(change["new"], autoplay=True)

    control.observe(moved, names="value")
    display(control, output)
