"""Joints where detectors see them, and wrong focal lengths: what a training and a test get."""

from dataclasses import replace

import pytest
import torch

import main_gcn
import main_graph
import opt
from common.camera import project, rotation_about
from common.errors import UserError
from common.skeleton import H36M_16, H36M_17
from data.datasets import HDM05
from data.keypoint_formats import FORMATS
from data.pose_dataset import PoseLoader, load_pose_datasets
from data.shifts import DETECTORS, RANGES, drawn_shift, shift_of_detector
from tests.conftest import ROOT, SLICE
from training.other_cameras import with_joints_of

AT = H36M_17.names.index


@pytest.fixture(scope="module")
def dataset():
    folder, splits = ROOT / "dataset", [("mm",)]
    return load_pose_datasets(HDM05, folder, splits, H36M_17, "gt", ["squat"], 30)[0]


@pytest.fixture
def standing():
    """A person who stands and faces x; left is y, up is z."""
    places = {
        "Hip": (-0.06, 0, 1.0), "Hips": (0, 0.09, 0.92), "Knee": (0, 0.09, 0.5),
        "Foot": (0, 0.09, 0.08), "Spine": (-0.05, 0, 1.2), "Thorax": (-0.06, 0, 1.42),
        "Neck/Nose": (-0.06, 0, 1.56), "Head": (-0.06, 0, 1.65), "Shoulder": (-0.04, 0.18, 1.42),
        "Elbow": (-0.04, 0.2, 1.13), "Wrist": (0, 0.22, 0.88),
    }  # fmt: skip
    rows = []
    for name in H36M_17.names:
        side, part = (name[0], name[1:]) if name[0] in "LR" else ("", name)
        x, y, z = places["Hips" if side and part == "Hip" else part]
        rows.append((x, -y if side == "R" else y, z))
    return torch.tensor([rows])


def drawn(points, strength=1.0, skeleton=H36M_17, seed=3):
    return drawn_shift(points, skeleton, strength, torch.Generator().manual_seed(seed))


def test_coco_makes_the_middles_of_its_rule_and_a_nose_in_front_of_the_face(standing):
    seen = shift_of_detector(standing, H36M_17, "coco")[0]
    for joint, points in FORMATS["coco17"].rules.items():
        if joint in ("Hip", "Thorax", "Spine"):
            own = [AT(p[0].upper() + p.split("_")[1].capitalize()) for p in points]
            assert torch.allclose(seen[AT(joint)], seen[own].mean(0), atol=1e-6), joint
    nose, eyes = seen[AT("Neck/Nose")], seen[AT("Head")]
    assert nose[0] > eyes[0] > standing[0, AT("Head"), 0] + 0.05  # in front
    assert eyes[2] > nose[2] and nose[1].abs() < 1e-6 and eyes[1].abs() < 1e-6
    moved = (seen - standing[0]).norm(dim=1)
    limbs = [AT(side + part) for side in "LR" for part in ("Knee", "Foot", "Elbow", "Wrist")]
    assert moved[limbs].max() < 1e-6 and 0.03 < moved[AT("Hip")] < 0.15


def test_every_amount_of_a_detector_is_one_that_is_drawn():
    for amounts in DETECTORS.values():
        for name, amount in amounts.items():
            low, high = RANGES[name]
            assert low <= amount <= high


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_shifts_are_of_the_person_and_not_of_the_view(standing, skeleton):
    """A turn, a move, a larger body and the mirrored one: the shifts go along."""
    points = standing[:, [H36M_17.names.index(name) for name in skeleton.names]]
    axis = torch.nn.functional.normalize(torch.randn(1, 3), dim=1)
    turn = rotation_about(axis, torch.tensor([2.0]))[0].T
    for move in (drawn, lambda p, skeleton: shift_of_detector(p, skeleton, "halpe")):
        seen = move(points, skeleton=skeleton)
        assert (seen - points).norm(dim=2).max() > 0.02
    for detector in DETECTORS:
        seen = shift_of_detector(points, skeleton, detector)
        for change in (
            lambda p: p @ turn + 3,
            lambda p: 1.2 * p,
            lambda p: skeleton.flip(p),
        ):
            found = shift_of_detector(change(points), skeleton, detector)
            assert torch.allclose(found, change(seen), atol=1e-5)


def test_drawn_shifts_differ_by_pose_within_their_ranges(standing):
    many = standing.expand(4000, -1, -1)
    seen = drawn(many)
    assert torch.equal(seen, drawn(many)) and not torch.equal(seen, drawn(many, seed=4))
    assert torch.equal(drawn(many, strength=0.0), many)
    offset = (seen - many)[:, AT("LHip")]  # x forward, y out, z up
    for axis, name in ((0, "hips_forward"), (1, "hips_out"), (2, "hips_up")):
        low, high = RANGES[name]
        assert abs(offset[:, axis].mean() - (low + high) / 2) < 0.003
        assert low - 0.05 < offset[:, axis].min() < low + 0.01
    nose = (seen - many)[:, AT("Neck/Nose")]
    assert nose[:, 1].min() < -0.05 and nose[:, 1].max() > 0.05  # the head turns to both sides
    assert 0.005 < (seen - many)[:, AT("LWrist")].std() < 0.02


def batches(dataset, **options):
    return [*PoseLoader(dataset, 16, **options).shuffled_batches(2)]


def test_a_training_sees_shifted_joints_of_poses_that_stay(dataset):
    plain, shifted = batches(dataset), batches(dataset, keypoint_shift=0.5)
    for one, other in zip(plain, shifted, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.targets_3d, other.targets_3d)
        assert 0.005 < (one.inputs_2d - other.inputs_2d).norm(dim=2).mean() < 0.05
    again = PoseLoader(dataset, 16, keypoint_shift=0.5).shuffled_batches(2, done=1)
    assert torch.equal(next(again).inputs_2d, shifted[1].inputs_2d)  # as after a resume


def test_wrong_focal_lengths_are_told_and_not_seen(dataset):
    for one, other in zip(batches(dataset), batches(dataset, focal_sigma=0.2), strict=True):
        assert torch.equal(one.inputs_2d, other.inputs_2d)
        factor = other.intrinsics / one.intrinsics
        assert torch.allclose(factor[:, 0], factor[:, 1])
        assert torch.equal(one.intrinsics[:, 2:], other.intrinsics[:, 2:])
    factors = torch.cat([
        b.intrinsics[:, 0] / a.intrinsics[:, 0]
        for a, b in zip(batches(dataset), batches(dataset, focal_sigma=0.2), strict=True)
    ])  # fmt: skip
    wrong = factors[(factors - 1).abs() > 1e-6]
    assert 0.3 < len(wrong) / len(factors) < 0.7 and 0.1 < wrong.log().std() < 0.3


def test_a_test_sees_the_joints_of_a_detector(dataset):
    found = with_joints_of(dataset, "mediapipe")
    assert torch.equal(found.targets_3d, dataset.targets_3d)
    batch = dataset.batch(torch.arange(len(dataset)))
    points = batch.targets_3d + batch.root_3d.unsqueeze(1)
    seen = project(shift_of_detector(points, H36M_17, "mediapipe"), batch.intrinsics)
    assert torch.allclose(found.inputs_2d, seen, atol=1e-5)
    unknown = replace(dataset, intrinsics=dataset.intrinsics * torch.nan)
    with pytest.raises(UserError, match="not known: leave out --joints_of"):
        with_joints_of(unknown, "coco")


def test_both_scripts_say_whose_joints_were_tested(call, tmp_path):
    flags = [*SLICE, "-c", tmp_path, "--name", "run", "--epochs", 1, "--keypoint_shift", 1]
    assert call(main_gcn.main, *flags)[0] == 0
    checkpoint = tmp_path / "run/ckpt_last.pth.tar"
    tables = set()
    for more in ([], ["--joints_of", "coco"], ["--joints_of", "halpe"]):
        status, out, _ = call(main_gcn.main, *SLICE, "--evaluate", checkpoint, *more)
        assert status == 0 and ("moved on purpose" in out) == bool(more)
        tables.add(next(line for line in out.splitlines() if line.startswith("Mean of actions")))
    assert len(tables) == 3
    for main, trains in ((main_gcn.main, []), (main_graph.main, ["--pro_train", 1])):
        status, _, err = call(main, *SLICE, *trains, "--joints_of", "coco")
        assert status == 2 and "--joints_of is for testing" in err


def test_the_recipe_for_own_data_takes_the_shared_data_and_what_detectors_do():
    args = opt.parse_gcn(["--recipe", "own_data"])
    assert (args.dataset, args.keypoints, args.joints, args.hid_dim) == ("mocap", "noisy", 17, 128)
    assert args.keypoint_shift and args.focal_sigma and args.tell_body and args.tell_gravity
    assert args.augment and args.keep_ground and args.root_view and args.camera_rays
    assert opt.parse_gcn(["--recipe", "own_data", "--dataset", "hdm05"]).dataset == "hdm05"
    with pytest.raises(UserError, match="--focal_sigma goes with --root_view"):
        opt.parse_gcn(["--focal_sigma", "0.1"])
