"""What is known of a person beside the 2D joints: proportions, size, and where up is.

The length of a bone is a proportion of the body times the size of the body. Both can be known
apart: 2D joints alone tell the proportions of a person, and never the size.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from common.skeleton import Skeleton


@dataclass(frozen=True)
class Known:
    """What is known of the persons and cameras of B poses.

    None: unknown for all poses. NaN: unknown for that pose; then all its values of a row are NaN.

    Attributes:
        proportions: (B, J - 1) bone lengths over the body's size, in the order of
            ``Skeleton.bones``; left and right share a value.
        size: (B,) metres: the mean of all J - 1 bone lengths of the body, so that the mean of its
            proportions is 1.
        up: (B, 3) unit vectors, the upward direction in camera space.
    """

    proportions: Tensor | None = None
    size: Tensor | None = None
    up: Tensor | None = None

    def lengths_of(self, pose: Tensor, skeleton: Skeleton) -> Tensor:
        """The bone lengths (B, J - 1) that are known of poses (B, J, 3), metres. A size that is not
        known is that of the pose. NaN where the proportions are not known."""
        own = bone_lengths(pose, skeleton).mean(dim=1)
        if self.proportions is None:
            return own.new_full((len(pose), skeleton.num_joints - 1), torch.nan)
        size = own if self.size is None else torch.where(self.size.isnan(), own, self.size)
        return self.proportions * size.unsqueeze(1)

    def rows(self, index: Tensor | slice) -> "Known":
        """What is known of the poses of these indices."""
        return self._changed(lambda values: values[index])

    def to(self, device: torch.device) -> "Known":
        return self._changed(lambda values: values.to(device))

    def mirrored(self) -> "Known":
        """The same of the mirrored poses: left and right share their values already."""
        up = None if self.up is None else self.up * self.up.new_tensor([-1, 1, 1])
        return Known(self.proportions, self.size, up)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Known":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Known(**{k: None if v is None else change(v) for k, v in values.items()})


def bone_lengths(pose: Tensor, skeleton: Skeleton) -> Tensor:
    """Poses (B, J, 3) -> the lengths of their bones (B, J - 1), in the order of ``bones``."""
    joints, parents = zip(*skeleton.bones(), strict=True)
    return (pose[:, joints] - pose[:, parents]).norm(dim=2)


def proportions_and_size(pose: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Poses (B, J, 3), metres -> proportions (B, J - 1) and sizes (B,) of :class:`Known`.

    A left and a right bone get the mean of the two.
    """
    lengths = bone_lengths(pose, skeleton)
    # Without the root, which is no bone's outer joint, each place is one lower.
    twins = [joint - 1 for joint in skeleton.flip_order()[1:]]
    lengths = (lengths + lengths[:, twins]) / 2
    size = lengths.mean(dim=1)
    return lengths / size.unsqueeze(1), size
