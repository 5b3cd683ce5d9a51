"""Normalisation layers for a block's activations (B, J, C). The paper's is "batch"."""

import math
from collections.abc import Callable

from torch import Tensor, nn

_GROUPS = 8


class PoseGroupNorm(nn.GroupNorm):
    """Group normalisation: (B, J, C) -> (B, J, C).

    Each pose has its own statistics, over its joints and a group of channels. There are 8 groups,
    or fewer if 8 does not divide C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(math.gcd(dim, _GROUPS), dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, C) -> (B, J, C)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class PoseBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, C) that also trains on a batch of one pose.

    One value a channel has no variance, so such a batch is normalised by the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        if self.training and x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


# Name for --norm_layer: C -> the layer. "batch" has statistics over poses and joints and takes rows
# (J B, C). "layer" has them over the channels of each joint. "group" is PoseGroupNorm.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "group": PoseGroupNorm,
}
