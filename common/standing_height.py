"""How tall a person is, from the lengths of the bones."""

import numpy as np

from common.errors import UserError
from common.skeleton import Skeleton

# What the bones leave out: ankle to floor, about 7 cm, and the crown above the head's joint. It was
# chosen so that the five actors of HDM05 are as tall as their legs say (hip to ankle is 0.491 of
# the height: Winter, Biomechanics and Motor Control of Human Movement, 2009). One by one they need
# 13 to 24 cm: the height of a person is known to about 5 cm.
_OFFSET = 0.18
_HEIGHTS = (0.4, 2.6)  # metres, of people
_TRUNK = ("Spine", "Thorax", "Neck/Nose", "Head")


def check_height(height: float) -> None:
    """
    Raises:
        UserError: no person is so many metres tall.
    """
    low, high = _HEIGHTS
    if not low <= height <= high:
        raise UserError(f"--person_height: give metres, from {low:g} to {high:g}, not {height:g}")


def standing_height(lengths: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The height (...) of a person who stands upright, in metres, without shoes.

    It is shank + thigh (means of left and right) + the bones from the hip up to the head + 0.18 m
    for what lies below the ankle and above the head's joint.

    Args:
        lengths: (..., J - 1) metres, in the order of ``Skeleton.bones``.
    """
    return _sum_of_bones(lengths, skeleton) + _OFFSET


def scale_to_height(lengths: np.ndarray, skeleton: Skeleton, height: float) -> np.ndarray:
    """The factor (...) by which bones grow so that the person stands ``height`` metres tall.

    Args:
        lengths: (..., J - 1) in any unit, in the order of ``Skeleton.bones``.
    """
    return (height - _OFFSET) / _sum_of_bones(lengths, skeleton)


def _sum_of_bones(lengths: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    share = {"Knee": 0.5, "Foot": 0.5} | dict.fromkeys(_TRUNK, 1.0)
    names = [skeleton.names[joint] for joint, _ in skeleton.bones()]
    return lengths @ np.array([share.get(name, share.get(name[1:], 0.0)) for name in names])
