"""What a training tells the network of the persons, the cameras and the 2D joints of a batch.

Something is withheld from most poses, so that one network learns to use what it is told and to do
without. The random numbers come from a generator of their own: the augmentation and the order of
the poses are the same without them.
"""

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from common.person import Known, proportions_and_size
from common.skeleton import BONE_GROUPS, Skeleton
from data.noise import PIXEL

_BODY_SHARE, _SIZE_SHARE, _UP_SHARE = 0.6, 0.4, 0.6  # of the poses that are told it
# Of the errors of what is told: exp(N(0, sigma)). The head's is that of the last epoch: a nod
# changes the distance of the head from the thorax, and a test person's is told as a mean.
_LENGTH_SIGMA, _HEAD_SIGMA, _SIZE_SIGMA = 0.01, 0.07, 0.015
_NOISE_SHARE = 0.25  # of the poses whose 2D joints get noise
_LEAST_NOISE, _MOST_NOISE = 0.3 * PIXEL, 15 * PIXEL  # its standard deviation, log-uniform
_HEAD = next(i for i, group in enumerate(BONE_GROUPS) if "Head" in group)


@dataclass(frozen=True)
class Telling:
    """What the network of a training can be told, see ``common.told_channels``.

    Attributes:
        last_epoch: its number; in it the told length of the head is less exact.
        noise: it can be told how exact the 2D joints are: see :meth:`with_noise`.
        screen_sigma: standard deviation of the 2D joints of the data set, screen units.
    """

    body: bool
    gravity: bool
    last_epoch: int
    noise: bool = False
    screen_sigma: float = 0.0

    def known_of(
        self,
        targets_3d: Tensor,
        up: Tensor,
        skeleton: Skeleton,
        epoch: int,
        batch_id: str,
    ) -> Known:
        """Draw what is told of the poses of a batch.

        Args:
            targets_3d: (B, J, 3) metres, as they are trained on.
            up: (B, 3) upward directions in camera space.
            batch_id: seeds the draws.
        """
        seed = zlib.crc32(batch_id.encode())
        draw = _Draw(len(up), torch.Generator(up.device).manual_seed(seed))
        proportions = size = told_up = None
        if self.body:
            proportions, size = proportions_and_size(targets_3d, skeleton)
            sigmas = up.new_full((len(BONE_GROUPS),), _LENGTH_SIGMA)
            if epoch == self.last_epoch:
                sigmas[_HEAD] = _HEAD_SIGMA
            errors = (sigmas * draw.normal(len(BONE_GROUPS))).exp()
            proportions = proportions * errors[:, skeleton.bone_groups()]
            proportions = proportions / proportions.mean(dim=1, keepdim=True)
            proportions = draw.withheld(proportions, _BODY_SHARE)
            size = size.unsqueeze(1) * (_SIZE_SIGMA * draw.normal(1)).exp()
            size = draw.withheld(size, _SIZE_SHARE).squeeze(1)
        if self.gravity:
            told_up = draw.withheld(up, _UP_SHARE)
        return Known(proportions, size, told_up)

    def with_noise(self, screen: Tensor, batch_id: str) -> tuple[Tensor, Tensor]:
        """2D joints (B, J, 2) with Gaussian noise of 0.3 to 15 px at image width 1,000 in a quarter
        of the poses, and what is told of each pose, the ``Known.screen_sigma`` (B,)."""
        seed = zlib.crc32(f"noise {batch_id}".encode())
        draw = _Draw(len(screen), torch.Generator(screen.device).manual_seed(seed))
        span = math.log(_MOST_NOISE / _LEAST_NOISE)
        sigma = _LEAST_NOISE * (span * draw.uniform(1)).exp()
        sigma = draw.withheld(sigma, _NOISE_SHARE).nan_to_num()
        noise = draw.normal(screen[0].numel()).view_as(screen)
        told = torch.hypot(sigma.squeeze(1), sigma.new_tensor(self.screen_sigma))
        return screen + sigma.unsqueeze(2) * noise, told


@dataclass(frozen=True)
class _Draw:
    """Random numbers for B poses."""

    count: int
    generator: torch.Generator

    def normal(self, columns: int) -> Tensor:
        shape = (self.count, columns)
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def uniform(self, columns: int) -> Tensor:
        shape = (self.count, columns)
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def withheld(self, values: Tensor, share: float) -> Tensor:
        """Values (B, n), NaN for all poses but a random share of them."""
        return torch.where(self.uniform(1) < share, values, torch.nan)
