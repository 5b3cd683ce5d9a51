"""Augmentation of training poses in camera space: other bone lengths, other directions.

Training and test subjects differ in body proportions and in their orientation to the camera, and a
data set has few subjects. An augmented pose keeps its joint angles, gets new bone lengths and may
be turned about the vertical through its root. ``data.pose_dataset.augment_batch`` projects it
again. All random numbers come from torch's global generator, on the device of the poses.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.camera import rotation_about
from common.input_view import rotate
from common.skeleton import BONE_GROUPS, Skeleton


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation.

    Attributes:
        bone_sigma: the lengths of each group of bones are multiplied by exp(N(0, bone_sigma)).
        size_sigma: all bone lengths of a pose are multiplied by exp(N(0, size_sigma)).
        turn: probability of a rotation about the vertical, by an angle uniform in 360 degrees.
        tilt: standard deviation, in degrees, of a rotation about a random horizontal axis.
        keep_ground: the root moves along the vertical, so that the lowest joint of the augmented
            pose is as high as the lowest joint was before. A larger body then stands on the floor
            and does not sink into it. A turn keeps all heights; after a tilt the lowest joint may
            be another one.
    """

    bone_sigma: float = 0.05
    size_sigma: float = 0.03
    turn: float = 0.5
    tilt: float = 0.0
    keep_ground: bool = False

    def augment_poses(self, pose: Tensor, up: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
        """Poses with new bone lengths and directions, and their upward directions.

        Args:
            pose: (B, J, 3) metres, camera space, root at zero.
            up: (B, 3) unit vectors, the upward direction in camera space.

        Returns:
            Poses (B, J, 3), and what was upward of them before the tilt, (B, 3).
        """
        longer = self.change_bone_lengths(pose, skeleton)
        rotation = self._random_rotations(up)
        turned_up = rotate(up.unsqueeze(1), rotation).squeeze(1) if self.tilt else up
        return rotate(longer, rotation), turned_up

    def root_shift(self, pose: Tensor, augmented: Tensor, up: Tensor) -> Tensor | None:
        """How far the root moves, (B, 3) metres; None if it stays.

        Args:
            pose, augmented: (B, J, 3) before and after :meth:`augment_poses`.
            up: (B, 3) as there.
        """
        if not self.keep_ground:
            return None
        return (_lowest(pose, up) - _lowest(augmented, up)) * up

    def change_bone_lengths(self, pose: Tensor, skeleton: Skeleton) -> Tensor:
        """Poses (B, J, 3) with new bone lengths; the directions of the bones stay."""
        parents, group, chains = _kinematic_tree(skeleton, pose.device)
        bone = torch.randn(len(pose), len(BONE_GROUPS), device=pose.device)[:, group]
        size = torch.randn(len(pose), 1, device=pose.device)
        scale = torch.exp(self.bone_sigma * bone + self.size_sigma * size)
        bones = (pose - pose[:, parents]) * scale.unsqueeze(-1)
        # Not a matrix product, which autocast would compute in bfloat16.
        return (chains.unsqueeze(-1) * bones.unsqueeze(1)).sum(dim=2)

    def _random_rotations(self, up: Tensor) -> Tensor:
        """Upward directions (B, 3) -> rotations (B, 3, 3) of column vectors."""
        angle = math.pi * (2 * torch.rand(len(up), device=up.device) - 1)
        turned = torch.rand(len(up), device=up.device) < self.turn
        rotation = rotation_about(up, angle * turned)
        if self.tilt:
            side = torch.linalg.cross(up, torch.randn_like(up))
            side = side / side.norm(dim=-1, keepdim=True)
            angle = math.radians(self.tilt) * torch.randn(len(up), device=up.device)
            rotation = rotation_about(side, angle) @ rotation
        return rotation


def _lowest(pose: Tensor, up: Tensor) -> Tensor:
    """The height of the lowest joint above the root, (B, 1)."""
    return (pose * up.unsqueeze(1)).sum(dim=2).amin(dim=1, keepdim=True)


@cache
def _kinematic_tree(skeleton: Skeleton, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each joint its parent (J,), the group of the bone that ends there (J,), and the bones on
    the path from the root (J, J): 1 in row i, column j if bone j lies on the path to joint i."""
    parents = torch.tensor([max(parent, 0) for parent in skeleton.parents], device=device)
    group = [0, *skeleton.bone_groups()]  # the root ends no bone: its factor changes nothing
    chains = torch.eye(skeleton.num_joints)
    for joint, parent in skeleton.bones():  # a parent comes before its children
        chains[joint] += chains[parent]
    return parents, torch.tensor(group, device=device), chains.to(device)
