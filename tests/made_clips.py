"""Clips of made people."""

from typing import Any

import numpy as np

from common.clip import Clip
from common.skeleton import SKELETONS
from tools.made_bodies import made_motion

SIZE = (640, 480)


def made_clip(joints: int = 17, frames: int = 7, placed: bool = False, **options: Any) -> Clip:
    """A made person before a level camera, four metres away.

    Args:
        placed: the person's place is known.
        options: fields of the clip.
    """
    skeleton = SKELETONS[joints]
    world = made_motion(np.random.default_rng(3), frames)[:, list(skeleton.stored)]
    camera = world @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) + (0, 1, 4)
    given = {
        "poses": camera - camera[:, :1],
        "skeleton": skeleton,
        "fps": 25.0,
        "absolute": camera if placed else None,
        "keypoints": camera[..., :2] / camera[..., 2:] * 500 + (320, 240),
        "size": SIZE,
    }
    return Clip(**(given | options))
