import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common.metrics import ActionErrors, mpjpe, p_mpjpe


def aligned_error(pred: np.ndarray, target: np.ndarray) -> float:
    """P-MPJPE of one pose by scipy's rotation fit (Kabsch) and a least-squares scale."""
    p, t = pred - pred.mean(0), target - target.mean(0)
    rotation, _ = Rotation.align_vectors(t, p)
    turned = rotation.apply(p)
    scale = (turned * t).sum() / (turned**2).sum()
    return np.linalg.norm(scale * turned - t, axis=1).mean()


def random_poses(count: int, joints: int = 16) -> torch.Tensor:
    return torch.randn(count, joints, 3, dtype=torch.float64)


def similar(poses: torch.Tensor) -> torch.Tensor:
    """Each pose turned, scaled and shifted by its own random similarity."""
    rotation = torch.from_numpy(Rotation.random(len(poses), random_state=1).as_matrix())
    scale = torch.rand(len(poses), 1, 1, dtype=torch.float64) + 0.5
    return scale * poses @ rotation + torch.randn(len(poses), 1, 3, dtype=torch.float64)


def test_mpjpe_is_the_mean_distance():
    pred, target = random_poses(5), random_poses(5)
    expected = [
        np.mean([np.linalg.norm(p - t) for p, t in zip(a, b, strict=True)])
        for a, b in zip(pred.numpy(), target.numpy(), strict=True)
    ]
    assert np.allclose(mpjpe(pred, target).numpy(), expected)


@pytest.mark.parametrize("joints", [16, 17])
def test_p_mpjpe_agrees_with_an_independent_alignment(joints):
    target = random_poses(60, joints)
    near = target + 0.3 * random_poses(60, joints)
    for pred in (near, random_poses(60, joints), near * torch.tensor([1.0, 1.0, -1.0])):
        pairs = zip(pred.numpy(), target.numpy(), strict=True)
        expected = [aligned_error(p, t) for p, t in pairs]
        assert np.allclose(p_mpjpe(pred, target).numpy(), expected, atol=1e-9)


def test_p_mpjpe_is_zero_under_similarity_transforms():
    poses = random_poses(50)
    assert p_mpjpe(similar(poses), poses).max() < 1e-9


def test_p_mpjpe_does_not_reflect():
    poses = random_poses(20)
    mirrored = poses * torch.tensor([-1.0, 1.0, 1.0])
    assert p_mpjpe(mirrored, poses).min() > 0.1


def test_p_mpjpe_does_not_depend_on_how_the_prediction_is_turned_scaled_and_placed():
    pred, target = random_poses(50), random_poses(50)
    assert torch.allclose(p_mpjpe(similar(pred), target), p_mpjpe(pred, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_poses_give_finite_errors(dtype):
    point = torch.zeros(1, 16, 3, dtype=dtype)
    line = torch.zeros(1, 16, 3, dtype=dtype)
    line[0, :, 0] = torch.arange(16)
    flat = torch.randn(1, 16, 3, dtype=dtype) * torch.tensor([1.0, 1.0, 0.0])
    normal = torch.randn(1, 16, 3, dtype=dtype)
    for pred in (point, line, flat, normal):
        for target in (point, line, flat, normal):
            error = p_mpjpe(pred, target)
            assert error.dtype == dtype and torch.isfinite(error).all()
    centred = normal - normal.mean(1, keepdim=True)
    assert torch.allclose(p_mpjpe(point, normal), centred.norm(dim=-1).mean(-1))


def test_a_pose_that_is_not_finite_spoils_only_its_own_figure():
    pred, target = random_poses(3), random_poses(3)
    pred[1, 2, 0] = torch.nan
    assert torch.isnan(p_mpjpe(pred, target)).tolist() == [False, True, False]
    assert torch.isnan(mpjpe(pred, target)).tolist() == [False, True, False]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(B, J, 3\)"):
        mpjpe(torch.zeros(2, 16, 3), torch.zeros(2, 17, 3))
    with pytest.raises(ValueError, match=r"\(B, J, 3\)"):
        p_mpjpe(torch.zeros(16, 3), torch.zeros(16, 3))


def test_action_errors_are_means_of_each_action_then_of_the_actions():
    actions = ["walk", "sit", "absent"]
    pred, target = random_poses(30), random_poses(30)
    action = torch.tensor([0] * 20 + [1] * 10)
    errors = ActionErrors(actions)
    for index in torch.randperm(30).split(7):  # batches that mix actions, in any order
        errors.update(pred[index], target[index], action[index])
    found = errors.summary()
    each = [1000 * aligned_error(pred[i].numpy(), target[i].numpy()) for i in range(30)]
    walk, sit = np.mean(each[:20]), np.mean(each[20:])
    assert np.isclose(found["per_action"]["walk"]["p_mpjpe_mm"], walk)
    assert np.isclose(found["per_action"]["sit"]["p_mpjpe_mm"], sit)
    assert np.isclose(found["p_mpjpe_mm"], (walk + sit) / 2)
    assert np.isclose(
        found["per_action"]["sit"]["mpjpe_mm"], 1000 * mpjpe(pred, target)[20:].mean()
    )
    assert found["per_action"]["absent"] == {"mpjpe_mm": None, "p_mpjpe_mm": None, "frames": 0}
    assert found["frames"] == 30 and found["per_action"]["walk"]["frames"] == 20
