"""Lifts one image at a time: a JSON object a line in, a JSON object a line out."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError
from data.keypoints import (
    LONGEST_GAP,
    Keypoints,
    Size,
    Track,
    are_seen,
    are_small,
    keypoints_of_array,
)
from training.given import Given
from training.lifter import Lifter
from training.predicting import Smoother, check_fps, predict_track

_LONGEST_LINE = 2**20  # bytes


def lift_lines(lines: BinaryIO, write: Callable[[str], None], stream: "Stream") -> None:
    """Answer each line at once. A line that cannot be lifted is answered by its number and the
    reason, and the next one is read."""
    for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), b"")):
        try:
            answer = stream(number, line)
        except UserError as error:
            answer = {"frames": number, "error": str(error)}
        write(json.dumps(answer, allow_nan=False) + "\n")


class Stream:
    """One person in images that come one by one.

    Points that are not seen are taken from the images before, up to 15 of them, and marked.
    """

    def __init__(
        self, lifter: Lifter, word: str, size: Size | None, told: Given, smooth: bool
    ) -> None:
        """
        Args:
            word: the format of the points, or "auto": the first line that can be lifted tells.
            size: width and height of images whose line does not say it.
            smooth: filter the poses; needs ``told.fps``.

        Raises:
            UserError: the images a second are not known.
        """
        if smooth:
            check_fps(told.fps)
        self._lifter, self._word, self._size, self._told = lifter, word, size, told
        self._smooth = Smoother() if smooth else None
        self._images: deque[np.ndarray] = deque(maxlen=LONGEST_GAP)
        self._kind: tuple | None = None  # what the images that are remembered have in common

    def __call__(self, number: int, line: bytes) -> dict[str, Any]:
        """The prediction for a line, as JSON takes it.

        Raises:
            UserError: the line is no JSON object of keypoints, or they cannot be lifted.
        """
        try:
            found = self._find(line)
        except UserError:
            if self._images:  # what they remember grows older
                self._images.append(np.full_like(self._images[-1], np.nan))
            raise
        self._word = found.form.word
        prediction = predict_track(self._lifter, _last(found.tracks[0], number), found, self._told)
        return (self._smooth(prediction) if self._smooth else prediction).image(0)

    def _find(self, line: bytes) -> Keypoints:
        """The person in the images that are remembered and in that of this line, the last."""
        points, size = _read_line(line, self._size)
        xy = points[:, :2][are_seen(points[:, :2])]
        if not xy.size:
            raise UserError("no person is seen in this image")
        kind = (size, points.shape, are_small(xy))
        if kind != self._kind:
            self._images.clear()
            self._kind = kind
        images = np.stack([*self._images, points])
        found = keypoints_of_array(images, self._lifter.skeleton, self._word, size)
        self._images.append(points)
        return found


def _read_line(line: bytes, size: Size | None) -> tuple[np.ndarray, Size | None]:
    """The points (P, 2 to 4) of a line, and the size of its image.

    Raises:
        UserError: it is no JSON object of these.
    """
    expected = '{"keypoints": [[x, y, score], ...], "size": [width, height]} expected'
    if len(line) == _LONGEST_LINE:
        raise UserError(f"a line of more than {_LONGEST_LINE:,} bytes: {expected}")
    try:
        content = json.loads(line)
        points = np.array(content["keypoints"], dtype=np.float64)
        width, height = (int(side) for side in content.get("size", size) or (0, 0))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UserError(expected) from None
    if points.ndim != 2 or not 2 <= points.shape[1] <= 4 or min(width, height) < 0:
        raise UserError(expected)
    return points, (width, height) if min(width, height) > 0 else None


def _last(track: Track, number: int) -> Track:
    """The last image of a track, with the number of its line."""
    return replace(
        track,
        frames=np.array([number]),
        keypoints=track.keypoints[-1:],
        scores=track.scores[-1:],
        interpolated=track.interpolated[-1:],
    )
