import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common.camera import (
    camera_to_world,
    image_coordinates,
    normalize_screen_coordinates,
    pinhole_rays,
    project,
    quaternion_to_matrix,
    split_intrinsics,
    undistort,
    world_to_camera,
)
from data.cameras import h36m_cameras
from data.npz_io import load_object_array
from tests.conftest import ROOT
from tests.formulas import pixel


@pytest.fixture(scope="module")
def bundled() -> torch.Tensor:
    positions = load_object_array(ROOT / "dataset/data_3d_hdm05.npz", "positions_3d")
    return torch.from_numpy(np.concatenate([positions["mm"][n] for n in positions["mm"]]))


@pytest.mark.parametrize("view", range(4))
def test_projection_agrees_with_the_formula_in_pixels(view, bundled):
    import json

    calibration = json.loads((ROOT / "data/h36m_cameras.json").read_text())["intrinsics"][view]
    camera = h36m_cameras("S9")[view]
    points = world_to_camera(bundled[::500].double(), camera.rotation, camera.translation)
    ours = image_coordinates(project(points, camera.intrinsics), camera.width, camera.height)
    expected = [[pixel(joint, calibration) for joint in pose.numpy()] for pose in points]
    assert np.allclose(ours.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("view", range(4))
def test_undistort_inverts_the_projection_of_the_bundled_poses(view, bundled):
    camera = h36m_cameras("S9")[view]
    points = world_to_camera(bundled, camera.rotation.float(), camera.translation.float())
    rays = undistort(project(points, camera.intrinsics.float()), camera.intrinsics.float())
    assert torch.allclose(rays * points[..., 2:], points[..., :2], atol=1e-5)


def test_a_lens_that_does_not_distort_is_left_out_exactly():
    """A batch of such lenses needs no iterations; beside another lens they are made for all."""
    camera = h36m_cameras("S9")[0].intrinsics.float()
    pinhole = torch.cat([camera[:4], torch.zeros(5)])
    screen = torch.rand(2, 17, 2) - 0.5
    alone = undistort(screen, pinhole.expand(2, 9))
    assert torch.equal(alone, pinhole_rays(screen, pinhole.expand(2, 9)))
    assert torch.equal(undistort(screen, torch.stack([pinhole, camera]))[0], alone[0])
    assert not torch.allclose(undistort(screen, torch.stack([pinhole, camera]))[1], alone[1])
    # Elsewhere than on a CPU nobody waits to see whether a lens distorts.
    assert undistort(screen.to("meta"), pinhole.to("meta").expand(2, 9)).is_meta


def test_world_camera_world_is_the_identity(bundled):
    for subject in ("S1", "S5", "S6", "S7", "S8", "S9", "S11"):
        for camera in h36m_cameras(subject):
            pose = camera.rotation.float(), camera.translation.float()
            there = world_to_camera(bundled, *pose)
            assert (camera_to_world(there, *pose) - bundled).abs().max() < 1e-5


def test_camera_sees_its_own_place_at_the_origin_and_the_room_before_it():
    for camera in h36m_cameras("S9"):
        place = (camera.rotation, camera.translation)
        assert world_to_camera(camera.translation, *place).abs().max() < 1e-12
        middle = world_to_camera(torch.tensor([0.0, 0.0, 1.0]).double(), *place)
        assert middle[2] > 3 and middle[:2].norm() < 1.5
        up = torch.tensor([0.0, 0.0, 1.0]).double() @ camera.rotation
        assert up[1] < -0.9  # y of camera space points down


def test_quaternions_agree_with_scipy():
    q = torch.randn(20, 4, dtype=torch.float64)
    xyzw = (q / q.norm(dim=1, keepdim=True))[:, [1, 2, 3, 0]].numpy()
    assert np.allclose(quaternion_to_matrix(q).numpy(), Rotation.from_quat(xyzw).as_matrix())


def test_screen_coordinates_keep_the_aspect_ratio_and_invert():
    corners = torch.tensor([[0.0, 0.0], [1000.0, 1002.0]])
    screen = normalize_screen_coordinates(corners, 1000, 1002)
    assert torch.allclose(screen, torch.tensor([[-1.0, -1.002], [1.0, 1.002]]))
    assert torch.allclose(image_coordinates(screen, 1000, 1002), corners, atol=1e-3)


def test_intrinsics_of_other_length_are_refused():
    with pytest.raises(ValueError, match="9 values"):
        split_intrinsics(torch.zeros(8))


def test_normalised_focal_length_is_two_f_over_w():
    camera = h36m_cameras("S1")[0]
    assert math.isclose(camera.intrinsics[0].item(), 2 * 1145.0494384765625 / 1000)


def test_rays_far_outside_the_image_are_seen_at_the_limit_of_the_lens():
    intrinsics = h36m_cameras("S9")[0].intrinsics
    far = torch.tensor([[-7.0, 0.2, 1.0], [6.0, -0.1, 2.0], [0.3, -4.0, 1.0], [0.1, 5.0, 2.0]])
    limit = torch.tensor([[-1.0, 0.2, 1.0], [1.0, -0.05, 1.0], [0.3, -1.0, 1.0], [0.05, 1.0, 1.0]])
    assert torch.allclose(project(far, intrinsics), project(limit, intrinsics))
