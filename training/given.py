"""What a user tells of the camera and the person beside the 2D joints, and the flags for it.

Messages name the flags; in Python the names are the same without dashes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.body import Body
from common.camera import normalize_screen_coordinates
from common.clip import LEVEL_UP
from common.errors import UserError
from common.parser import Parser
from common.standing_height import check_height
from data.keypoints import Size
from data.noise import PIXEL
from training.calibration import up_direction, with_camera_height, with_person_height

if TYPE_CHECKING:
    from training.lifter import Lifter

_FOV = 50.0  # degrees, of a camera that nobody describes: a phone or a webcam
_KEYPOINT_ERROR = 10.0  # pixels at image width 1,000: a detector's
_KEYPOINT_ERRORS = (0.01, 100.0)  # or 0
_SHORTEST = 0.1  # focal length over half of the width: 169 degrees
_CAMERA_HEIGHTS = (0.1, 30.0)  # metres
_NEED_CAMERA = ("ray_fit", "camera_height")


@dataclass(frozen=True)
class Given:
    """What a user tells of the camera and the person beside the 2D joints.

    Attributes:
        fov: horizontal field of view of the whole image, degrees.
        intrinsics: instead of it: focal length x, y and principal point x, y in pixels; perhaps
            three radial and two tangential coefficients of the lens after them.
        fps: images a second, where the keypoints do not say it.
        person_height: how tall the person stands, metres.
        body: the person's body, as calibrated; its size gives way to one of the two heights.
        gravity: x, y, z of the upward direction in camera space, of any length.
        camera_height: height of the camera above the floor on which the person stands, metres.
            Without ``gravity`` the camera is held level.
        ray_fit: put the poses on the rays of the 2D joints, see ``common.ray_fit``.
        keypoint_error: standard deviation of the 2D joints along x and y, pixels in an image of
            width 1,000; 0 for exact ones. ``ray_fit``, and networks that are told it, take 10 if it
            is not known.
    """

    fov: float | None = None
    intrinsics: Sequence[float] | None = None
    fps: float | None = None
    person_height: float | None = None
    body: Body | None = None
    gravity: Sequence[float] | None = None
    camera_height: float | None = None
    ray_fit: bool = False
    keypoint_error: float | None = None

    def check(self) -> None:
        """
        Raises:
            UserError: a value is impossible, two contradict each other, or one needs another.
        """
        self._check_camera()
        if self.fps is not None and not 0 < self.fps < 10**6:
            raise UserError(f"--fps: give the images a second, above 0, not {self.fps:g}")
        if self.person_height is not None:
            check_height(self.person_height)
        _check_keypoint_error(self.keypoint_error)
        if self.person_height is not None and self.camera_height is not None:
            raise UserError(
                "--person_height and --camera_height both tell the size of the person: give one"
            )
        for name in _NEED_CAMERA:
            if getattr(self, name) and not self.camera_is_known:
                raise UserError(f"--{name} needs the camera: give --fov or --intrinsics too")

    def _check_camera(self) -> None:
        if self.fov is not None and self.intrinsics is not None:
            raise UserError("give a field of view (--fov) or --intrinsics, not both")
        if self.fov is not None and not 0 < self.fov < 180:
            raise UserError(f"--fov: give an angle between 0 and 180 degrees, not {self.fov:g}")
        if self.intrinsics is not None:
            _check_intrinsics(self.intrinsics)
        if self.gravity is not None and len(self.gravity) != 3:
            raise UserError("--gravity: give three numbers, such as 0 -1 0")
        low, high = _CAMERA_HEIGHTS
        if self.camera_height is not None and not low <= self.camera_height <= high:
            raise UserError(
                f"--camera_height: give metres above the floor, from {low:g} to {high:g}, not "
                f"{self.camera_height:g}"
            )
        _ = self.up  # refuses what is no direction

    def check_network(self, lifter: Lifter, calibrate: bool = False) -> None:
        """Check what is told beside a network.

        Args:
            calibrate: the body is found out of the 2D joints.

        Raises:
            UserError: :meth:`check` raises it, or the body would change no pose of this network.
        """
        self.check()
        if calibrate and not self._body_is_used(lifter):
            raise UserError(
                "--calibrate: this network cannot be told a body: give --ray_fit too, or weights "
                "trained with --tell_body"
            )
        sizes = (self.body and self.body.size, self.person_height, self.camera_height)
        needed = self.body is not None and self.body.proportions is not None
        if needed and sizes == (None, None, None) and not self._body_is_used(lifter):
            raise UserError(
                "--body: this network cannot be told a body: give --ray_fit or --person_height "
                "too, or weights trained with --tell_body"
            )

    def check_keypoint_error(self, lifter: Lifter, calibrate: bool) -> None:
        """
        Raises:
            UserError: the error of the 2D joints is told and would change nothing.
        """
        used = (calibrate, self.ray_fit, self.camera_height is not None, lifter.told.noise)
        if self.keypoint_error is not None and not any(used):
            raise UserError(
                "--keypoint_error changes nothing alone: it is for --ray_fit, --calibrate, "
                "--camera_height and weights trained with --tell_noise"
            )

    def _body_is_used(self, lifter: Lifter) -> bool:
        """Whether the proportions change the poses, and not only their size."""
        return lifter.told.body or self.ray_fit

    def without_effect(self, lifter: Lifter) -> list[str]:
        """A line for each thing that is told and that the network does not use."""
        lines = []
        if self.camera_is_known and not lifter.input_view.uses_intrinsics:
            lines.append("the model does not use the camera: it only gives the person's place")
        if self.gravity is not None and not lifter.told.gravity:
            lines.append("the model cannot be told where up is: pictures and BVH are turned by it")
        if self.body is not None and not self._body_is_used(lifter):
            lines.append("the model cannot be told a body: it only gives the size")
        return lines

    @property
    def camera_is_known(self) -> bool:
        return self.fov is not None or self.intrinsics is not None

    def camera(self, size: Size) -> Tensor:
        """The intrinsics (9,) in screen units; those of a field of view of 50 degrees if nothing
        is told.

        Args:
            size: width and height of the images in pixels.

        Raises:
            UserError: the focal length is too short for images of this size.
        """
        if self.intrinsics is None:
            focal = 1 / math.tan(math.radians(self.fov or _FOV) / 2)
            return torch.tensor([focal, focal, *7 * [0.0]])
        values = [float(value) for value in self.intrinsics]
        centre = normalize_screen_coordinates(torch.tensor(values[2:4]), *size)
        focal = [2 * value / size[0] for value in values[:2]]
        if min(focal) < _SHORTEST:
            raise UserError(
                f"--intrinsics: a focal length of {min(values[:2]):g} pixels for images {size[0]} "
                "pixels wide: give pixels, not millimetres or fractions"
            )
        return torch.tensor([*focal, *centre.tolist(), *values[4:], *(9 - len(values)) * [0.0]])

    @property
    def up(self) -> Tensor | None:
        """The upward direction in camera space, a unit vector (3,); None if it is not told."""
        return None if self.gravity is None else up_direction(*self.gravity)

    @property
    def screen_sigma(self) -> float | None:
        """The error of the 2D joints in screen units; None if it is not told."""
        return None if self.keypoint_error is None else PIXEL * self.keypoint_error

    @property
    def fit_sigma(self) -> float:
        """The error of the 2D joints that ``ray_fit`` takes and networks are told, screen units."""
        return PIXEL * _KEYPOINT_ERROR if self.screen_sigma is None else self.screen_sigma

    def body_of(self, lifter: Lifter, screen: Tensor, camera: Tensor) -> Body:
        """The person's body, with the size that is told.

        Args:
            screen: (T, J, 2) screen coordinates of the person's joints.
            camera: (9,) intrinsics.

        Raises:
            UserError: the camera height tells no size.
        """
        body = self.body or Body("")
        if self.camera_height is not None:
            up = torch.tensor(LEVEL_UP) if self.up is None else self.up
            given = (screen, camera, up, self.camera_height, None, self.screen_sigma)
            body = with_camera_height(body.without_size(), lifter, *given)
            if body.size is None:
                raise UserError(
                    "--camera_height: the person is not seen below the camera: check it, --gravity "
                    "and the camera"
                )
        elif self.person_height is not None and (body.is_whole or lifter.told.body):
            body = with_person_height(body, lifter, self.person_height)
        return body

    def known(self, body: Body) -> tuple[str, ...]:
        """What is told and found out, in words.

        Args:
            body: the person's, of :meth:`body_of`.
        """
        words = []
        if self.fov is not None:
            words.append(f"a horizontal field of view of {self.fov:g} degrees")
        if self.intrinsics is not None:
            words.append("the intrinsics of the camera")
        if self.gravity is not None:
            words.append("the upward direction in camera space")
        if self.person_height is not None and body.size is None:
            words.append(f"a person who stands {self.person_height:g} m tall")
        if body.proportions is not None or body.size is not None:
            words.append(body.how)
        if self.keypoint_error is not None:
            words.append(f"2D joints that are off by {self.keypoint_error:g} px at width 1,000")
        if self.ray_fit:
            words.append("poses on the rays of the 2D joints")
        return tuple(words)

    def assumed(self, lifter: Lifter) -> list[str]:
        """What is taken because nobody told it, in words, but for the size."""
        words = []
        if not self.camera_is_known and lifter.input_view.uses_intrinsics:
            words.append(f"a horizontal field of view of {_FOV:g} degrees")
        if self.camera_height is not None and self.gravity is None:
            words.append("a camera that is held level")
        if self.keypoint_error is None and (self.ray_fit or lifter.told.noise):
            words.append(f"2D joints that are off by {_KEYPOINT_ERROR:g} px at width 1,000")
        return words


def _check_intrinsics(values: Sequence[float]) -> None:
    if len(values) not in (4, 9) or not all(map(math.isfinite, values)):
        raise UserError(
            "--intrinsics: give 4 or 9 numbers (focal length, principal point, distortion)"
        )
    if min(values[:2]) <= 0:
        raise UserError("--intrinsics: give a focal length above 0 pixels")


def _check_keypoint_error(pixels: float | None) -> None:
    low, high = _KEYPOINT_ERRORS
    if pixels is not None and pixels != 0 and not low <= pixels <= high:
        raise UserError(
            f"--keypoint_error: give pixels at image width 1,000, 0 or from {low:g} to {high:g}, "
            f"not {pixels:g}"
        )


def given_of(args: argparse.Namespace) -> Given:
    """What the flags tell, but for the body.

    Raises:
        UserError: a value is impossible, or a flag needs another.
    """
    names = {field.name for field in fields(Given)} - {"body"}
    told = Given(**{name: getattr(args, name) for name in names})
    told.check()
    if args.calibrate and args.stream:
        raise UserError("--calibrate needs many images: use --body FILE beside --stream")
    if args.calibrate and not (told.camera_is_known and told.keypoint_error is not None):
        raise UserError(
            "--calibrate needs the camera, by --fov or --intrinsics, and the error of the 2D "
            "joints: --keypoint_error PX, 0 for exact ones"
        )
    return told


# fmt: off
def add_given_flags(parser: Parser) -> None:
    """Add the flags that tell the camera and the person."""
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        "--fov", type=float, metavar="DEG",
        help="horizontal field of view of the whole image in degrees: gives absolute poses, and "
        "better ones where the model uses the camera; such a model takes 50 if nothing is told. A "
        "focal length wrong by 20%% raised an error of 45 mm by 10 to 13 mm (docs/own-data.md)")
    camera.add_argument(
        "--intrinsics", type=float, nargs="+", metavar="X",
        help="instead of --fov: focal length x, y and principal point x, y in pixels; for a lens "
        "with distortion also three radial and two tangential coefficients")
    add = parser.add_argument
    add("--gravity", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="the upward direction in camera space (x right, y down, z forward): 0 -1 0 is a level "
        "camera. For models that can be told it, --camera_height, pictures and BVH")
    add("--person_height", type=float, metavar="M",
        help="how tall the person stands, in metres: scales the poses")
    add("--camera_height", type=float, metavar="M",
        help="instead of --person_height: height of the camera above the floor on which the person "
        "stands, in metres; without --gravity the camera is taken as level")
    body = parser.add_mutually_exclusive_group()
    body.add_argument(
        "--calibrate", action="store_true",
        help="find the proportions of the person in 2D joints that are exact to 1 px, and "
        "write them beside the output, to INPUT_body.json")
    body.add_argument("--body", metavar="FILE", help="a body that --calibrate wrote")
    add("--ray_fit", action="store_true",
        help="put the poses on the rays of the 2D joints. It gains where these are exact, and "
        "nothing with a detector's")
    add("--keypoint_error", type=float, metavar="PX",
        help="standard deviation of the 2D joints in pixels at image width 1,000, for --calibrate, "
        "--ray_fit, --camera_height and models that can be told it; 0 for exact ones. --ray_fit "
        "and such models take 10 if it is not given")
