"""The gammatone filterbank as a layer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.arguments import band, number, whole
from course_lib.layers.front_end import FrontEnd
from course_lib.layers.gammatone import response, scales
from course_lib.layers.gammatone.backends import operator, reference
from course_lib.layers.gammatone.pooling import Pooling
from course_lib.layers.waveforms import require_waveforms

LEARNABLE = ("centre_frequency", "bandwidth", "gain")
COMPRESSIONS = ("log", "log1p", "pcen", None)
BACKENDS = ("auto", "reference", "fft", "recursive")

_BANDWIDTHS = (math.log(1 / 20), math.log(20))  # of the ear's bandwidth
_GAINS = (-7.0, 7.0)  # of where they start: 61 dB down or up
_MARGIN = 1e-5  # of a range, free at both ends
_LEARNING_RATES = {"centre_frequency": 10.0, "bandwidth": 10.0, "gain": 1.0}


class GammatoneFilterbank(FrontEnd):
    """Waveforms (batch, samples) -> compressed energies (batch, n_filters, frames) of filters that can be learned.

    A filter has the impulse response a t^(order-1) exp(-2 pi b t) cos(2 pi f t) with centre frequency f and bandwidth
    b in Hz; the factor a makes its gain 1 at f. A frame is its mean squared output E over a window, whole windows only;
    a full-scale sine at f has E = 1/2. Before a clip is silence. No step of training can break a filter: f stays
    between f_min and f_max, b between 1/20 and 20 times the ear's bandwidth at f.

    n_filters: how many filters.
    sample_rate: samples a second.
    order: of the filters, 1 to 6; the ear's is about 4.
    f_min: least centre frequency in Hz; 0 by default.
    f_max: greatest centre frequency in Hz; half the sample rate by default.
    centre_frequencies: mel, erb, linear or log: equal steps between f_min and f_max on that scale; or values in Hz.
    bandwidths: erb, those of the ear; or b in Hz, one value or one a filter.
    learnable: True, False or some of centre_frequency, bandwidth, gain.
    window_s: seconds over which a frame is averaged.
    hop_s: seconds from one frame to the next.
    compression: log (E + eps), log1p (E / eps), pcen (per-channel energy normalisation) or None.
    backend: recursive is by far the fastest and stores next to nothing for the backward pass; fft is plain torch;
        reference is convolution; auto is the fastest that fits. Where a gradient to the waveforms is asked for,
        reference steps in, and in float64 fft for recursive; second derivatives need backend="reference".
    eps: the energy that compression takes for silence.

    Raises ValueError for settings that make no filterbank, and for clips shorter than a window.
    Source: Patterson et al. 1987 (the filter), Glasberg and Moore 1990 (bandwidths), Wang et al. 2017 (pcen).

    Notebook: 04_learnable_gammatone
    """

    raw_centre_frequency: Tensor
    raw_bandwidth: Tensor
    raw_gain: Tensor
    # None: what makes the gain 1 at the centre frequency. Otherwise a, times the sample period to the power order - 1.
    amplitude: float | None = None

    def __init__(
        self,
        n_filters: int,
        sample_rate: int,
        *,
        order: int = 4,
        f_min: float | None = None,
        f_max: float | None = None,
        centre_frequencies: str | Sequence[float] | Tensor = "mel",
        bandwidths: str | float | Sequence[float] | Tensor = "erb",
        learnable: bool | Collection[str] = True,
        window_s: float = 0.025,
        hop_s: float = 0.010,
        compression: str | None = "log",
        backend: str = "auto",
        eps: float = 1e-10,
    ) -> None:
        super().__init__()
        self.n_filters, self.order = n_filters, order = whole("n_filters", n_filters), whole("order", order)
        self.f_min, self.f_max = f_min, f_max = band(f_min, f_max, sample_rate)
        self.sample_rate, self.eps = number("sample_rate", sample_rate), number("eps", eps, above=0)
        if order > 6:
            raise ValueError(f"order is {order}; it can be a whole number from 1 to 6")
        window = round(number("window_s", window_s, above=0) * sample_rate)
        hop = round(number("hop_s", hop_s, above=0) * sample_rate)
        if window < 1 or hop < 1:
            raise ValueError(f"window_s {window_s:g} and hop_s {hop_s:g} must each last a sample at {sample_rate} Hz")
        self.compression, self.backend = compression, backend
        self.pooling = Pooling(0, window, hop)
        self._mel_range = scales.mel(torch.tensor([f_min, f_max], dtype=torch.float64)).tolist()
        self.learnable = _names_of(learnable)
        _require_known("compression", compression, COMPRESSIONS)
        _require_known("backend", backend, BACKENDS)

        centres = _centre_frequencies(centre_frequencies, n_filters, f_min, f_max)
        raw = {
            "centre_frequency": _unsquash(scales.mel(centres), *self._mel_range),
            "bandwidth": _unsquash(_bandwidth_ratios(bandwidths, centres, order).log(), *_BANDWIDTHS),
            "gain": torch.zeros(n_filters),
        }
        for name, values in raw.items():
            if name in self.learnable:
                self.register_parameter(f"raw_{name}", nn.Parameter(values.to(self.precision)))
            else:
                self.register_buffer(f"raw_{name}", values.to(self.precision))

    @classmethod
    def spectnet(cls, n_filters: int = 16, sample_rate: int = 1000, **settings: Any) -> GammatoneFilterbank:
        """The front end of SpectNet as it was published, up to the direction of time; `settings` as for the class.

        Order 4, bandwidths of 100 Hz, centres equally spaced in mel from 0 Hz to Nyquist, factor a = 1; sums of
        squares over 25 samples every 10, log(sum + 1e-16). As after a convolution with 81 taps, the first 80 outputs
        are left out; the tail of the response that 81 taps cut off remains (at 100 Hz and 1 kHz: nothing).

        Notebook: 05_heart_sounds_physionet
        """
        ends = scales.mel(torch.tensor([0.0, sample_rate / 2], dtype=torch.float64)).tolist()
        centres = scales.from_mel(torch.linspace(*ends, n_filters, dtype=torch.float64))
        published = {"centre_frequencies": centres, "bandwidths": 100.0, "eps": 1e-16}
        published |= {"window_s": 25 / sample_rate, "hop_s": 10 / sample_rate}
        layer = cls(n_filters, sample_rate, **published | settings)
        layer.pooling = layer.pooling._replace(first=80)
        layer.amplitude = math.sqrt(layer.pooling.window) / sample_rate ** (layer.order - 1)
        return layer

    @property
    def settings(self) -> dict[str, Any]:
        """What the parameters are relative to and what the network behind has learned to read."""
        names = ("n_filters", "sample_rate", "order", "f_min", "f_max", "amplitude", "compression", "eps")
        return {name: getattr(self, name) for name in names} | self.pooling._asdict()

    @property
    def centre_frequencies(self) -> Tensor:
        """Centre frequencies in Hz, shape (n_filters,)."""
        return scales.from_mel(_squash(self.raw_centre_frequency, *self._mel_range))

    @property
    def bandwidths(self) -> Tensor:
        """Bandwidths b in Hz, shape (n_filters,)."""
        return self._bandwidths(self.centre_frequencies)

    @property
    def gains(self) -> Tensor:
        """Amplitude gains at the centre frequencies, shape (n_filters,)."""
        return self._gains(self._per_sample()[0])

    @property
    def shortest(self) -> int:
        """The least number of samples that makes a frame."""
        return self.pooling.first + self.pooling.window

    def image(self, waveforms: Tensor) -> Tensor:
        return self._compress(self.energies(waveforms))

    def energies(self, waveforms: Tensor) -> Tensor:
        """Mean squared output (batch, n_filters, frames) of the filters on waveforms (batch, samples)."""
        require_waveforms(waveforms, self.shortest)
        with torch.autocast(waveforms.device.type, enabled=False):
            decay, frequency = self._per_sample()
            waveforms = waveforms.to(decay.dtype)
            settings = waveforms, decay, frequency, self._gains(decay).square(), self.order, self.pooling
            method = self._method(waveforms)
            return reference.energies(*settings) if method == "reference" else operator.energies(*settings, method)

    def impulse_responses(self, seconds: float) -> Tensor:
        """The filters' answers to a click of one sample at height 1, shape (n_filters, samples)."""
        decay, frequency = self._per_sample()
        responses = response.impulse_response(decay, frequency, self.order, round(seconds * self.sample_rate))
        return self._gains(decay)[:, None] * responses

    def frequency_response(self, frequencies: Tensor) -> Tensor:
        """Complex gains (n_filters, len(frequencies)) at frequencies in Hz; `.abs()` is the magnitude."""
        decay, frequency = self._per_sample()
        at = frequencies.to(decay) * (2 * math.pi / self.sample_rate)
        return self._gains(decay)[:, None] * response.frequency_response(decay, frequency, self.order, at)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimiser whose learning rate is `lr`, with rates that let the filters move.

        Centre frequencies and bandwidths get ten times `lr`: their parameters span the whole range in about 10 units,
        where a network's weights move by hundredths. None gets weight decay, which would pull all to the middle.
        """
        return [
            {"params": [getattr(self, f"raw_{name}")], "lr": _LEARNING_RATES[name] * lr, "weight_decay": 0.0}
            for name in LEARNABLE
            if name in self.learnable
        ]

    def play(self, i: int) -> None:
        """Show a player for filter i: its answer to four clicks a second, made equally loud for every filter."""
        from IPython.display import Audio, display

        rate = max(self.sample_rate, 8000)  # players refuse very low ones
        with torch.no_grad():
            decay, frequency = (values[i : i + 1] * (self.sample_rate / rate) for values in self._per_sample())
            click = response.impulse_response(decay, frequency, self.order, rate // 4)[0]
        display(Audio((0.5 * click / click.abs().max()).repeat(4).cpu().numpy(), rate=rate, normalize=False))

    def extra_repr(self) -> str:
        with torch.no_grad():
            centres, widths = self.centre_frequencies, self.bandwidths
        return (
            f"{self.n_filters} filters of order {self.order} at {centres[0]:.4g} .. {centres[-1]:.4g} Hz, "
            f"bandwidths {widths.min():.4g} .. {widths.max():.4g} Hz, sample rate {self.sample_rate} Hz\n"
            f"window {self.pooling.window} and hop {self.pooling.hop} samples, compression {self.compression}\n"
            f"learns {', '.join(self.learnable) or 'nothing'}, backend {self.backend}"
        )

    def _bandwidths(self, centres: Tensor) -> Tensor:
        return scales.erb(centres) * _squash(self.raw_bandwidth, *_BANDWIDTHS).exp()

    def _gains(self, decay: Tensor) -> Tensor:
        gains = _squash(self.raw_gain, *_GAINS).exp()
        return gains if self.amplitude is None else gains * self.amplitude / response.level(decay, self.order)

    def _per_sample(self) -> tuple[Tensor, Tensor]:
        """Decay and frequency of the filters in radians a sample, as in `response`."""
        centres = self.centre_frequencies
        radians = 2 * math.pi / self.sample_rate
        return self._bandwidths(centres) * radians, centres * radians

    def _method(self, waveforms: Tensor) -> str:
        if self.backend == "reference" or (waveforms.requires_grad and torch.is_grad_enabled()):
            return "reference"
        kernel_exists = waveforms.dtype == torch.float32 and operator.has_kernel(waveforms.device)
        return "recursive" if self.backend != "fft" and kernel_exists else "fft"

    def _compress(self, energies: Tensor) -> Tensor:
        if self.compression == "log":
            return torch.log(energies + self.eps)
        if self.compression == "log1p":
            return torch.log1p(energies / self.eps)
        if self.compression == "pcen":
            return _pcen(energies, self.eps)
        return energies


def _pcen(energies: Tensor, eps: float) -> Tensor:
    """Per-channel energy normalisation: energies over their running mean, then a root."""
    return ((energies / (eps + _running_mean(energies)) ** 0.98) + 2).sqrt() - math.sqrt(2)


def _running_mean(energies: Tensor, speed: float = 0.025) -> Tensor:
    """mean[t] = (1 - speed) mean[t - 1] + speed energies[t] along the last axis, from mean[0] = energies[0] on."""
    mean = torch.cat([energies[..., :1], speed * energies[..., 1:]], dim=-1)
    # Each step doubles the number of past frames that are added up, until what is left is below the rounding.
    past = 1
    while past < energies.shape[-1] and (weight := (1 - speed) ** past) > 1e-17:
        mean = mean + weight * functional.pad(mean[..., :-past], (past, 0))
        past *= 2
    return mean


def _squash(raw: Tensor, low: float, high: float) -> Tensor:
    """Any number to one strictly between `low` and `high`."""
    margin = _MARGIN * (high - low)
    return low + margin + (high - low - 2 * margin) * torch.sigmoid(raw)


def _unsquash(values: Tensor, low: float, high: float) -> Tensor:
    """The inverse of `_squash`; what lies on an edge comes to lie just inside."""
    share = ((values - low) / (high - low) - _MARGIN) / (1 - 2 * _MARGIN)
    return torch.logit(share, eps=1e-6)


def _names_of(learnable: bool | Collection[str]) -> tuple[str, ...]:
    if isinstance(learnable, bool):
        return LEARNABLE if learnable else ()
    names = {learnable} if isinstance(learnable, str) else learnable
    if not isinstance(names, Collection) or not set(names) <= set(LEARNABLE):
        raise ValueError(f"learnable is {learnable!r}; it is True, False or some of {', '.join(LEARNABLE)}")
    return tuple(name for name in LEARNABLE if name in names)


def _require_known(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(map(str, known))}")


def _in_hertz(values: float | Sequence[float] | Tensor, name: str, n_filters: int) -> Tensor:
    hertz = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if hertz.shape not in ((), (n_filters,)) or not bool(hertz.isfinite().all()):
        raise ValueError(f"{name} {tuple(hertz.shape)} must be {n_filters} finite values in Hz")
    return hertz.expand(n_filters)


def _centre_frequencies(
    centre_frequencies: str | Sequence[float] | Tensor, n_filters: int, f_min: float, f_max: float
) -> Tensor:
    if isinstance(centre_frequencies, str):
        return scales.spaced(centre_frequencies, n_filters, f_min, f_max)
    centres = _in_hertz(centre_frequencies, "centre_frequencies", n_filters)
    rising = bool((centres.diff() > 0).all())
    if not (rising and centres[0] >= f_min and centres[-1] <= f_max):
        raise ValueError(f"centre_frequencies must rise and lie between f_min {f_min:g} and f_max {f_max:g} Hz")
    return centres


def _bandwidth_ratios(bandwidths: str | float | Sequence[float] | Tensor, centres: Tensor, order: int) -> Tensor:
    """Bandwidths b as multiples of the ear's equivalent rectangular bandwidths."""
    if isinstance(bandwidths, str):
        _require_known("bandwidths", bandwidths, ("erb",))
        # A gammatone's own equivalent rectangular bandwidth is b times pi (2n-2)! / 4^(n-1) / (n-1)!^2 (order 4: 0.98).
        own = math.pi * math.factorial(2 * order - 2) / 4 ** (order - 1) / math.factorial(order - 1) ** 2
        return torch.full_like(centres, 1 / own)
    ratios = _in_hertz(bandwidths, "bandwidths", len(centres)) / scales.erb(centres)
    low, high = (math.exp(bound) for bound in _BANDWIDTHS)
    if not bool(((ratios >= low) & (ratios <= high)).all()):
        raise ValueError(f"bandwidths must lie between {low:g} and {high:g} times the ear's at their frequencies")
    return ratios
