"""Heart sounds prepared: the right band, no spikes, one level, computed once; and where the cycles begin."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from course_lib import audio
from course_lib.audio import AudioError
from course_lib.clips import Clips
from course_lib.datasets import DatasetError, Recordings, physionet2016
from course_lib.datasets.decoded import decode
from course_lib.datasets.hearts import cycles as heart_cycles
from course_lib.datasets.hearts.cycles import cycle_starts, find_cycles
from course_lib.datasets.hearts.preparation import HeartPreparation, band_pass, normalise, remove_spikes
from course_lib.datasets.stand_ins import heart_sounds
from course_lib.environment import cache_folder

TIME = torch.arange(8000, dtype=torch.float64) / 1000


def tone(frequency: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * frequency * TIME)


def middle(waveform: torch.Tensor) -> torch.Tensor:
    return waveform[2000:-2000]


@pytest.mark.parametrize("frequency", [5, 15, 25, 60, 100, 250, 400, 470])
def test_the_band_passes_as_the_filter_forwards_and_backwards_does(frequency: float) -> None:
    numerator, denominator = scipy.signal.butter(2, (25, 400), "bandpass", fs=1000)
    _, response = scipy.signal.freqz(numerator, denominator, [frequency], fs=1000)
    gain = middle(band_pass(tone(frequency), 1000)).std() / middle(tone(frequency)).std()
    assert gain == pytest.approx(np.abs(response[0]) ** 2, rel=1e-3, abs=1e-4)


def test_the_band_is_half_gone_at_its_edges_and_nothing_is_late() -> None:
    for edge in (25, 400):
        assert middle(band_pass(tone(edge), 1000)).std() / middle(tone(edge)).std() == pytest.approx(0.5, rel=1e-3)
    click = torch.zeros(4001, dtype=torch.float64)
    click[2000] = 1
    answer = band_pass(click, 1000)
    assert answer.argmax() == 2000 and torch.allclose(answer, answer.flip(0), atol=1e-6)


def test_a_spike_is_silenced_from_zero_crossing_to_zero_crossing() -> None:
    waveform = torch.sin(2 * torch.pi * 50 * TIME + 0.3)
    waveform[4005] = 9  # in the positive half-wave of samples 4000 .. 4009
    clean = remove_spikes(waveform, 1000)
    assert torch.equal(clean[4000:4010], torch.zeros(10, dtype=torch.float64))
    assert torch.equal(clean[:4000], waveform[:4000]) and torch.equal(clean[4010:], waveform[4010:])
    assert waveform[4005] == 9, "the waveform handed in stays as it was"


def test_a_steady_sound_has_no_spikes() -> None:
    assert torch.equal(remove_spikes(tone(50), 1000), tone(50))


def test_a_spike_across_two_windows_goes_whole() -> None:
    waveform = 0.1 * tone(5)
    waveform[4498:4503] = torch.tensor([2.0, 3.0, 4.0, 3.0, 2.0])
    waveform[4497] = waveform[4503] = -0.1
    assert remove_spikes(waveform, 1000)[4498:4503].abs().max() == 0


@pytest.mark.parametrize("seconds", [7, 8, 100])
def test_zeros_behind_a_heart_do_not_make_its_beats_spikes(seconds: float) -> None:
    sound = tone(50)
    sound[4005] = 9
    longer = torch.cat([sound, torch.zeros(1000 * seconds, dtype=torch.float64)])
    assert torch.equal(remove_spikes(longer, 1000)[: len(sound)], remove_spikes(sound, 1000))


def spikes_removed_by_the_book(samples: np.ndarray, window: int) -> np.ndarray:
    """The steps of Schmidt et al. 2010, one after the other."""
    samples = samples.copy()
    while True:
        peaks = [np.abs(samples[begin : begin + window]).max() for begin in range(0, len(samples), window)]
        if max(peaks) <= 3 * np.median(peaks):
            return samples
        begin = window * int(np.argmax(peaks))
        top = begin + int(np.argmax(np.abs(samples[begin : begin + window])))
        left = right = top
        while left > 0 and (samples[left - 1] < 0) == (samples[top] < 0) and samples[left - 1] != 0:
            left -= 1
        while right < len(samples) and (samples[right] < 0) == (samples[top] < 0) and samples[right] != 0:
            right += 1
        samples[left:right] = 0


# Quiet and loud samples, none of them zero: a zero is a crossing of its own.
spiky = arrays.arrays(np.int64, st.integers(20, 90), elements=st.integers(-60, 60)).map(
    lambda drawn: np.where(np.abs(drawn) > 50, 7.0, 1.0) * (drawn + 0.5)
)


@given(spiky)
def test_spikes_are_removed_by_the_book(samples: np.ndarray) -> None:
    ours = remove_spikes(torch.from_numpy(samples), 10, window_s=1.0)
    np.testing.assert_array_equal(ours.numpy(), spikes_removed_by_the_book(samples, 10))


@given(st.floats(-5, 5), st.floats(1e-4, 1e3))
def test_level_and_offset_are_taken_away(offset: float, scale: float) -> None:
    noise = torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = normalise(noise)
    assert level.mean().abs() < 1e-9 and level.std() == pytest.approx(1 / 20)
    assert torch.allclose(normalise(offset + scale * noise), level, atol=1e-9)


def test_what_towers_over_everything_is_clipped() -> None:
    waveform = torch.zeros(10_000)
    waveform[17] = -1.0
    assert normalise(waveform).min() == -1


def heart(seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return heart_sounds.record(heart_sounds.heart(seconds, None, random).waveform, heart_sounds.DEVICES["a"], random)


def test_a_preparation_is_its_steps_one_after_the_other() -> None:
    waveform = torch.from_numpy(heart()).float()
    ours = HeartPreparation()(waveform)
    halved = scipy.signal.resample_poly(waveform.double().numpy(), 1, 2, window=("kaiser", 8.0))
    sections = scipy.signal.butter(2, (25, 400), "bandpass", fs=1000, output="sos")
    expected = spikes_removed_by_the_book(scipy.signal.sosfiltfilt(sections, halved), 500)
    expected = (expected - expected.mean()) / expected.std() / 20
    assert ours.shape == (6000,) and ours.dtype == torch.float32
    assert np.corrcoef(ours.numpy(), expected)[0, 1] > 0.9999
    assert np.abs(ours.numpy() - expected).max() < 0.01


def test_only_the_first_seconds_on_request() -> None:
    waveform = torch.from_numpy(heart(6)).float()
    assert torch.equal(HeartPreparation(first_s=4)(waveform), HeartPreparation()(waveform[:8000]))
    assert len(HeartPreparation(first_s=60)(waveform)) == 6000


def test_steps_can_be_left_out_or_changed() -> None:
    waveform = torch.from_numpy(heart()).float()
    spiked = waveform.clone()
    spiked[5000] = 30.0

    def likeness(preparation: HeartPreparation) -> float:
        return float(torch.corrcoef(torch.stack([preparation(waveform), preparation(spiked)]))[0, 1])

    assert likeness(HeartPreparation(spikes_removed=False)) < 0.5 < 0.9 < likeness(HeartPreparation())
    assert HeartPreparation(sample_rate=2000)(waveform).shape == (12000,)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"high_hz": 500}, "below half of the sample rate, 500 Hz"),
        ({"low_hz": 401}, "band"),
        ({"first_s": 2.4}, "first_s"),
        ({"spikes": True}, "spikes"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HeartPreparation(**wrong)


@pytest.mark.parametrize(
    ("waveform", "problem"),
    [
        (torch.zeros(8000), "is a flat line"),
        (torch.full((8000,), 0.3), "is a flat line"),
        (torch.rand(4999), r"lasts 2\.50 s, less than the 2\.5 s of a segment"),
        (torch.rand(0), r"lasts 0\.00 s"),
    ],
)
def test_what_holds_no_heart_is_refused(waveform: torch.Tensor, problem: str) -> None:
    with pytest.raises(AudioError, match=problem):
        HeartPreparation()(waveform)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    heart_sounds.write(folder, recordings=24, seconds=5)
    return folder


@pytest.fixture
def raw(folder: Path) -> Recordings:
    return physionet2016.read(folder, "stand-in")


def kept() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "decoded").glob("*"))


def test_prepared_recordings_are_recordings(raw: Recordings) -> None:
    hearts = raw.prepared(HeartPreparation())
    assert (hearts.sample_rate, raw.sample_rate) == (1000, 2000)
    assert hearts.table.equals(raw.table) and hearts.source == "stand-in"
    assert torch.equal(hearts.waveform(3), HeartPreparation()(raw.waveform(3)))
    assert torch.equal(hearts.subset(np.array([3])).waveform(0), hearts.waveform(3))


def test_clips_are_cut_from_prepared_samples(raw: Recordings) -> None:
    hearts = raw.prepared(HeartPreparation())
    clips = Clips.cut(hearts, 2.5, 2.5, progress=False)
    assert (clips.clip_samples, clips.sample_rate) == (2500, 1000)
    counts = [len(hearts.waveform(index)) // 2500 for index in range(len(hearts))]
    assert torch.bincount(clips.recording).tolist() == counts
    waveforms, labels = clips.batch(torch.arange(len(clips)))
    first = int(np.cumsum(counts)[4])
    assert torch.allclose(waveforms[first], hearts.waveform(5)[:2500], atol=1 / 65536 + 1e-7)
    assert torch.equal(labels, torch.from_numpy(hearts.table["label"].to_numpy()[clips.recording]))


def test_preparing_is_done_once_for_each_setting(raw: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, first = decode(raw, progress=False), decode(raw.prepared(HeartPreparation()), progress=False)
    shorter = decode(raw.prepared(HeartPreparation(first_s=4)), progress=False)
    assert len(kept()) == 3
    assert len({plain.fingerprint, first.fingerprint, shorter.fingerprint}) == 3
    monkeypatch.setattr(audio, "read", lambda *_: pytest.fail("decoded again"))
    again = decode(raw.prepared(HeartPreparation()), progress=False)
    assert np.array_equal(again.samples, first.samples) and again.fingerprint == first.fingerprint
    assert len(kept()) == 3


def broken(where: Path) -> Recordings:
    heart_sounds.write(where, recordings=1, seconds=5)
    sf.write(where / "training-a" / "a0001.wav", np.zeros(20000), 2000, "PCM_16")
    sf.write(where / "training-b" / "b0002.wav", heart(2.2), 2000, "PCM_16")
    path = where / "training-c" / "c0001.wav"
    sf.write(path.with_suffix(".flac"), sf.read(path)[0], 2000, "PCM_16")
    path.unlink()
    path.with_suffix(".flac").write_bytes(path.with_suffix(".flac").read_bytes()[:5000])
    return physionet2016.read(where, "real")


def test_all_bad_recordings_are_named_at_once_and_nothing_is_kept(tmp_path: Path) -> None:
    hearts = broken(tmp_path).prepared(HeartPreparation())
    with pytest.raises(AudioError) as caught:
        Clips.cut(hearts, 2.5, 2.5, progress=False)
    message = str(caught.value)
    for part in ("a0001.wav is a flat line", "b0002.wav lasts 2.20 s", "c0001.flac is damaged or truncated"):
        assert part in message
    assert "\n" not in message and kept() == []


def beats(seconds: float, cycle: float, systole: float) -> tuple[torch.Tensor, np.ndarray]:
    """Clean clicks at 1 kHz: a heart as regular as a clock."""
    samples = np.zeros(round(seconds * 1000))
    starts = np.arange(0.3, seconds - 0.6, cycle)
    wave = np.sin(2 * np.pi * 60 * np.arange(80) / 1000) * np.hanning(80)
    for start in starts:
        samples[round(1000 * start) :][:80] += wave
        samples[round(1000 * (start + systole)) :][:80] += 0.7 * wave
    return torch.from_numpy(samples), starts


@pytest.mark.parametrize(("cycle", "systole"), [(0.5, 0.22), (0.8, 0.3), (1.0, 0.33), (1.3, 0.4)])
def test_the_cycles_of_a_clockwork_heart(cycle: float, systole: float) -> None:
    waveform, starts = beats(12, cycle, systole)
    found = find_cycles(waveform, 1000)
    assert found.cycle_s == pytest.approx(cycle, abs=0.011) and found.systole_s == pytest.approx(systole, abs=0.021)
    inner = starts[1:-1]
    assert np.abs(found.starts[:, None] - inner).min(axis=0).max() < 0.05


def test_most_cycles_of_noisy_hearts_are_found_and_are_not_second_sounds() -> None:
    """Of six devices, half of the hearts with a murmur: starts within 0.1 s of where a first sound begins."""
    random = np.random.default_rng(11)
    hits, starts, sounds = 0, 0, 0
    for number in range(18):
        murmur = random.choice(list(heart_sounds.MURMURS)) if number % 2 else None
        true = heart_sounds.heart(8, murmur, random)
        heard = heart_sounds.record(true.waveform, heart_sounds.DEVICES["abcdef"[number % 6]], random)
        found = find_cycles(HeartPreparation()(torch.from_numpy(heard)), 1000).starts
        hits += (np.abs(found[:, None] - true.s1).min(axis=1) < 0.1).sum()
        starts, sounds = starts + len(found), sounds + len(true.s1)
    assert hits / starts > 0.93 and hits / sounds > 0.93


@settings(max_examples=20)
@given(arrays.arrays(np.float64, st.integers(2000, 4000), elements=st.floats(-1, 1, width=16)))
def test_whatever_the_waveform_starts_are_ordered_and_inside(samples: np.ndarray) -> None:
    found = find_cycles(torch.from_numpy(samples), 1000)
    assert np.isfinite(found.starts).all() and (np.diff(found.starts) > 0).all()
    assert ((found.starts >= 0) & (found.starts < len(samples) / 1000)).all()
    if len(found.starts):
        assert 0.4 <= found.cycle_s <= 1.5 and 0.2 <= found.systole_s <= found.cycle_s


def test_silence_has_no_cycles_and_a_moment_no_rhythm() -> None:
    for silence in (torch.zeros(5000), torch.full((5000,), 0.3)):
        found = find_cycles(silence, 1000)
        assert len(found.starts) == 0 and np.isnan([found.cycle_s, found.systole_s]).all()
    with pytest.raises(ValueError, match=r"1\.50 s are too short"):
        find_cycles(torch.rand(1500), 1000)


def test_clips_begin_with_cycles(raw: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    hearts = raw.prepared(HeartPreparation())
    starts = cycle_starts(hearts, progress=False)
    clips = Clips.cut(hearts, 2.5, starts=starts, progress=False)
    offsets = decode(hearts, progress=False).offsets
    for row, each in enumerate(starts):
        length = len(hearts.waveform(row))
        within = (clips.start[clips.recording == row] - offsets[row]).tolist()
        assert within == [start for start in each.tolist() if start + 2500 <= length] and len(within) > 1
        assert (clips.length[clips.recording == row] == 2500).all()
    monkeypatch.setattr(heart_cycles, "find_cycles", lambda *_: pytest.fail("found again"))
    again = cycle_starts(hearts, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(starts, again, strict=True))
    assert [path.suffix for path in (cache_folder() / "cycles").iterdir()] == [".npz"]


def test_a_recording_too_short_for_a_rhythm_is_named(raw: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise ValueError("1.50 s are too short")

    monkeypatch.setattr(heart_cycles, "find_cycles", short)
    with pytest.raises(AudioError, match=rf"{raw.table['recording'][0]}: 1\.50 s are too short"):
        cycle_starts(raw.prepared(HeartPreparation()), progress=False)


def test_an_envelope_wants_a_rate_that_it_can_divide() -> None:
    with pytest.raises(ValueError, match="multiple of 100 Hz, not 1050 Hz"):
        find_cycles(torch.rand(10_500), 1050)


def test_clips_that_begin_with_cycles_can_be_kept_apart(raw: Recordings) -> None:
    hearts = raw.prepared(HeartPreparation())
    starts = cycle_starts(hearts, progress=False)
    clips = Clips.cut(hearts, 1.0, 1.5, progress=False, starts=starts)
    offsets = decode(hearts, progress=False).offsets
    for row, each in enumerate(starts):
        within = (clips.start[clips.recording == row] - offsets[row]).tolist()
        assert set(within) <= set(each.tolist()) and within[0] == each[0]
        for before, after in itertools.pairwise(within):
            earlier = each[(each > before) & (each < after)]
            assert after - before >= 1500 and (earlier - before < 1500).all()


def test_starts_that_do_not_fit(raw: Recordings) -> None:
    hearts = raw.subset(np.arange(2)).prepared(HeartPreparation())
    late = [np.array([10**6]), np.array([], dtype=np.int64)]
    clips = Clips.cut(hearts, 2.5, starts=late, progress=False)
    assert clips.recording.tolist() == [0, 1] and torch.equal(clips.start, Clips.cut(hearts, 2.5).start)
    with pytest.raises(ValueError, match="starts for 1 recordings, but there are 2"):
        Clips.cut(hearts, 2.5, starts=late[:1], progress=False)
    with pytest.raises(ValueError, match="before its recording"):
        Clips.cut(hearts, 2.5, starts=[np.array([-1]), late[1]], progress=False)


def test_a_cache_that_cannot_be_written_is_one_clear_error(raw: Recordings) -> None:
    decode(raw.prepared(HeartPreparation()), progress=False)
    (cache_folder() / "cycles").touch()
    with pytest.raises(DatasetError, match=r"cannot write the cycles .*COURSE_CACHE"):
        cycle_starts(raw.prepared(HeartPreparation()), progress=False)
