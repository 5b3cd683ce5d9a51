#!/usr/bin/env python
"""Find the person in an image or a video: MediaPipe's 33 points, in pixels.

python data/detect.py VIDEO                     -> VIDEO_2d.json, which predict.py lifts

MediaPipe sees one person, and brings its model. It is in requirements-video.txt, which wants a
virtual environment of its own: ``make video VIDEO=...`` makes it.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np

from common.errors import UserError, run_script
from common.files import check_writable, refuse_existing, write_bytes
from common.parser import Parser
from common.progress import follow
from data.keypoint_files import IMAGES, VIDEOS, KeypointFile, Seen

_NEWEST = (3, 12)  # Python that MediaPipe 0.10.21 has wheels for
_COMPLEXITY = 1  # pose_landmark_full, which lies in the wheel


def detect(path: Path) -> KeypointFile:
    """The person in each image of a video, or in one image.

    Returns:
        Points (33, 3): x and y in pixels, and how surely the point is visible, 0 to 1. Images in
        which nobody is seen are left out.

    Raises:
        UserError: MediaPipe is not installed, or the file cannot be read.
    """
    cv2, mediapipe = _require_detector()
    is_image = _is_image(path)
    images, count, fps = _open(cv2, path)
    seen, size = [], None
    with mediapipe.solutions.pose.Pose(
        static_image_mode=is_image, model_complexity=_COMPLEXITY
    ) as pose:
        for number, image in enumerate(follow(images, "finding the person", count, "image")):
            size = (image.shape[1], image.shape[0])
            found = pose.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).pose_landmarks
            if found:
                scale = np.array([*size, 1])
                points = np.array([[p.x, p.y, p.visibility] for p in found.landmark]) * scale
                seen.append(Seen(number, 1, points))
    if size is None:
        raise UserError(f"{path} is no image or video that OpenCV can read")
    if not seen:
        raise UserError(f"{path}: no person is found in any of its images")
    return KeypointFile(seen, size, fps)


def _require_detector() -> tuple[ModuleType, ModuleType]:
    """OpenCV and MediaPipe.

    Raises:
        UserError: they are not installed here, or cannot be.
    """
    if sys.version_info[:2] > _NEWEST:
        version = ".".join(map(str, _NEWEST))
        raise UserError(
            f"MediaPipe, which finds people in images, needs Python {version} or older: make "
            f"video VIDEO=... PYTHON=python{version}; or give keypoints of another detector"
        )
    try:
        import cv2
        import mediapipe
    except ImportError as error:
        raise UserError(
            f"MediaPipe, which finds people in images, is not installed ({error.name}): make video "
            "VIDEO=... installs it and lifts; or give keypoints of another detector"
        ) from error
    return cv2, mediapipe


def images_of(path: Path) -> Iterator[np.ndarray]:
    """The image, or those of a video one by one: RGB (height, width, 3) uint8.

    Raises:
        UserError: as :func:`detect`, of the packages.
    """
    cv2, _ = _require_detector()
    images, _, _ = _open(cv2, path)
    return (cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES


def _open(cv2: ModuleType, path: Path) -> tuple[Iterable[np.ndarray], int | None, float | None]:
    """The images (height, width, 3) in BGR one by one, their number and images a second, the
    latter two None if the file does not say them."""
    if _is_image(path):
        image = cv2.imread(str(path))
        return ([] if image is None else [image]), 1, None
    video = cv2.VideoCapture(str(path))
    count, fps = (video.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))

    def images() -> Iterator[np.ndarray]:
        while (read := video.read())[0]:
            yield read[1]
        video.release()

    return images(), (int(count) if count > 0 else None), (fps if 0 < fps < 10**6 else None)


def as_json(found: KeypointFile) -> dict[str, Any]:
    """What ``data.keypoint_files`` reads again: pixels to a tenth, visibility to a hundredth."""
    frames = [
        {
            "frame": seen.frame,
            "keypoints": [[round(x, 1), round(y, 1), round(v, 2)] for x, y, v in seen.points],
        }
        for seen in found.seen
    ]
    return {"size": found.size, "fps": found.fps, "frames": frames}


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Find the person in an image or a video.")
    parser.add_argument("video", metavar="VIDEO", help=f"a file of {', '.join(VIDEOS + IMAGES)}")
    parser.add_argument("-o", "--out", metavar="FILE", help="output (default: VIDEO_2d.json)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)
    video = Path(args.video)
    out = Path(args.out) if args.out else video.with_name(f"{video.stem}_2d.json")
    refuse_existing([out], args.force, [video])
    check_writable(out.parent)
    found = detect(video)
    write_bytes(out, json.dumps(as_json(found)).encode() + b"\n")
    print(f"{out}: a person in {len(found.seen):,} images")


if __name__ == "__main__":
    run_script(main)
