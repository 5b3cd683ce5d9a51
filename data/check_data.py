"""Whether the joints of a subject can be right: mistakes that would otherwise train and test
without a word, and give a wrong figure.

Both checks take a sample of the subject's frames and judge medians or shares over all of it, so
that no single action, however odd, and no single error of a detector is held against the data.
They give a text that names the mistake and its remedy, or None. The limits are wide: they are to
admit every body and every detector of use, and there are mistakes that they do not see. A
mistake that 2D and 3D share, such as sides swapped in both, cannot be seen at all.
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

# Lengths of a grown-up's bones in metres by their ends, and between which multiples of it a bone
# may lie once the body's size is taken out. Limbs are much alike in all people; where the joints
# of the trunk and head sit is each data set's own choice.
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
_SIZES = (0.35, 1.6)  # of a grown-up: from below 0.8 m to beyond 2.3 m of height
_UNITS = {"millimetres": 1000, "centimetres": 100, "inches": 39.37}  # in a metre
_SIDES = 1.5  # left and right bones; hdm05's differ by up to 1.15
_REORDER = "store the joints in Human3.6M's order, see DATASETS.md"
_AT_ORIGIN = 1e-4  # metres: what rounding leaves of a root that was subtracted

# A body stands along an axis where the direction from feet to head is within 37 degrees of it.
_STANDING = 0.8
_MOSTLY, _HARDLY = 0.5, 0.1  # shares of frames; who lies down or sits stood before
_TURNED = {
    "x": "(-z, y, x)", "-x": "(z, y, -x)", "y": "(x, -z, y)", "-y": "(x, z, -y)",
    "-z": "(x, -y, -z)",
}  # fmt: skip
# How high the hips are, metres, in the frames of a subject where they are highest (a tenth): from
# a child that only crawls to a giant on a step.
_HIPS = (0.2, 1.8)

# 2D against projected 3D: medians of a subject and camera, in widths of the image. On hdm05 the
# made detector of data.noise has 0.003, swapped sides 0.015 to 0.054, the raw hourglass order 0.077
# to 0.111, random orders 0.058 to 0.177, other cameras' views 0.066 to 0.220, normalised ones 0.57.
_FAR = 0.05
_BETTER = 2.0  # an explanation is so many times nearer
_ROUNDING = 0.002  # 2 pixels of 1000: below this nothing needs an explanation


def find_wrong_motion(points: Tensor, skeleton: Skeleton, in_world: bool) -> str | None:
    """What is wrong with a subject's 3D joints, and what to do.

    Args:
        points: (F, J, 3) metres, a sample of the frames of all its sequences.
        in_world: they are in a world with z up and the floor at z = 0, not in a camera's space.
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
    """Names of joints without their sides."""
    return [skeleton.names[joint].removeprefix("L").removeprefix("R") for joint in joints]


def _find_wrong_unit(size: float) -> str | None:
    """``size`` of the body, in grown-ups."""
    least, most = _SIZES
    if least <= size <= most:
        return None
    unit = min(_UNITS, key=lambda unit: abs(math.log(max(size, 1e-9) / _UNITS[unit])))
    if least <= size / _UNITS[unit] <= most:
        return f"the joints are in {unit}: divide them by {_UNITS[unit]}, metres are expected"
    return f"the body is {size:.2g} times as large as a grown-up: metres are expected"


def _find_wrong_world(points: Tensor, skeleton: Skeleton) -> str | None:
    head, *feet = (skeleton.names.index(name) for name in ("Head", "LFoot", "RFoot"))
    upward = points[:, head] - points[:, feet].mean(dim=1)
    upward = upward / upward.norm(dim=-1, keepdim=True)
    standing = {
        f"{sign}{axis}": (upward[:, i] * float(f"{sign}1") > _STANDING).float().mean().item()
        for i, axis in enumerate("xyz")
        for sign in ("", "-")
    }
    axis = max(standing, key=standing.__getitem__)
    if standing[axis] > _MOSTLY and standing["z"] < _HARDLY:
        return (
            f"the bodies stand along {axis}, and z is up in this world: store {_TURNED[axis]} for "
            "(x, y, z), or world coordinates if these are a camera's"
        )
    hips = points[:, 0, 2].quantile(0.9).item()
    if not _HIPS[0] <= hips <= _HIPS[1]:
        return (
            f"the hips are {hips:.2f} m high where they are highest: store the joints' places in "
            "the room, with the floor at z = 0"
        )
    return None


def find_wrong_views(
    pixels: Tensor,
    points: Tensor,
    cameras: Sequence[Camera],
    skeleton: Skeleton,
    reordered: bool = False,
) -> str | None:
    """What is wrong with a subject's 2D joints beside its 3D joints, and what to do.

    Args:
        pixels: (F, C, J, 2), a sample of the frames of all its sequences as C cameras see them.
        points: (F, J, 3) world metres, of the same frames.
        cameras: C of them, calibrated.
        reordered: the 2D joints were taken out of the raw hourglass order, as the file's metadata
            have it.
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
    which_joints = "the 2D joints" + ("" if wrong.all() else f" of camera {cameras[worst].id}")
    if not is_explained[worst]:
        return (
            f"{which_joints} are {found[worst]:.3f} of the width from the projected 3D, and "
            f"detectors come within {_FAR}: prepare both from one source, with the joints in "
            "Human3.6M's order and x and y in pixels from the top left corner"
        )
    best = explanations[which[worst]]
    return (
        f"{which_joints} {best.mistake} ({nearest[worst]:.3f} of the width from the "
        f"projected 3D if so, {found[worst]:.3f} as they are): {best.remedy}"
    )


@dataclass(frozen=True)
class _Explanation:
    """A mistake that would explain the 2D joints.

    Attributes:
        mistake, remedy: text, the mistake after "the 2D joints".
        distances: (C,) median distance from the projected joints, in widths, if that is so.
    """

    mistake: str
    remedy: str
    distances: Tensor


def _explanations(
    pixels: Tensor,
    projected: Tensor,
    cameras: Sequence[Camera],
    skeleton: Skeleton,
    reordered: bool,
) -> list[_Explanation]:
    seen = _on_screen(pixels, cameras)
    sizes = pixels.new_tensor([[camera.width, camera.height] for camera in cameras]).unsqueeze(1)
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
    if len(cameras) > 1:
        found.append(
            _Explanation(
                "are what another camera sees",
                f"store the views in the order {', '.join(camera.id for camera in cameras)}",
                _distances_of_others(seen, projected),
            )
        )
    if skeleton.num_joints == len(SH_TO_OURS):
        order = torch.tensor(SH_TO_OURS)
        other = _distances(seen[..., order.argsort() if reordered else order, :], projected)
        found.append(_of_hourglass(other, reordered))
    return found


def _of_hourglass(distances: Tensor, reordered: bool) -> _Explanation:
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


def _project(points: Tensor, cameras: Sequence[Camera]) -> Tensor:
    """World (F, J, 3) -> screen (F, C, J, 2)."""
    rotation, place, intrinsics = (
        torch.stack([getattr(camera, part) for camera in cameras]).to(points.dtype)
        for part in ("rotation", "translation", "intrinsics")
    )
    return project(world_to_camera(points.unsqueeze(1), rotation, place.unsqueeze(1)), intrinsics)


def _on_screen(pixels: Tensor, cameras: Sequence[Camera]) -> Tensor:
    """(F, C, J, 2) pixels -> screen coordinates."""
    views = [
        normalize_screen_coordinates(view, camera.width, camera.height)
        for view, camera in zip(pixels.unbind(dim=1), cameras, strict=True)
    ]
    return torch.stack(views, dim=1)


def _distances(seen: Tensor, projected: Tensor) -> Tensor:
    """Medians (C,) over frames and joints of the distance of screen points (F, C, J, 2), in widths
    of the image, which are 2 on the screen."""
    distances = (seen - projected).norm(dim=-1) / 2
    return distances.transpose(0, 1).flatten(1).median(dim=1).values


def _distances_of_others(seen: Tensor, projected: Tensor) -> Tensor:
    """The same from what the nearest of the other cameras would see."""
    turns = range(1, seen.shape[1])
    return torch.stack([_distances(seen, projected.roll(turn, 1)) for turn in turns]).amin(dim=0)
