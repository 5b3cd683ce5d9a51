"""What is known of a person beside the 2D joints: proportions, size, where up is, and how exact the
joints are.

The length of a bone is a proportion of the body times the size of the body. Both can be known
apart: 2D joints alone tell the proportions of a person, and never the size.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from common.ray_fit import Sigmas
from common.skeleton import Skeleton


@dataclass(frozen=True)
class Known:
    """What is known of the persons and cameras of B poses.

    None: unknown for all poses. NaN: unknown for that pose; then all its values of a row are NaN,
    but for proportions, which may be known of some bones only.

    Attributes:
        proportions: (B, J - 1) bone lengths over the body's size, in the order of
            ``Skeleton.bones``; left and right share a value.
        size: (B,) metres: the mean of all J - 1 bone lengths of the body, so that the mean of its
            proportions is 1.
        up: (B, 3) unit vectors, the upward direction in camera space.
        screen_sigma: (B,) standard deviations of the 2D joints' errors along x and y, screen
            units; 0 for exact joints.
    """

    proportions: Tensor | None = None
    size: Tensor | None = None
    up: Tensor | None = None
    screen_sigma: Tensor | None = None

    def lengths_of(self, pose: Tensor, skeleton: Skeleton) -> Tensor:
        """The bone lengths (B, J - 1) that are known of poses (B, J, 3), metres. A size that is not
        known is that of the pose. NaN where a proportion is not known."""
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

    def with_mirrored(self) -> "Known":
        """What is known of 2 B poses: these, and then the mirrored ones, whose left and right share
        their values already."""
        both = self._changed(lambda values: torch.cat([values, values]))
        if self.up is None:
            return both
        return replace(both, up=torch.cat([self.up, self.up * self.up.new_tensor([-1, 1, 1])]))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Known":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Known(**{k: None if v is None else change(v) for k, v in values.items()})


@dataclass(frozen=True)
class PersonStatistics:
    """What was measured on the persons that a network was trained on. Its checkpoint carries it.

    Attributes:
        proportions: J - 1 means of ``Known.proportions``.
        size: mean of ``Known.size``, metres.
        ankle_height: of the lowest joint above the floor: the median over a person's frames, and
            of these over persons, metres. None where the cameras are not known.
        screen_sigma: root mean square error of the 2D joints along x and y, screen units. None
            where the cameras are not known.
        length_sigmas: J - 1 sigmas for told lengths, metres: the root mean square difference of a
            bone from the mean of its person, left and right together; at least 4 mm.
        symmetry_sigma: root mean square difference of left and right lengths, metres; at least 6
            mm.
        joint_sigmas: J sigmas of the network's pose along the ray, metres: twice the root mean
            square error, left and right alike. None before the first epoch is trained.
    """

    proportions: tuple[float, ...]
    size: float
    ankle_height: float | None
    screen_sigma: float | None
    length_sigmas: tuple[float, ...]
    symmetry_sigma: float
    joint_sigmas: tuple[float, ...] | None = None

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "PersonStatistics":
        """Those that a checkpoint has as plain values: numbers and lists."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})

    def plain(self) -> dict[str, Any]:
        """As a checkpoint has them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @property
    def sigmas(self) -> Sigmas | None:
        """Those of the fit to rays; None before the network's errors are known."""
        if self.joint_sigmas is None:
            return None
        return Sigmas(self.joint_sigmas, self.symmetry_sigma, self.length_sigmas)


def bone_lengths(pose: Tensor, skeleton: Skeleton) -> Tensor:
    """Poses (B, J, 3) -> the lengths of their bones (B, J - 1), in the order of ``bones``."""
    joints, parents = zip(*skeleton.bones(), strict=True)
    return (pose[:, joints] - pose[:, parents]).norm(dim=2)


def proportions_and_size(pose: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Poses (B, J, 3), metres -> proportions (B, J - 1) and sizes (B,) of :class:`Known`.

    A left and a right bone get the mean of the two.
    """
    lengths = left_right_means(bone_lengths(pose, skeleton), skeleton)
    size = lengths.mean(dim=1)
    return lengths / size.unsqueeze(1), size


def left_right_means(values: Tensor, skeleton: Skeleton) -> Tensor:
    """Values of bones (..., J - 1) -> the same, where a left and a right bone have their mean."""
    # Without the root, which is no bone's outer joint, each place is one lower.
    twins = [joint - 1 for joint in skeleton.flip_order()[1:]]
    return (values + values[..., twins]) / 2
