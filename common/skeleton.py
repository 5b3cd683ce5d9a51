"""The two skeletons of the Human3.6M protocol: 17 joints, and 16 without Neck/Nose."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError

# Human3.6M stores 32 joints. These 17 are used, in the order of the whole project.
_JOINTS_17 = (
    # name, index among the 32 stored joints, parent among the 17
    ("Hip", 0, -1),
    ("RHip", 1, 0),
    ("RKnee", 2, 1),
    ("RFoot", 3, 2),
    ("LHip", 6, 0),
    ("LKnee", 7, 4),
    ("LFoot", 8, 5),
    ("Spine", 12, 0),
    ("Thorax", 13, 7),
    ("Neck/Nose", 14, 8),
    ("Head", 15, 9),
    ("LShoulder", 17, 8),
    ("LElbow", 18, 11),
    ("LWrist", 19, 12),
    ("RShoulder", 25, 8),
    ("RElbow", 26, 14),
    ("RWrist", 27, 15),
)
_NECK = 9
# Kinds of bones, named by their outer joints: hip, thigh, shank, spine, thorax, head, shoulder,
# upper arm, forearm. Left and right bones are of one kind.
BONE_GROUPS = (
    ("Hip",), ("Knee",), ("Foot",), ("Spine",), ("Thorax",), ("Neck/Nose", "Head"), ("Shoulder",),
    ("Elbow",), ("Wrist",),
)  # fmt: skip


@dataclass(frozen=True)
class Skeleton:
    """A tree of J joints; joint 0 is the root (the hip).

    Attributes:
        names: J joint names; a leading R or L is the person's right or left.
        parents: J indices, -1 for the root.
        stored: for each joint its index among the 32 joints of Human3.6M's files.
        joints_left, joints_right: indices of the left and the right joints, in matching order. A
            flip swaps each pair.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    stored: tuple[int, ...]
    joints_left: tuple[int, ...]
    joints_right: tuple[int, ...]

    @property
    def num_joints(self) -> int:
        return len(self.names)

    def bones(self) -> list[tuple[int, int]]:
        """The (joint, parent) pairs, the J - 1 edges of the tree."""
        return [(joint, parent) for joint, parent in enumerate(self.parents) if parent >= 0]

    def bone_groups(self) -> list[int]:
        """For each of the bones its place in :data:`BONE_GROUPS`."""
        outer = [self.names[joint].lstrip("LR") for joint, _ in self.bones()]
        return [next(i for i, group in enumerate(BONE_GROUPS) if name in group) for name in outer]

    def adjacency(self) -> Tensor:
        """The published adjacency (J, J): each row of the edges divided by its sum, then 1 on the
        diagonal. It is row-normalised, so not symmetric; the layer symmetrises it."""
        edges = torch.zeros(self.num_joints, self.num_joints)
        for joint, parent in self.bones():
            edges[joint, parent] = edges[parent, joint] = 1.0
        return edges / edges.sum(dim=1, keepdim=True) + torch.eye(self.num_joints)

    def flip_order(self) -> list[int]:
        """The J indices that swap left and right joints."""
        order = list(range(self.num_joints))
        for left, right in zip(self.joints_left, self.joints_right, strict=True):
            order[left], order[right] = right, left
        return order

    def flip(self, points: Tensor) -> Tensor:
        """Mirror points (..., J, 2 or 3): negate x and swap left and right joints.

        The points are in normalised screen coordinates or in camera space. Two flips give the
        points back.
        """
        mirrored = points[..., self.flip_order(), :]
        return torch.cat([-mirrored[..., :1], mirrored[..., 1:]], dim=-1)

    def indices_in(self, num_stored: int) -> list[int]:
        """The index of each joint of this skeleton in a file that stores 32, 17 or 16 joints.

        Raises:
            UserError: the file lacks some of the joints.
        """
        if num_stored == 32:
            return list(self.stored)
        for skeleton in (H36M_17, H36M_16):
            if num_stored == skeleton.num_joints and set(self.stored) <= set(skeleton.stored):
                return [skeleton.stored.index(index) for index in self.stored]
        raise UserError(
            f"a file with {num_stored} joints does not have the {self.num_joints} joints that are "
            "needed: give 32, 17 or 16 joints in Human3.6M's order, 16 only for networks of 16"
        )


def _build(joints: tuple[tuple[str, int, int], ...]) -> Skeleton:
    names = tuple(name for name, _, _ in joints)
    left = tuple(i for i, name in enumerate(names) if name.startswith("L"))
    return Skeleton(
        names=names,
        parents=tuple(parent for _, _, parent in joints),
        stored=tuple(stored for _, stored, _ in joints),
        joints_left=left,
        joints_right=tuple(names.index("R" + names[i][1:]) for i in left),
    )


def _without_neck() -> Skeleton:
    """The skeleton without Neck/Nose: the parent of the Head is the Thorax, and the indices of
    later joints are one lower."""

    def new_index(parent: int) -> int:
        parent = _JOINTS_17[_NECK][2] if parent == _NECK else parent
        return parent - (parent > _NECK)

    kept = (joint for i, joint in enumerate(_JOINTS_17) if i != _NECK)
    return _build(tuple((name, stored, new_index(parent)) for name, stored, parent in kept))


H36M_17 = _build(_JOINTS_17)
H36M_16 = _without_neck()
SKELETONS = {skeleton.num_joints: skeleton for skeleton in (H36M_16, H36M_17)}
