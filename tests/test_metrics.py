import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common.metrics import (
    ActionErrors,
    auc,
    mpjpe,
    nearest_rotation,
    p_mpjpe,
    pck,
    published_form,
    root_centred,
    scored_joints,
)
from common.skeleton import H36M_16, H36M_17
from tools.textbook import textbook_p_mpjpe


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


def turns(count: int) -> torch.Tensor:
    """Orthogonal matrices, half of them reflections."""
    rotations = torch.from_numpy(Rotation.random(count, random_state=2).as_matrix())
    return rotations * torch.where(torch.rand(count, 1, 1) < 0.5, -1.0, 1.0)


def nearest_by_svd(matrices: torch.Tensor) -> torch.Tensor:
    U, _, Vt = torch.linalg.svd(matrices)
    U[..., -1] *= torch.linalg.det(U @ Vt).sign().unsqueeze(-1)
    return U @ Vt


def test_nearest_rotation_agrees_with_the_svd_wherever_it_is_unique():
    count = 20_000
    even = torch.rand(count, 3, dtype=torch.float64)
    close = 1 + 10 ** (-3 * even)  # nearly a triple root where the sign is negative
    flat = even * torch.tensor([1.0, 0.03, 0.03])
    paired = even.clone()
    paired[:, 1] = paired[:, 2] + 0.02 * paired[:, 1]
    for values in (even, 10 ** (-3 * even), close, flat, paired, even * torch.tensor([1, 1, 0])):
        values = values.sort(dim=1, descending=True).values
        matrices = 10 * turns(count) @ torch.diag_embed(values) @ turns(count).mT
        signed = values / values.norm(dim=1, keepdim=True)
        signed[:, 2] *= torch.linalg.det(matrices).sign()
        unique = signed[:, 1] + signed[:, 2] > 1e-3
        found, expected = nearest_rotation(matrices), nearest_by_svd(matrices)
        assert unique.float().mean() > 0.4
        assert (found - expected)[unique].abs().max() < 1e-10
        # Where it is not, any of the best will do: a rotation with as large a trace.
        assert (torch.linalg.det(found) - 1).abs().max() < 1e-9
        traces = [(r * matrices).sum(dim=(1, 2)) for r in (found, expected)]
        assert (traces[0] - traces[1]).abs().max() < 1e-9


def test_p_mpjpe_of_degenerate_poses_is_that_of_the_svd():
    normal = random_poses(1)[0]
    along = torch.arange(16.0, dtype=torch.float64)[:, None] * torch.tensor([[0.6, 0.0, 0.8]])
    shapes = {
        "point": torch.ones(16, 3, dtype=torch.float64),
        "line": along,
        "plane": normal * torch.tensor([1.0, 1.0, 0.0]),
        "mirrored": normal * torch.tensor([-1.0, 1.0, 1.0]),
        "equal": normal,
        "tiny": 1e-30 * normal,
    }
    for name, pred in shapes.items():
        for target in (normal, shapes["plane"], shapes["mirrored"]):
            found = p_mpjpe(pred[None], target[None]).item()
            if name == "point":
                expected = (target - target.mean(0)).norm(dim=-1).mean().item()
            else:
                expected = textbook_p_mpjpe(pred.numpy(), target.numpy())
            assert abs(found - expected) < 1e-9, name


@pytest.mark.parametrize("count", [2, 3, 157])
def test_the_published_form_is_what_subtracting_in_place_leaves(count):
    pose = torch.randn(count, 16, 3)
    published = pose.clone()
    published[:, :, :] -= published[:, :1, :]  # the subtrahend is a view of what is written
    assert published[:, 0].abs().max() == 0
    assert torch.equal(published[:, 1:], pose[:, 1:])  # not moved
    assert torch.equal(published_form(pose), published)


def test_several_forms_are_summed_side_by_side():
    pred, target = torch.stack([random_poses(9), random_poses(9)]), random_poses(9)
    action = torch.arange(9) % 2
    both = ActionErrors(["walk", "sit"], forms=2)
    for index in torch.arange(9).split(4):
        both.update(pred[:, index], target[index], action[index])
    for form in (0, 1):
        alone = ActionErrors(["walk", "sit"])
        alone.update(pred[form], target, action)
        assert both.summary(form)["p_mpjpe_mm"] == pytest.approx(alone.summary()["p_mpjpe_mm"])
        over_frames = both.summary(form, "frames")
        assert over_frames["mean_over"] == "frames"
        assert over_frames["mpjpe_mm"] == pytest.approx(
            1000 * mpjpe(pred[form], target).mean().item()
        )


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


def near_poses(batch: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets, root-centred, with some joints within the threshold of PCK."""
    target, noise = 0.3 * torch.randn(batch, 16, 3), 0.06 * torch.randn(batch, 16, 3)
    return target - target[:, :1] + noise, target - target[:, :1]


def share_by_hand(pred: np.ndarray, target: np.ndarray, millimetres: float) -> float:
    """Joint by joint, in millimetres, over the names of the official list."""
    scored = [joint for joint, name in enumerate(H36M_16.names) if name not in ("Hip", "Spine")]
    hits = 0
    for joint in scored:
        error = math.dist(pred[joint] * 1000, target[joint] * 1000)
        hits += error < millimetres
    return hits / len(scored)


def test_pck_and_auc_equal_a_loop():
    pred, target = near_poses()
    pairs = list(zip(pred.double().numpy(), target.double().numpy(), strict=True))
    share = pck(pred, target)
    area = auc(pred, target)
    assert share.shape == area.shape == (7,)
    assert 0.2 < share.mean() < 1
    for pose, (one, other) in enumerate(pairs):
        assert share[pose] == pytest.approx(share_by_hand(one, other, 150))
        curve = [share_by_hand(one, other, limit) for limit in range(0, 151, 5)]
        assert len(curve) == 31
        assert area[pose] == pytest.approx(sum(curve) / 31)


def test_pck_bounds_and_joints():
    pred, target = near_poses()
    assert len(scored_joints(16)) == len(scored_joints(17)) == 14
    assert torch.equal(pck(target, target), torch.ones(7))
    assert torch.allclose(auc(target, target), torch.full((7,), 30 / 31))
    assert torch.equal(pck(pred + 1, target), torch.zeros(7))
    moved = target.clone()
    moved[:, [0, H36M_16.names.index("Spine")]] += 9  # joints that are not scored
    assert torch.equal(pck(moved, target), torch.ones(7))
    with_neck = [H36M_17.names.index(name) for name in H36M_16.names]
    wide = torch.full((7, 17, 3), 5.0)
    wide[:, with_neck] = pred
    wide_target = torch.zeros(7, 17, 3)
    wide_target[:, with_neck] = target
    assert torch.equal(pck(wide, wide_target), pck(pred, target))


def test_pck_is_per_pose_and_checks_shapes():
    pred, target = near_poses()
    alone = [pck(pred[i : i + 1], target[i : i + 1]) for i in range(len(pred))]
    assert torch.equal(pck(pred, target), torch.cat(alone))
    with pytest.raises(ValueError, match="expected"):
        auc(pred, target[:1])


def test_a_root_centred_pose_is_the_pose_moved():
    pose = random_poses(4)
    centred = root_centred(pose)
    assert (centred[:, 0] == 0).all()
    assert torch.allclose(torch.cdist(centred, centred), torch.cdist(pose, pose))
    moved = pose - centred
    assert torch.allclose(moved, moved[:, :1].expand_as(moved))


def test_a_table_over_frames_is_in_millimetres_and_percent():
    pred, target = near_poses(9)
    errors = ActionErrors(["walk", "sit"], ["mpjpe_mm", "pck_percent", "auc_percent"], "frames")
    errors.update(pred, target, torch.tensor([0] * 6 + [1] * 3))
    found = errors.summary()
    assert found["mean_over"] == "frames"
    pairs = list(zip(pred.double().numpy(), target.double().numpy(), strict=True))
    expected = {
        "mpjpe_mm": [1000 * np.linalg.norm(p - t, axis=1).mean() for p, t in pairs],
        "pck_percent": [100 * share_by_hand(p, t, 150) for p, t in pairs],
        "auc_percent": [
            100 * np.mean([share_by_hand(p, t, limit) for limit in range(0, 151, 5)])
            for p, t in pairs
        ],
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), rel=1e-5)
        assert found["per_action"]["sit"][name] == pytest.approx(np.mean(values[6:]), rel=1e-5)
