"""From the 2D joints of a person to what is known of the person in 3D."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.body import Body
from common.camera import normalize_screen_coordinates, remove_distortion, solve_translation
from common.errors import UserError
from common.metrics import root_centred
from common.one_euro import OneEuro
from common.person import Known, bone_lengths
from common.prediction import Prediction
from common.standing_height import scale_to_height, standing_height
from data.keypoints import Keypoints, Track
from training.calibration import calibrate
from training.given import Given

if TYPE_CHECKING:
    from training.lifter import Lifter

FILTERS = ("one_euro",)
_BATCH_SIZE = 4096
# Hz, and Hz for each m/s: chosen on the bundled motion capture, as docs/own-data.md says.
_MIN_CUTOFF, _BETA = 1.0, 5.0


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
    told.check_network(lifter)
    if told.body:
        told = replace(told, body=told.body.of_bones(found.form.rigid_kinds(lifter.skeleton)))
    lifter = lifter.seeing(told.fit_sigma)
    device = next(lifter.network.parameters()).device
    screen = screen_joints(track, found).to(device)
    camera = told.camera(found.size).to(device)
    body = told.body_of(lifter, screen, camera)
    poses, places = [], []
    for batch in follow(screen.split(_BATCH_SIZE)):
        known = body.known(len(batch), lifter.skeleton, told.up).to(device)
        pose, place = _lifted(lifter, batch, camera.expand(len(batch), 9), known, told)
        poses.append(pose.cpu())
        places.append(place.cpu())
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
        known=told.known(body),
        up=None if told.up is None else tuple(told.up.tolist()),
    )
    return _with_place(prediction, torch.cat(places).numpy(), lifter, told, body)


def screen_joints(track: Track, found: Keypoints) -> Tensor:
    """The 2D joints (T, J, 2) of a person in screen coordinates."""
    return normalize_screen_coordinates(torch.from_numpy(track.keypoints), *found.size)


def calibrated(lifter: Lifter, track: Track, found: Keypoints, told: Given) -> Body:
    """The proportions of a person from the images in which all joints are seen, as of
    :func:`training.calibration.calibrate`."""
    device = next(lifter.network.parameters()).device
    screen = screen_joints(track, found)[~torch.from_numpy(track.interpolated).any(dim=1)]
    camera = told.camera(found.size).to(device)
    bones = found.form.rigid_kinds(lifter.skeleton)
    return calibrate(lifter, screen.to(device), camera, told.screen_sigma, bones=bones)


def _lifted(
    lifter: Lifter, screen: Tensor, cameras: Tensor, known: Known, told: Given
) -> tuple[Tensor, Tensor]:
    """Poses (B, J, 3) relative to the hip, and the places (B, 3) of the hip, on the rays of the 2D
    joints if that is asked for. A pose whose place is not found stays as it is. Without a camera
    that is known all places are NaN."""
    pose = root_centred(
        lifter.lift(screen, cameras if lifter.input_view.uses_intrinsics else None, known)
    )
    if not told.camera_is_known:
        return pose, torch.full_like(pose[:, 0], torch.nan)
    place = solve_translation(pose, remove_distortion(screen, cameras), cameras)
    if told.ray_fit:
        rows = place.isfinite().all(dim=1) & (place[:, 2] > 0)
        fitted = lifter.on_rays(pose[rows], screen[rows], cameras[rows], known.rows(rows))
        pose[rows], place[rows] = root_centred(fitted), fitted[:, 0]
    return pose, place


def _with_place(
    prediction: Prediction, places: np.ndarray, lifter: Lifter, told: Given, body: Body
) -> Prediction:
    """The same in the size of the person, and where the person is, if the camera is known.

    Args:
        places: (T, 3) of the hip, metres, camera space.
        body: what is known of the person's.
    """
    scale, assumed = _scale(prediction.poses_3d, lifter, told, body)
    poses = (scale * prediction.poses_3d).astype(np.float32)
    absolute = None
    if told.camera_is_known:
        in_front = np.isfinite(places).all(axis=1) & (places[:, 2] > 0)
        places = np.where(in_front[:, None], scale * places, np.nan)
        absolute = (poses + places[:, None]).astype(np.float32)
    assumed = (*told.assumed(lifter), *assumed)
    return replace(prediction, poses_3d=poses, absolute_3d=absolute, assumed=assumed)


def _scale(poses: np.ndarray, lifter: Lifter, told: Given, body: Body) -> tuple[float, list[str]]:
    """The factor that gives poses (T, J, 3) the person's size; and the size, in words, if it is
    assumed and absolute poses depend on it."""
    of_height = told.person_height is not None and not body.is_whole
    if not of_height and body.size is None and not told.camera_is_known:
        return 1.0, []
    bones = bone_lengths(torch.from_numpy(poses), lifter.skeleton)
    lengths = np.median(bones.numpy(), axis=0)
    if of_height:
        return scale_to_height(lengths, lifter.skeleton, told.person_height), []
    if body.size is not None:
        return body.size / lengths.mean(), []
    height = standing_height(lengths, lifter.skeleton)
    return 1.0, [f"a person who stands {height:.2f} m tall, as the network sees it"]


def check_fps(fps: float | None) -> None:
    """
    Raises:
        UserError: the images a second, which filters need, are not known.
    """
    if fps is None:
        raise UserError("the filter needs the images a second: give --fps")


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
        check_fps(prediction.fps)
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
        raise UserError(f"--smooth: give {', '.join(FILTERS)}, not {filter_name}")
    return Smoother()(prediction)
