"""The gammatone filterbank as a layer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_lib.layers.arguments import band, number, whole
from course_lib.layers.front_end import FrontEnd
from course_lib.layers.gammatone import parameters, response, scales, signals
from course_lib.layers.gammatone.backends import operator, reference
from course_lib.layers.gammatone.compression import COMPRESSIONS, Pcen, compress
from course_lib.layers.gammatone.convolution import GammatoneConvolution
from course_lib.layers.gammatone.pooling import Pooling
from course_lib.layers.gammatone.streaming import Stream

LEARNABLE = ("centre_frequency", "bandwidth", "gain")  # of the filters; beside them there is pcen
BACKENDS = ("auto", "reference", "fft", "recursive")


class GammatoneFilterbank(FrontEnd):
    """Waveforms (..., samples) -> compressed energies (..., n_filters, frames) of filters that can be learned.

    A filter has the impulse response a t^(order-1) exp(-2 pi b t) cos(2 pi f t) with centre frequency f and bandwidth
    b in Hz. The factor a makes its gain 1 at f where f is far from 0 Hz and from half the sample rate; at order 4 it is
    within 0.1 dB from a distance of b on, and nearer between -3.4 and +6 dB. A frame is the mean squared output E over
    a window, whole windows only; a full-scale sine at a gain of 1 has E = 1/2. Before a clip is silence. No step of
    training can break a filter: f stays between f_min and f_max, b between 1/20 and 20 times the ear's bandwidth at f.

    n_filters: how many filters.
    sample_rate: samples a second.
    order: of the filters, 1 to 6; the ear's is about 4.
    f_min: least centre frequency in Hz; 0 by default.
    f_max: greatest centre frequency in Hz; half the sample rate by default.
    centre_frequencies: mel, erb, linear or log: equal steps between f_min and f_max on that scale; or values in Hz.
    bandwidths: erb, those of the ear; or b in Hz, one value or one a filter.
    learnable: some of centre_frequency, bandwidth, gain and, with that compression, pcen; True are the first three.
    window_s: seconds over which a frame is averaged.
    hop_s: seconds from one frame to the next.
    compression: log (E + eps), log1p (E / eps), pcen (per-channel energy normalisation) or None.
    backend: recursive is by far the fastest and stores next to nothing for the backward pass; fft is plain torch;
        reference is convolution; auto is the fastest that fits. In float64 fft steps in for recursive. All have the
        gradient of the waveforms; second derivatives need reference. Exported programs are plain torch, whichever.
    eps: the energy that compression takes for silence.
    even_steps: True, recommended: one unit of a parameter is 1 ERB of centre frequency, or a factor e of bandwidth or
        gain, wherever a filter stands; at the ends of the ranges parameters are reflected. False: they are squashed
        into their ranges, as published results were made; steps shrink towards the ends, and far outside they stop.

    Raises ValueError for settings that make no filterbank, and for clips shorter than a window.
    Source: Patterson et al. 1987 (the filter), Glasberg and Moore 1990 (bandwidths), Wang et al. 2017 (pcen).

    Notebook: 04_learnable_gammatone
    """

    unstated: ClassVar[dict[str, Any]] = {"even_steps": False}
    raw_centre_frequency: Tensor
    raw_bandwidth: Tensor
    raw_gain: Tensor
    raw_pcen: Tensor  # with that compression
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
        even_steps: bool = False,
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
        self.even_steps = even_steps
        self._scale = parameters.EVEN if even_steps else parameters.PUBLISHED
        ends = self._scale.to_scale(torch.tensor([f_min, f_max], dtype=torch.float64)).tolist()
        self._ranges = {
            name: self._scale.kind(*bounds)
            for name, bounds in zip(LEARNABLE, (ends, parameters.BANDWIDTHS, parameters.GAINS), strict=True)
        }
        _require_known("compression", compression, COMPRESSIONS)
        self.learnable = parameters.names_of(learnable, (*LEARNABLE, "pcen"), LEARNABLE)
        if "pcen" in self.learnable and compression != "pcen":
            raise ValueError(f"learnable names pcen, and the compression is {compression}; give compression='pcen'")
        _require_known("backend", backend, BACKENDS)

        centres = parameters.centre_frequencies(centre_frequencies, n_filters, f_min, f_max)
        ratios = parameters.bandwidth_ratios(bandwidths, centres, order)
        raw = {
            "centre_frequency": self._ranges["centre_frequency"].raw(self._scale.to_scale(centres)),
            "bandwidth": self._ranges["bandwidth"].raw(ratios.log()),
            "gain": torch.zeros(n_filters),
        } | ({"pcen": torch.zeros(len(Pcen._fields), n_filters)} if compression == "pcen" else {})
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
        names = "n_filters sample_rate order f_min f_max amplitude compression eps even_steps".split()
        return {name: getattr(self, name) for name in names} | self.pooling._asdict()

    @property
    def centre_frequencies(self) -> Tensor:
        """Centre frequencies in Hz, shape (n_filters,)."""
        return self._scale.from_scale(self._value("centre_frequency"))

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

    def forward(self, waveforms: Tensor) -> Tensor:
        signals.as_rows(waveforms, self.shortest)
        with torch.autocast(waveforms.device.type, enabled=False):
            return self.image(waveforms.to(self.precision)).to(self._type.dtype)

    def image(self, waveforms: Tensor) -> Tensor:
        energies = self.energies(waveforms)
        if self.compression == "pcen":
            return self.pcen(energies, self.eps)
        return compress(energies, self.compression, self.eps)

    def energies(self, waveforms: Tensor) -> Tensor:
        """Mean squared output (..., n_filters, frames) of the filters on waveforms (..., samples)."""
        rows, leading = signals.as_rows(waveforms, self.shortest)
        with torch.autocast(waveforms.device.type, enabled=False):
            decay, frequency = self._per_sample()
            settings = rows.to(decay.dtype), decay, frequency, self._gains(decay).square(), self.order, self.pooling
            method = self._method(rows.device)
            compute = {"reference": reference.energies, "export": reference.energies_by_fft}.get(method)
            energies = operator.energies(*settings, method) if compute is None else compute(*settings)
            return energies.reshape(*leading, *energies.shape[1:])

    def filtered(self, waveforms: Tensor, analytic: bool = False, aligned: bool = False) -> Tensor:
        """Outputs (..., n_filters, samples) of the filters on waveforms (..., samples), in the layer's `precision`.

        analytic: with cos(2 pi f t) of the filters replaced by exp(2 pi i f t): complex outputs, whose real parts are
            the outputs and whose magnitudes are their envelopes.
        aligned: each band is earlier by its delay (see `delays`) and turned in phase, so that all bands answer a click
            with a peak at the click. The end of a band, as long as its delay, is then silent.

        There are gradients of the waveforms and of the filters, of the first order only where the recursion computes
        (float32 on the CPU); elsewhere and with backend="reference" FFTs do. Exported programs: real, not aligned.

        Notebook: 04_learnable_gammatone
        """
        rows, leading = signals.as_rows(waveforms)
        with torch.autocast(waveforms.device.type, enabled=False):
            decay, frequency = self._per_sample()
            rows, complex_ = rows.to(decay.dtype), analytic or aligned
            if rows.numel():
                outputs = operator.outputs(rows, decay, frequency, self.order, complex_, self._method(rows.device))
            else:
                outputs = rows.new_empty(len(rows), self.n_filters, rows.shape[1]).to(
                    rows.dtype.to_complex() if complex_ else rows.dtype
                )
            outputs = (self._gains(decay)[:, None] * outputs).reshape(*leading, *outputs.shape[1:])
            if aligned and rows.numel():
                outputs = signals.aligned(outputs, decay, frequency, self.order)
            return outputs if analytic or not aligned else outputs.real

    def envelopes(self, waveforms: Tensor, aligned: bool = False) -> Tensor:
        """Envelopes (..., n_filters, samples) of the filters' outputs; for `aligned` see `filtered`.

        Notebook: 04_learnable_gammatone
        """
        return self.filtered(waveforms, analytic=True, aligned=aligned).abs()

    @property
    def delays(self) -> Tensor:
        """Seconds from a click to the peak of each filter's envelope, (order - 1) / (2 pi b), shape (n_filters,)."""
        return signals.delays(self._per_sample()[0], self.order) / self.sample_rate

    def synthesise(self, bands: Tensor) -> Tensor:
        """Waveforms (..., samples) from bands (..., n_filters, samples) as `filtered` gives them, changed or not.

        It is the least-squares inverse of `filtered`, by an FFT over the whole clip; of complex bands it takes the real
        parts, and bands must not be `aligned`. With 32 filters or more, unchanged bands of a clip that ends in silence
        give it back with an error below -120 dB. Of a clip that ends in the middle of a sound the last 40 ms are wrong
        (error -20 dB or worse there), since the bands lack what rings on; before them it is about -70 dB. Frequencies
        at which all filters together have less than 1e-4 of their greatest power are lost.

        Raises ValueError for bands of another shape.
        """
        if bands.ndim < 2 or bands.shape[-2] != self.n_filters:
            raise ValueError(f"expected bands of shape (..., {self.n_filters}, samples), got {tuple(bands.shape)}")
        bands = bands.real if bands.is_complex() else bands
        with torch.autocast(bands.device.type, enabled=False):
            decay, frequency = self._per_sample()
            return signals.synthesise(bands.to(decay.dtype), decay, frequency, self._gains(decay), self.order)

    def stream(self, analytic: bool = False) -> Stream:
        """What filters a signal block by block: `stream = layer.stream(); outputs = stream(block)`.

        Notebook: 04_learnable_gammatone
        """
        decay, frequency = self._per_sample()
        return Stream(decay, frequency, self._gains(decay), self.order, analytic)

    @torch.no_grad()
    def to_conv(self, seconds: float = 0.125) -> GammatoneConvolution:
        """A plain, frozen convolution with the first `seconds` of the filters' responses, for `torch.export` and ONNX.

        It gives the layer's images but for the tails that are cut off: `impulse_responses` shows how long they are.
        Raises ValueError for less than a sample.

        Notebook: 04_learnable_gammatone
        """
        if round(number("seconds", seconds, above=0) * self.sample_rate) < 1:
            raise ValueError(f"seconds {seconds:g} must last a sample at {self.sample_rate} Hz")
        pcen = self.pcen if self.compression == "pcen" else None
        return GammatoneConvolution(self.impulse_responses(seconds), self.pooling, self.compression, self.eps, pcen)

    @property
    def pcen(self) -> Pcen:
        """The values of per-channel energy normalisation, where that is the compression."""
        return Pcen.of(self.raw_pcen)

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

        Centre frequencies and bandwidths get ten times `lr` or more: their parameters span the whole range in 10 to 40
        units, where a network's weights move by hundredths. With `even_steps` and Adam a centre frequency moves by up
        to 30 `lr` ERB a step. None gets weight decay, which would pull all filters to one place.
        """
        return [
            {"params": [getattr(self, f"raw_{name}")], "lr": self._scale.rates[name] * lr, "weight_decay": 0.0}
            for name in self.learnable
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
            f"learns {', '.join(self.learnable) or 'nothing'}{' in even steps' if self.even_steps else ''}, "
            f"backend {self.backend}"
        )

    def _value(self, name: str) -> Tensor:
        return self._ranges[name].value(getattr(self, f"raw_{name}"))

    def _bandwidths(self, centres: Tensor) -> Tensor:
        return scales.erb(centres) * self._value("bandwidth").exp()

    def _gains(self, decay: Tensor) -> Tensor:
        gains = self._value("gain").exp()
        return gains if self.amplitude is None else gains * self.amplitude / response.level(decay, self.order)

    def _per_sample(self) -> tuple[Tensor, Tensor]:
        """Decay and frequency of the filters in radians a sample, as in `response`."""
        centres = self.centre_frequencies
        radians = 2 * math.pi / self.sample_rate
        return self._bandwidths(centres) * radians, centres * radians

    def _method(self, device: torch.device) -> str:
        if torch.compiler.is_exporting():
            return "export"
        if self.backend in ("reference", "fft"):
            return self.backend
        return "recursive" if self.precision == torch.float32 and operator.has_kernel(device) else "fft"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.compression == "pcen":  # old states have none
            state_dict.setdefault(f"{prefix}raw_pcen", torch.zeros_like(self.raw_pcen))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _require_known(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(map(str, known))}")
