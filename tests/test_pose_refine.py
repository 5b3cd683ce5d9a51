import numpy as np
import pytest
import torch
from torch import nn

from common.camera import (
    back_project,
    back_project_pose,
    flip_intrinsics,
    project,
    remove_distortion,
    solve_translation,
)
from common.losses import symmetry_loss
from common.skeleton import H36M_17
from data.cameras import h36m_cameras
from models.costs import count_parameters
from models.pose_refine import PoseRefine

PAIRS = {  # left and right limbs of the 17 joints, by name
    "hip": (("Hip", "LHip"), ("Hip", "RHip")),
    "thigh": (("LHip", "LKnee"), ("RHip", "RKnee")),
    "shank": (("LKnee", "LFoot"), ("RKnee", "RFoot")),
    "shoulder": (("Thorax", "LShoulder"), ("Thorax", "RShoulder")),
    "upper arm": (("LShoulder", "LElbow"), ("RShoulder", "RElbow")),
    "forearm": (("LElbow", "LWrist"), ("RElbow", "RWrist")),
}


@pytest.fixture
def intrinsics():
    return torch.stack([camera.intrinsics for camera in h36m_cameras("S9")] * 5)


@pytest.fixture
def poses():
    """(20, 17, 3) relative to the root, and where they stand."""
    pose = 0.4 * torch.randn(20, 17, 3, dtype=torch.float64)
    pose = pose - pose[:, :1]
    # well inside the image: the projection clamps rays far outside it
    place = 0.3 * torch.randn(20, 3, dtype=torch.float64) + torch.tensor([0.0, 0.0, 5.0])
    return pose, place


def test_parameters_and_names():
    model = PoseRefine(17)
    assert count_parameters(model) == 140_322
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        "post_refine.0.weight": (1024, 102), "post_refine.0.bias": (1024,),
        "post_refine.3.weight": (34, 1024), "post_refine.3.bias": (34,),
    }  # fmt: skip


def test_refinement_agrees_with_a_transcription():
    model = PoseRefine(17).eval()
    state = model.state_dict()
    pose, lifted = torch.randn(3, 17, 3), torch.randn(3, 17, 3)
    expected = pose.clone()
    for b in range(3):
        flat = torch.tensor([v for j in range(17) for v in (*pose[b, j], *lifted[b, j])])
        hidden = state["post_refine.0.weight"] @ flat + state["post_refine.0.bias"]
        out = state["post_refine.3.weight"] @ hidden.clamp(min=0) + state["post_refine.3.bias"]
        for j in range(17):
            for axis in range(2):
                s = 1 / (1 + torch.exp(-out[2 * j + axis]))
                expected[b, j, axis] = s * pose[b, j, axis] + (1 - s) * lifted[b, j, axis]
    assert torch.allclose(model(pose, lifted), expected, atol=1e-6)


@pytest.mark.parametrize(("bias", "kept"), [(60.0, 0), (-60.0, 1)])
def test_weight_one_gives_the_pose_and_weight_zero_the_lifted(bias, kept):
    model = PoseRefine(17).eval()
    nn.init.zeros_(model.post_refine[3].weight)
    nn.init.constant_(model.post_refine[3].bias, bias)
    both = torch.randn(4, 17, 3), torch.randn(4, 17, 3)
    refined = model(*both)
    assert torch.allclose(refined[..., :2], both[kept][..., :2])
    assert torch.equal(refined[..., 2], both[0][..., 2])


def test_dropout_is_off_at_test_and_on_in_training():
    model = PoseRefine(16)
    both = torch.randn(4, 16, 3), torch.randn(4, 16, 3)
    assert not torch.equal(model(*both), model(*both))
    model.eval()
    assert torch.equal(model(*both), model(*both))


def test_back_projection_agrees_with_a_transcription(intrinsics):
    uv, depth = torch.randn(20, 17, 2).double(), 4 + torch.rand(20, 17).double()
    found = back_project(uv, depth, intrinsics)
    for b in range(20):
        fx, fy, cx, cy = intrinsics[b, :4].tolist()
        for j in range(17):
            z = depth[b, j].item()
            x, y = (uv[b, j, 0].item() - cx) * z / fx, (uv[b, j, 1].item() - cy) * z / fy
            assert np.allclose(found[b, j].tolist(), [x, y, z])


def test_lifting_again_returns_the_pose_of_an_exact_input(poses, intrinsics):
    pose, place = poses
    pinhole = intrinsics.clone()
    pinhole[:, 4:] = 0
    uv = project(pose + place.unsqueeze(1), pinhole)
    assert torch.allclose(back_project_pose(pose, uv, place[:, 2], pinhole), pose, atol=1e-9)


def test_lifting_again_uses_only_depths_and_the_root_depth_itself(poses, intrinsics):
    pose, place = poses
    uv = torch.randn(20, 17, 2).double()
    moved = pose.clone()
    moved[..., :2] += 1.0
    moved[:, 0, 2] += 0.3  # the predicted depth of the root is not used
    found = back_project_pose(moved, uv, place[:, 2], intrinsics)
    assert torch.equal(found, back_project_pose(pose, uv, place[:, 2], intrinsics))
    assert found[:, 0].abs().max() == 0


def test_translation_is_recovered_from_exact_projections(poses, intrinsics):
    pose, place = poses
    uv = project(pose + place.unsqueeze(1), intrinsics)
    found = solve_translation(pose, remove_distortion(uv, intrinsics), intrinsics)
    assert (found - place).norm(dim=1).max() < 1e-3
    ignored = solve_translation(pose, uv, intrinsics)
    assert (ignored - place).norm(dim=1).mean() > 1e-3  # the lens does matter


def test_translation_is_the_least_squares_solution(poses, intrinsics):
    pose, _ = poses
    uv = torch.randn(20, 17, 2).double()
    found = solve_translation(pose, uv, intrinsics)
    for b in range(20):
        rows, right = [], []
        for (u, v), (x, y, z) in zip(uv[b].tolist(), pose[b].tolist(), strict=True):
            fx, fy, cx, cy = intrinsics[b, :4].tolist()
            rows += [[1, 0, -(u - cx) / fx], [0, 1, -(v - cy) / fy]]
            right += [(u - cx) / fx * z - x, (v - cy) / fy * z - y]
        expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
        assert np.allclose(found[b].numpy(), expected)


def test_translation_of_a_pose_in_one_point_is_finite(intrinsics):
    point = torch.zeros(20, 17, 3, dtype=torch.float64)
    uv = torch.zeros(20, 17, 2, dtype=torch.float64)
    assert solve_translation(point, uv, intrinsics).isfinite().all()


def test_a_mirrored_camera_sees_the_mirrored_pose(poses, intrinsics):
    pose, place = poses
    points = pose + place.unsqueeze(1)
    mirrored = project(H36M_17.flip(points), flip_intrinsics(intrinsics))
    assert torch.allclose(mirrored, H36M_17.flip(project(points, intrinsics)), atol=1e-12)
    assert torch.equal(flip_intrinsics(flip_intrinsics(intrinsics)), intrinsics)


def test_symmetry_loss_is_the_sum_over_six_pairs_of_batch_means(poses):
    pose, _ = poses
    differences = []
    for left, right in PAIRS.values():
        ends = [[pose[:, H36M_17.names.index(n)] for n in limb] for limb in (left, right)]
        lengths = [(a - b).norm(dim=1) for a, b in ends]
        differences.append(lengths[0] - lengths[1])
    absolute = sum(difference.abs().mean() for difference in differences)
    assert len(differences) == 6 and torch.allclose(symmetry_loss(pose, H36M_17), absolute)
    signed = sum(difference.mean() for difference in differences)
    assert torch.allclose(symmetry_loss(pose, H36M_17, signed=True), signed)
    assert symmetry_loss(H36M_17.flip(pose) + pose, H36M_17) >= 0
