"""Input channels that tell a network whose body it sees, where up is, and how exact the joints are.

They follow the channels of ``common.input_view`` and are zero for everything that is not known.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.input_view import rotate
from common.person import Known, PersonStatistics

_SCALE = 20.0  # bodies differ by some percent: this gives the channels the magnitude of the others
_HALF_SIGMA = 0.004  # screen units, 2 px at width 1,000: the channel of the noise is 1/2


@dataclass(frozen=True)
class ToldChannels:
    """What a network can be told; its checkpoints record it.

    Attributes:
        body: each joint has four more channels: the proportion of the bone that ends there, minus
            the mean of the training persons, times 20 (0 at the root); 1 if the proportions are
            known, else 0; the size over the mean size, minus 1, times 20; 1 if it is known, else 0.
            Where some proportions are known, the others are taken to be the means: a training tells
            all or none.
        gravity: each joint has three more channels: the upward direction in the space of the input
            view, a unit vector.
        noise: each joint has one more channel: s / (s + 2 px) of the standard deviation s of the 2D
            joints at image width 1,000, so that one pixel is told from none.
    """

    body: bool = False
    gravity: bool = False
    noise: bool = False

    @property
    def count(self) -> int:
        """Channels of a joint."""
        return 4 * self.body + 3 * self.gravity + self.noise

    def appended(
        self,
        inputs: Tensor,
        known: Known | None,
        rotation: Tensor | None,
        statistics: PersonStatistics | None,
        screen_sigma: float = 0.0,
    ) -> Tensor:
        """The network's input (B, J, C) -> the same with the channels behind it.

        Args:
            known: of the B poses; None where nothing is.
            rotation: (B, 3, 3) from camera space to that of the input view, None where it is that.
            statistics: of the training persons; needed for ``body``.
            screen_sigma: that of ``Known`` for the poses of which it is not known.
        """
        known, channels = known or Known(), [inputs]
        if self.body:
            channels += self._of_body(inputs, known, statistics)
        if self.gravity and known.up is None:
            channels.append(inputs.new_zeros(*inputs.shape[:2], 3))
        elif self.gravity:
            turned = rotate(known.up.unsqueeze(1), rotation).nan_to_num()
            channels.append(turned.expand(-1, inputs.shape[1], -1))
        if self.noise:
            sigma = known.screen_sigma
            if sigma is None:
                sigma = inputs.new_full(inputs.shape[:1], torch.nan)
            sigma = torch.where(sigma.isnan(), screen_sigma, sigma)
            channel = (sigma / (sigma + _HALF_SIGMA)).view(-1, 1, 1)
            channels.append(channel.expand(-1, inputs.shape[1], -1))
        return torch.cat(channels, dim=2)

    def _of_body(self, inputs: Tensor, known: Known, statistics: PersonStatistics) -> list[Tensor]:
        batch, joints, _ = inputs.shape
        if known.proportions is None and known.size is None:
            return [inputs.new_zeros(batch, joints, 4)]
        means = inputs.new_tensor([1.0, *statistics.proportions])
        proportions, size = means.new_full((batch, joints), torch.nan), known.size
        if known.proportions is not None:
            root = torch.full_like(known.proportions[:, :1], torch.nan)  # which has no bone
            proportions = torch.cat([root, known.proportions], dim=1) - means
        if size is None:
            size = means.new_full((batch,), torch.nan)
        size = (size / statistics.size - 1).unsqueeze(1).expand(-1, joints)
        return [_with_flag(_SCALE * values) for values in (proportions, size)]


def _with_flag(values: Tensor) -> Tensor:
    """Values (B, J) -> (B, J, 2): themselves, or 0 for NaN; and 1, or 0 in rows of NaN alone."""
    flag = (~values.isnan()).any(dim=1, keepdim=True).expand_as(values)
    return torch.stack([values.nan_to_num(), flag.to(values.dtype)], dim=2)
