"""A person's poses over time, as pictures, the viewer and BVH files take them.

Upright coordinates, in metres: x to the camera's right, y up, z towards the camera, right-handed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.skeleton import Skeleton

LEVEL_UP = (0.0, -1.0, 0.0)  # of a camera that is held level
_FLOOR_SHARE = 5  # percent of the images whose lowest joint is below the floor: errors, not steps


@dataclass(frozen=True)
class Clip:
    """T poses of one person, of J joints.

    Attributes:
        poses: (T, J, 3) metres, camera space, relative to the root.
        fps: poses a second.
        title: text that is shown, such as the name of the file of keypoints.
        absolute: (T, J, 3) metres, camera space; NaN where the person's place is unknown, None if
            it always is.
        truth: (T, J, 3) metres, camera space, relative to the root; None if there is none.
        keypoints: (T, J, 2) the 2D joints, y down; None if there are none.
        size: width and height of the images in the unit of ``keypoints``; None if it is unknown.
        frames: (T,) numbers of the images; None numbers them from 0.
        up: the upward direction in camera space.
        image: number in this clip -> RGB image (height, width, 3) uint8 of ``size``, or None. It
            is called with rising numbers; :func:`by_number` makes it.
    """

    poses: np.ndarray
    skeleton: Skeleton
    fps: float
    title: str = ""
    absolute: np.ndarray | None = None
    truth: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    size: tuple[int, int] | None = None
    frames: np.ndarray | None = None
    up: tuple[float, float, float] = LEVEL_UP
    image: Callable[[int], np.ndarray | None] | None = None

    def __len__(self) -> int:
        return len(self.poses)

    def number(self, index: int) -> int:
        """The number of an image in what was filmed."""
        return index if self.frames is None else int(self.frames[index])

    def part(self, indices: Sequence[int]) -> "Clip":
        """The clip of some of the poses."""
        index = np.asarray(indices)
        series = ("absolute", "truth", "keypoints")
        chosen = {name: getattr(self, name) for name in ("poses", *series)}
        chosen = {name: values[index] for name, values in chosen.items() if values is not None}
        image = (lambda number: self.image(int(index[number]))) if self.image else None
        numbers = np.array([self.number(number) for number in index])
        return replace(self, **chosen, frames=numbers, image=image)

    def standing(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Poses and truth (T, J, 3) in upright coordinates, with the floor at y = 0.

        Where the person's place is known, the floor lies at the lowest joints of the clip (of the
        truth, if there is one), and x and z are 0 at the root's mean. Where it is not, x and z of
        the root are 0, and the lowest joint of each pose stands on the floor: a jump cannot be
        seen. The truth has the place of the pose.
        """
        turn = upright_rotation(self.up)
        absolute = self._absolute_everywhere()
        pose = (self.poses if absolute is None else absolute) @ turn.T
        truth = None if self.truth is None else self.truth @ turn.T + pose[:, :1]
        if absolute is None:
            shift = -pose[:, :, 1].min(axis=1)[:, None] * np.array([0.0, 1.0, 0.0])
        else:
            lowest = (pose if truth is None else truth)[..., 1].min(axis=1)
            shift = -pose[:, :1].mean(axis=0)
            shift[:, 1] = -np.percentile(lowest, _FLOOR_SHARE)
        pose = pose + shift[:, None]
        return pose, None if truth is None else truth + shift[:, None]

    def _absolute_everywhere(self) -> np.ndarray | None:
        """``absolute``, with the places that are not known between those that are; None if none
        is."""
        if self.absolute is None:
            return None
        known = np.isfinite(self.absolute).all(axis=(1, 2))
        if not known.any():
            return None
        times = np.arange(len(known))
        roots = [np.interp(times, times[known], self.absolute[known, 0, k]) for k in range(3)]
        between = self.poses + np.stack(roots, axis=-1)[:, None]
        return np.where(known[:, None, None], self.absolute, between)


def by_number(images: Iterable[np.ndarray]) -> Callable[[int], np.ndarray | None]:
    """Images that are read one after the other, by their numbers, which have to rise: none is
    kept. None for a number after the last."""
    numbered = enumerate(images)
    return lambda wanted: next((image for number, image in numbered if number == wanted), None)


def upright_rotation(up: tuple[float, float, float]) -> np.ndarray:
    """The rotation (3, 3) of column vectors from camera space to upright coordinates.

    The camera's x stays horizontal; if it is vertical itself, z does.
    """
    y = np.array(up, dtype=float) / np.linalg.norm(up)
    across = np.array([1.0, 0.0, 0.0]) if abs(y[0]) < 0.99 else np.array([0.0, 0.0, 1.0])
    x = across - (across @ y) * y
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)])
