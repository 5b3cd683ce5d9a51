"""Camera geometry, in torch. Coordinate frames and units:

world    metres, z up; the same for all cameras of a recording
camera   metres, x right, y down, z along the optical axis; the camera is at the origin
screen   normalised: x from -1 to 1 over the image width, y with the same scale
ray      (x/z, y/z) of a point in camera space, without lens distortion

``intrinsics`` is (..., 9): focal length (2), principal point (2), radial (3) and tangential (2)
distortion coefficients. Focal length and principal point are in screen units. The leading
dimensions of the intrinsics broadcast against those of the points before the joint dimension.
"""

import torch
from torch import Tensor


def normalize_screen_coordinates(pixels: Tensor, width: int, height: int) -> Tensor:
    """Pixels (..., 2) -> screen (..., 2): u = 2 x / w - 1, v = 2 y / w - h / w."""
    return pixels * (2.0 / width) - pixels.new_tensor([1.0, height / width])


def image_coordinates(screen: Tensor, width: int, height: int) -> Tensor:
    """Screen (..., 2) -> pixels (..., 2): inverse of :func:`normalize_screen_coordinates`."""
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
    """Camera (..., 3) -> world (..., 3), metres: inverse of :func:`world_to_camera`."""
    return points @ rotation.mT + translation


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Camera-space points (..., J, 3) in metres -> screen (..., J, 2), with lens distortion.

    Source: Human3.6M's camera model as in VideoPose3D. Rays are clamped to [-1, 1]. This limit is
    far outside the image, where the distortion polynomial is no longer valid.
    """
    return distort((points[..., :2] / points[..., 2:]).clamp(-1.0, 1.0), intrinsics)


def reproject(screen: Tensor, joints: Tensor, moved: Tensor, intrinsics: Tensor) -> Tensor:
    """2D joints of poses that were moved in 3D; a detector's error is kept.

    The error is ``screen`` minus the projection of ``joints``. It is added to the projection of
    ``moved``.

    Args:
        screen: (B, J, 2) screen coordinates before the move, projected or detected.
        joints, moved: (B, J, 3) the joints before and after the move, metres, camera space.
        intrinsics: (B, 9).

    Returns:
        (B, J, 2) screen coordinates after the move.
    """
    error = screen - project(joints, intrinsics)
    return project(moved, intrinsics) + error


def distort(rays: Tensor, intrinsics: Tensor) -> Tensor:
    """Rays (..., J, 2) -> screen (..., J, 2), with lens distortion."""
    focal, centre, _, _ = split_intrinsics(intrinsics)
    scale, shift = _distortion(rays, intrinsics)
    return focal * (rays * scale + shift) + centre


def undistort(screen: Tensor, intrinsics: Tensor, iterations: int = 12) -> Tensor:
    """Screen (..., J, 2) -> rays (..., J, 2): inverse of :func:`distort`, by fixed-point iteration.

    For points inside the image of Human3.6M's cameras, 12 iterations reach float32 precision.
    """
    distorted = pinhole_rays(screen, intrinsics)
    if _are_pinhole(intrinsics):
        return distorted
    rays = distorted
    for _ in range(iterations):
        scale, shift = _distortion(rays, intrinsics)
        rays = (distorted - shift) / scale
    return rays


def _are_pinhole(intrinsics: Tensor) -> bool:
    """Whether no lens distorts, where that is known without waiting for a GPU, or for numbers that
    an exported program will be given."""
    if intrinsics.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not intrinsics[..., 4:].any()


def pinhole_rays(screen: Tensor, intrinsics: Tensor) -> Tensor:
    """Screen (..., J, 2) -> rays (..., J, 2) of a pinhole camera; lens distortion is ignored."""
    focal, centre, _, _ = split_intrinsics(intrinsics)
    return (screen - centre) / focal


def remove_distortion(screen: Tensor, intrinsics: Tensor) -> Tensor:
    """Screen (..., J, 2) -> screen (..., J, 2) of a pinhole camera without lens distortion."""
    focal, centre, _, _ = split_intrinsics(intrinsics)
    return undistort(screen, intrinsics) * focal + centre


def back_project(uv: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Screen (..., J, 2) with depth (..., J) in metres -> camera space (..., J, 3), metres.

    (x, y) = (uv - c) z / f, for a pinhole camera. Lens distortion is ignored, as published.
    """
    z = depth.unsqueeze(-1)
    return torch.cat([pinhole_rays(uv, intrinsics) * z, z], dim=-1)


def back_project_pose(pose: Tensor, uv: Tensor, root_depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Back-project the 2D joints at the depths of a predicted pose: P' of the pose refinement.

    Args:
        pose: (B, J, 3) metres, camera space, relative to the root; only its depths are used.
        uv: (B, J, 2) screen coordinates.
        root_depth: (B,) metres, depth of joint 0.
        intrinsics: (B, 9); distortion is not used.

    Returns:
        (B, J, 3) metres, camera space, root at zero.
    """
    relative = torch.cat([torch.zeros_like(pose[:, :1, 2]), pose[:, 1:, 2]], dim=1)
    points = back_project(uv, relative + root_depth.unsqueeze(1), intrinsics)
    return points - points[:, :1]


def solve_translation(pose: Tensor, uv: Tensor, intrinsics: Tensor) -> Tensor:
    """The translation t (B, 3), metres, of a pose in camera space, from its 2D joints.

    Closed-form linear least squares over the joints for the equations

        u (Z + tz) = fx (X + tx) + cx (Z + tz)
        v (Z + tz) = fy (Y + ty) + cy (Z + tz)

    Args:
        pose: (B, J, 3) joints (X, Y, Z), metres, camera space, relative to any point. t is the
            position of that point.
        uv: (B, J, 2) screen coordinates of a pinhole camera. Apply :func:`remove_distortion` to
            detections first, or accept the error of the lens distortion.
        intrinsics: (B, 9); distortion is not used.
    """
    rays = pinhole_rays(uv, intrinsics)
    # With a = (u - cx) / fx the first equation is tx - a tz = a Z - X. For a given tz, the best tx
    # and ty are means over the joints. Inserting them gives tz as the slope of a linear regression
    # through the centred values.
    offsets = rays * pose[..., 2:] - pose[..., :2]
    rays_mean, offsets_mean = rays.mean(dim=-2), offsets.mean(dim=-2)
    rays, offsets = rays - rays_mean.unsqueeze(-2), offsets - offsets_mean.unsqueeze(-2)
    spread = rays.square().sum(dim=(-2, -1)).clamp_min(torch.finfo(rays.dtype).tiny)
    tz = -(rays * offsets).sum(dim=(-2, -1)) / spread
    return torch.cat([offsets_mean + rays_mean * tz.unsqueeze(-1), tz.unsqueeze(-1)], dim=-1)


def rotation_to_optical_axis(direction: Tensor) -> Tensor:
    """Directions d (..., 3) -> smallest rotations R (..., 3, 3) that map them to the optical axis.

    R d = |d| (0, 0, 1) for column vectors. For a unit vector (x, y, z), R is

        1 - x x / (1 + z)      - x y / (1 + z)     - x
          - x y / (1 + z)    1 - y y / (1 + z)     - y
            x                  y                     z

    R is a smooth function of the direction, except at (0, 0, -1).
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

    Right-handed: a rotation by 90 degrees about z maps x to y. Source: Rodrigues' formula.
    """
    quaternion = torch.cat(
        [torch.cos(angle / 2).unsqueeze(-1), torch.sin(angle / 2).unsqueeze(-1) * axis], dim=-1
    )
    return quaternion_to_matrix(quaternion)


def flip_intrinsics(intrinsics: Tensor) -> Tensor:
    """Intrinsics (..., 9) -> intrinsics (..., 9) for the mirrored image: the x of the principal
    point and the first tangential coefficient change sign."""
    return intrinsics * intrinsics.new_tensor([1, 1, -1, 1, 1, 1, 1, -1, 1])


def split_intrinsics(intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intrinsics (..., 9) -> focal length (..., 1, 2), principal point (..., 1, 2), radial
    (..., 1, 3) and tangential (..., 1, 2) coefficients.

    Raises:
        ValueError: the last dimension is not 9.
    """
    if intrinsics.shape[-1] != 9:
        raise ValueError(f"intrinsics: 9 values expected, got shape {tuple(intrinsics.shape)}")
    focal, centre, radial, tangential = intrinsics.unsqueeze(-2).split([2, 2, 3, 2], dim=-1)
    return focal, centre, radial, tangential


def _distortion(rays: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Lens distortion of rays (..., J, 2): the factor (..., J, 1) and the offset (..., J, 2)."""
    _, _, radial, tangential = split_intrinsics(intrinsics)
    r2 = rays.square().sum(dim=-1, keepdim=True)
    polynomial = (radial * torch.cat([r2, r2.square(), r2.pow(3)], dim=-1)).sum(-1, keepdim=True)
    return 1 + polynomial + (tangential * rays).sum(-1, keepdim=True), tangential * r2
