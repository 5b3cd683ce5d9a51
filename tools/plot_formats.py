#!/usr/bin/env python
"""Draw the points of every format of keypoints side by side, with the joints that they make.

python tools/plot_formats.py                    -> docs/keypoint_formats.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np

from common.errors import run_script
from common.visualize import PointSet, save_point_sets
from data.keypoint_formats import FORMATS, KeypointFormat
from tools.made_bodies import detector_points, standing_body
from tools.picture_flags import picture_of_call

_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "keypoint_formats.png"
_FROM_ABOVE = 0.5  # else toes would hide heels


def point_set(form: KeypointFormat) -> PointSet:
    """The points of a format on a standing person, and what trunk and head are made of."""
    seen = {name: point[0] for name, point in detector_points(standing_body()).items()}
    places = {name: (x, z + _FROM_ABOVE * y) for name, (x, y, z) in seen.items()}
    points = {
        name: (*places[name], number) for number, name in enumerate(form.points) if name in places
    }
    means = {
        joint: tuple(np.mean([places[name] for name in names], axis=0).tolist())
        for joint, names in form.rules.items()
        if joint in ("Hip", "Spine", "Thorax", "Neck/Nose", "Head")
    }
    title = f"{form.title}: {form.word}"
    return PointSet(title, points, form.limbs, means)


def main(argv: Sequence[str] | None = None) -> None:
    out = picture_of_call("Draw the points of every format of keypoints.", _PICTURE, argv)
    save_point_sets(out, [point_set(form) for form in FORMATS.values()])
    print(out)


if __name__ == "__main__":
    run_script(main)
