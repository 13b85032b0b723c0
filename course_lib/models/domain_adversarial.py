"""A network that is kept from knowing which device made a recording."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from course_lib.layers import GradientReversal
from course_lib.models.base import Classifier, Losses, ModelError, cross_entropy

if TYPE_CHECKING:
    from course_lib.clips import Clips


class DomainAdversarial(Classifier):
    """A network with a second head that predicts the domain, and features trained to make this hard.

    Waveforms (batch, samples) -> logits (batch, n_classes), those of `network`. Its loss adds that of a domain head on
    the features, with one dense layer of `hidden` units, which predicts `groups`. Between features and domain head
    the gradient is reversed and multiplied by up to `weight`, as `set_progress` says. With weight 0 the head only
    watches: the network learns as it would without. With `head_learning_rate` the head has that learning rate from the
    first step to the last; otherwise it follows the schedule of the network. Clips with label -1, such as unlabelled
    ones of a domain to adapt to, go through the domain head only.
    Source: Ganin et al. 2016, "Domain-adversarial training of neural networks".

    Notebook: 06_adversarial_devices
    """

    def __init__(
        self, network: Classifier, n_domains: int, hidden: int = 100, weight: float = 1.0,
        head_learning_rate: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if n_domains < 1 or not 0 <= weight < math.inf:
            raise ValueError(f"n_domains is at least 1 and weight at least 0, not {n_domains} and {weight}")
        if head_learning_rate is not None and not 0 < head_learning_rate < math.inf:
            raise ValueError(f"head_learning_rate is {head_learning_rate}; it must be a number above 0")
        self.network, self.n_domains, self.weight = network, n_domains, weight
        self.head_learning_rate = head_learning_rate
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

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The parameters of the domain head with their own constant learning rate, if they have one."""
        if self.head_learning_rate is None:
            return []
        return [{"params": list(self.domain.parameters()), "lr": self.head_learning_rate, "constant": True}]

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
        logits = self.classify(features)
        heads = {
            "train": cross_entropy(logits, labels, label_smoothing),
            "domain": cross_entropy(self.domain_logits(features), groups, label_smoothing),
        }
        if labels.ndim == 1 and (labels < 0).all():  # the mean over no labelled clip would be NaN
            heads["train"] = logits.sum() * 0.0, heads["train"][1]
        return Losses(heads["train"][0] + heads["domain"][0], heads)

    def require_outputs(self, clips: Clips) -> None:
        super().require_outputs(clips)
        groups = int(clips.groups.max()) + 1
        if groups > self.n_domains:
            raise ModelError(
                f"the model distinguishes {self.n_domains} domains but the clips have {groups} groups; set n_domains"
            )
