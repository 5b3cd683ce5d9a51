"""Poses on the rays of their 2D joints: fixed points, minima, hard cases, and the flag."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

import main_gcn
import main_graph
from common.camera import project, undistort
from common.errors import UserError
from common.input_view import InputView
from common.metrics import mpjpe, root_centred
from common.ray_fit import Sigmas, fit_to_rays, usual_sigmas
from common.skeleton import H36M_16, H36M_17, SKELETONS
from tests.conftest import SLICE, load_h36m, make_h36m
from training.lifter import Lifter

SIGMAS = usual_sigmas(H36M_16)
PAIRS = ((1, 4), (2, 5), (3, 6), (10, 13), (11, 14), (12, 15))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Joints of symmetric bodies (B, J, 3), their exact 2D joints, and their cameras; float64."""
    folder = tmp_path_factory.mktemp("people")
    make_h36m(folder, subjects=("S9", "S11"), frames=4)
    (dataset,) = load_h36m(folder)
    batch = dataset.batch(torch.arange(len(dataset)))
    joints = (batch.targets_3d + batch.root_3d.unsqueeze(1)).double()
    intrinsics = batch.intrinsics.double()
    return joints, project(joints, intrinsics), intrinsics


def bone_lengths(joints):
    children, parents = zip(*H36M_16.bones(), strict=True)
    return (joints[:, list(children)] - joints[:, list(parents)]).norm(dim=-1)


def plain_residuals(joints, pose, sigmas, lengths=None):
    """The equation for one pose, joint by joint and bone by bone."""
    found = [(joints[j] - joints[0] - pose[j] + pose[0]) / sigmas.joints[j] for j in range(1, 16)]
    bones = [np.linalg.norm(joints[j] - joints[H36M_16.parents[j]]) for j in range(1, 16)]
    sides = [(bones[a - 1] - bones[b - 1]) / sigmas.symmetry for a, b in PAIRS]
    told = [] if lengths is None else (np.array(bones) - lengths) / sigmas.lengths
    return np.concatenate([*found, sides, told])


def costs(joints, pose, sigmas=SIGMAS):
    rows = zip(joints.double().numpy(), pose.double().numpy(), strict=True)
    return torch.tensor([np.square(plain_residuals(x, p, sigmas)).sum() for x, p in rows])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_the_truth_stays(people, dtype, limit):
    joints, screen, intrinsics = (tensor.to(dtype) for tensor in people)
    known = bone_lengths(joints)
    for told in ({}, {"lengths": known}, {"screen_sigma": 0.01}):
        found = fit_to_rays(joints, screen, intrinsics, H36M_16, SIGMAS, **told)
        assert (root_centred(found) - root_centred(joints)).norm(dim=-1).max() < limit, told


@pytest.mark.parametrize("told", [False, True])
def test_depths_off_by_5_cm_are_found_again(people, told):
    joints, screen, intrinsics = people
    start = joints[..., 2] + 0.05 * torch.randn(joints.shape[:2], dtype=torch.float64)
    options = {"depths": start, "lengths": bone_lengths(joints) if told else None}
    off = fit_to_rays(joints, screen, intrinsics, H36M_16, SIGMAS, steps=0, **options)
    assert (off[..., 2] - start).abs().max() == 0
    found = fit_to_rays(joints, screen, intrinsics, H36M_16, SIGMAS, steps=10, **options)
    error = (root_centred(tried) - root_centred(joints) for tried in (off, found))
    before, after = (difference.norm(dim=-1).median() for difference in error)
    assert before > 0.02 and after < 1e-4
    assert told or (found - joints).norm(dim=-1).median() < 1e-4  # and their place


def test_joints_lie_on_their_rays_and_no_step_raises_the_sum(people):
    joints, screen, intrinsics = people
    pose = joints + 0.1 * torch.randn_like(joints)
    depths = joints[..., 2] + torch.randn(joints.shape[:2], dtype=torch.float64)
    before = None
    for steps in range(6):
        found = fit_to_rays(pose, screen, intrinsics, H36M_16, SIGMAS, depths=depths, steps=steps)
        assert torch.allclose(found[..., :2] / found[..., 2:], undistort(screen, intrinsics))
        sums = costs(found, pose)
        assert before is None or (sums <= before * (1 + 1e-9)).all()
        before = sums


@pytest.mark.parametrize("screen_sigma", [0.0, 0.01])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.slow
def test_another_solver_finds_the_same_minimum_from_nearby(people, told, screen_sigma):
    joints, screen, intrinsics = (tensor[::64] for tensor in people)
    pose = joints + 0.03 * torch.randn_like(joints)
    screen = screen + screen_sigma * torch.randn_like(screen)
    lengths = 1.03 * bone_lengths(joints) if told else None
    found = fit_to_rays(
        pose, screen, intrinsics, H36M_16, SIGMAS, lengths, screen_sigma,
        depths=joints[..., 2], steps=200,
    )  # fmt: skip
    for row in range(len(joints)):
        rays = undistort(screen[row : row + 1], intrinsics[row : row + 1])[0].numpy()
        depths, focal = joints[row, :, 2].numpy(), intrinsics[row, :2].numpy()

        def points(unknowns, rays=rays):
            d, w = unknowns[:16, None], unknowns[16:].reshape(-1, 2)
            across = d * rays + (w if screen_sigma else 0)
            return np.concatenate([across, d], axis=1)

        def residuals(unknowns, row=row, points=points, depths=depths, focal=focal):
            known = None if lengths is None else lengths[row].numpy()
            rows = plain_residuals(points(unknowns), pose[row].numpy(), SIGMAS, known)
            if not screen_sigma:
                return rows
            seen = focal * unknowns[16:].reshape(-1, 2) / depths[:, None] / screen_sigma
            return np.concatenate([rows, seen.ravel()])

        place = found[row].numpy()  # there may be other minima: bones that lean the other way
        across = place[:, :2] - place[:, 2:] * rays
        start = np.concatenate([place[:, 2], across.ravel() if screen_sigma else []]) + 1e-3
        best = points(least_squares(residuals, start, method="lm", xtol=1e-12).x)
        assert np.abs(best - found[row].numpy()).max() < 1e-4


def test_it_corrects_a_pose_and_known_lengths_correct_it_more(people):
    joints, screen, intrinsics = people
    pose = joints + torch.tensor(SIGMAS.joints).unsqueeze(1) * torch.randn_like(joints)
    known = bone_lengths(joints)

    def error(found):
        return mpjpe(root_centred(found), root_centred(joints)).mean()

    free = fit_to_rays(pose, screen, intrinsics, H36M_16, SIGMAS)
    told = fit_to_rays(pose, screen, intrinsics, H36M_16, SIGMAS, known)
    assert error(told) < 0.8 * error(free) < 0.8 * 0.8 * error(pose)
    left_out = replace(SIGMAS, lengths=(torch.inf,) * 15)
    assert torch.equal(fit_to_rays(pose, screen, intrinsics, H36M_16, left_out, 2 * known), free)


def test_lengths_may_be_known_of_some_bones_only(people):
    joints, screen, intrinsics = people
    pose = joints + 0.03 * torch.randn_like(joints)
    lengths, known = 1.05 * bone_lengths(joints), torch.arange(15) % 3 > 0
    some = [sigma if k else torch.inf for sigma, k in zip(SIGMAS.lengths, known, strict=True)]
    some = Sigmas(SIGMAS.joints, SIGMAS.symmetry, some)
    given = (pose, screen, intrinsics, H36M_16)
    expected = fit_to_rays(*given, some, lengths)
    found = fit_to_rays(*given, SIGMAS, lengths.masked_fill(~known, torch.nan))
    assert torch.equal(found, expected)
    assert not torch.allclose(found, fit_to_rays(*given, SIGMAS, lengths), atol=1e-3)
    assert not torch.allclose(found, fit_to_rays(*given, SIGMAS), atol=1e-3)


def test_little_noise_is_exact_2d_and_much_leaves_the_pose(people):
    joints, screen, intrinsics = people
    pose = joints + 0.02 * torch.randn_like(joints)
    place = {"depths": joints[..., 2]}
    exact = fit_to_rays(pose, screen, intrinsics, H36M_16, SIGMAS, **place)
    little = fit_to_rays(pose, screen, intrinsics, H36M_16, SIGMAS, screen_sigma=1e-6, **place)
    assert torch.allclose(exact, little, atol=1e-5)
    no_sides = replace(SIGMAS, symmetry=torch.inf)
    much = fit_to_rays(
        pose, screen, intrinsics, H36M_16, no_sides, screen_sigma=1e3, steps=20, **place
    )
    assert torch.allclose(root_centred(much), root_centred(pose), atol=1e-3)


def hard_cases(joints):
    """Poses and 2D joints that no data set has, by what is odd about them."""
    flat = root_centred(joints) * torch.tensor([1.0, 1.0, 0.0], dtype=joints.dtype)
    one_point = torch.zeros(len(joints), 16, 2, dtype=joints.dtype)
    return {
        "across the rays": (flat, None),
        "behind the camera": (-joints, None),
        "in one point": (torch.zeros_like(joints), None),
        "seen in one point": (joints, one_point),
        "nothing at all": (torch.zeros_like(joints), one_point),
        "on one ray": (root_centred(joints)[..., 2:] * joints[:, :1], one_point),
        "far too large": (1e4 * joints, None),
    }


@pytest.mark.parametrize("case", hard_cases(torch.ones(1, 16, 3)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_cases_give_numbers(people, case, dtype):
    joints, screen, intrinsics = (tensor.to(dtype) for tensor in people)
    pose, seen = hard_cases(joints)[case]
    for options in ({}, {"lengths": bone_lengths(joints)}, {"screen_sigma": 0.01}):
        found = fit_to_rays(
            pose, screen if seen is None else seen, intrinsics, H36M_16, SIGMAS, **options
        )
        assert found.isfinite().all(), options
        assert (found[..., 2] > 0.199).all()


def test_every_skeleton_has_its_sigmas():
    for joints, skeleton in SKELETONS.items():
        sigmas = usual_sigmas(skeleton)
        assert isinstance(sigmas, Sigmas) and len(sigmas.joints) == joints
        assert len(sigmas.lengths) == joints - 1
        for left, right in zip(skeleton.joints_left, skeleton.joints_right, strict=True):
            assert sigmas.joints[left] == sigmas.joints[right]
    head = H36M_17.names.index("Head") - 1
    assert usual_sigmas(H36M_17).lengths[head] == max(usual_sigmas(H36M_17).lengths)


@pytest.fixture
def checkpoint(call, tmp_path):
    assert call(main_gcn.main, *SLICE, "--epochs", 1, "--name", "run", "-c", tmp_path)[0] == 0
    return tmp_path / "run" / "ckpt_last.pth.tar"


def test_the_flag_fits_the_tested_poses_and_says_so(call, checkpoint, tmp_path):
    def tested(*flags, main=main_gcn.main):
        results = tmp_path / "r.json"
        flags = (*SLICE, "--evaluate", checkpoint, "--results", results, *flags)
        status, out, err = call(main, *flags)
        assert (status, err) == (0, "")
        return out, json.loads(results.read_text())

    _, plain = tested()
    out, fitted = tested("--ray_fit")
    remark = "poses are fitted to the rays (--ray_fit)"
    assert f"{remark}." in out and fitted["ray_fit"] == remark and "ray_fit" not in plain
    assert fitted["results"]["evaluated"]["mpjpe_mm"] < plain["results"]["evaluated"]["mpjpe_mm"]
    assert "factor of 1.1" in tested("--ray_fit", "--focal_scale", 1.1)[0]
    out, _ = tested("--ray_fit", "--keypoints", "noisy")
    assert "as they are: the 2D joints are off by 10 px at width 1,000" in out
    status, _, err = call(main_gcn.main, *SLICE, "--ray_fit")
    assert status == 2 and "--ray_fit is for testing: give --evaluate CKPT" in err


def test_detections_of_unknown_error_leave_the_poses(call, checkpoint, monkeypatch):
    monkeypatch.setattr("training.lifter.SCREEN_SIGMAS", {})
    flags = (*SLICE, "--evaluate", checkpoint)
    outs = [call(main_gcn.main, *flags, *more)[1] for more in ((), ("--ray_fit",))]
    tables = [out[: out.index("mm. Epoch")] for out in outs]
    assert tables[0] == tables[1] and "poses are left as they are: --ray_fit gains" in outs[1]


def test_refined_poses_are_fitted_too(call, tmp_path):
    flags = (*SLICE, "-k", "noisy", "-c", tmp_path)
    train = ("--pro_train", 1, "--post_refine", "-e", 1, "--name", "run")
    assert call(main_graph.main, *flags, *train)[0] == 0
    last, results = tmp_path / "run" / "ckpt_last.pth.tar", tmp_path / "r.json"
    found = []
    for more in ((), ("--ray_fit",)):
        status, out, _ = call(main_graph.main, *flags, "--eva", last, "--results", results, *more)
        assert status == 0
        found.append(json.loads(results.read_text())["results"])
    assert "the network's poses and the refined ones, each, are fitted to the rays" in out
    for pose in ("xyz", "post"):
        assert found[0][pose]["mpjpe_mm"] != found[1][pose]["mpjpe_mm"]


def test_cameras_have_to_be_known(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    unknown = replace(dataset, intrinsics=torch.full_like(dataset.intrinsics, torch.nan))
    lifter = Lifter(torch.nn.Identity(), {}, InputView(), H36M_16)
    lifter.check_data(unknown)
    fitting = replace(lifter, screen_sigma=0.0, ray_fit=True)
    fitting.check_data(dataset)
    with pytest.raises(UserError, match="cameras of h36m are not known: leave out --ray_fit"):
        fitting.check_data(unknown)
