"""Where detectors see the joints of a person: not where motion capture has them.

A detector's hip is not the joint's centre, its nose is in front of the face, and what stands for
spine, thorax and head depends on its points. The error is systematic and several centimetres large.
A shift moves the joints of a pose in the person's own frame, so that it looks right from every
side. In training the amounts are drawn for each pose; in tests they are those of a detector.

The amounts of the detectors are estimates, from the proportions of MediaPipe's 3D landmarks and of
the motion capture; nobody has measured them on the same frames.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.person import bone_lengths
from common.skeleton import Skeleton

_SIZE = 0.255  # metres: the mean bone length of the adult whose shifts these are; others' scale
# Ranges of the amounts in training. Shares say how far a joint goes towards a place, the head's
# turn is in degrees, all others are metres along the axes of the body or of the head.
RANGES = {
    "hips_out": (-0.03, 0.05),  # left and right hip apart
    "hips_up": (-0.05, 0.05),
    "hips_forward": (-0.03, 0.03),
    "shoulders_out": (-0.05, 0.03),
    "shoulders_up": (-0.04, 0.04),
    "hip_share": (0.0, 1.1),  # to the middle of the hips
    "hip_up": (-0.03, 0.05),
    "thorax_share": (0.0, 1.1),  # to the middle of the shoulders
    "thorax_up": (-0.03, 0.05),
    "spine_share": (0.0, 1.1),  # to the middle of hip and thorax
    "spine_up": (-0.05, 0.05),
    "head_turn": (-40.0, 40.0),  # to the person's left: the pose does not tell it
    "neck_up": (-0.03, 0.12),
    "neck_forward": (-0.02, 0.14),
    "head_up": (-0.04, 0.16),
    "head_forward": (-0.02, 0.12),
}
_EVERY_JOINT = 0.012  # metres: of a further normal shift of each joint, along each axis
_MIDDLES = {"hip_share": 1.0, "thorax_share": 1.0, "spine_share": 1.0}
# What a detector's points become by ``data.keypoint_formats``; what is not named is 0.
DETECTORS = {
    "coco": _MIDDLES
    | {
        "hips_out": 0.02, "hips_up": 0.01, "neck_up": 0.085, "neck_forward": 0.11,
        "head_up": 0.03, "head_forward": 0.085,
    },
    "mediapipe": _MIDDLES
    | {
        "hips_out": 0.013, "hips_up": -0.015, "shoulders_up": 0.02, "neck_up": 0.08,
        "neck_forward": 0.1, "head_up": 0.03, "head_forward": 0.075,
    },
    "halpe": {
        "hip_share": 0.8, "thorax_share": 0.5, "spine_share": 1.0, "hips_out": 0.02,
        "thorax_up": 0.02, "neck_up": 0.085, "neck_forward": 0.11, "head_up": 0.12,
    },
}  # fmt: skip


def drawn_shift(
    points: Tensor, skeleton: Skeleton, strength: float, generator: torch.Generator
) -> Tensor:
    """Poses (B, J, 3) with amounts of their own, drawn evenly from :data:`RANGES`.

    Args:
        points: metres, in any right-handed frame.
        strength: factor for all amounts.
        generator: on the device of the poses.
    """
    low, high = points.new_tensor([*RANGES.values()]).unbind(1)
    device = points.device
    drawn = torch.rand(len(points), len(low), generator=generator, device=device)
    amounts = strength * (low + (high - low) * drawn)
    noise = torch.randn(points.shape, generator=generator, device=device)
    moved = _moved(points, skeleton, dict(zip(RANGES, amounts.split(1, dim=1), strict=True)))
    return moved + strength * _EVERY_JOINT * _scale(points, skeleton).unsqueeze(1) * noise


def shift_of_detector(points: Tensor, skeleton: Skeleton, detector: str) -> Tensor:
    """Poses (B, J, 3), metres, in any right-handed frame, as one of :data:`DETECTORS` sees them."""
    amounts = dict.fromkeys(RANGES, 0.0) | DETECTORS[detector]
    column = points.new_ones(len(points), 1)
    return _moved(points, skeleton, {name: amount * column for name, amount in amounts.items()})


def _moved(points: Tensor, skeleton: Skeleton, amounts: Mapping[str, Tensor]) -> Tensor:
    """Poses (B, J, 3) with these amounts, (B, 1) each."""
    at = dict(zip(skeleton.names, points.unbind(1), strict=True))
    scale = _scale(points, skeleton)
    left, up, forward = _body_axes(at)
    of = {name: amount * scale for name, amount in amounts.items()}  # of those in metres
    for side, outward in (("L", left), ("R", -left)):
        at[f"{side}Hip"] = (
            at[f"{side}Hip"]
            + of["hips_out"] * outward
            + of["hips_up"] * up
            + of["hips_forward"] * forward
        )
        at[f"{side}Shoulder"] = (
            at[f"{side}Shoulder"] + of["shoulders_out"] * outward + of["shoulders_up"] * up
        )
    neck = "Neck/Nose" if "Neck/Nose" in at else "Thorax"
    head_up, head_forward = _head_axes(at["Head"] - at[neck], forward, amounts["head_turn"])
    at["Head"] = at["Head"] + of["head_up"] * head_up + of["head_forward"] * head_forward
    if neck != "Thorax":
        at[neck] = at[neck] + of["neck_up"] * head_up + of["neck_forward"] * head_forward
    for joint, ends in (
        ("Hip", ("LHip", "RHip")), ("Thorax", ("LShoulder", "RShoulder")),
        ("Spine", ("Hip", "Thorax")),
    ):  # fmt: skip
        middle = (at[ends[0]] + at[ends[1]]) / 2
        share = amounts[f"{joint.lower()}_share"]
        at[joint] = at[joint] + share * (middle - at[joint]) + of[f"{joint.lower()}_up"] * up
    return torch.stack([at[name] for name in skeleton.names], dim=1)


def _scale(points: Tensor, skeleton: Skeleton) -> Tensor:
    """The sizes of persons (B, J, 3), (B, 1): 1 for the adult of :data:`_SIZE`."""
    return bone_lengths(points, skeleton).mean(dim=1, keepdim=True) / _SIZE


def _body_axes(at: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors (B, 3) to the person's left, along the trunk, and forward, which are
    perpendicular, from the joints (B, 3)."""
    left = _unit(at["LHip"] - at["RHip"] + at["LShoulder"] - at["RShoulder"])
    up = _unit(_across(at["Thorax"] - at["Hip"], left))
    return left, up, torch.linalg.cross(left, up)


def _head_axes(upward: Tensor, forward: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (B, 3) along the head and to where the face looks.

    Args:
        upward: (B, 3) from the neck to the head.
        forward: (B, 3) of the body.
        turn: (B, 1) degrees, of the face to the person's left.
    """
    up = _unit(upward)
    ahead = _unit(_across(forward, up))
    angle = torch.deg2rad(turn)
    return up, torch.cos(angle) * ahead + torch.sin(angle) * torch.linalg.cross(up, ahead)


def _across(vector: Tensor, axis: Tensor) -> Tensor:
    """The part of vectors (B, 3) that is perpendicular to unit vectors (B, 3)."""
    return vector - (vector * axis).sum(dim=1, keepdim=True) * axis


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-6)
