"""A running average of a model's weights, tested and saved in place of the weights themselves."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the weights and batch statistics of networks in training.

        average <- d average + (1 - d) weights,      d = min(decay, (1 + step) / (10 + step))

    d is smaller in the first steps, so that the average soon forgets the initial weights.

    Attributes:
        trained: the networks, by the key of their weights in a checkpoint.
        networks: their averages, by the same keys; in evaluation mode.
    """

    def __init__(self, trained: dict[str, nn.Module], decay: float) -> None:
        self.trained = trained
        self.decay = decay
        self.networks = {key: deepcopy(net).requires_grad_(False) for key, net in trained.items()}
        self._averages, self._weights = _values(self.networks), _values(trained)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step, numbered from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)


def _values(networks: dict[str, nn.Module]) -> list[Tensor]:
    """Weights and statistics, without integer counters."""
    states = (network.state_dict(keep_vars=True) for network in networks.values())
    return [t for state in states for t in state.values() if t.is_floating_point()]
