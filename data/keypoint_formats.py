"""The skeletons of detectors: which of their points make our 17 joints, and which one a file has.

Arms and legs are the same points everywhere. The trunk and the head are not: a detector that was
trained on COCO has no hip, spine, thorax or top of the head. Each format says what stands for them,
and which bones that leaves rigid. ``docs/own-data.md`` shows all of them in one drawing, which
``tools/plot_formats.py`` makes from this table.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.skeleton import H36M_16, H36M_17, Skeleton
from data.joint_order import SH_JOINTS

Bone = tuple[str, str]


@dataclass(frozen=True, eq=False)
class KeypointFormat:
    """An order of points, and how it becomes our joints.

    Attributes:
        word: what ``--format`` calls it.
        title: what people call it.
        points: names of the P points, in the order of files.
        rules: for each of our joints that the format has, the points whose mean it is.
        rigid: pairs of our joints whose distance in space is the same in every pose of a person.
        limbs: pairs of points that a drawing connects.
        why: the reason for the rules of trunk and head.
    """

    word: str
    title: str
    points: tuple[str, ...]
    rules: Mapping[str, tuple[str, ...]]
    rigid: frozenset[Bone]
    limbs: tuple[Bone, ...]
    why: str

    def indices(self, joint: str) -> list[int]:
        """The points whose mean is a joint."""
        return [self.points.index(point) for point in self.rules[joint]]

    def rigid_bones(self, skeleton: Skeleton) -> list[tuple[int, int]]:
        """The (joint, parent) pairs of a skeleton whose length is that of the person's body."""
        names = skeleton.names
        return [(j, p) for j, p in skeleton.bones() if (names[j], names[p]) in self.rigid]

    def rigid_kinds(self, skeleton: Skeleton) -> frozenset[str]:
        """The bones that a ``common.body.Body`` may have: those of the kinds, as of
        ``common.skeleton.BONE_GROUPS``, of which all bones are rigid."""
        rigid = self.rigid_bones(skeleton)
        kinds = dict(zip(skeleton.bones(), skeleton.bone_groups(), strict=True))
        flexible = {kind for bone, kind in kinds.items() if bone not in rigid}
        kept = [joint for (joint, _), kind in kinds.items() if kind not in flexible]
        return frozenset(skeleton.names[joint].lstrip("LR") for joint in kept)


# ---- what several formats share ----

_ARMS_AND_LEGS = {
    f"{side[0].upper()}{joint}": (f"{side}_{point}",)
    for side in ("right", "left")
    for joint, point in {
        "Hip": "hip", "Knee": "knee", "Foot": "ankle",
        "Shoulder": "shoulder", "Elbow": "elbow", "Wrist": "wrist",
    }.items()
}  # fmt: skip
_HIPS, _SHOULDERS = ("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")
# The thorax is the middle of the shoulders, so the bones to them change as they are raised. Hip,
# spine and thorax lie on one straight line, whose length changes as the back bends. The nose moves
# against the thorax as the head turns. All others are bones of the body.
_RIGID_LIMBS = frozenset(
    bone
    for bone in ((H36M_17.names[j], H36M_17.names[p]) for j, p in H36M_17.bones())
    if bone[0] not in ("Spine", "Thorax", "Neck/Nose", "LShoulder", "RShoulder")
)
_ALL_RIGID = {
    s: frozenset((s.names[j], s.names[p]) for j, p in s.bones()) for s in (H36M_16, H36M_17)
}


def _both(*limbs: str) -> tuple[Bone, ...]:
    """Limbs of both sides, from "shoulder-elbow"."""
    pairs = [limb.split("-") for limb in limbs]
    return tuple((f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for a, b in pairs)


_BODY = _both("shoulder-elbow", "elbow-wrist", "hip-knee", "knee-ankle")
_FACE = (("nose", "left_eye"), ("nose", "right_eye"), *_both("eye-ear"))
_FEET = _both("ankle-heel", "ankle-big_toe", "big_toe-small_toe")
_COCO_POINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
_WITHOUT_TRUNK = _ARMS_AND_LEGS | {
    "Hip": _HIPS,
    "Spine": _HIPS + _SHOULDERS,
    "Thorax": _SHOULDERS,
    "Neck/Nose": ("nose",),
    "Head": ("left_eye", "right_eye"),
}
_WITHOUT_TRUNK_LIMBS = (
    *_BODY, *_FACE, *_both("ear-shoulder", "shoulder-hip"), _HIPS, _SHOULDERS,
)  # fmt: skip
_WHY_COCO = (
    "There is no point on the trunk and none above the eyes. Hip and thorax are the middles of "
    "hips and shoulders, the spine is the middle of those two, and the middle of the eyes stands "
    "for the head: the rule of MMPose and MotionBERT"
)


def _ours(
    word: str, title: str, skeleton: Skeleton, points: tuple[str, ...], why: str
) -> KeypointFormat:
    """A format that has our joints, among others perhaps."""
    return KeypointFormat(
        word=word,
        title=title,
        points=points,
        rules={name: (name,) for name in skeleton.names},
        rigid=_ALL_RIGID[skeleton],
        limbs=tuple((skeleton.names[j], skeleton.names[p]) for j, p in skeleton.bones()),
        why=why,
    )


# ---- the table ----

_WHY_OURS = "These are the joints of motion capture, whose bones are rigid"
_STORED = tuple(
    H36M_17.names[H36M_17.stored.index(i)] if i in H36M_17.stored else f"unused_{i}"
    for i in range(32)
)
_LIST = (
    _ours("h36m17", "Human3.6M, 17 joints", H36M_17, H36M_17.names, _WHY_OURS),
    _ours("h36m16", "Human3.6M, 16 joints", H36M_16, H36M_16.names, _WHY_OURS),
    _ours("h36m32", "Human3.6M, as stored", H36M_17, _STORED, "17 of the 32 joints are ours"),
    _ours(
        "sh16", "Stacked Hourglass, raw", H36M_16, SH_JOINTS,
        "The same 16 joints in the detector's order, legs first",
    ),
    KeypointFormat(
        word="coco17",
        title="COCO",
        points=_COCO_POINTS,
        rules=_WITHOUT_TRUNK,
        rigid=_RIGID_LIMBS,
        limbs=_WITHOUT_TRUNK_LIMBS,
        why=_WHY_COCO,
    ),
    KeypointFormat(
        word="halpe26",
        title="Halpe",
        points=(
            *_COCO_POINTS, "head", "neck", "hip", "left_big_toe", "right_big_toe",
            "left_small_toe", "right_small_toe", "left_heel", "right_heel",
        ),
        rules=_ARMS_AND_LEGS | {
            "Hip": ("hip",),
            "Spine": ("hip", "neck"),
            "Thorax": ("neck",),
            "Neck/Nose": ("nose",),
            "Head": ("head",),
        },
        rigid=_RIGID_LIMBS,
        limbs=(
            *_BODY, *_FACE, ("head", "nose"), ("nose", "neck"), ("neck", "hip"),
            ("neck", "left_shoulder"), ("neck", "right_shoulder"), ("hip", "left_hip"),
            ("hip", "right_hip"), *_FEET,
        ),
        why="Hip, neck and the top of the head are annotated. Only the spine is missing: the "
        "middle of hip and neck stands for it",
    ),
    KeypointFormat(
        word="body25",
        title="OpenPose BODY_25",
        points=(
            "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder",
            "left_elbow", "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle",
            "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear",
            "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
            "right_small_toe", "right_heel",
        ),
        rules=_WITHOUT_TRUNK | {
            "Hip": ("mid_hip",), "Spine": ("mid_hip", "neck"), "Thorax": ("neck",),
        },
        rigid=_RIGID_LIMBS,
        limbs=(
            *_BODY, *_FACE, ("nose", "neck"), ("neck", "mid_hip"),
            ("neck", "left_shoulder"), ("neck", "right_shoulder"), ("mid_hip", "left_hip"),
            ("mid_hip", "right_hip"), *_FEET,
        ),
        why="OpenPose's neck and middle hip are the middles of shoulders and hips, found as points "
        "of their own. The rest is as for COCO",
    ),
    KeypointFormat(
        word="coco18",
        title="OpenPose COCO-18",
        points=(
            "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder",
            "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip",
            "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
        ),
        rules=_WITHOUT_TRUNK | {"Spine": (*_HIPS, "neck", "neck"), "Thorax": ("neck",)},
        rigid=_RIGID_LIMBS,
        limbs=(
            *_BODY, *_FACE, ("nose", "neck"), ("neck", "left_shoulder"),
            ("neck", "right_shoulder"), ("neck", "left_hip"), ("neck", "right_hip"),
        ),
        why="COCO's points and the neck, which is the middle of the shoulders. The rest is as for "
        "COCO",
    ),
    KeypointFormat(
        word="mediapipe33",
        title="MediaPipe",
        points=(
            "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye",
            "right_eye_outer", "left_ear", "right_ear", "mouth_left", "mouth_right",
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
            "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
            "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
            "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
        ),
        rules=_WITHOUT_TRUNK,
        rigid=_RIGID_LIMBS,
        limbs=(
            *_WITHOUT_TRUNK_LIMBS, ("mouth_left", "mouth_right"),
            *_both("wrist-pinky", "wrist-index", "wrist-thumb", "ankle-heel", "heel-foot_index"),
            *_both("eye-eye_inner", "eye-eye_outer"),
        ),
        why="As for COCO, whose points are among MediaPipe's",
    ),
)  # fmt: skip
FORMATS = {form.word: form for form in _LIST}


# ---- which one a file has ----

_OTHER_NAMES = {"root": "hip", "pelvis": "hip", "neckbase": "necknose", "middlehip": "midhip"}
# Distances between joints of an adult, in metres. Only their proportions count.
_LENGTHS = {
    ("LHip", "RHip"): 0.26, ("LShoulder", "RShoulder"): 0.32, ("Hip", "Thorax"): 0.5,
    ("Thorax", "Head"): 0.25, ("LHip", "LKnee"): 0.45, ("RHip", "RKnee"): 0.45,
    ("LKnee", "LFoot"): 0.44, ("RKnee", "RFoot"): 0.44, ("LShoulder", "LElbow"): 0.28,
    ("RShoulder", "RElbow"): 0.28, ("LElbow", "LWrist"): 0.25, ("RElbow", "RWrist"): 0.25,
}  # fmt: skip
# Of single poses of the bundled data set, seen by two cameras with 3 px of noise, the right order
# has at most 0.087, and a random one 0.086 or more. Human3.6M's read as COCO's, or the hourglass
# order as ours, has 0.05 to 0.2; in 19 of 20 poses that is 1.3 times the right order's or more.
_PERSON = 0.09
_CLEARLY = 0.75  # the best order of several, beside the second
_LOOKED_AT = 200  # poses of a file


def plain_name(name: str) -> str:
    """ "left_eye", "LEFT_EYE", "leftEye" and "LEye" are one point."""
    name = re.sub(r"^([LR])_?(?=[A-Z][a-z])", lambda m: {"L": "left", "R": "right"}[m[1]], name)
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _OTHER_NAMES.get(plain, plain)


def format_of_names(names: Sequence[str]) -> KeypointFormat | None:
    """The format of named points: none that it needs is absent, and it knows most of them."""
    found = {plain_name(name) for name in names}
    fits = {
        form: len(found.intersection(map(plain_name, form.points)))
        for form in FORMATS.values()
        if all(plain_name(p) in found for points in form.rules.values() for p in points)
    }
    return max(fits, key=fits.get) if fits else None


def format_of_poses(points: np.ndarray) -> tuple[KeypointFormat, str]:
    """The format of points without names, and why it is that one.

    Args:
        points: (T, P, 2), NaN where a point was not seen.

    Raises:
        UserError: no format has as many points, or the poses do not tell which one it is.
    """
    choices = [form for form in FORMATS.values() if len(form.points) == points.shape[1]]
    if not choices:
        raise UserError(
            f"{points.shape[1]} points are none of the known formats, which have "
            + ", ".join(f"{len(form.points)} ({form.word})" for form in FORMATS.values())
        )
    unlikeness = {form: unlike_a_person(form, points) for form in choices}
    best, *others = sorted(choices, key=lambda form: np.nan_to_num(unlikeness[form], nan=np.inf))
    clear = unlikeness[best] <= _PERSON and all(
        not unlikeness[best] > _CLEARLY * unlikeness[other] for other in others
    )
    if not clear:
        words = " or ".join(form.word for form in choices)
        raise UserError(
            f"the poses do not tell in which order the {points.shape[1]} points are: give "
            f"--format {words} if it is {'one of these' if others else 'this one'}"
        )
    if not others:
        return best, f"{len(best.points)} points, with the limbs of a person"
    return best, f"in the order of {others[0].word} the limbs would not be a person's"


def unlike_a_person(form: KeypointFormat, points: np.ndarray) -> float:
    """How unlike a person's the limbs are, if points (T, P, 2) are in the order of a format: 0.01
    to 0.09 in the right order, more in others. NaN if too little was seen.

    It is the mean length of the limbs relative to the person's extent, times the deviation of
    lengths from the proportions of an adult; the median over the poses.
    """
    points = points[:: max(1, len(points) // _LOOKED_AT)]
    bones = np.array([[_mean(form, points, end) for end in bone] for bone in _LENGTHS])
    lengths = np.linalg.norm(bones[:, 0] - bones[:, 1], axis=-1)  # (bones, T)
    usual = np.where(np.isnan(lengths), np.nan, np.array([*_LENGTHS.values()])[:, None])
    ends = np.array([[form.points.index(name) for name in limb] for limb in form.limbs])
    limbs = np.linalg.norm(points[:, ends[:, 0]] - points[:, ends[:, 1]], axis=-1)
    used = points[:, np.unique(ends)]
    enough = (np.isfinite(lengths).mean(axis=0) > 0.5) & (np.isfinite(limbs).mean(axis=1) > 0.5)
    if not enough.any():
        return np.nan
    lengths, usual, limbs, used = lengths[:, enough], usual[:, enough], limbs[enough], used[enough]
    with np.errstate(divide="ignore", invalid="ignore"):  # all points of a pose at one place
        return _unlikeness(lengths, usual, limbs, used)


def _unlikeness(
    lengths: np.ndarray, usual: np.ndarray, limbs: np.ndarray, used: np.ndarray
) -> float:
    """
    Args:
        lengths, usual: (bones, T) distances between joints, and those of an adult.
        limbs: (T, limbs) lengths.
        used: (T, points, 2) the points whose extent is the person's.
    """
    scale = np.nansum(lengths, axis=0) / np.nansum(usual, axis=0)
    deviation = np.nansum(abs(lengths - scale * usual), axis=0) / np.nansum(lengths, axis=0)
    extent = np.linalg.norm(np.nanmax(used, axis=1) - np.nanmin(used, axis=1), axis=-1)
    return float(np.median(deviation * np.nanmean(limbs, axis=1) / extent))


def _mean(form: KeypointFormat, points: np.ndarray, joint: str) -> np.ndarray:
    """One of our joints, (T, 2)."""
    return points[:, form.indices(joint)].mean(axis=1)
