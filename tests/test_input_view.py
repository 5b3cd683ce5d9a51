import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common.camera import project, rotation_about, rotation_to_optical_axis
from common.input_view import InputView, root_centred_view, rotate
from data.cameras import h36m_cameras

AXIS = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def directions() -> torch.Tensor:
    """Many, and some at the axis and very near to it."""
    near = [[0, 0, 1], [1e-9, 0, 1], [0, -1e-7, 1], [1e-4, 1e-4, 1], [5, 0, 1]]
    found = torch.randn(200, 3, dtype=torch.float64)
    found[:, 2] = found[:, 2].abs() + 0.1
    return torch.cat([torch.tensor(near, dtype=torch.float64), found])


def people(count: int = 32) -> torch.Tensor:
    """Absolute poses (B, 16, 3) in front of a camera, well off its axis."""
    pose = 0.4 * torch.randn(count, 16, 3, dtype=torch.float64)
    place = torch.tensor([1.2, 0.8, 5.0]) * torch.rand(count, 1, 3, dtype=torch.float64)
    return pose + place + torch.tensor([-0.6, -0.4, 2.0])


def rays(points: torch.Tensor) -> torch.Tensor:
    return points[..., :2] / points[..., 2:]


def test_the_rotation_to_the_axis_is_the_smallest_one():
    found = directions()
    rotation = rotation_to_optical_axis(found)
    unit = found / found.norm(dim=-1, keepdim=True)
    assert torch.allclose((rotation @ unit.unsqueeze(-1)).squeeze(-1), AXIS.expand_as(unit))
    assert torch.allclose(
        rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(205, 3, 3)
    )
    turned = np.array([Rotation.from_matrix(r).magnitude() for r in rotation.numpy()])
    angle = torch.atan2(unit[:, :2].norm(dim=-1), unit[:, 2])
    assert np.allclose(turned, angle.numpy(), atol=1e-7)


def test_the_rotation_is_differentiable_at_the_axis():
    point = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_to_optical_axis, (point,))
    assert torch.autograd.gradcheck(
        rotation_to_optical_axis, (directions()[5:15].requires_grad_(),)
    )


def test_rotation_about_an_axis_is_that_of_scipy():
    axis = torch.randn(20, 3, dtype=torch.float64)
    axis /= axis.norm(dim=-1, keepdim=True)
    angle = torch.linspace(-math.pi, math.pi, 20, dtype=torch.float64)
    expected = Rotation.from_rotvec((axis * angle.unsqueeze(-1)).numpy()).as_matrix()
    assert np.allclose(rotation_about(axis, angle), expected)


def test_a_turn_of_the_camera_about_its_centre_only_rolls_the_view():
    points = people()
    view, rotation = root_centred_view(rays(points))
    for turn in Rotation.from_euler("xyz", [[5, -8, 0], [-3, 4, 20], [0, 0, 35]], degrees=True):
        other = points @ torch.from_numpy(turn.as_matrix()).mT
        assert (other[..., 2] > 0.5).all()
        turned, other_rotation = root_centred_view(rays(other))
        # both views look along the root's ray: one is the other rolled about the axis
        roll = other_rotation @ torch.from_numpy(turn.as_matrix()) @ rotation.mT
        assert torch.allclose(roll @ AXIS, AXIS.expand(len(points), 3), atol=1e-9)
        rolled = view[..., :2] @ roll[:, :2, :2].mT
        assert torch.allclose(rolled, turned[..., :2], atol=1e-8)


def test_a_root_at_the_axis_leaves_the_rays():
    points = people()
    points[:, 0] = torch.tensor([0.0, 0.0, 4.0])
    view, rotation = root_centred_view(rays(points))
    assert torch.allclose(view[..., :2], 5 * rays(points)) and (view[..., 2:] == 0).all()
    assert torch.equal(rotation, torch.eye(3, dtype=torch.float64).expand_as(rotation))


def test_the_view_is_a_projection_by_a_camera_that_looks_at_the_root():
    points = people()
    view, rotation = root_centred_view(rays(points))
    seen = points @ rotation.mT
    assert torch.allclose(seen[:, 0, :2], torch.zeros(32, 2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(view[..., :2], 5 * rays(seen))
    root = points[:, 0] / points[:, 0].norm(dim=-1, keepdim=True)
    assert torch.allclose(view[..., 2:], 5 * root[:, None, :2].expand(32, 16, 2))


def test_a_rotated_target_comes_back():
    points = people().float()
    target = points - points[:, :1]
    _, rotation = root_centred_view(rays(points))
    there = rotate(target, rotation)
    assert (there - target).abs().max() > 1e-2
    assert (rotate(there, rotation, back=True) - target).abs().max() < 1e-6
    assert rotate(target, None) is target


@pytest.mark.parametrize("camera", range(4))
def test_rays_are_those_before_the_lens(camera):
    intrinsics = h36m_cameras("S9")[camera].intrinsics.expand(32, 9)
    points = people()
    screen = project(points, intrinsics)
    inside = (rays(points).abs() < 0.4).all(dim=-1)
    view, _ = InputView(camera_rays=True).apply(screen, intrinsics)
    assert torch.allclose(view[inside], rays(points)[inside], atol=1e-6)
    pinhole, _ = InputView(root_view=True).apply(screen, intrinsics)
    exact, _ = InputView(camera_rays=True, root_view=True).apply(screen, intrinsics)
    # the lens moves points by a few percent of their place, and no more
    assert 1e-4 < (pinhole - exact)[inside].abs().max() < 0.25


def test_the_screen_is_given_as_it_is():
    screen = torch.randn(3, 16, 2)
    view = InputView()
    assert view.apply(screen, None)[0] is screen and not view.uses_intrinsics
    assert (view.in_dim, InputView(root_view=True).in_dim) == (2, 4)


def test_no_2d_however_damaged_gives_an_infinite_view():
    screen = 50 * torch.randn(100, 16, 2)
    intrinsics = h36m_cameras("S9")[0].intrinsics.float().expand(100, 9)
    view, rotation = InputView(root_view=True).apply(screen, intrinsics)
    assert view.isfinite().all() and rotation.isfinite().all()


def test_what_is_behind_the_virtual_camera_is_divided_by_a_tenth():
    found = torch.tensor([[[3.0, 0.0], [-3.0, 0.5]]], dtype=torch.float64)
    view, rotation = root_centred_view(found)
    behind = rotation[0] @ torch.tensor([-3.0, 0.5, 1.0], dtype=torch.float64)
    assert behind[2] < 0
    assert torch.allclose(view[0, 1, :2], 5 * behind[:2] / 0.1)
