"""Made people, for tests and measurements that need poses and no data set.

They stand with their feet on the floor near the middle of Human3.6M's room, all limbs turned at
random, anew in each frame. Only the lengths of the bones and the floor are a body's.
"""

import numpy as np

from common.skeleton import H36M_17

# From its parent to each of the 17 joints, metres, of somebody who stands and looks along -y.
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
_BEND = 0.3  # how far a bone leaves its place, in lengths of the bone
_STORED = 32
_BESIDE = 0.04  # metres from a joint that moves to one that goes with it


def made_motion(rng: np.random.Generator, frames: int) -> np.ndarray:
    """One person of random size: (frames, 32, 3) float32, world metres, z up, as Human3.6M stores
    joints; no two joints of a frame and no two frames are equal."""
    lengths = np.linalg.norm(_OFFSETS, axis=1, keepdims=True)
    moved = _OFFSETS + _BEND * lengths * rng.normal(size=(frames, *_OFFSETS.shape))
    norms = np.linalg.norm(moved, axis=2, keepdims=True)
    bones = rng.uniform(0.9, 1.1) * lengths * moved / np.where(norms > 0, norms, 1)
    joints = np.zeros_like(bones)
    for joint, parent in H36M_17.bones():
        joints[:, joint] = joints[:, parent] + bones[:, joint]
    motion = _with_stored_joints(_turned(joints, rng.uniform(0, 2 * np.pi, frames)))
    motion[..., :2] += rng.normal(0, 0.4, (frames, 1, 2))
    motion[..., 2] -= motion[..., 2].min(axis=1, keepdims=True)
    return motion.astype(np.float32)


def _turned(joints: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """About the vertical, a frame at a time."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y, z = np.moveaxis(joints, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def _with_stored_joints(joints: np.ndarray) -> np.ndarray:
    """The 15 joints of 32 that do not move of themselves lie beside the one before."""
    stored = np.empty((len(joints), _STORED, 3))
    for index in range(_STORED):
        if index in H36M_17.stored:
            stored[:, index] = joints[:, H36M_17.stored.index(index)]
        else:
            stored[:, index] = stored[:, index - 1] + (0, 0, _BESIDE)
    return stored
