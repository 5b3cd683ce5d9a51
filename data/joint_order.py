"""The order of the joints in files of 2D joints, as their ``metadata`` tell it.

A file says which of its joints are left and which are right (``keypoints_symmetry``); compared as
sets, these tell the orders in use apart. SemGCN's Stacked Hourglass files are in our order,
VideoPose3D's in the detector's own.
"""

import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.skeleton import H36M_16, H36M_17, SKELETONS

# The Stacked Hourglass detector's own order of joints.
SH_JOINTS = (
    "RFoot", "RKnee", "RHip", "LHip", "LKnee", "LFoot", "Hip", "Spine", "Thorax", "Head",
    "RWrist", "RElbow", "RShoulder", "LShoulder", "LElbow", "LWrist",
)  # fmt: skip
# Where each of our 16 joints lies among them.
SH_TO_OURS = tuple(SH_JOINTS.index(name) for name in H36M_16.names)

Sides = tuple[frozenset[int], frozenset[int]]  # the left joints, the right joints

_SH_SIDES = tuple(
    frozenset(i for i, name in enumerate(SH_JOINTS) if name.startswith(side)) for side in "LR"
)
_COCO_JOINTS = 17  # nose, then eyes, ears, shoulders and so on, left before right
_COCO_SIDES = (frozenset(range(1, 16, 2)), frozenset(range(2, 17, 2)))


def read_order(metadata: Any, stored: int, path: Path) -> tuple[int, ...] | None:
    """Where our joints lie in a file of 2D joints; None where they are in our order already.

    Args:
        metadata: of the file, {num_joints, keypoints_symmetry: [left, right]}. What it does not
            say is taken to be as ours.
        stored: how many joints the file has.
        path: the file, for messages.

    Raises:
        UserError: the metadata cannot be read, contradict the file or our skeleton, or tell an
            order that is not known.
    """
    try:
        num_joints, sides = _parse(metadata)
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: its metadata are not {{num_joints, keypoints_symmetry: [left joints, right "
            "joints]}: correct them, or leave them out if the joints are in our order"
        ) from None
    if num_joints not in (None, stored):
        raise UserError(
            f"{path}: its metadata speak of {num_joints} joints and its arrays have {stored}: "
            "get the file again, or correct its metadata"
        )
    if sides is None or _is_ours(sides, stored):
        return None
    if stored == len(SH_JOINTS) and sides == _SH_SIDES:
        return SH_TO_OURS
    raise UserError(f"{path}: {_describe_unknown(sides, stored)}")


def _parse(metadata: Any) -> tuple[int | None, Sides | None]:
    """Numbers may be Python's or numpy's, and lists may be tuples or arrays."""
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
    """Of 32 joints, those count that move."""
    skeleton = SKELETONS.get(stored, H36M_17)
    joints = range(stored) if stored in SKELETONS else skeleton.stored
    ours = (skeleton.joints_left, skeleton.joints_right)
    return all(
        side & set(joints) == {joints[joint] for joint in own}
        for side, own in zip(sides, ours, strict=True)
    )


def _describe_unknown(sides: Sides, stored: int) -> str:
    left, right = sides
    if _is_ours((right, left), stored):
        return (
            "its metadata have left and right the other way round than our skeleton: exchange "
            "them in keypoints_symmetry, or swap the joints if they are wrong too"
        )
    if stored == _COCO_JOINTS and sides == _COCO_SIDES:
        return (
            "its joints are in COCO's order (by its metadata), which has no hip or spine: get "
            "detections of Human3.6M's own joints, such as cpn_ft_h36m_dbb"
        )
    return (
        f"its joints are in an order that is not known (by its metadata, left is {sorted(left)} "
        f"and right is {sorted(right)}): put them into ours, see DATASETS.md"
    )
