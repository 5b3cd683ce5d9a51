"""3D poses of one person, and the files that hold them."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from common.bvh import to_bvh
from common.clip import LEVEL_UP, Clip
from common.errors import UserError
from common.files import atomic_write, write_bytes
from common.skeleton import SKELETONS

_USUAL_FPS = 30.0
_DIGITS = 6  # after the point, in JSON and csv: micrometres


@dataclass(frozen=True)
class Prediction:
    """The poses of one person in T images, with J joints.

    Attributes:
        poses_3d: (T, J, 3) float32, metres, camera space, relative to the hip (joint 0).
        joints: names of the J joints.
        keypoints_2d: (T, J, 2) float32, the 2D joints that were lifted, pixels, y down.
        scores: (T, J) float32, the detector's; NaN where it gave none.
        interpolated: (T, J) bool, the joint was not seen in this image and is filled in.
        frames: (T,) numbers of the images, rising.
        person: number of the person.
        size: width and height of the images in pixels.
        fps: images a second; None if it is not known.
        absolute_3d: (T, J, 3) float32, metres, camera space, the camera at the origin; NaN where
            the 2D joints do not tell the place. None if the camera is not known.
        assumed: what was assumed because nobody told it, in words.
        known: what was told or found out of the person and the camera, in words.
        up: the upward direction in camera space, a unit vector; None if it is not known.
        axes, units: the coordinates in words.
    """

    poses_3d: np.ndarray
    joints: tuple[str, ...]
    keypoints_2d: np.ndarray
    scores: np.ndarray
    interpolated: np.ndarray
    frames: np.ndarray
    person: int
    size: tuple[int, int]
    fps: float | None = None
    absolute_3d: np.ndarray | None = None
    assumed: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    up: tuple[float, float, float] | None = None
    axes: str = "camera space: x right, y down, z forward"
    units: str = (
        "poses_3d: metres relative to the hip; absolute_3d: metres from the camera; "
        "keypoints_2d and size: pixels; fps: images a second"
    )

    def __len__(self) -> int:
        return len(self.poses_3d)

    @property
    def is_upside_down(self) -> bool:
        """Whether the trunk points down in most images, if the upward direction is known."""
        if self.up is None:
            return False
        trunk = self.poses_3d[:, self.joints.index("Thorax")]
        height, length = trunk @ np.array(self.up), np.linalg.norm(trunk, axis=1)
        return bool(np.median(height) < -0.5 * np.median(length))

    @property
    def has_ankles_above_head(self) -> bool:
        """Whether the ankles are above the head in most images, by half of the diagonal of the box
        around the 2D joints: who lies on the floor does not count."""
        head, *ankles = (self.joints.index(name) for name in ("Head", "RFoot", "LFoot"))
        y = self.keypoints_2d[..., 1]
        diagonals = np.linalg.norm(np.ptp(self.keypoints_2d, axis=1), axis=-1)
        return bool(np.median(y[:, head] - y[:, ankles].mean(axis=1) - 0.5 * diagonals) > 0)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("assumed", "known"):
            values[name] = np.array(values[name], dtype=np.str_)
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    def clip(self, title: str = "") -> Clip:
        """The same for pictures and BVH; 30 images a second where that is not known."""
        return Clip(
            self.poses_3d,
            SKELETONS[len(self.joints)],
            self.fps or _USUAL_FPS,
            title,
            absolute=self.absolute_3d,
            keypoints=self.keypoints_2d,
            size=self.size,
            frames=self.frames,
            up=self.up or LEVEL_UP,
        )

    def image(self, index: int) -> dict[str, Any]:
        """What is known of one image, for JSON: arrays without their first axis; null for NaN."""
        per_image = {"poses_3d", "keypoints_2d", "scores", "interpolated", "frames", "absolute_3d"}
        return {
            name: _for_json(array[index] if name in per_image else array)
            for name, array in self.arrays().items()
        }


def check_prediction_name(flag: str, path: str | Path) -> None:
    """Check the suffix of an output file.

    Raises:
        UserError: no writer has it.
    """
    if Path(path).suffix not in WRITERS:
        raise UserError(f"{flag} {path}: give a name that ends in {', '.join(WRITERS)}")


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Write a prediction whole or not at all, in the format of the name's suffix.

    Raises:
        UserError: the file cannot be written.
    """
    WRITERS[path.suffix](path, prediction)


def _write_npz(path: Path, prediction: Prediction) -> None:
    with atomic_write(path) as partial:
        np.savez_compressed(partial, **prediction.arrays())


def _write_json(path: Path, prediction: Prediction) -> None:
    content = {name: _for_json(array) for name, array in prediction.arrays().items()}
    write_bytes(path, json.dumps(content, allow_nan=False).encode() + b"\n")


def _write_csv(path: Path, prediction: Prediction) -> None:
    """A row an image: its number, the person, and x, y and z of each joint in metres."""
    known = {"": prediction.poses_3d, "_absolute": prediction.absolute_3d}
    tables = {end: poses for end, poses in known.items() if poses is not None}
    names = [f"{j}{end}_{axis}" for end in tables for j in prediction.joints for axis in "xyz"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", "person", *names])
    for index, frame in enumerate(prediction.frames.tolist()):
        values = np.concatenate([poses[index].ravel() for poses in tables.values()])
        cells = ["" if np.isnan(value) else f"{value:.{_DIGITS}f}" for value in values]
        writer.writerow([frame, prediction.person, *cells])
    write_bytes(path, text.getvalue().encode())


def _write_bvh(path: Path, prediction: Prediction) -> None:
    write_bytes(path, to_bvh(prediction.clip()).encode())


def _for_json(array: np.ndarray) -> Any:
    """Nested lists; None for NaN."""
    if array.dtype.kind != "f":
        return array.tolist()
    rounded = np.round(array.astype(np.float64), _DIGITS)
    return np.where(np.isnan(rounded), None, rounded.astype(object)).tolist()


# What a file is, by its suffix. A new output is a line of this table.
WRITERS: dict[str, Callable[[Path, Prediction], None]] = {
    ".npz": _write_npz,
    ".json": _write_json,
    ".csv": _write_csv,
    ".bvh": _write_bvh,
}
