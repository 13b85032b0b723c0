"""Gradient reversal, adversarial and balanced training, and the probe that says what was gained."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from course_lib.clips import Clips
from course_lib.evaluation.probes import probe
from course_lib.layers import GradientReversal
from course_lib.models import CRNN, DomainAdversarial, LeanSpectNet, LogMelCNN, ModelError, SampleCNN, SpectNet
from course_lib.models.base import Classifier
from course_lib.training import History, Settings, TrainingError, fit

SAMPLES = 8


def clips_of(waveforms: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Clips:
    """Clips of the rows of `waveforms`, each a recording of its own."""
    count, samples = waveforms.shape
    return Clips(
        samples=torch.from_numpy(waveforms.clip(-32768, 32767).astype(np.int16).ravel()),
        start=samples * torch.arange(count),
        length=torch.full((count,), samples),
        labels=torch.from_numpy(labels),
        recording=torch.arange(count),
        clip_samples=samples,
        sample_rate=1000,
        fingerprint="made",
        groups=torch.from_numpy(groups),
        group_names=tuple(f"device {number}" for number in range(groups.max() + 1)),
    )


def confounded(count: int, agreement: float, seed: int) -> Clips:
    """Clips whose sample 0 tells the class, roughly, and sample 1 the device, clearly; both are 0 or 1.

    In a fraction `agreement` of them class and device are the same number.
    """
    random = np.random.default_rng(seed)
    groups = np.arange(count) % 2
    labels = np.where(random.random(count) < agreement, groups, 1 - groups)
    waveforms = random.normal(0, 1, (count, SAMPLES))
    waveforms[:, 0] += 2 * labels - 1
    waveforms[:, 1] = 0.3 * waveforms[:, 1] + 2 * groups - 1
    return clips_of(4000 * waveforms, labels, groups)


class OneFeature(Classifier):
    """A weighted sum of the samples, and two logits of it."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = nn.Identity()
        self.sum, self.classify = nn.Linear(SAMPLES, 1), nn.Linear(1, 2)

    def embed(self, waveforms: Tensor) -> Tensor:
        return self.sum(8 * self.front_end(waveforms))


def adversarial(weight: float = 1.0, n_domains: int = 2, seed: int = 0, **options: float) -> DomainAdversarial:
    torch.manual_seed(seed)
    return DomainAdversarial(OneFeature(), n_domains, hidden=20, weight=weight, **options)


def train(model: nn.Module, clips: Clips, seed: int = 0, **changes: object) -> History:
    form = {"epochs": 3, "batch_size": 50, "learning_rate": 0.02, "schedule": "one_cycle", "precision": "32-true"}
    names = ("checkpoint", "on_epoch", "extra", "validation")
    options = {name: changes.pop(name) for name in names if name in changes}
    how = Settings(**(form | changes))
    return fit(model, clips, settings=how, seed=seed, accelerator="cpu", progress=False, **options)


# Gradient reversal


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.0])
def test_features_pass_and_their_gradient_is_turned_round(weight: float) -> None:
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    layer = GradientReversal(weight)
    output = layer(features)
    assert torch.equal(output, features)
    output.square().sum().backward()
    torch.testing.assert_close(features.grad, -weight * 2 * features.detach())


def test_the_weight_can_change_between_two_passes() -> None:
    features, layer = torch.ones(2, requires_grad=True), GradientReversal(1.0)
    first = layer(features)
    layer.weight = 0.25
    layer(features).sum().backward()
    first.sum().backward()  # made with the weight of its time
    assert features.grad.tolist() == [-1.25, -1.25]


# The model


@pytest.mark.parametrize(
    "network",
    [
        lambda: SpectNet(3, 4),
        lambda: LeanSpectNet(3, 4, (4, 8), 8),
        lambda: LogMelCNN(3),
        lambda: CRNN(3, 20, (4, 8), 8),
        lambda: SampleCNN(3, 2500, width=4),
    ],
    ids=["SpectNet", "LeanSpectNet", "LogMelCNN", "CRNN", "SampleCNN"],
)
def test_any_network_gets_a_second_head(network) -> None:
    torch.manual_seed(0)
    model, waveforms = DomainAdversarial(network(), n_domains=5), torch.randn(4, 2500) / 10
    losses = model.loss(waveforms, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 4, 2, 1]))
    assert model(waveforms).shape == (4, 3) and model.domain_logits(model.embed(waveforms)).shape == (4, 5)
    assert losses.total == sum(loss for loss, _ in losses.heads.values()) and list(losses.heads) == ["train", "domain"]
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    assert torch.equal(model(waveforms), model.network(waveforms))
    assert torch.equal(model.embed(waveforms), model.network.embed(waveforms))
    assert model.front_end is model.network.front_end


@pytest.mark.parametrize(("n_domains", "weight"), [(0, 1.0), (2, -1.0), (2, math.nan), (2, math.inf)])
def test_an_impossible_domain_head_is_refused(n_domains: int, weight: float) -> None:
    with pytest.raises(ValueError, match="n_domains is at least 1 and weight at least 0"):
        adversarial(weight, n_domains)


def test_the_domain_head_descends_and_the_features_ascend() -> None:
    model, waveforms, domains = adversarial(0.5), torch.randn(6, SAMPLES), torch.arange(6) % 2
    functional.cross_entropy(model.domain_logits(model.embed(waveforms)), domains).backward()
    turned = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    head = model.domain(model.network.embed(waveforms))
    names, values = zip(*((name, value) for name, value in model.named_parameters() if name in turned), strict=True)
    plain = dict(zip(names, torch.autograd.grad(functional.cross_entropy(head, domains), values), strict=True))
    assert any(name.startswith("network.sum") for name in turned)
    for name, gradient in turned.items():
        factor = -0.5 if name.startswith("network") else 1.0
        torch.testing.assert_close(gradient, factor * plain[name])


def test_the_weight_follows_the_progress_of_the_training() -> None:
    model = adversarial(weight=3.0)
    for progress in (0.0, 0.1, 0.5, 1.0):
        model.set_progress(progress)
        assert model.reversal.weight == pytest.approx(3 * math.tanh(5 * progress))


def test_dropout_in_front_of_the_last_layer_stays_on_while_training() -> None:
    torch.manual_seed(0)
    model, waveforms = DomainAdversarial(LogMelCNN(3, dropout=0.5), 2), torch.randn(4, 2500)
    first, again = (model.loss(waveforms, torch.arange(4) % 3, torch.arange(4) % 2).heads for _ in range(2))
    assert first["train"][0] != again["train"][0]
    assert first["domain"][0] == again["domain"][0]


# Training it


def test_adversarial_training_hides_the_device_and_helps_where_class_and_device_are_apart() -> None:
    train_side, test_side = confounded(600, 0.9, seed=0), confounded(600, 0.5, seed=1)
    waveforms, labels = test_side.batch(torch.arange(600))
    probes, accuracies, domain_accuracies = [], [], []
    for weight in (0.0, 1.0):
        model = adversarial(weight)
        history = train(model, train_side, epochs=10)
        with torch.no_grad():
            probes.append(probe(model.embed(waveforms), test_side.groups, test_side.recording).accuracy)
            accuracies.append((model(waveforms).argmax(dim=1) == labels).float().mean().item())
        domain_accuracies.append(history.table()["domain_accuracy"].iloc[-1])
    assert probes[0] > 0.68 and probes[1] < 0.6
    assert accuracies[1] > accuracies[0] + 0.02
    assert domain_accuracies[1] < domain_accuracies[0] - 0.1


def test_the_history_of_a_domain_head() -> None:
    clips = confounded(100, 0.5, seed=0)
    model = adversarial()
    with torch.no_grad():
        model.domain[2].weight.zero_()
        model.domain[2].bias.copy_(torch.tensor([2.0, 0.0]))  # always says device 0, which is right half the time
    table = train(model, clips, validation=clips, epochs=1, learning_rate=1e-12).table()
    assert table["domain_accuracy"].tolist() == [0.5]
    assert table["domain_loss"].tolist() == pytest.approx([math.log(1 + math.exp(-2)) + 1], rel=1e-5)
    assert table["validation_loss"].tolist() == pytest.approx(table["train_loss"].tolist(), rel=1e-4)
    assert not [name for name in train(OneFeature(), clips).table() if "domain" in name]


def test_averaged_weights_work_with_a_domain_head() -> None:
    clips = confounded(100, 0.9, seed=0)
    history = train(adversarial(), clips, validation=clips, averaging=0.9, keep="best")
    assert history.epochs[-1].validation_accuracy > 0.5


def test_more_groups_than_domains_are_refused() -> None:
    clips = confounded(20, 0.5, seed=0)
    clips.groups[3] = 4
    with pytest.raises(ModelError, match="distinguishes 2 domains but the clips have 5 groups; set n_domains"):
        train(adversarial(), clips)


def test_an_interrupted_adversarial_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    clips, how = confounded(60, 0.7, seed=0), {"balance": "class_and_group", "batch_size": 20}
    whole, interrupted = adversarial(), adversarial()
    history = train(whole, clips, **how)

    def stop(history: History) -> None:
        if len(history.epochs) == 2:
            raise KeyboardInterrupt

    kept = tmp_path / "kept.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, clips, checkpoint=kept, on_epoch=stop, **how)
    resumed = adversarial(seed=1)
    again = train(resumed, clips, checkpoint=kept, **how)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert again.table()["domain_loss"].tolist() == history.table()["domain_loss"].tolist()


def test_a_head_with_weight_0_watches_and_changes_nothing() -> None:
    clips, how = confounded(200, 0.9, seed=0), {"balance": "class_and_group", "averaging": 0.9}
    torch.manual_seed(0)
    alone = OneFeature()
    train(alone, clips, **how)
    watched = adversarial(weight=0.0, head_learning_rate=0.02)
    history = train(watched, clips, **how)
    assert history.table()["domain_accuracy"].iloc[-1] > 0.6
    for name, tensor in alone.state_dict().items():
        assert torch.equal(watched.network.state_dict()[name], tensor), name


def test_the_head_can_have_a_constant_learning_rate_of_its_own() -> None:
    model, rates = adversarial(head_learning_rate=0.05), []

    class Witnessed(type(model)):
        def loss(self, *batch: object) -> object:
            rates.append([group["lr"] for group in optimizers[0].param_groups])
            return super().loss(*batch)

    optimizers: list[torch.optim.Optimizer] = []
    how = Settings(learning_rate=0.02, schedule="one_cycle", batch_size=10, epochs=2, precision="32-true")
    make = Settings.optimizer_for

    def kept(settings: Settings, module: nn.Module) -> torch.optim.Optimizer:
        optimizers.append(make(settings, module))
        return optimizers[0]

    model.__class__ = Witnessed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "optimizer_for", kept)
        fit(model, confounded(100, 0.9, seed=0), settings=how, accelerator="cpu", progress=False)
    network, head = zip(*rates, strict=True)
    assert set(head) == {0.05} and len(rates) == 20
    assert network == pytest.approx([how.learning_rate_at(step / 10) for step in range(20)])
    with pytest.raises(ValueError, match="head_learning_rate is 0"):
        adversarial(head_learning_rate=0)


# Unlabelled clips of the domain to adapt to


def with_target(labelled: int, unlabelled: int) -> Clips:
    """Clips of devices 0 and 1 with labels, and of device 2 without."""
    clips = confounded(labelled + unlabelled, 0.7, seed=0)
    rows = np.arange(labelled, labelled + unlabelled)
    clips = clips.unlabelled(rows)
    clips.groups[rows] = 2
    return clips


def test_unlabelled_clips_go_through_the_domain_head_only() -> None:
    model, clips = adversarial(0.5, n_domains=3), with_target(6, 3)
    waveforms, labels = clips.batch(torch.arange(9))
    assert labels.tolist()[6:] == [-1, -1, -1]
    losses = model.loss(waveforms, labels, clips.groups, 0.1)
    logits, domains = model(waveforms), model.domain_logits(model.embed(waveforms))
    of_class = functional.cross_entropy(logits[:6], labels[:6], label_smoothing=0.1)
    of_domain = functional.cross_entropy(domains, clips.groups, label_smoothing=0.1)
    torch.testing.assert_close(losses.heads["train"][0], of_class)
    torch.testing.assert_close(losses.total, of_class + of_domain)
    assert losses.heads["train"][1] == (logits[:6].argmax(dim=1) == labels[:6]).sum()
    none_labelled = model.loss(waveforms[6:], labels[6:], clips.groups[6:])
    none_labelled.total.backward()
    assert none_labelled.heads["train"][0] == 0 and none_labelled.total > 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert not any(parameter.grad.any() for parameter in model.classify.parameters())


def test_the_history_counts_labelled_clips_for_the_class_and_all_for_the_domain() -> None:
    clips = with_target(80, 40)
    model = adversarial(n_domains=3)
    with torch.no_grad():
        model.classify.weight.zero_()
        model.classify.bias.copy_(torch.tensor([0.0, 2.0]))  # always says class 1
        model.domain[2].weight.zero_()
        model.domain[2].bias.copy_(torch.tensor([0.0, 0.0, 2.0]))  # always says device 2
    table = train(model, clips, epochs=1, learning_rate=1e-12).table()
    labels = clips.labels[:80]
    assert table["train_accuracy"].tolist() == pytest.approx([(labels == 1).float().mean().item()])
    loss = functional.cross_entropy(torch.tensor([[0.0, 2.0]]).expand(80, 2), labels).item()
    assert table["train_loss"].tolist() == pytest.approx([loss], rel=1e-4)
    assert table["domain_accuracy"].tolist() == pytest.approx([40 / 120])


def test_unlabelled_clips_are_a_cell_of_their_own_and_make_no_epoch_longer() -> None:
    labels, groups = np.append(LABELS, [0] * 300), np.append(GROUPS, [2] * 300)
    clips = clips_of(np.tile(np.arange(900)[:, None], SAMPLES), labels, groups).unlabelled(np.arange(600, 900))
    witness = Witness()
    head = DomainAdversarial(_Watched(witness), 3, weight=0.0)
    train(head, clips, epochs=4, balance="class_and_group")
    assert len(witness.shown) == 4 * 600
    assert shares(witness.shown, np.append(LABELS, [-1] * 300), groups) == pytest.approx(
        {(0, 0): 0.2, (0, 1): 0.2, (1, 0): 0.2, (1, 1): 0.2, (-1, 2): 0.2}, abs=0.04
    )


def test_the_labels_of_unlabelled_clips_change_nothing() -> None:
    trained = []
    for flipped in (False, True):
        clips = confounded(90, 0.7, seed=0)
        clips.groups[60:] = 2
        if flipped:
            clips.labels[60:] = 1 - clips.labels[60:]
        model = adversarial(n_domains=3)
        train(model, clips.unlabelled(np.arange(60, 90)), balance="class_and_group")
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_what_cannot_be_learned_without_labels_is_refused() -> None:
    clips = with_target(6, 3)
    with pytest.raises(TrainingError, match="no clips to train on"):
        train(adversarial(n_domains=3), clips.unlabelled(np.arange(9)))
    with pytest.raises(TrainingError, match="mixup mixes labels, and some clips have none"):
        train(adversarial(n_domains=3), clips, mixup=0.2)


def test_unlabelled_sound_of_the_new_device_helps_where_the_devices_of_the_training_cannot() -> None:
    # On devices 0 and 1, which sound alike, sample 1 tells the class as well as sample 0; on device 2 it is constant.
    random = np.random.default_rng(0)
    groups, labels = np.repeat([0, 1, 2], 400), random.integers(0, 2, 1200)
    waveforms = random.normal(0, 0.5, (1200, SAMPLES))
    waveforms[:, 0] += 2 * labels - 1
    waveforms[:, 1] += np.where(groups == 2, 3, 2 * labels - 1)
    every_device = clips_of(2000 * waveforms, labels, groups).unlabelled(np.arange(800, 1200))
    accuracies = []
    for weight, clips in ((0.0, every_device), (1.0, every_device[:800]), (1.0, every_device)):
        model = adversarial(weight, n_domains=3, head_learning_rate=0.02)
        train(model, clips, balance="class_and_group", epochs=15)
        with torch.no_grad():
            predicted = model(every_device.batch(torch.arange(800, 1200))[0]).argmax(dim=1)
        accuracies.append((predicted.numpy() == labels[800:]).mean())
    watched, without_target, with_target = accuracies
    assert max(watched, without_target) < 0.65 and with_target > 0.8


# Balanced draws


class Witness(nn.Module):
    """Notes which clips it was shown: the numbers in their first sample."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2))
        self.shown: list[int] = []

    def forward(self, waveforms: Tensor) -> Tensor:
        self.shown += (waveforms[:, 0] * 32768).round().int().tolist()
        return self.scale.expand(len(waveforms), 2)


class _Watched(Classifier):
    """A classifier whose waveforms a witness notes."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.front_end, self.witness, self.classify = nn.Identity(), witness, nn.Linear(2, 2)

    def embed(self, waveforms: Tensor) -> Tensor:
        return self.witness(waveforms)


LABELS = np.repeat([0, 0, 1, 1], [500, 60, 30, 10])
GROUPS = np.repeat([0, 1, 0, 1], [500, 60, 30, 10])


def shown(balance: str, epochs: int = 1, seed: int = 0, extra: Clips | None = None) -> list[int]:
    clips = clips_of(np.tile(np.arange(600)[:, None], SAMPLES), LABELS, GROUPS)
    model, many = Witness(), {"extra": extra, "extra_per_epoch": 7} if extra is not None else {}
    train(model, clips, seed, epochs=epochs, balance=balance, **many)
    return model.shown


def shares(numbers: list[int], *keys: np.ndarray) -> dict[tuple[int, ...], float]:
    counts = Counter(tuple(int(key[number]) for key in keys) for number in numbers)
    return {cell: count / len(numbers) for cell, count in counts.items()}


def test_without_balance_an_epoch_is_every_clip_once() -> None:
    assert sorted(shown("none")) == list(range(600))


def test_balanced_by_class_both_classes_are_equally_likely() -> None:
    numbers = shown("class", epochs=4)
    assert len(numbers) == 4 * 600
    assert shares(numbers, LABELS) == pytest.approx({(0,): 0.5, (1,): 0.5}, abs=0.04)
    # Within a class every clip is equally likely, so that group 0 keeps its share of it.
    in_first = [number for number in numbers if LABELS[number] == 0]
    assert shares(in_first, GROUPS)[0,] == pytest.approx(500 / 560, abs=0.04)


def test_balanced_by_class_and_group_all_cells_are_equally_likely() -> None:
    found = shares(shown("class_and_group", epochs=4), LABELS, GROUPS)
    assert found == pytest.approx({(0, 0): 0.25, (0, 1): 0.25, (1, 0): 0.25, (1, 1): 0.25}, abs=0.04)


def test_balanced_draws_depend_on_seed_and_epoch_only() -> None:
    twice = shown("class_and_group", epochs=2)
    assert shown("class_and_group", epochs=2) == twice
    assert shown("class_and_group", seed=1, epochs=2) != twice
    assert twice[:600] != twice[600:]


def test_extra_clips_join_balanced_draws() -> None:
    extra = clips_of(np.full((9, SAMPLES), 1000), np.zeros(9, int), np.zeros(9, int))
    numbers = shown("class", extra=extra)
    assert len(numbers) == 607 and numbers.count(1000) == 7


def test_an_unknown_balance_is_refused() -> None:
    with pytest.raises(ValueError, match="balance"):
        Settings(balance="device")


def test_a_result_depends_on_balance_only_where_it_is_used() -> None:
    assert "balance" not in Settings().identity()
    assert Settings(balance="class").identity()["balance"] == "class"
    assert Settings(l1_penalty=0.1, epochs=4).identity() == {"l1_penalty": 0.1, "epochs": 4}


# The probe


def embedded(separation: float, per_group: tuple[int, ...] = (30, 30, 30), segments: int = 3) -> tuple[np.ndarray, ...]:
    """Embeddings of segments: a place for each group, `separation` apart, and a place for each recording."""
    random = np.random.default_rng(0)
    groups = np.repeat([f"device-{letter}" for letter in "abc"[: len(per_group)]], per_group)
    places = separation * np.eye(8)[np.unique(groups, return_inverse=True)[1]]
    recordings = places + random.normal(0, 1, (len(groups), 8))
    embeddings = np.repeat(recordings, segments, axis=0) + random.normal(0, 0.01, (segments * len(groups), 8))
    return embeddings, np.repeat(groups, segments), np.repeat(np.arange(len(groups)), segments)


def test_groups_that_lie_apart_are_told_apart() -> None:
    found = probe(*embedded(8.0))
    assert found.accuracy > 0.97 and found.chance == pytest.approx(1 / 3)
    assert found.low < found.accuracy <= found.high <= 1
    assert (found.recordings, found.features) == (90, 8)


def test_the_interval_of_a_probe_is_over_recordings_not_over_their_segments() -> None:
    few, many = (probe(*embedded(1.0, segments=segments)) for segments in (1, 9))
    assert few.high - few.low == pytest.approx(many.high - many.low, rel=0.2)
    # The proportion of 90 recordings that are as many of each group.
    expected = stats.binomtest(round(90 * few.accuracy), 90).proportion_ci(method="wilson")
    assert (few.low, few.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_segments_of_a_recording_do_not_give_it_away() -> None:
    # Every recording has a place of its own: with its segments on both sides, a nearest neighbour is always right.
    assert probe(*embedded(0.0)).accuracy < 0.5


def test_a_frequent_group_does_not_raise_the_accuracy() -> None:
    found = probe(*embedded(0.0, per_group=(150, 12)))
    assert found.chance == 0.5 and 0.3 < found.accuracy < 0.7


def test_a_probe_repeats_and_takes_tensors() -> None:
    embeddings, groups, recordings = embedded(1.0)
    first = probe(embeddings, groups, recordings)
    assert probe(torch.from_numpy(embeddings), groups, torch.from_numpy(recordings)) == first


def test_a_group_with_too_few_recordings_is_left_out() -> None:
    embeddings, groups, recordings = embedded(2.0, per_group=(30, 30, 4))
    without = groups != "device-c"
    assert probe(embeddings, groups, recordings) == probe(embeddings[without], groups[without], recordings[without])
    assert probe(embeddings, groups, recordings, folds=4).chance == pytest.approx(1 / 3)


def test_what_cannot_be_probed_is_refused() -> None:
    embeddings, groups, recordings = embedded(1.0, per_group=(30, 4))
    with pytest.raises(ValueError, match=r"needs 5 recordings of each .* device-a 30, device-b 4"):
        probe(embeddings, groups, recordings)
    assert 0 <= probe(embeddings, groups, recordings, folds=4).accuracy <= 1
    with pytest.raises(ValueError, match="device-a 10"):
        probe(*embedded(1.0, per_group=(10,)))
    with pytest.raises(ValueError, match="expected embeddings"):
        probe(embeddings[:, 0], groups, recordings)
