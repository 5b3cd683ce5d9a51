"""The calibration of Human3.6M's four cameras, as published, from ``h36m_cameras.json``."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from common.camera import quaternion_to_matrix

_TABLE = Path(__file__).with_name("h36m_cameras.json")


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
