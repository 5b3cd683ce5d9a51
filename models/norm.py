"""The normalisations of a block's activations (B, J, C); the paper's is "batch"."""

import math
from collections.abc import Callable

from torch import Tensor, nn

_GROUPS = 8


class PoseGroupNorm(nn.GroupNorm):
    """Group normalisation, (B, J, C) -> (B, J, C): each pose by itself, statistics over its joints
    and a group of channels; 8 groups, or fewer where C does not divide."""

    def __init__(self, dim: int) -> None:
        super().__init__(math.gcd(dim, _GROUPS), dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class PoseBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, C, ...) that also trains on a batch of one pose: one value has no
    spread, so that the running statistics serve."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


# C -> the layer. "batch": over poses and joints, on rows (B J, C). "layer": over the channels of
# each joint. "group": see above.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "group": PoseGroupNorm,
}
