"""The network's input: 2D joints in screen coordinates, or as rays computed with the intrinsics.

The network predicts the pose in the frame of its input, which may be rotated against camera space.
:meth:`InputView.apply` returns the rotation; :func:`rotate` applies it, or its inverse, to a pose.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.camera import pinhole_rays, rotation_to_optical_axis, undistort

# Root-centred coordinates are a few tenths. The factor gives them the magnitude of screen
# coordinates.
_ROOT_VIEW_SCALE = 5.0
# Lower limit of z after the rotation, so that x/z and y/z stay bounded. Only damaged 2D reaches it.
_MIN_DEPTH = 0.1


@dataclass(frozen=True)
class InputView:
    """The kind of input that a network was trained on; its checkpoints record it.

    If neither is set, the input is the screen coordinates.

    Attributes:
        camera_rays: the input is rays (x/z, y/z), with lens distortion removed.
        root_view: the rays are rotated so that the root lies on the optical axis of a virtual
            camera. The input has four channels a joint, all multiplied by 5: the x/z and y/z of the
            rotated ray, and the x and y of the root's unit ray in camera space. Without
            ``camera_rays`` the rays are those of a pinhole camera; lens distortion is ignored.
    """

    camera_rays: bool = False
    root_view: bool = False

    @property
    def in_dim(self) -> int:
        """Input channels of a joint."""
        return 4 if self.root_view else 2

    @property
    def uses_intrinsics(self) -> bool:
        """Whether the input depends on the camera's intrinsics."""
        return self.camera_rays or self.root_view

    def apply(self, screen: Tensor, intrinsics: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the network's input from 2D joints.

        Args:
            screen: (B, J, 2) normalised screen coordinates.
            intrinsics: (B, 9); ignored unless :attr:`uses_intrinsics`.

        Returns:
            The input (B, J, in_dim); and the rotations (B, 3, 3) of column vectors from camera
            space to the frame of the input, or None if that is camera space.
        """
        if not self.uses_intrinsics:
            return screen, None
        rays_of = undistort if self.camera_rays else pinhole_rays
        rays = rays_of(screen, intrinsics)
        return root_centred_view(rays) if self.root_view else (rays, None)


def root_centred_view(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Rays (B, J, 2) -> the root-centred input (B, J, 4) and its rotation (B, 3, 3).

    The rotation is the smallest one that maps the root's ray to the optical axis. If the camera
    rotates about its centre, the first two channels change by a rotation about the axis at most.
    """
    directions = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    root = directions[:, 0] / directions[:, 0].norm(dim=-1, keepdim=True)
    rotation = rotation_to_optical_axis(root)
    turned = rotate(directions, rotation)
    centred = turned[..., :2] / turned[..., 2:].clamp_min(_MIN_DEPTH)
    root_ray = root[:, None, :2].expand_as(centred)
    return _ROOT_VIEW_SCALE * torch.cat([centred, root_ray], dim=-1), rotation


def rotate(points: Tensor, rotation: Tensor | None, back: bool = False) -> Tensor:
    """Rotate points (B, J, 3) by rotations (B, 3, 3) of column vectors.

    Args:
        rotation: None leaves the points as they are.
        back: apply the inverse rotations.
    """
    if rotation is None:
        return points
    matrix = rotation if back else rotation.mT
    # Not a matrix product, which autocast would compute in bfloat16.
    return (points.unsqueeze(-1) * matrix.unsqueeze(-3)).sum(dim=-2)
