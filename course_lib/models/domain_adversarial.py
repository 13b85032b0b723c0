"""A network that is kept from knowing which device made a recording."""

from __future__ import annotations

import math

from torch import Tensor, nn

from course_lib.layers import GradientReversal


class DomainAdversarial(nn.Module):
    """A network with a second head that guesses the domain, and gradients that make this hard.

    Waveforms (batch, samples) -> logits (batch, n_classes); while training also domain logits (batch, n_domains), as
    `training.fit` expects. `network` has `embed`, features of waveforms, and `classify`, logits of those. Between
    features and the domain head, one dense layer of `hidden` units, the gradient is reversed and multiplied by up to
    `weight`, as `set_progress` says. Source: Ganin et al. 2016, "Domain-adversarial training of neural networks".

    Notebook: 06_adversarial_devices
    """

    def __init__(self, network: nn.Module, n_domains: int, hidden: int = 100, weight: float = 1.0) -> None:
        super().__init__()
        self.network, self.n_domains, self.weight = network, n_domains, weight
        (features,) = {layer.in_features for layer in network.classify.modules() if isinstance(layer, nn.Linear)}
        self.reversal = GradientReversal(weight)
        self.domain = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, n_domains))

    @property
    def front_end(self) -> nn.Module:
        """The front end of the network."""
        return self.network.front_end

    def set_progress(self, progress: float) -> None:
        """Weigh the reversed gradient as is right at this point of the training, from 0 (begin) to 1 (end).

        2 / (1 + exp(-10 progress)) - 1 times `weight`: at first the domain head learns in peace.
        """
        self.reversal.weight = self.weight * (2 / (1 + math.exp(-10 * progress)) - 1)

    def embed(self, waveforms: Tensor) -> Tensor:
        """The features of the network, shape (batch, features)."""
        return self.network.embed(waveforms)

    def forward(self, waveforms: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.training:
            return self.network(waveforms)
        features = self.network.embed(waveforms)
        # Some networks have the dropout in front of their last layer apart from `classify`.
        dropout = getattr(self.network, "dropout", nn.Identity())
        return self.network.classify(dropout(features)), self.domain(self.reversal(features))
