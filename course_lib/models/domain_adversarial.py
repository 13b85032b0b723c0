"""A network that is kept from knowing which device made a recording."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from course_lib.layers import GradientReversal
from course_lib.models.base import Classifier, Losses, ModelError, cross_entropy

if TYPE_CHECKING:
    from course_lib.clips import Clips


class DomainAdversarial(Classifier):
    """A network with a second head that predicts the domain, and features trained to make this hard.

    Waveforms (batch, samples) -> logits (batch, n_classes), those of `network`. Its loss adds that of a domain head on
    the features, with one dense layer of `hidden` units, which predicts `groups`. Between features and domain head
    the gradient is reversed and multiplied by up to `weight`, as `set_progress` says.
    Source: Ganin et al. 2016, "Domain-adversarial training of neural networks".

    Notebook: 06_adversarial_devices
    """

    def __init__(self, network: Classifier, n_domains: int, hidden: int = 100, weight: float = 1.0) -> None:
        super().__init__()
        if n_domains < 1 or not 0 <= weight < math.inf:
            raise ValueError(f"n_domains is at least 1 and weight at least 0, not {n_domains} and {weight}")
        self.network, self.n_domains, self.weight = network, n_domains, weight
        features = next(layer.in_features for layer in network.classify.modules() if isinstance(layer, nn.Linear))
        self.reversal = GradientReversal(weight)
        self.domain = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, n_domains))

    @property
    def front_end(self) -> nn.Module:
        return self.network.front_end

    @property
    def classify(self) -> nn.Module:
        return self.network.classify

    def embed(self, waveforms: Tensor) -> Tensor:
        return self.network.embed(waveforms)

    def domain_logits(self, features: Tensor) -> Tensor:
        """Features (batch, features) -> logits of the domains (batch, n_domains); the gradient is reversed."""
        return self.domain(self.reversal(features))

    def set_progress(self, progress: float) -> None:
        """Set the reversal weight for progress 0 to 1: 2 / (1 + exp(-10 progress)) - 1, times `weight`.

        At first the domain head trains almost undisturbed.
        """
        self.reversal.weight = self.weight * (2 / (1 + math.exp(-10 * progress)) - 1)

    def loss(self, waveforms: Tensor, labels: Tensor, groups: Tensor, label_smoothing: float = 0.0) -> Losses:
        """The cross-entropy of the classes plus that of the domains, as `Classifier.loss`; its heads: train, domain."""
        features = self.embed(waveforms)
        heads = {
            "train": cross_entropy(self.classify(features), labels, label_smoothing),
            "domain": cross_entropy(self.domain_logits(features), groups, label_smoothing),
        }
        return Losses(heads["train"][0] + heads["domain"][0], heads)

    def require_outputs(self, clips: Clips) -> None:
        super().require_outputs(clips)
        groups = int(clips.groups.max()) + 1
        if groups > self.n_domains:
            raise ModelError(
                f"the model distinguishes {self.n_domains} domains but the clips have {groups} groups; set n_domains"
            )
