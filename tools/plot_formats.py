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
from common.files import refuse_existing
from common.parser import Parser
from common.visualize import PointSet, check_picture_name, save_point_sets
from data.keypoint_formats import FORMATS, KeypointFormat
from tools.made_bodies import detector_points, standing_body

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
    return PointSet(title, points, form.limbs, means, "left_eye" in points)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Draw the points of every format of keypoints.")
    parser.add_argument("-o", "--out", metavar="FILE", default=str(_PICTURE), help="image file")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)
    check_picture_name("--out", args.out)
    refuse_existing([Path(args.out)], args.force)
    save_point_sets(Path(args.out), [point_set(form) for form in FORMATS.values()])
    print(args.out)


if __name__ == "__main__":
    run_script(main)
