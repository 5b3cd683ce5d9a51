import torch

from common.skeleton import H36M_16, H36M_17
from data.datasets import HDM05
from data.noise import add_detector_noise
from data.pose_dataset import load_pose_datasets
from tests.conftest import ROOT


def load(keypoints, skeleton=H36M_17):
    options = {"keypoints": keypoints, "downsample": 4}
    splits = [HDM05.subjects_test]
    return load_pose_datasets(HDM05, ROOT / "dataset", splits, skeleton, **options)[0]


def test_mean_error_is_five_pixels_and_larger_at_wrists_and_ankles():
    error = 500 * (load("noisy").inputs_2d - load("gt").inputs_2d).norm(dim=-1)
    assert 4.7 < error.mean() < 5.3
    by_joint = dict(zip(H36M_17.names, error.mean(0).tolist(), strict=True))
    extremities = [by_joint[n] for n in ("RFoot", "LFoot", "RWrist", "LWrist")]
    others = [v for n, v in by_joint.items() if n[1:] not in ("Foot", "Wrist")]
    assert min(extremities) > max(others)
    assert error.median() < error.mean()  # rare gross errors make the tail


def test_it_is_the_same_for_every_run_and_other_for_every_view():
    assert torch.equal(load("noisy").inputs_2d, load("noisy").inputs_2d)
    uv = torch.rand(50, 16, 2)
    one, two = (add_detector_noise(uv, H36M_16, name) for name in ("S9/a/0", "S9/a/1"))
    assert torch.equal(one, add_detector_noise(uv, H36M_16, "S9/a/0"))
    assert not torch.equal(one, two)


def test_legs_and_arms_are_sometimes_swapped():
    uv = torch.zeros(20_000, 17, 2)
    uv[:, list(H36M_17.joints_left), 0] = -100.0
    uv[:, list(H36M_17.joints_right), 0] = 100.0
    noisy = add_detector_noise(uv, H36M_17, "swaps")
    left, right = (
        noisy[:, list(joints), 0] > 0 for joints in (H36M_17.joints_left, H36M_17.joints_right)
    )
    assert torch.equal(left, ~right)  # each side has what the other one lost
    for limb in (left[:, :3], left[:, 3:]):
        swapped = limb.float().mean(1)
        assert set(swapped.tolist()) == {0.0, 1.0}  # a whole limb or none of it
        assert 0.003 < swapped.mean() < 0.007
    middle = [j for j, name in enumerate(H36M_17.names) if name[0] not in "LR"]
    assert len(middle) == 17 - 12 and noisy[:, middle, 0].abs().max() < 1  # 500 pixels
