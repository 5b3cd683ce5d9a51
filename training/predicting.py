"""From the 2D joints of a person to what is known of the person in 3D."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.camera import normalize_screen_coordinates, remove_distortion, solve_translation
from common.errors import UserError
from common.one_euro import OneEuro
from common.person import bone_lengths
from common.prediction import Prediction
from common.standing_height import scale_to_height, standing_height
from data.keypoints import Keypoints, Size, Track

if TYPE_CHECKING:
    from training.lifter import Lifter

FILTERS = ("one_euro",)
_FOV = 50.0  # degrees, of a camera that nobody describes: a phone or a webcam
_BATCH_SIZE = 4096
_HEIGHTS = (0.4, 2.6)  # metres, of people
# Hz, and Hz for each m/s: chosen on the bundled motion capture, as docs/own-data.md says.
_MIN_CUTOFF, _BETA = 1.0, 5.0


@dataclass(frozen=True)
class Given:
    """What a user tells of the camera and the person beside the 2D joints.

    Attributes:
        fov: horizontal field of view of the whole image, degrees.
        intrinsics: instead of it: focal length x, y and principal point x, y in pixels; perhaps
            three radial and two tangential coefficients of the lens after them.
        fps: images a second, where the keypoints do not say it.
        person_height: how tall the person stands, metres.
    """

    fov: float | None = None
    intrinsics: Sequence[float] | None = None
    fps: float | None = None
    person_height: float | None = None

    def check(self) -> None:
        """
        Raises:
            UserError: a value is impossible, or two contradict each other.
        """
        if self.fov is not None and self.intrinsics is not None:
            raise UserError("give a field of view (fov) or intrinsics, not both")
        if self.fov is not None and not 0 < self.fov < 180:
            raise UserError(f"fov: give an angle between 0 and 180 degrees, not {self.fov:g}")
        if self.intrinsics is not None:
            _check_intrinsics(self.intrinsics)
        if self.fps is not None and not 0 < self.fps < 10**6:
            raise UserError(f"fps: give the images a second, above 0, not {self.fps:g}")
        low, high = _HEIGHTS
        if self.person_height is not None and not low <= self.person_height <= high:
            raise UserError(
                f"person_height: give metres, from {low:g} to {high:g}, not {self.person_height:g}"
            )

    @property
    def camera_is_known(self) -> bool:
        return self.fov is not None or self.intrinsics is not None

    def camera(self, size: Size) -> Tensor:
        """The intrinsics (9,) in screen units; those of a field of view of 50 degrees if nothing
        is told.

        Args:
            size: width and height of the images in pixels.
        """
        if self.intrinsics is None:
            focal = 1 / math.tan(math.radians(self.fov or _FOV) / 2)
            return torch.tensor([focal, focal, *7 * [0.0]])
        values = [float(value) for value in self.intrinsics]
        centre = normalize_screen_coordinates(torch.tensor(values[2:4]), *size)
        focal = [2 * value / size[0] for value in values[:2]]
        return torch.tensor([*focal, *centre.tolist(), *values[4:], *(9 - len(values)) * [0.0]])


def _check_intrinsics(values: Sequence[float]) -> None:
    if len(values) not in (4, 9) or not all(map(math.isfinite, values)):
        raise UserError(
            "intrinsics: give 4 or 9 numbers (focal length, principal point, distortion)"
        )
    if min(values[:2]) <= 0:
        raise UserError("intrinsics: give a focal length above 0 pixels")


@torch.inference_mode()
def predict_track(
    lifter: Lifter,
    track: Track,
    found: Keypoints,
    told: Given,
    follow: Callable[[Sequence[Tensor]], Iterable[Tensor]] = iter,
) -> Prediction:
    """Lift one person.

    Args:
        track: T images of the person.
        found: what the keypoints say of the images.
        follow: shows the progress of the batches.

    Raises:
        UserError: what is told is impossible.
    """
    told.check()
    device = next(lifter.network.parameters()).device
    screen = normalize_screen_coordinates(torch.from_numpy(track.keypoints), *found.size)
    batches = screen.to(device).split(_BATCH_SIZE)
    camera = told.camera(found.size).to(device)
    poses, places = [], []
    for batch in follow(batches):
        cameras = camera.expand(len(batch), 9)
        pose = lifter.lift(batch, cameras if lifter.input_view.uses_intrinsics else None)
        pose = pose - pose[:, :1]
        poses.append(pose.cpu())
        if told.camera_is_known:
            pinhole = remove_distortion(batch, cameras)
            places.append(solve_translation(pose, pinhole, cameras).cpu())
    prediction = Prediction(
        poses_3d=torch.cat(poses).numpy(),
        joints=lifter.skeleton.names,
        keypoints_2d=track.keypoints,
        scores=track.scores,
        interpolated=track.interpolated,
        frames=track.frames,
        person=track.person,
        size=found.size,
        fps=told.fps or found.fps,
    )
    return _with_place(prediction, torch.cat(places).numpy() if places else None, lifter, told)


def _with_place(
    prediction: Prediction, places: np.ndarray | None, lifter: Lifter, told: Given
) -> Prediction:
    """The same in the size of the person, and where the person is, if the camera is known.

    Args:
        places: (T, 3) of the hip, metres, camera space; None if the camera is not known.
    """
    bones = bone_lengths(torch.from_numpy(prediction.poses_3d), lifter.skeleton)
    lengths = np.median(bones.numpy(), axis=0)
    assumed, scale = [], 1.0
    if not told.camera_is_known and lifter.input_view.uses_intrinsics:
        assumed.append(f"a horizontal field of view of {_FOV:g} degrees")
    if told.person_height is not None:
        scale = scale_to_height(lengths, lifter.skeleton, told.person_height)
    elif places is not None:
        height = standing_height(lengths, lifter.skeleton)
        assumed.append(f"a person who stands {height:.2f} m tall, as the network sees it")
    poses = (scale * prediction.poses_3d).astype(np.float32)
    absolute = None
    if places is not None:
        in_front = np.isfinite(places).all(axis=1) & (places[:, 2] > 0)
        places = np.where(in_front[:, None], scale * places, np.nan)
        absolute = (poses + places[:, None]).astype(np.float32)
    return replace(prediction, poses_3d=poses, absolute_3d=absolute, assumed=tuple(assumed))


class Smoother:
    """The one euro filter of a person's poses, and of the place. It keeps the last image: use one
    object for each person, and give it the images in their order."""

    def __init__(self) -> None:
        self._pose, self._place = (OneEuro(_MIN_CUTOFF, _BETA) for _ in range(2))
        self._frame: int | None = None

    def __call__(self, prediction: Prediction) -> Prediction:
        """
        Raises:
            UserError: the images a second are not known.
        """
        if prediction.fps is None:
            raise UserError("the filter needs the images a second: give --fps")
        poses, absolute = prediction.poses_3d.copy(), prediction.absolute_3d
        absolute = None if absolute is None else absolute.copy()
        for index, frame in enumerate(prediction.frames.tolist()):
            seconds = max(1, frame - (frame if self._frame is None else self._frame))
            seconds /= prediction.fps
            self._frame = frame
            poses[index] = self._pose(poses[index], seconds)
            if absolute is not None:
                absolute[index] = poses[index] + self._place(absolute[index, :1], seconds)
        return replace(prediction, poses_3d=poses, absolute_3d=absolute)


def smoothed(prediction: Prediction, filter_name: str | None) -> Prediction:
    """A whole track through a filter.

    Args:
        filter_name: one of :data:`FILTERS`; None leaves the prediction as it is.

    Raises:
        UserError: there is no such filter, or the images a second are not known.
    """
    if filter_name is None:
        return prediction
    if filter_name not in FILTERS:
        raise UserError(f"smooth: give {', '.join(FILTERS)}, not {filter_name}")
    return Smoother()(prediction)
