"""Camera geometry, in torch. Spaces and units:

world    metres, z up; one frame for all cameras of a recording
camera   metres, x right, y down, z along the optical axis, the camera at the origin
screen   normalised: x in [-1, 1] over the image width, y scaled alike (aspect ratio kept)
ray      (x/z, y/z) of a camera-space point, free of distortion

``intrinsics`` is (..., 9): focal length (2), centre (2), radial (3) and tangential (2) distortion,
lengths in screen units. Leading dimensions broadcast against those of the points without joints.
"""

import torch
from torch import Tensor


def normalize_screen_coordinates(pixels: Tensor, width: int, height: int) -> Tensor:
    """Pixels (..., 2) -> screen (..., 2): u = 2 x / w - 1, v = 2 y / w - h / w."""
    return pixels * (2.0 / width) - pixels.new_tensor([1.0, height / width])


def image_coordinates(screen: Tensor, width: int, height: int) -> Tensor:
    """Screen (..., 2) -> pixels (..., 2), the inverse of the above."""
    return (screen + screen.new_tensor([1.0, height / width])) * (width / 2.0)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Unit quaternion (..., 4) in the order w, x, y, z -> rotation matrix (..., 3, 3)."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def world_to_camera(points: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """World (..., 3) -> camera (..., 3), metres; ``rotation`` (3, 3) is camera-to-world."""
    return (points - translation) @ rotation


def camera_to_world(points: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Camera (..., 3) -> world (..., 3), metres; the inverse of the above."""
    return points @ rotation.mT + translation


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Camera-space points (..., J, 3) in metres -> screen (..., J, 2), with lens distortion.

    Source: Human3.6M's camera model as in VideoPose3D. Rays are clamped to [-1, 1], far outside
    the image, where the distortion polynomial no longer means anything.
    """
    return distort((points[..., :2] / points[..., 2:]).clamp(-1.0, 1.0), intrinsics)


def reproject(screen: Tensor, joints: Tensor, moved: Tensor, intrinsics: Tensor) -> Tensor:
    """What is seen (B, J, 2) of joints (B, J, 3) that were moved, metres, camera space: projected,
    with a detector's error in each frame (``screen`` minus projected ``joints``) added."""
    error = screen - project(joints, intrinsics)
    return project(moved, intrinsics) + error


def distort(rays: Tensor, intrinsics: Tensor) -> Tensor:
    """Rays (..., J, 2) -> screen (..., J, 2)."""
    focal, centre, _, _ = split_intrinsics(intrinsics)
    scale, shift = _distortion(rays, intrinsics)
    return focal * (rays * scale + shift) + centre


def undistort(screen: Tensor, intrinsics: Tensor, iterations: int = 12) -> Tensor:
    """Screen (..., J, 2) -> rays (..., J, 2): the inverse of :func:`distort`, by fixed point.

    Twelve iterations reach float32 rounding inside the image of the Human3.6M cameras.
    """
    distorted = pinhole_rays(screen, intrinsics)
    rays = distorted
    for _ in range(iterations):
        scale, shift = _distortion(rays, intrinsics)
        rays = (distorted - shift) / scale
    return rays


def pinhole_rays(screen: Tensor, intrinsics: Tensor) -> Tensor:
    """Screen (..., J, 2) -> rays (..., J, 2) of a pinhole camera: lens distortion is ignored."""
    focal, centre, _, _ = split_intrinsics(intrinsics)
    return (screen - centre) / focal


def remove_distortion(screen: Tensor, intrinsics: Tensor) -> Tensor:
    """Screen (..., J, 2) -> where a pinhole camera without distortion would see the same points."""
    focal, centre, _, _ = split_intrinsics(intrinsics)
    return undistort(screen, intrinsics) * focal + centre


def back_project(uv: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Screen (..., J, 2) with depth (..., J) in metres -> camera space (..., J, 3), metres.

    x, y = (uv - c) z / f: a pinhole camera, lens distortion is ignored (the published form).
    """
    z = depth.unsqueeze(-1)
    return torch.cat([pinhole_rays(uv, intrinsics) * z, z], dim=-1)


def back_project_pose(pose: Tensor, uv: Tensor, root_depth: Tensor, intrinsics: Tensor) -> Tensor:
    """The 2D joints put at the depths of a pose: P' of the refinement, (B, J, 3), root at zero.

    Args:
        pose: (B, J, 3) metres, relative to the root; only its depths are used.
        uv: (B, J, 2) screen coordinates.
        root_depth: (B,) metres, the depth of joint 0.
        intrinsics: (B, 9).
    """
    relative = torch.cat([torch.zeros_like(pose[:, :1, 2]), pose[:, 1:, 2]], dim=1)
    points = back_project(uv, relative + root_depth.unsqueeze(1), intrinsics)
    return points - points[:, :1]


def solve_translation(pose: Tensor, uv: Tensor, intrinsics: Tensor) -> Tensor:
    """Where a pose stands: the translation (B, 3), metres, that best explains its 2D joints.

    Linear least squares over the joints, in closed form, for t in

        u (Z + tz) = fx (X + tx) + cx (Z + tz)        and likewise for v, fy, cy

    Args:
        pose: (B, J, 3) camera space, metres, relative to any point; t is that point's place.
        uv: (B, J, 2) screen coordinates of a pinhole camera: pass detections through
            :func:`remove_distortion` first, or accept the error that the lens makes.
        intrinsics: (B, 9); distortion is not used.
    """
    rays = pinhole_rays(uv, intrinsics)
    # With a = (u - cx) / fx the equations read tx - a tz = a Z - X. For a given tz, tx and ty are
    # means over the joints; put in, tz is the slope of a line through the centred values.
    offsets = rays * pose[..., 2:] - pose[..., :2]
    rays_mean, offsets_mean = rays.mean(dim=-2), offsets.mean(dim=-2)
    rays, offsets = rays - rays_mean.unsqueeze(-2), offsets - offsets_mean.unsqueeze(-2)
    spread = rays.square().sum(dim=(-2, -1)).clamp_min(torch.finfo(rays.dtype).tiny)
    tz = -(rays * offsets).sum(dim=(-2, -1)) / spread
    return torch.cat([offsets_mean + rays_mean * tz.unsqueeze(-1), tz.unsqueeze(-1)], dim=-1)


def rotation_to_optical_axis(direction: Tensor) -> Tensor:
    """Directions (..., 3) -> the smallest rotations (..., 3, 3) that take them to the optical axis.

    R d = |d| (0, 0, 1) for column vectors. With the unit vector (x, y, z) it is

        1 - x x / (1 + z)      - x y / (1 + z)     - x
          - x y / (1 + z)    1 - y y / (1 + z)     - y
            x                  y                     z

    which is smooth but for the one direction straight backwards, at the axis too.
    """
    x, y, z = (direction / direction.norm(dim=-1, keepdim=True)).unbind(-1)
    share = 1 / (1 + z).clamp_min(torch.finfo(z.dtype).eps)
    rows = [
        torch.stack([1 - x * x * share, -x * y * share, -x], -1),
        torch.stack([-x * y * share, 1 - y * y * share, -y], -1),
        torch.stack([x, y, z], -1),
    ]
    return torch.stack(rows, -2)


def rotation_about(axis: Tensor, angle: Tensor) -> Tensor:
    """Unit axes (..., 3) and angles (...) in radians -> rotations (..., 3, 3) of column vectors.

    Right-handed: 90 degrees about z take x to y. Source: Rodrigues' formula.
    """
    quaternion = torch.cat(
        [torch.cos(angle / 2).unsqueeze(-1), torch.sin(angle / 2).unsqueeze(-1) * axis], dim=-1
    )
    return quaternion_to_matrix(quaternion)


def flip_intrinsics(intrinsics: Tensor) -> Tensor:
    """Intrinsics (..., 9) of the mirrored image: centre x and the first tangential coefficient
    change sign."""
    return intrinsics * intrinsics.new_tensor([1, 1, -1, 1, 1, 1, 1, -1, 1])


def split_intrinsics(intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intrinsics (..., 9) -> focal, centre, radial, tangential, each with a joint axis of one."""
    if intrinsics.shape[-1] != 9:
        raise ValueError(f"intrinsics: 9 values expected, got shape {tuple(intrinsics.shape)}")
    focal, centre, radial, tangential = intrinsics.unsqueeze(-2).split([2, 2, 3, 2], dim=-1)
    return focal, centre, radial, tangential


def _distortion(rays: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """The factor and the offset (..., J, 1 or 2) that the lens puts on rays (..., J, 2)."""
    _, _, radial, tangential = split_intrinsics(intrinsics)
    r2 = rays.square().sum(dim=-1, keepdim=True)
    polynomial = (radial * torch.cat([r2, r2.square(), r2.pow(3)], dim=-1)).sum(-1, keepdim=True)
    return 1 + polynomial + (tangential * rays).sum(-1, keepdim=True), tangential * r2
