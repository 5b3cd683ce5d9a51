"""Cameras: the four of Human3.6M, whose published calibration is in ``h36m_cameras.json``, and
virtual ones around a motion."""

import json
import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from common.camera import quaternion_to_matrix, rotation_about, world_to_camera

_TABLE = Path(__file__).with_name("h36m_cameras.json")
# Of virtual cameras: sizes of images in pixels, and ranges from which all else is drawn.
_SIZES = ((1920, 1080), (1080, 1920), (1280, 960), (960, 1280), (1000, 1000))
_FIELDS_OF_VIEW = (30.0, 75.0)  # degrees, horizontally
_HEIGHTS, _DISTANCES = (0.3, 2.5), (2.0, 8.0)  # metres
_ROLL = 3.0  # degrees, at most
_ASIDE = 0.15  # how far from the person a camera aims, at most, as a share of the distance
_CANDIDATES = 128  # cameras that are drawn for a motion; the first good ones are taken
_STEP = 4  # every so many frames are looked at
_EDGE = 0.97  # the part of the image, from its centre, in which the joints have to be
_STEEPEST = 0.99  # largest x/z and y/z: ``common.camera.project`` clamps them at 1
_SMALLEST = 0.45  # the person's extent, as a share of the shorter side of the image


@dataclass(frozen=True)
class Camera:
    """One camera of one recording.

    Attributes:
        id: the camera's name in the files of the data set.
        width, height: resolution in pixels.
        intrinsics: (9,) float64 in screen units, see ``common.camera``; NaN if unknown.
        rotation: (3, 3) float64, camera to world.
        translation: (3,) float64, position of the camera in the world, metres.
    """

    id: str
    width: int
    height: int
    intrinsics: Tensor
    rotation: Tensor
    translation: Tensor

    @property
    def is_calibrated(self) -> bool:
        """Whether the intrinsics are known. If not, the 3D joints are in camera space."""
        return bool(self.intrinsics.isfinite().all())

    @property
    def up(self) -> Tensor:
        """(3,) float64 unit vector, the world's upward direction in camera space."""
        return self.rotation[2]


@cache
def _table() -> dict:
    return json.loads(_TABLE.read_text(encoding="utf-8"))


@cache
def h36m_cameras(subject: str) -> tuple[Camera, ...]:
    """The four calibrated cameras of a Human3.6M subject (S1 S5 S6 S7 S8 S9 S11)."""
    pairs = zip(_table()["intrinsics"], _table()["extrinsics"][subject], strict=True)
    return tuple(_camera(intrinsics, extrinsics) for intrinsics, extrinsics in pairs)


def _camera(intrinsics: dict, extrinsics: dict) -> Camera:
    """A camera in our units, from a record in pixels and a record in millimetres."""
    width, height = intrinsics["res_w"], intrinsics["res_h"]
    focal = torch.tensor(intrinsics["focal_length"], dtype=torch.float64) * (2 / width)
    centre = torch.tensor(intrinsics["center"], dtype=torch.float64) * (2 / width)
    centre -= torch.tensor([1.0, height / width], dtype=torch.float64)
    distortion = intrinsics["radial_distortion"] + intrinsics["tangential_distortion"]
    return Camera(
        id=intrinsics["id"],
        width=width,
        height=height,
        intrinsics=torch.cat([focal, centre, torch.tensor(distortion, dtype=torch.float64)]),
        rotation=quaternion_to_matrix(torch.tensor(extrinsics["orientation"], dtype=torch.float64)),
        translation=torch.tensor(extrinsics["translation"], dtype=torch.float64) / 1000,
    )


def virtual_cameras(name: str, motion: Tensor, count: int = 4) -> tuple[Camera, ...]:
    """Cameras of many kinds that see a whole motion: pinholes with other fields of view, heights,
    distances and sides, in portrait and landscape.

    A motion for which too few of the drawn cameras are good gets those that miss the least.

    Args:
        name: of the motion; it seeds the draws, so that the cameras are the same in every run.
        motion: (T, J, 3) world metres, with the floor at z = 0.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.rand(_CANDIDATES, 9, generator=generator, dtype=torch.float64)
    points = motion[::_STEP].double()
    middle = (points.amin(dim=(0, 1)) + points.amax(dim=(0, 1))) / 2
    sizes = torch.tensor(_SIZES, dtype=torch.float64)[(drawn[:, 0] * len(_SIZES)).long()]
    field_of_view, height, distance = (
        low + (high - low) * drawn[:, column]
        for column, (low, high) in enumerate((_FIELDS_OF_VIEW, _HEIGHTS, _DISTANCES), start=1)
    )
    side = 2 * math.pi * drawn[:, 4]
    place = torch.stack([*(middle[:2, None] + distance * _circle(side)), height], dim=1)
    aim = middle + _ASIDE * distance[:, None] * (2 * drawn[:, 5:8] - 1)
    rotation = _looking(aim - place, torch.deg2rad(_ROLL * (2 * drawn[:, 8] - 1)))
    focal = 1 / torch.tan(torch.deg2rad(field_of_view) / 2)
    intrinsics = torch.zeros(_CANDIDATES, 9, dtype=torch.float64)
    intrinsics[:, :2] = focal.unsqueeze(1)
    seen = world_to_camera(points, rotation[:, None], place[:, None, None])
    missed = _missed(seen, focal, sizes)
    return tuple(
        Camera(str(view), *_SIZES[int(drawn[row, 0] * len(_SIZES))], intrinsics[row], rotation[row],
               place[row])
        for view, row in enumerate(missed.sort(stable=True).indices[:count].tolist())
    )  # fmt: skip


def _circle(angle: Tensor) -> Tensor:
    """Angles (K,) in radians -> points (2, K) of the unit circle."""
    return torch.stack([torch.cos(angle), torch.sin(angle)])


def _looking(direction: Tensor, roll: Tensor) -> Tensor:
    """Rotations (K, 3, 3) from camera to world of cameras that look along world directions (K, 3)
    and are turned by ``roll`` (K,) radians about them."""
    forward = direction / direction.norm(dim=1, keepdim=True)
    right = torch.linalg.cross(forward, forward.new_tensor([[0.0, 0.0, 1.0]]))
    right = right / right.norm(dim=1, keepdim=True)
    level = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=2)
    return level @ rotation_about(forward.new_tensor([0.0, 0.0, 1.0]).expand(len(roll), 3), roll)


def _missed(points: Tensor, focal: Tensor, sizes: Tensor) -> Tensor:
    """How much of a motion (K, T, J, 3) in camera space K cameras miss: 0 where all joints are
    inside the image and the person is large enough in it.

    Args:
        focal: (K,) focal lengths in screen units.
        sizes: (K, 2) width and height in pixels.
    """
    rays = points[..., :2] / points[..., 2:].clamp_min(0.01)
    steep = rays.abs().amax(dim=(1, 2, 3)) / _STEEPEST
    screen = rays * focal[:, None, None, None]
    image = sizes / sizes[:, :1]  # half of the width is 1
    outside = (screen.abs() / (_EDGE * image[:, None, None])).amax(dim=(1, 2, 3))
    extent = (screen.amax(dim=2) - screen.amin(dim=2)).amax(dim=2).median(dim=1).values
    small = 2 * _SMALLEST * image.amin(dim=1) / extent
    return sum((value - 1).clamp_min(0) for value in (steep, outside, small))
