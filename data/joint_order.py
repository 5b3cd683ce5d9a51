"""Finds the joint order of a file of 2D joints from the file's ``metadata``.

The metadata list the left and the right joints (``keypoints_symmetry``). Compared as sets, these
identify each order in use. SemGCN's Stacked Hourglass files are in our order, VideoPose3D's are in
the detector's order.
"""

import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.skeleton import H36M_16, H36M_17, SKELETONS

# The joint order of the Stacked Hourglass detector.
SH_JOINTS = (
    "RFoot", "RKnee", "RHip", "LHip", "LKnee", "LFoot", "Hip", "Spine", "Thorax", "Head",
    "RWrist", "RElbow", "RShoulder", "LShoulder", "LElbow", "LWrist",
)  # fmt: skip
# Index of each of our 16 joints in it.
SH_TO_OURS = tuple(SH_JOINTS.index(name) for name in H36M_16.names)

Sides = tuple[frozenset[int], frozenset[int]]  # the left joints, the right joints

_SH_SIDES = tuple(
    frozenset(i for i, name in enumerate(SH_JOINTS) if name.startswith(side)) for side in "LR"
)
_COCO_JOINTS = 17  # nose, then eyes, ears, shoulders and so on, left before right
_COCO_SIDES = (frozenset(range(1, 16, 2)), frozenset(range(2, 17, 2)))


def read_joint_order(metadata: Any, stored: int, path: Path) -> tuple[int, ...] | None:
    """The index of each of our joints in a file of 2D joints; None if the file is in our order.

    Args:
        metadata: metadata of the file, {num_joints, keypoints_symmetry: [left, right]}. If an entry
            is absent, the file is taken to be in our order.
        stored: number of joints in the file.
        path: the file, for messages.

    Raises:
        UserError: the metadata are malformed, contradict the file or our skeleton, or describe an
            unknown order.
    """
    try:
        num_joints, sides = _parse(metadata)
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: its metadata are not {{num_joints, keypoints_symmetry: [left joints, right "
            "joints]}: correct them, or remove them if the joints are in our order"
        ) from None
    if num_joints not in (None, stored):
        raise UserError(
            f"{path}: its metadata give {num_joints} joints, but its arrays have {stored}: "
            "get the file again, or correct its metadata"
        )
    if sides is None or _is_ours(sides, stored):
        return None
    if stored == len(SH_JOINTS) and sides == _SH_SIDES:
        return SH_TO_OURS
    raise UserError(f"{path}: {_describe_unknown(sides, stored)}")


def _parse(metadata: Any) -> tuple[int | None, Sides | None]:
    """Metadata -> number of joints, left and right joints; None for an entry that is absent.

    Numbers may be Python's or numpy's; lists may be tuples or arrays.

    Raises:
        TypeError, ValueError: the metadata are malformed.
    """
    if metadata is None:
        return None, None
    if not isinstance(metadata, dict):
        raise TypeError("no dictionary")
    num_joints = metadata.get("num_joints")
    symmetry = metadata.get("keypoints_symmetry")
    if symmetry is not None:
        left, right = symmetry
        symmetry = _as_set(left), _as_set(right)
    return None if num_joints is None else operator.index(num_joints), symmetry


def _as_set(joints: Iterable[Any]) -> frozenset[int]:
    return frozenset(operator.index(joint) for joint in joints)


def _is_ours(sides: Sides, stored: int) -> bool:
    """Whether the left and right joints are those of our order; of 32 stored joints, only the 17
    that we use are compared."""
    skeleton = SKELETONS.get(stored, H36M_17)
    joints = range(stored) if stored in SKELETONS else skeleton.stored
    ours = (skeleton.joints_left, skeleton.joints_right)
    return all(
        side & set(joints) == {joints[joint] for joint in own}
        for side, own in zip(sides, ours, strict=True)
    )


def _describe_unknown(sides: Sides, stored: int) -> str:
    """Why an order is refused, and the remedy."""
    left, right = sides
    if _is_ours((right, left), stored):
        return (
            "its metadata have left and right exchanged: exchange them in keypoints_symmetry, "
            "or swap the joints if these are wrong too"
        )
    if stored == _COCO_JOINTS and sides == _COCO_SIDES:
        return (
            "its joints are in COCO's order (by its metadata), which has no pelvis or spine: get "
            "detections of Human3.6M's joints, such as cpn_ft_h36m_dbb"
        )
    return (
        f"its joints are in an unknown order (by its metadata, left is {sorted(left)} and right "
        f"is {sorted(right)}): store them in our order, see DATASETS.md"
    )
