"""The same sound under several names: equal samples, or nearly the same after another coding, level or cut."""

import itertools

import numpy as np
import pandas as pd
from scipy import fft
from tqdm.auto import tqdm

from course_lib.report.facts import Facts

_MOST_PAIRS, _MOST_EACH = 3000, 20
_SEGMENTS, _BANDS = 24, 6
_SHORTEST = 20 * _SEGMENTS  # samples
_ALIKE = 0.85  # correlation of two outlines that is worth a closer look
_SAME = 0.75  # of the spectrum in phase: spoken words and their MP3 have over 0.8, two takes of one word up to 0.6
_FEWEST = 300  # frequencies: of a pure tone there are fewer
_HEARD = 1e-5  # of the strongest power: what the other coding may have left out


def equal(table: pd.DataFrame) -> list[list[str]]:
    """The names of recordings whose samples are equal, a list for each sound; silence has no copies."""
    return _lists(table[~table["flat"]].groupby("fingerprint")["recording"])


def near(facts: Facts, progress: bool = True) -> list[list[str]]:
    """Pairs of names of recordings that are nearly the same, such as a WAV file and the MP3 made of it.

    Of the beginnings of recordings about as long as each other, whose outlines are alike, the phases are compared
    (Knapp and Carter 1976, the generalised cross-correlation): they agree in copies only.
    """
    table, clips = facts.table, facts.clips
    rows, first = np.unique(clips.recording.numpy(), return_index=True)
    use = ~table["flat"].to_numpy()[rows] & (table["silence"].to_numpy()[rows] < 0.9)
    use &= clips.length.numpy()[first] >= _SHORTEST
    rows, first = rows[use], first[use]
    names, prints = table["recording"].to_numpy(str)[rows], table["fingerprint"].to_numpy(str)[rows]
    sounds = [
        clips.samples[start : start + clips.length[number]].numpy()
        for number, start in zip(first, clips.start[first], strict=True)
    ]
    outlines = np.array([_outline(sound) for sound in sounds], dtype=np.float32)
    pairs = _candidates(outlines, table["seconds"].to_numpy()[rows], progress)
    pairs = [(one, other) for one, other in pairs if prints[one] != prints[other]]
    found = [
        sorted((str(names[one]), str(names[other])))
        for one, other in tqdm(pairs, "looking for near copies", disable=not progress, delay=2)
        if in_phase(sounds[one], sounds[other]) > _SAME
    ]
    return sorted(found)


def in_phase(one: np.ndarray, other: np.ndarray) -> float:
    """The largest value of the cross-correlation of two waveforms (samples,) whose spectra are made white: 0 to 1."""
    size = fft.next_fast_len(len(one) + len(other), real=True)
    # Windows, or the ends of a tone would be alike.
    spectra = [fft.rfft(np.hanning(len(sound)) * sound, size) for sound in (one, other)]
    powers = [np.abs(spectrum) ** 2 for spectrum in spectra]
    heard = np.logical_and.reduce([power > _HEARD * power.max() for power in powers])
    if heard.sum() < _FEWEST:
        return 0.0
    cross = np.where(heard, spectra[0] * spectra[1].conj(), 0)
    white = cross / np.maximum(np.abs(cross), 1e-30)
    return float(fft.irfft(white, size).max() * size / (2 * heard.sum()))


def _outline(waveform: np.ndarray) -> np.ndarray:
    """Levels of a waveform (samples,) in segments of time and bands, each about its mean, as one vector of length 1."""
    segments = np.array_split(waveform, _SEGMENTS)
    power = np.abs(np.stack([fft.rfft(segment, len(segments[0])) for segment in segments])) ** 2
    edges = np.geomspace(1, power.shape[1], _BANDS + 1).astype(int)
    bands = np.stack([power[:, low : max(low + 1, high)].sum(axis=1) for low, high in itertools.pairwise(edges)])
    level = np.log(np.maximum(bands, 1e-6 * bands.max() + 1e-12))
    centred = (level - level.mean(axis=1, keepdims=True)).ravel()
    return centred / max(np.linalg.norm(centred), 1e-9)


def _candidates(outlines: np.ndarray, seconds: np.ndarray, progress: bool) -> list[tuple[int, int]]:
    """The pairs of recordings about as long as each other whose outlines are most alike."""
    order = np.argsort(seconds)
    outlines, seconds = outlines[order], seconds[order]
    ends = np.searchsorted(seconds, 1.02 * seconds + 0.1, side="right")
    pairs = []
    for number, end in enumerate(tqdm(ends, "comparing the recordings", disable=not progress, delay=2)):
        likeness = outlines[number + 1 : end] @ outlines[number]
        best = np.arange(len(likeness))
        if len(best) > _MOST_EACH:
            best = np.argpartition(-likeness, _MOST_EACH)[:_MOST_EACH]
        pairs += [(float(likeness[each]), number, number + 1 + int(each)) for each in best if likeness[each] > _ALIKE]
    best = sorted(pairs, reverse=True)[:_MOST_PAIRS]
    return [(int(order[one]), int(order[other])) for _, one, other in best]


def _lists(names: "pd.api.typing.SeriesGroupBy") -> list[list[str]]:
    return sorted(sorted(each) for _, each in names if len(each) > 1)
