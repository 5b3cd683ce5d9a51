"""Motion as BVH, the format of motion capture that Blender and others open.

Metres, y up; a person in the rest pose faces z with the arms stretched to the sides. The skeleton
does not change: every bone has one length. Where several bones start at a joint (hip, thorax), each
has a joint of its own at the same place, so that it can point anywhere. Joints do not tell how a
bone is turned about itself, so each bone takes the smallest turn from that of the bone before it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from common.clip import Clip
from common.person import bone_lengths
from common.skeleton import Skeleton

_END = 0.05  # metres beyond the last joint, so that programs draw a bone there


def median_lengths(points: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The median length (J - 1,) of each bone of poses (T, J, 3), in the order of
    ``Skeleton.bones``."""
    return np.median(bone_lengths(torch.from_numpy(points), skeleton).numpy(), axis=0)


def with_lengths(points: np.ndarray, lengths: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Poses (T, J, 3) with the same root and directions of bones, and other lengths (J - 1,)."""
    moved = points.copy()
    for (joint, parent), length in zip(skeleton.bones(), lengths, strict=True):
        moved[:, joint] = moved[:, parent] + length * _unit(points[:, joint] - points[:, parent])
    return moved


@dataclass(frozen=True)
class _Node:
    """A joint of the file.

    Attributes:
        parent: its place in the list of nodes; -1 for the root.
        joint: of the skeleton, where it is.
        end: the joint at the end of the bone that it turns; None where several bones start, or
            none.
    """

    name: str
    parent: int
    joint: int
    end: int | None


def to_bvh(clip: Clip, lengths: np.ndarray | None = None) -> str:
    """The text of a BVH file; the person stands as ``Clip.standing`` says.

    Args:
        lengths: (J - 1,) metres, in the order of ``Skeleton.bones``; None takes the medians.
    """
    skeleton = clip.skeleton
    points, _ = clip.standing()
    lengths = median_lengths(points, skeleton) if lengths is None else lengths
    points = with_lengths(points, lengths, skeleton)
    offsets = np.zeros((skeleton.num_joints, 3))
    for (joint, _), length in zip(skeleton.bones(), lengths, strict=True):
        offsets[joint] = length * _rest_direction(skeleton.names[joint])
    nodes = _nodes(skeleton)
    motion = np.concatenate([points[:, 0], *_angles(nodes, points, offsets, skeleton)], axis=1)
    return "\n".join(
        [
            "HIERARCHY",
            *_hierarchy(nodes, 0, offsets),
            "MOTION",
            f"Frames: {len(points)}",
            f"Frame Time: {1 / clip.fps:.8f}",
            *(" ".join(f"{value:.5f}" for value in row) for row in motion),
            "",
        ]
    )


def _children(skeleton: Skeleton, joint: int) -> list[int]:
    return [child for child, parent in skeleton.bones() if parent == joint]


def _nodes(skeleton: Skeleton) -> list[_Node]:
    """The joints of the file, each before those below it."""
    nodes: list[_Node] = []
    names = [name.replace("/", "_") for name in skeleton.names]

    def add(joint: int, parent: int) -> None:
        children, own = _children(skeleton, joint), len(nodes)
        nodes.append(
            _Node(names[joint], parent, joint, children[0] if len(children) == 1 else None)
        )
        for child in children:
            if len(children) > 1:
                nodes.append(_Node(f"{names[joint]}_to_{names[child]}", own, joint, child))
            add(child, len(nodes) - 1)

    add(0, -1)
    return nodes


def _angles(
    nodes: list[_Node], points: np.ndarray, offsets: np.ndarray, skeleton: Skeleton
) -> list[np.ndarray]:
    """The angles (T, 3) of each node in degrees, in the order of the channels."""
    turns: list[np.ndarray] = []  # (T, 3, 3) of column vectors, from the rest pose to upright space
    found = []
    for node in nodes:
        above = turns[node.parent] if node.parent >= 0 else np.broadcast_to(
            np.eye(3), (len(points), 3, 3)
        )  # fmt: skip
        turn = above
        if node.end is not None:
            bone = points[:, node.end] - points[:, node.joint]
            turn = _smallest_turn(above @ offsets[node.end], bone) @ above
        elif children := _children(skeleton, node.joint):
            turn = _body_turn(points, node.joint, children, skeleton)
        turns.append(turn)
        found.append(_euler(above.mT @ turn))
    return found


def _body_turn(
    points: np.ndarray, joint: int, children: list[int], skeleton: Skeleton
) -> np.ndarray:
    """How a part of the trunk is turned (T, 3, 3): its left side is x, and the bone that is on
    neither side y."""
    sides = {skeleton.names[child][0]: child for child in children}
    left, right = sides.pop("L"), sides.pop("R")
    (middle,) = sides.values()
    x = _unit(points[:, left] - points[:, right])
    z = _unit(np.cross(x, points[:, middle] - points[:, joint]))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _smallest_turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotations (T, 3, 3) of column vectors from one direction (T, 3) to another: the
    product of two reflections."""
    start, end = _unit(start), _unit(end)
    half = start + end
    opposite = np.linalg.norm(half, axis=-1) < 1e-6
    least = np.eye(3)[np.abs(start).argmin(axis=-1)]
    half = np.where(opposite[:, None], np.cross(start, least), half)
    return _reflection(half) @ _reflection(start)


def _reflection(normal: np.ndarray) -> np.ndarray:
    normal = _unit(normal)
    return np.eye(3) - 2 * normal[:, :, None] * normal[:, None, :]


def _euler(rotation: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3), equal to Rz(a) Rx(b) Ry(c), to the angles (T, 3) in degrees, without
    jumps by 360."""
    R = rotation
    a = np.arctan2(-R[:, 0, 1], R[:, 1, 1])
    b = np.arcsin(R[:, 2, 1].clip(-1, 1))
    c = np.arctan2(-R[:, 2, 0], R[:, 2, 2])
    return np.degrees(np.unwrap(np.stack([a, b, c], axis=-1), axis=0))


def _hierarchy(nodes: list[_Node], number: int, offsets: np.ndarray, depth: int = 0) -> list[str]:
    """The lines of a node and of all below it."""
    node, parent = nodes[number], nodes[nodes[number].parent]
    is_root = node.parent < 0
    offset = offsets[node.joint] * (is_root or node.joint != parent.joint)
    position = "Xposition Yposition Zposition " if is_root else ""
    below = [
        line
        for child, other in enumerate(nodes)
        if other.parent == number
        for line in _hierarchy(nodes, child, offsets, depth + 1)
    ]
    tip = ["  End Site", "  {", f"    OFFSET {_numbers(_END * _unit(offset))}", "  }"]
    lines = [
        f"{'ROOT' if is_root else 'JOINT'} {node.name}",
        "{",
        f"  OFFSET {_numbers(offset)}",
        f"  CHANNELS {6 if is_root else 3} {position}Zrotation Xrotation Yrotation",
        *(below or tip),
        "}",
    ]
    return lines if is_root else [f"  {line}" for line in lines]


def _numbers(vector: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in vector)


def _rest_direction(name: str) -> np.ndarray:
    """The direction of the bone that ends in a joint, in the rest pose."""
    side = {"L": 1.0, "R": -1.0}.get(name[0], 0.0)
    if name.endswith(("Knee", "Foot")):
        return np.array([0.0, -1.0, 0.0])
    return np.array([side, 0.0, 0.0]) if side else np.array([0.0, 1.0, 0.0])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)
