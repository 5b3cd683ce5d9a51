"""Other bodies, seen from other sides: training poses changed on the device, in camera space.

The gap between training and test subjects is one of bodies and views, of which there are few. A
pose keeps its joint angles and gets other limbs, and it may turn about the vertical through its
root; ``data.pose_dataset.AugmentedBatch`` projects it again. All draws are torch's global ones.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.camera import rotation_about
from common.input_view import rotate
from common.skeleton import Skeleton

# Bones that share a draw, left and right alike, by their outer joints: hip, thigh, shank, spine,
# thorax, head, shoulder, upper arm, forearm.
_GROUPS = (
    ("Hip",), ("Knee",), ("Foot",), ("Spine",), ("Thorax",), ("Neck/Nose", "Head"), ("Shoulder",),
    ("Elbow",), ("Wrist",),
)  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """How strongly poses are changed.

    Attributes:
        bone_sigma: each group of bones is multiplied by exp(N(0, bone_sigma)).
        size_sigma: and the whole body by exp(N(0, size_sigma)).
        turn: probability of a turn about the vertical, by an angle uniform over the circle.
        tilt: standard deviation in degrees of a turn about a random horizontal axis.
    """

    bone_sigma: float = 0.05
    size_sigma: float = 0.03
    turn: float = 0.5
    tilt: float = 0.0

    def change(self, pose: Tensor, up: Tensor, skeleton: Skeleton) -> Tensor:
        """Poses (B, J, 3), metres, root at zero -> other bodies in other directions, alike.

        Args:
            up: (B, 3) the upward direction in the poses' space.
        """
        return rotate(self.change_body(pose, skeleton), self._rotations(up))

    def change_body(self, pose: Tensor, skeleton: Skeleton) -> Tensor:
        """Poses with other bone lengths, the bones' directions kept."""
        parents, group, chains = _body(skeleton, pose.device)
        bone = torch.randn(len(pose), len(_GROUPS), device=pose.device)[:, group]
        size = torch.randn(len(pose), 1, device=pose.device)
        scale = torch.exp(self.bone_sigma * bone + self.size_sigma * size)
        bones = (pose - pose[:, parents]) * scale.unsqueeze(-1)
        # No matrix product: autocast would round it to three digits.
        return (chains.unsqueeze(-1) * bones.unsqueeze(1)).sum(dim=2)

    def _rotations(self, up: Tensor) -> Tensor:
        """(B, 3) -> (B, 3, 3)."""
        angle = math.pi * (2 * torch.rand(len(up), device=up.device) - 1)
        turned = torch.rand(len(up), device=up.device) < self.turn
        rotation = rotation_about(up, angle * turned)
        if self.tilt:
            side = torch.linalg.cross(up, torch.randn_like(up))
            side = side / side.norm(dim=-1, keepdim=True)
            angle = math.radians(self.tilt) * torch.randn(len(up), device=up.device)
            rotation = rotation_about(side, angle) @ rotation
        return rotation


@cache
def _body(skeleton: Skeleton, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each joint its parent (J,) and its bone's group (J,); and which bones lead from the root
    to each joint (J, J)."""
    parents = torch.tensor([max(parent, 0) for parent in skeleton.parents], device=device)
    names = [name.lstrip("LR") for name in skeleton.names]
    group = [next(i for i, joints in enumerate(_GROUPS) if name in joints) for name in names]
    chains = torch.eye(skeleton.num_joints)
    for joint, parent in skeleton.bones():  # a parent comes before its children
        chains[joint] += chains[parent]
    return parents, torch.tensor(group, device=device), chains.to(device)
