"""Synthetic bodies, for tests and benchmarks that need poses but no data set.

They stand with their feet on the floor, near the centre of Human3.6M's room. The direction of each
bone is random in each frame. Only the bone lengths and the floor are realistic.
"""

import numpy as np

from common.skeleton import H36M_17

# Vector from its parent to each of the 17 joints, metres, of a person who stands and faces -y.
_OFFSETS = np.array(
    [
        (0, 0, 0),
        (-0.13, 0, 0), (0, 0, -0.45), (0, 0, -0.44),
        (0.13, 0, 0), (0, 0, -0.45), (0, 0, -0.44),
        (0, 0, 0.24), (0, 0, 0.25), (0, -0.03, 0.12), (0, 0.02, 0.11),
        (0.16, 0, 0), (0, 0, -0.28), (0, 0, -0.25),
        (-0.16, 0, 0), (0, 0, -0.28), (0, 0, -0.25),
    ]
)  # fmt: skip
_BEND = 0.3  # standard deviation of a bone's end, relative to the bone length
_STORED = 32  # joints in Human3.6M's files
_BESIDE = 0.04  # metres between an unused joint and the joint before it


def made_motion(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Motion of one person of random size: (frames, 32, 3) float32, world metres, z up.

    The 32 joints are in the order of Human3.6M's files. No two joints of a frame are equal, and no
    two frames.
    """
    lengths = np.linalg.norm(_OFFSETS, axis=1, keepdims=True)
    moved = _OFFSETS + _BEND * lengths * rng.normal(size=(frames, *_OFFSETS.shape))
    norms = np.linalg.norm(moved, axis=2, keepdims=True)
    bones = rng.uniform(0.9, 1.1) * lengths * moved / np.where(norms > 0, norms, 1)
    joints = np.zeros_like(bones)
    for joint, parent in H36M_17.bones():
        joints[:, joint] = joints[:, parent] + bones[:, joint]
    motion = _with_unused_joints(_rotated(joints, rng.uniform(0, 2 * np.pi, frames)))
    motion[..., :2] += rng.normal(0, 0.4, (frames, 1, 2))
    motion[..., 2] -= motion[..., 2].min(axis=1, keepdims=True)
    return motion.astype(np.float32)


def _rotated(joints: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Joints (T, J, 3) rotated about the vertical by one angle for each frame (T,)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y, z = np.moveaxis(joints, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def _with_unused_joints(joints: np.ndarray) -> np.ndarray:
    """Joints (T, 17, 3) -> (T, 32, 3). Each of the 15 unused joints is beside the one before."""
    stored = np.empty((len(joints), _STORED, 3))
    for index in range(_STORED):
        if index in H36M_17.stored:
            stored[:, index] = joints[:, H36M_17.stored.index(index)]
        else:
            stored[:, index] = stored[:, index - 1] + (0, 0, _BESIDE)
    return stored


def standing_body() -> np.ndarray:
    """A person who faces -y with arms and legs spread: (1, 17, 3) metres, z up, hip at zero."""
    offsets = _OFFSETS.astype(np.float64)
    for side, sign in (("L", 1), ("R", -1)):
        for limb, angle in ((("Knee", "Foot"), 10), (("Elbow", "Wrist"), 40)):
            turn = np.radians(angle)
            for name in limb:
                bone = offsets[H36M_17.names.index(side + name)]
                bone[:] = np.linalg.norm(bone) * np.array([sign * np.sin(turn), 0, -np.cos(turn)])
    joints = np.zeros((1, *offsets.shape))
    for joint, parent in H36M_17.bones():
        joints[:, joint] = joints[:, parent] + offsets[joint]
    return joints


def detector_points(joints: np.ndarray) -> dict[str, np.ndarray]:
    """Where detectors would find their points on a person: {name of a point: (T, 3)}, metres.

    Args:
        joints: (T, 17, 3) in Human3.6M's order.

    Returns:
        The points of all formats of ``data.keypoint_formats``; Human3.6M's have their own names.
    """
    points = {name: joints[:, i] for i, name in enumerate(H36M_17.names)}
    for side in ("left", "right"):
        for name in ("Hip", "Knee", "Shoulder", "Elbow", "Wrist"):
            points[f"{side}_{name.lower()}"] = points[f"{side[0].upper()}{name}"]
        points[f"{side}_ankle"] = points[f"{side[0].upper()}Foot"]
    points["hip"] = points["mid_hip"] = (points["left_hip"] + points["right_hip"]) / 2
    points["neck"] = (points["left_shoulder"] + points["right_shoulder"]) / 2
    points["head"] = points["Head"]
    across = _unit(points["left_shoulder"] - points["right_shoulder"])
    up = _unit(points["Head"] - points["Thorax"])
    forward = np.cross(across, up)
    face = (points["Neck/Nose"] + points["Head"]) / 2 + 0.09 * forward
    points["nose"] = face + 0.02 * forward
    for sign, side in ((1, "left"), (-1, "right")):
        out = sign * across
        eye = face + 0.03 * up
        for name, at in (("", 0.03), ("_inner", 0.02), ("_outer", 0.04)):
            points[f"{side}_eye{name}"] = eye + at * out
        points[f"{side}_ear"] = face + 0.07 * out - 0.09 * forward
        points[f"mouth_{side}"] = face + 0.02 * out - 0.04 * up
        ankle, wrist = points[f"{side}_ankle"], points[f"{side}_wrist"]
        down = _unit(ankle - points[f"{side}_knee"])
        points[f"{side}_heel"] = ankle - 0.05 * forward + 0.05 * down
        toe = ankle + 0.16 * forward + 0.06 * down
        points[f"{side}_foot_index"], points[f"{side}_big_toe"] = toe, toe - 0.02 * out
        points[f"{side}_small_toe"] = toe + 0.05 * out - 0.03 * forward
        along = _unit(wrist - points[f"{side}_elbow"])
        for name, reach, at in (("pinky", 0.08, 0.05), ("index", 0.1, 0), ("thumb", 0.04, -0.05)):
            points[f"{side}_{name}"] = wrist + reach * along + at * out
    return points


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
