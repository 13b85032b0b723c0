"""Every network maps any batch of waveforms to logits; each has the size it is said to have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib import models
from course_lib.layers import LogMel
from course_lib.models import (
    CRNN,
    GammatoneCNN1d,
    GammatoneCNN2d,
    LeanSpectNet,
    LogMelCNN,
    PowerSpectrogramCNN,
    SampleCNN,
    SceneCNN,
    SpectNet,
    SpectrogramCNN,
    StridedSampleCNN,
)
from course_lib.models.base import Classifier, cross_entropy
from course_lib.training import state

SAMPLES = 2300
MAKE: dict[str, Callable[..., nn.Module]] = {
    "CRNN": lambda n_classes=10: CRNN(n_classes, 20, (8, 16), 16),
    "GammatoneCNN1d": lambda n_classes=10: GammatoneCNN1d(n_classes, 4, SAMPLES, dropout=0.1),
    "GammatoneCNN2d": lambda n_classes=10: GammatoneCNN2d(n_classes, 4, SAMPLES, dropout=0.1),
    "LeanSpectNet": lambda n_classes=10: LeanSpectNet(n_classes, 6, (4, 8, 16), 16, sample_rate=8000, band=(50, 4000)),
    "LogMelCNN": LogMelCNN,
    "PowerSpectrogramCNN": lambda n_classes=10: PowerSpectrogramCNN(n_classes, SAMPLES),
    "SampleCNN": lambda n_classes=10: SampleCNN(n_classes, SAMPLES, width=8),
    "SceneCNN": lambda n_classes=10: SceneCNN(n_classes, 40, 1, (8, 16, 16), sample_rate=8000, front_end=LogMel(8000)),
    "SpectNet": lambda n_classes=10: SpectNet(n_classes, 4, SAMPLES, dropout=0.1),
    "SpectrogramCNN": SpectrogramCNN,
    "StridedSampleCNN": lambda n_classes=10: StridedSampleCNN(n_classes, SAMPLES, stride=64, dropout=0.2),
}
every = pytest.mark.parametrize("name", MAKE)
# Names of the last layer, where dropout or flattening has a number of its own.
LAST_LAYER = dict.fromkeys(("GammatoneCNN1d", "GammatoneCNN2d", "LeanSpectNet", "SampleCNN", "SpectNet"), "classify.1")
LAST_LAYER["StridedSampleCNN"] = "classify.2"


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def made(name: str, n_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return MAKE[name](n_classes=n_classes).eval()


def tones(clips: int) -> tuple[Tensor, Tensor]:
    """Waveforms of a low, a middle or a high tone (classes 0, 1, 2), each with a phase of its own and some noise."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(clips) % 3
    phase = 6.28 * torch.rand(clips, 1, generator=random)
    waveforms = torch.sin((0.2 + 0.5 * labels[:, None]) * torch.arange(SAMPLES) + phase)
    return 0.3 * waveforms + 0.01 * torch.randn(clips, SAMPLES, generator=random), labels


# All of them


def test_no_network_is_forgotten_here() -> None:
    networks = {name for name in models.__all__ if isinstance(getattr(models, name), type(nn.Module))}
    networks = {name for name in networks if issubclass(getattr(models, name), nn.Module)}
    assert set(MAKE) | {"DomainAdversarial"} == networks  # that one is made of the others


@every
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_waveforms_become_logits(name: str, batch: int) -> None:
    model = made(name, 4)
    with torch.no_grad():
        logits = model(torch.randn(batch, SAMPLES) / 10)
    assert logits.shape == (batch, 4) and logits.dtype == torch.float32 and logits.isfinite().all()


@every
def test_evaluation_repeats_and_clips_do_not_influence_each_other(name: str) -> None:
    model, waveforms = made(name), torch.randn(4, SAMPLES) / 10
    with torch.no_grad():
        logits = model(waveforms)
        assert torch.equal(model(waveforms), logits)
        torch.testing.assert_close(model(waveforms[2:3]), logits[2:3], rtol=1e-4, atol=1e-5)
    assert len(torch.unique(logits, dim=0)) == 4


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_in_another_precision_give_logits_in_it(name: str, dtype: torch.dtype) -> None:
    model, (waveforms, _) = made(name).to(dtype), tones(3)
    with torch.no_grad():
        for given in (waveforms, waveforms.to(dtype)):
            logits = model(given)
            assert logits.dtype == dtype and logits.isfinite().all()


@every
def test_silence_has_finite_logits(name: str) -> None:
    with torch.no_grad():
        assert made(name)(torch.zeros(1, SAMPLES)).isfinite().all()


@every
@pytest.mark.parametrize("waveforms", [torch.zeros(1, 100), torch.zeros(SAMPLES), torch.zeros(1, SAMPLES).short()])
def test_what_is_no_batch_of_waveforms_is_refused(name: str, waveforms: Tensor) -> None:
    with pytest.raises(ValueError, match="samples"):
        made(name)(waveforms)


@every
def test_every_parameter_learns(name: str) -> None:
    model, (waveforms, labels) = made(name).train(), tones(6)
    functional.cross_entropy(model(waveforms), labels).backward()
    for found, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), found


@every
def test_three_tones_are_learnt_in_a_few_steps(name: str) -> None:
    model, (waveforms, labels) = made(name, 3).train(), tones(12)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = functional.cross_entropy(model(waveforms), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < 0.4 * losses[0]:
            break
    assert losses[-1] < 0.4 * losses[0], losses


@every
def test_the_logits_are_made_of_the_features(name: str) -> None:
    model, waveforms = made(name), torch.randn(2, SAMPLES) / 10
    assert isinstance(model, Classifier)
    features = model.embed(waveforms)
    assert features.ndim == 2 and features.shape[1] == model.last_layer.in_features
    torch.testing.assert_close(model(waveforms), model.classify(features))


@every
def test_dropout_in_front_of_the_last_layer_belongs_to_the_last_layers(name: str) -> None:
    model = made(name).train()
    features = torch.randn(2, model.last_layer.in_features)
    dropout = [layer for layer in model.classify.modules() if isinstance(layer, nn.Dropout)]
    assert len(dropout) == 1
    dropout[0].p = 0.5
    assert not torch.equal(model.classify(features), model.classify(features))


@every
def test_the_names_and_sizes_of_weights_are_those_of_weights_that_are_kept(name: str) -> None:
    # Dropout has no weights, so that those of the last layer bear the names of one that stood alone.
    assert [key for key in made(name).state_dict() if key.startswith("classify")] == [
        f"{LAST_LAYER.get(name, 'classify')}.{key}" for key in ("weight", "bias")
    ]


KEPT = sorted((Path(__file__).parent.parent / "results").glob("[!.]*/**/*.safetensors"))  # .unfinished is another's


@pytest.mark.parametrize("path", KEPT, ids=lambda path: "-".join(path.relative_to(KEPT[0].parents[3]).parts[:2]))
def test_the_weights_that_are_kept_have_the_names_and_sizes_of_their_model(path: Path) -> None:
    form = json.loads(path.with_suffix(".json").read_text())
    name, classes = form["form"]["model"]["name"], len(form["confusion"])
    settings = form["form"]["model"]["settings"]
    tensors, _ = state.load(path)
    network = getattr(models, name)(n_classes=classes, **settings).state_dict()
    ours, theirs = (
        {key: tuple(tensor.shape) for key, tensor in each.items() if not key.startswith("front_end")}
        for each in (network, tensors)
    )
    assert ours == theirs


def test_a_batch_has_a_loss_for_each_head() -> None:
    model, (waveforms, labels) = made("LogMelCNN", 3), tones(6)
    losses = model.loss(waveforms, labels, torch.zeros(6, dtype=torch.int64), label_smoothing=0.1)
    logits = model(waveforms)
    assert losses.total.item() == pytest.approx(functional.cross_entropy(logits, labels, label_smoothing=0.1).item())
    assert list(losses.heads) == ["train"] and losses.heads["train"][0] is losses.total
    assert losses.heads["train"][1].item() == (logits.argmax(dim=1) == labels).sum().item()


def test_shares_as_targets_are_the_mean_of_the_losses_of_their_classes() -> None:
    logits, first, second = torch.randn(8, 4), torch.randint(3, (8,)), torch.randint(3, (8,))
    share = torch.rand(8, 1)
    targets = share * functional.one_hot(first, 3) + (1 - share) * functional.one_hot(second, 3)
    loss, correct = cross_entropy(logits, targets, label_smoothing=0.2)  # the fourth class has no share
    each = [functional.cross_entropy(logits, label, label_smoothing=0.2, reduction="none") for label in (first, second)]
    torch.testing.assert_close(loss, (share[:, 0] * each[0] + (1 - share[:, 0]) * each[1]).mean())
    predicted = logits.argmax(dim=1)
    expected = share[:, 0] * (predicted == first) + (1 - share[:, 0]) * (predicted == second)
    torch.testing.assert_close(correct, expected.sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_of_short_logits_is_taken_in_float32(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(8, 4).to(dtype), torch.randint(4, (8,))
    assert torch.equal(cross_entropy(logits, labels)[0], cross_entropy(logits.float(), labels)[0])


# The spectrogram CNN


def test_the_spectrogram_cnn_has_the_published_number_of_parameters() -> None:
    assert parameters(SpectrogramCNN()) == 84_682
    assert parameters(SpectrogramCNN(n_classes=2)) == 84_682 - 8 * 1601


@pytest.mark.parametrize("samples", [256, 1000, 18_400])
def test_the_spectrogram_cnn_takes_clips_of_any_length(samples: int) -> None:
    model, waveforms = made("SpectrogramCNN"), torch.randn(2, samples)
    assert model(waveforms).shape == (2, 10)
    assert model.embed(waveforms).shape == (2, 1600)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, waveforms = SpectrogramCNN(3, dropout=0.5), torch.randn(2, 800)
    assert not torch.equal(model(waveforms), model(waveforms))
    torch.testing.assert_close(model.embed(waveforms), model.embed(waveforms))
    model.eval()
    assert torch.equal(model(waveforms), model(waveforms))


def test_a_front_end_of_ones_own() -> None:
    class Fold(nn.Module):
        def forward(self, waveforms: Tensor) -> Tensor:
            return waveforms.unflatten(1, (64, 64))

    model = SpectrogramCNN(5, front_end=Fold())
    assert model(torch.randn(2, 4096)).shape == (2, 5)
    assert parameters(model) == parameters(SpectrogramCNN(5))


# The convolutional recurrent network


def crnn_parameters(n_mels: int, channels: tuple[int, ...], hidden: int, classes: int) -> int:
    convolutions = sum(9 * one * other + 2 * other for one, other in zip((1, *channels), channels, strict=False))
    inputs = channels[-1] * (n_mels // 2 ** len(channels))
    one_way = 3 * hidden * (inputs + hidden + 2)  # three gates, each with two biases a unit
    return convolutions + 2 * one_way + (4 * hidden + 1) * classes


def test_the_crnn_counted_by_hand() -> None:
    assert parameters(CRNN()) == crnn_parameters(40, (16, 32, 64), 64, 10)
    assert parameters(CRNN(4, 32, (8, 12), 6)) == crnn_parameters(32, (8, 12), 6, 4)


@pytest.mark.parametrize("samples", [1000, 8000])
def test_the_crnn_takes_clips_of_any_length(samples: int) -> None:
    model = CRNN(3).eval()
    assert model.embed(torch.randn(2, samples)).shape == (2, 256)
    assert model(torch.randn(2, samples)).shape == (2, 3)


def test_the_crnn_hears_the_order_of_sounds_and_hears_in_both_directions() -> None:
    torch.manual_seed(0)
    model = CRNN(n_mels=16, channels=(4, 4), hidden=5, front_end=nn.Unflatten(1, (16, 24))).eval()
    images = torch.randn(1, 16, 24)
    with torch.no_grad():
        there, back = (model.embed(image.flatten(1)) for image in (images, images.flip(2)))
        assert not torch.allclose(there, back, atol=1e-3)
        model.recurrent.weight_ih_l0_reverse.zero_()
        assert not torch.allclose(model.embed(images.flatten(1)), there, atol=1e-3)


# The power-spectrogram CNN


def test_the_power_spectrogram_cnn_counted_by_hand() -> None:
    # 129 x 22 images of 5000 samples: 127 x 20, 63 x 10, 61 x 8, 30 x 4.
    convolutions = (9 + 1 + 2) * 32 + (9 * 32 + 1 + 2) * 64
    assert parameters(PowerSpectrogramCNN()) == convolutions + (64 * 30 * 4 + 1) * 128 + (128 + 1) * 10
    assert parameters(PowerSpectrogramCNN(2, SAMPLES)) == convolutions + (64 * 30 * 1 + 1) * 128 + (128 + 1) * 2


@pytest.mark.parametrize(("slow", "moved", "epsilon"), [(True, 0.01, 1e-3), (False, 0.1, 1e-5)])
def test_slow_batch_normalisation_moves_by_a_hundredth(slow: bool, moved: float, epsilon: float) -> None:
    model = PowerSpectrogramCNN(2, SAMPLES, slow_batch_norm=slow).train()
    first, normalise = model.features[0], model.features[1]
    waveforms = torch.randn(3, SAMPLES)
    model(waveforms)
    mean = first(model.front_end(waveforms)[:, None]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(normalise.running_mean, moved * mean, rtol=1e-3, atol=1e-6)
    assert [(layer.momentum, layer.eps) for layer in (normalise, model.features[5])] == [(moved, epsilon)] * 2


def test_the_power_spectrogram_cnn_takes_clips_of_its_length_only() -> None:
    for samples in (SAMPLES - 1, SAMPLES + 1):
        with pytest.raises(ValueError, match=f"built for clips of {SAMPLES} samples and got {samples}"):
            PowerSpectrogramCNN(clip_samples=SAMPLES)(torch.zeros(1, samples))


def test_with_log_it_sees_decibels() -> None:
    assert PowerSpectrogramCNN(clip_samples=SAMPLES).front_end.log
    assert not PowerSpectrogramCNN(clip_samples=SAMPLES, log=False).front_end.log


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_clip_of_which_nothing_is_left_is_refused_when_it_is_built_or_tried() -> None:
    for samples in (256, 1000, 2000, 2271):
        with pytest.raises((ValueError, RuntimeError)):
            PowerSpectrogramCNN(clip_samples=samples).eval()(torch.zeros(1, samples))
    assert PowerSpectrogramCNN(clip_samples=2272).eval()(torch.zeros(1, 2272)).shape == (1, 10)
