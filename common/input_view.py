"""What the network sees of the 2D joints: the screen as it is, or rays that know the camera.

A prediction is a pose in the space of the view; :meth:`InputView.apply` gives the rotation that
leads there, and :func:`rotate` leads a pose there and back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.camera import pinhole_rays, rotation_to_optical_axis, undistort

# The root-centred view spans some tenths: brought to the order of the screen's values.
_ROOT_VIEW_SCALE = 5.0
# Rays that the rotation turns nearly sideways (only damaged 2D has any) stay bounded.
_MIN_DEPTH = 0.1


@dataclass(frozen=True)
class InputView:
    """Which input a network was trained on; part of what its checkpoints say of it.

    Attributes:
        camera_rays: the lens is taken out: rays (x/z, y/z) by the full inverse of the projection.
        root_view: the rays as a virtual camera sees them that looks straight at the root: two
            channels, times 5, and the x and y of the root's unit ray, times 5, as two more. Without
            ``camera_rays`` the rays are those of a pinhole, the lens is ignored.
    """

    camera_rays: bool = False
    root_view: bool = False

    @property
    def in_dim(self) -> int:
        """Channels of a joint."""
        return 4 if self.root_view else 2

    @property
    def uses_intrinsics(self) -> bool:
        return self.camera_rays or self.root_view

    def apply(self, screen: Tensor, intrinsics: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the network is given, and the rotation from camera space to the view's.

        Args:
            screen: (B, J, 2) normalised screen coordinates.
            intrinsics: (B, 9); not looked at by a view that does not use them.

        Returns:
            (B, J, in_dim), and (B, 3, 3) for column vectors, or None where the view does not turn.
        """
        if not self.uses_intrinsics:
            return screen, None
        rays_of = undistort if self.camera_rays else pinhole_rays
        rays = rays_of(screen, intrinsics)
        return root_centred_view(rays) if self.root_view else (rays, None)


def root_centred_view(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Rays (B, J, 2) -> the root-centred view (B, J, 4) and its rotation (B, 3, 3).

    The rotation is the smallest one that takes the root's ray to the optical axis. Turning the
    camera about its own centre turns the first two channels about the axis at most.
    """
    directions = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    root = directions[:, 0] / directions[:, 0].norm(dim=-1, keepdim=True)
    rotation = rotation_to_optical_axis(root)
    turned = rotate(directions, rotation)
    centred = turned[..., :2] / turned[..., 2:].clamp_min(_MIN_DEPTH)
    place = root[:, None, :2].expand_as(centred)
    return _ROOT_VIEW_SCALE * torch.cat([centred, place], dim=-1), rotation


def rotate(points: Tensor, rotation: Tensor | None, back: bool = False) -> Tensor:
    """Points (B, J, 3) by rotations (B, 3, 3) of column vectors, or back by their inverses."""
    if rotation is None:
        return points
    matrix = rotation if back else rotation.mT
    # No matrix product: autocast would round it to three digits.
    return (points.unsqueeze(-1) * matrix.unsqueeze(-3)).sum(dim=-2)
