"""Plausibility checks of a subject's joints: they find mistakes in the data that would otherwise
give wrong results without any error.

Both checks take a sample of the subject's frames. They test medians or shares over the whole
sample, so a single unusual action or a single detector error has no effect. They return a text that
names the mistake and the remedy, or None. The limits are wide enough for every body and every
useful detector, so some mistakes are not found. A mistake that 2D and 3D share, such as left and
right swapped in both, cannot be found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.camera import normalize_screen_coordinates, project, world_to_camera
from common.skeleton import Skeleton
from data.cameras import Camera
from data.joint_order import SH_TO_OURS

# For each bone, named by its end joints: the length in a typical adult in metres, and the range of
# permitted ratios to it after division by the body size. The proportions of limbs vary little
# between people. The joints of trunk and head are defined differently in each data set.
_LIMB, _GIRDLE, _TRUNK = (0.45, 1.8), (0.3, 2.2), (0.2, 3.0)
_BONES = {
    "Hip-Hip": (0.13, _GIRDLE),
    "Hip-Knee": (0.44, _LIMB),
    "Knee-Foot": (0.43, _LIMB),
    "Hip-Spine": (0.25, _TRUNK),
    "Spine-Thorax": (0.20, _TRUNK),
    "Thorax-Neck/Nose": (0.15, _TRUNK),
    "Neck/Nose-Head": (0.11, _TRUNK),
    "Thorax-Head": (0.24, _TRUNK),
    "Thorax-Shoulder": (0.18, _GIRDLE),
    "Shoulder-Elbow": (0.28, _LIMB),
    "Elbow-Wrist": (0.26, _LIMB),
}
_SIZES = (0.35, 1.6)  # permitted body sizes relative to an adult: below 0.8 m to above 2.3 m tall
_UNITS = {"millimetres": 1000, "centimetres": 100, "inches": 39.37}  # units in a metre
_SIDES = 1.5  # largest permitted ratio of left and right bone lengths; hdm05 has up to 1.15
_REORDER = "store the joints in Human3.6M's order, see DATASETS.md"
_AT_ORIGIN = 1e-4  # metres: above the rounding error of a subtracted root

# A body stands along an axis if the direction from feet to head is within 37 degrees of the axis.
# The value is the cosine.
_STANDING = 0.8
_MOST, _FEW = 0.5, 0.1  # shares of frames; in other frames people sit or lie
_TURNED = {
    "x": "(-z, y, x)", "-x": "(z, y, -x)", "y": "(x, -z, y)", "-y": "(x, z, -y)",
    "-z": "(x, -y, -z)",
}  # fmt: skip
# Permitted heights of the hips in metres, as the 90% quantile over a subject's frames: from a
# crawling child to a very tall person on a step.
_HIPS = (0.2, 1.8)

# Median distance between 2D and projected 3D joints of a subject and camera, in image widths. On
# hdm05 it is 0.003 for the synthetic detector of data.noise, 0.015 to 0.054 for swapped sides,
# 0.077 to 0.111 for the raw hourglass order, 0.058 to 0.177 for random orders, 0.066 to 0.220 for
# views of other cameras, and 0.57 for normalised coordinates.
_FAR = 0.05  # above this the 2D joints are wrong
_BETTER = 2.0  # correcting a mistake must reduce the distance by this factor to explain it
_ROUNDING = 0.002  # 2 pixels of 1000: smaller distances need no explanation


def find_wrong_motion(points: Tensor, skeleton: Skeleton, in_world: bool) -> str | None:
    """Check a subject's 3D joints.

    Args:
        points: (F, J, 3) metres, a sample of frames from all sequences of the subject.
        in_world: the joints are in world space with z up and the floor at z = 0, not in camera
            space.

    Returns:
        The mistake and its remedy; None if no mistake is found.
    """
    if points[:, 0].abs().max() < _AT_ORIGIN:
        return (
            "joint 0 is at the origin in every frame, so the poses are relative to the root: "
            "store the joints' places in the room"
        )
    return _find_wrong_bones(points, skeleton) or (
        _find_wrong_world(points, skeleton) if in_world else None
    )


def _find_wrong_bones(points: Tensor, skeleton: Skeleton) -> str | None:
    """Compare the median bone lengths with those of a typical adult, and left with right."""
    joints, parents = map(list, zip(*skeleton.bones(), strict=True))
    lengths = (points[:, joints] - points[:, parents]).norm(dim=-1).median(dim=0).values
    known = [_BONES["-".join(_parts(skeleton, bone))] for bone in zip(parents, joints, strict=True)]
    relative = lengths / lengths.new_tensor([typical for typical, _ in known])
    size = relative.median()
    length_of, share_of = (
        dict(zip(joints, values.tolist(), strict=True)) for values in (lengths, relative / size)
    )
    for (joint, parent), (_, (least, most)) in zip(skeleton.bones(), known, strict=True):
        if not least <= share_of[joint] <= most:
            return (
                f"bone {skeleton.names[parent]}-{skeleton.names[joint]} is {share_of[joint]:.2g} "
                f"times as long as in a body of this size ({length_of[joint]:.3g} m): {_REORDER}"
            )
    for left, right in zip(skeleton.joints_left, skeleton.joints_right, strict=True):
        shorter, longer = sorted((length_of[left], length_of[right]))
        if longer > _SIDES * shorter:
            return (
                f"the bones to {skeleton.names[left]} and {skeleton.names[right]} are "
                f"{length_of[left]:.3g} and {length_of[right]:.3g} m long: {_REORDER}"
            )
    return _find_wrong_unit(size.item())


def _parts(skeleton: Skeleton, joints: Sequence[int]) -> list[str]:
    """Names of joints without L or R."""
    return [skeleton.names[joint].removeprefix("L").removeprefix("R") for joint in joints]


def _find_wrong_unit(size: float) -> str | None:
    """Check the body size, which is relative to a typical adult."""
    least, most = _SIZES
    if least <= size <= most:
        return None
    unit = min(_UNITS, key=lambda unit: abs(math.log(max(size, 1e-9) / _UNITS[unit])))
    if least <= size / _UNITS[unit] <= most:
        return f"the joints are in {unit}: divide them by {_UNITS[unit]}, metres are expected"
    return f"the body is {size:.2g} times as large as an adult: metres are expected"


def _find_wrong_world(points: Tensor, skeleton: Skeleton) -> str | None:
    """Check that bodies stand along z, and the height of their hips above the floor."""
    head, *feet = (skeleton.names.index(name) for name in ("Head", "LFoot", "RFoot"))
    upward = points[:, head] - points[:, feet].mean(dim=1)
    upward = upward / upward.norm(dim=-1, keepdim=True)
    standing = {
        f"{sign}{axis}": (upward[:, i] * float(f"{sign}1") > _STANDING).float().mean().item()
        for i, axis in enumerate("xyz")
        for sign in ("", "-")
    }
    axis = max(standing, key=standing.__getitem__)
    if standing[axis] > _MOST and standing["z"] < _FEW:
        return (
            f"the bodies stand along {axis}, but z must be up: store {_TURNED[axis]} for "
            "(x, y, z), or world coordinates if these are a camera's"
        )
    hips = points[:, 0, 2].quantile(0.9).item()
    if not _HIPS[0] <= hips <= _HIPS[1]:
        return (
            f"the hips are at most {hips:.2f} m above z = 0: store the joints' places in the room, "
            "with the floor at z = 0"
        )
    return None


def find_wrong_views(
    pixels: Tensor,
    points: Tensor,
    cameras: Sequence[Sequence[Camera]],
    skeleton: Skeleton,
    reordered: bool = False,
) -> str | None:
    """Compare a subject's 2D joints with the projection of its 3D joints.

    Args:
        pixels: (F, C, J, 2), a sample of frames from all sequences of the subject in C cameras.
        points: (F, J, 3) world metres, the same frames.
        cameras: the C calibrated cameras of each of the F frames.
        reordered: the 2D joints were converted from the raw hourglass order, since the metadata of
            the file say that they are in it.

    Returns:
        The mistake and its remedy; None if no mistake is found.
    """
    projected = _project(points, cameras)
    found = _distances(_on_screen(pixels, cameras), projected)
    explanations = _explanations(pixels, projected, cameras, skeleton, reordered)
    nearest, which = torch.stack([e.distances for e in explanations]).min(dim=0)
    is_explained = (found > _ROUNDING) & (nearest * _BETTER <= found)
    wrong = (found > _FAR) | is_explained
    if not wrong.any():
        return None
    worst = int(torch.where(wrong, found, -1.0).argmax())
    which_joints = "the 2D joints" + ("" if wrong.all() else f" of camera {cameras[0][worst].id}")
    if not is_explained[worst]:
        return (
            f"{which_joints} are {found[worst]:.3f} of the width from the projected 3D, more than "
            f"the {_FAR} of a detector: prepare both from one source, with the joints in "
            "Human3.6M's order and x and y in pixels from the top left corner"
        )
    best = explanations[which[worst]]
    return (
        f"{which_joints} {best.mistake} (distance from the projected 3D: {found[worst]:.3f} of the "
        f"width, {nearest[worst]:.3f} if this is corrected): {best.remedy}"
    )


@dataclass(frozen=True)
class _Explanation:
    """A mistake that may explain the distance between 2D joints and projected 3D joints.

    Attributes:
        mistake: continues the sentence "the 2D joints ...".
        remedy: what the user can do.
        distances: (C,) median distances after the mistake is corrected, in image widths.
    """

    mistake: str
    remedy: str
    distances: Tensor


def _explanations(
    pixels: Tensor,
    projected: Tensor,
    cameras: Sequence[Sequence[Camera]],
    skeleton: Skeleton,
    reordered: bool,
) -> list[_Explanation]:
    """All mistakes that are looked for; arguments as in :func:`find_wrong_views`."""
    seen = _on_screen(pixels, cameras)
    sizes = pixels.new_tensor([[[c.width, c.height] for c in row] for row in cameras]).unsqueeze(2)
    swapped = _distances(seen[..., skeleton.flip_order(), :], projected)
    fractions = _distances(_on_screen(pixels * sizes, cameras), projected)
    found = [
        _Explanation(
            "have left and right exchanged, or the 3D joints have",
            "swap them in the file that is wrong",
            swapped,
        ),
        _Explanation(
            "are normalised already, to -1 ... 1", "store pixels", _distances(pixels, projected)
        ),
        _Explanation("are fractions of the image", "store pixels", fractions),
    ]
    if len(cameras[0]) > 1:
        found.append(
            _Explanation(
                "are what another camera sees",
                f"store the views in the order {', '.join(camera.id for camera in cameras[0])}",
                _distances_of_others(seen, projected),
            )
        )
    if skeleton.num_joints == len(SH_TO_OURS):
        order = torch.tensor(SH_TO_OURS)
        other = _distances(seen[..., order.argsort() if reordered else order, :], projected)
        found.append(_hourglass_explanation(other, reordered))
    return found


def _hourglass_explanation(distances: Tensor, reordered: bool) -> _Explanation:
    """The joint order is confused with the Stacked Hourglass's."""
    symmetry = "keypoints_symmetry in the file's metadata"
    if reordered:
        return _Explanation(
            "are in our order, though the metadata name the Stacked Hourglass's",
            f"correct {symmetry}",
            distances,
        )
    return _Explanation(
        "are in the Stacked Hourglass's own order",
        f"say so by {symmetry}, or prepare them with data/prepare_data_2d_h36m_sh.py",
        distances,
    )


def _project(points: Tensor, cameras: Sequence[Sequence[Camera]]) -> Tensor:
    """World (F, J, 3) -> screen (F, C, J, 2)."""
    rotation, place, intrinsics = (
        torch.stack([torch.stack([getattr(c, part) for c in row]) for row in cameras])
        for part in ("rotation", "translation", "intrinsics")
    )
    rotation, place, intrinsics = (t.to(points.dtype) for t in (rotation, place, intrinsics))
    return project(world_to_camera(points.unsqueeze(1), rotation, place.unsqueeze(2)), intrinsics)


def _on_screen(pixels: Tensor, cameras: Sequence[Sequence[Camera]]) -> Tensor:
    """(F, C, J, 2) pixels -> screen coordinates."""
    views = [
        normalize_screen_coordinates(view, camera.width, camera.height)
        for frame, row in zip(pixels, cameras, strict=True)
        for view, camera in zip(frame, row, strict=True)
    ]
    return torch.stack(views).unflatten(0, pixels.shape[:2])


def _distances(seen: Tensor, projected: Tensor) -> Tensor:
    """Median distances (C,) of screen points (F, C, J, 2) over frames and joints, in image widths;
    the image width is 2 in screen coordinates."""
    distances = (seen - projected).norm(dim=-1) / 2
    return distances.transpose(0, 1).flatten(1).median(dim=1).values


def _distances_of_others(seen: Tensor, projected: Tensor) -> Tensor:
    """Median distances (C,) from the projection into the nearest of the other cameras."""
    turns = range(1, seen.shape[1])
    return torch.stack([_distances(seen, projected.roll(turn, 1)) for turn in turns]).amin(dim=0)
