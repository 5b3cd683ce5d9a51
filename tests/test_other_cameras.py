"""Tests beside the protocol: turned cameras, and cameras that are not what one is told."""

import argparse
import json
import math
from dataclasses import replace

import pytest
import torch

import main_gcn
from common.errors import UserError
from common.input_view import InputView
from common.skeleton import H36M_16
from data.cameras import h36m_cameras
from data.datasets import HDM05
from data.pose_dataset import load_pose_datasets
from tests.conftest import ROOT, SLICE
from training.lifter import Lifter
from training.other_cameras import (
    panned,
    with_focal_scale,
    with_keypoint_noise,
    with_other_cameras,
)


def load(info=HDM05, keypoints="gt"):
    sets = load_pose_datasets(info, ROOT / "dataset", [("mm",)], H36M_16, keypoints, downsample=30)
    return sets[0]


def test_panned_is_what_turned_cameras_record():
    angle = math.radians(8)
    turn = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]],
        dtype=torch.float64,
    )
    turned = [replace(c, rotation=c.rotation @ turn) for c in h36m_cameras("S9")]
    recorded = load(replace(HDM05, cameras=lambda subject: turned))
    found = panned(load(), 8)
    for key in ("inputs_2d", "targets_3d", "root_3d", "up"):
        assert torch.allclose(getattr(found, key), getattr(recorded, key), atol=1e-5), key
    # to the right, so that people move to the left
    assert (found.inputs_2d[..., 0] < load().inputs_2d[..., 0]).all()


def lifter() -> Lifter:
    """Without a network: it sees screen coordinates."""
    return Lifter(None, {}, InputView(camera_rays=False, root_view=False), H36M_16)


def flags(**changed) -> argparse.Namespace:
    nothing = {"joints_of": None, "pan": 0.0, "focal_scale": 1.0, "keypoint_noise": 0.0}
    nothing |= {"camera_height_error": 0.0, "body_size": "unknown"}
    return argparse.Namespace(**nothing | changed)


def test_people_outside_the_image_are_counted():
    dataset, remarks = with_other_cameras(load(), flags(pan=25.0), lifter())
    outside = (dataset.inputs_2d[..., 0] < -1).double().mean()
    assert 0 < outside < 1 and f"leaves {100 * outside:.1f}% of" in remarks["pan"]


def test_a_detectors_error_stays_beside_the_joint():
    exact, noisy = load(), load(keypoints="noisy")
    error = panned(noisy, 5).inputs_2d - panned(exact, 5).inputs_2d
    assert torch.allclose(error, noisy.inputs_2d - exact.inputs_2d, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="--pan 80"):
        panned(load(), 80)
    unknown = replace(load(), intrinsics=load().intrinsics * torch.nan)
    with pytest.raises(UserError, match="leave out --pan"):
        panned(unknown, 5)
    with pytest.raises(UserError, match="leave it out"):
        with_other_cameras(load(), flags(focal_scale=1.2), lifter())


def test_a_wrong_focal_length_leaves_the_image():
    told = with_focal_scale(load(), 1.2)
    assert torch.equal(told.inputs_2d, load().inputs_2d)
    assert torch.allclose(told.intrinsics[..., :2], 1.2 * load().intrinsics[..., :2])
    assert torch.equal(told.intrinsics[..., 2:], load().intrinsics[..., 2:])


def test_a_wrong_camera_height_is_all_that_changes():
    wrong = flags(camera_height_error=0.03, body_size="camera_height")
    found, remarks = with_other_cameras(load(), wrong, lifter())
    assert torch.allclose(found.camera_height, load().camera_height + 0.03)
    assert torch.equal(found.inputs_2d, load().inputs_2d)
    assert list(remarks) == ["camera_height_error"]
    assert "wrong on purpose, by 0.03 m" in remarks["camera_height_error"]
    with pytest.raises(UserError, match="give --body_size camera_height too"):
        with_other_cameras(load(), flags(camera_height_error=0.03), lifter())


def test_keypoints_have_the_noise_that_is_asked_for():
    exact, found = load(), with_keypoint_noise(load(), 4)
    noise = 500 * (found.inputs_2d - exact.inputs_2d)
    assert noise.std() == pytest.approx(4, rel=0.05) and noise.mean().abs() < 0.1
    assert torch.equal(found.inputs_2d, with_keypoint_noise(load(), 4).inputs_2d)
    assert with_other_cameras(load(), flags(), lifter())[1] == {}


def test_the_table_says_so(call, tmp_path):
    training = (*SLICE, "--epochs", 1, "--name", "run", "-c", tmp_path)
    assert call(main_gcn.main, *training)[0] == 0
    checkpoint = tmp_path / "run" / "ckpt_last.pth.tar"
    flags = ("--evaluate", checkpoint, "--pan", -5, "--results", tmp_path / "r.json")
    status, out, err = call(main_gcn.main, *SLICE, *flags)
    assert (status, err) == (0, "") and "on purpose, by -5 degrees." in out
    assert "by -5 degrees" in json.loads((tmp_path / "r.json").read_text())["pan"]
    flags = ("--evaluate", checkpoint, "--keypoint_noise", 2, "--ray_fit")
    out = call(main_gcn.main, *SLICE, *flags)[1]
    assert "noise of 2 px at width 1,000 on purpose" in out
    assert "with an error of the 2D joints of 2 px" in out
    tables = [
        call(main_gcn.main, *SLICE, "--evaluate", checkpoint, "--keypoint_noise", 5, *fit)[1]
        for fit in ((), ("--ray_fit",))
    ]
    assert "as they are: the 2D joints are off by 5 px at width 1,000, and --ray_fit" in tables[1]
    assert "gains up to 3 px with this network" in tables[1]
    means = [[line for line in t.splitlines() if line.startswith("Mean of")] for t in tables]
    assert means[0] == means[1]
    for flag in ("--pan", "--keypoint_noise", "--camera_height_error"):
        status, _, err = call(main_gcn.main, *SLICE, flag, 5)
        assert status == 2 and "--evaluate" in err
