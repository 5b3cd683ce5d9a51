"""Lifting a user's own 2D joints."""

import json
import math

import numpy as np
import pytest
import torch

import predict
from common.camera import image_coordinates, project
from models.build import build_model

WIDTH, HEIGHT = 1000, 800
SIZE = ("--width", WIDTH, "--height", HEIGHT)
FOCAL = 1200.0
INTRINSICS = ("--intrinsics", FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)


@pytest.fixture
def people() -> torch.Tensor:
    """Absolute poses (T, 17, 3) that a camera of 45 degrees or so sees whole."""
    place = torch.tensor([0.4, 0.2, 5.0])
    return 0.3 * torch.randn(9, 17, 3) + place


@pytest.fixture
def keypoints(people, tmp_path):
    intrinsics = torch.tensor([2 * FOCAL / WIDTH] * 2 + [0.0] * 7)
    pixels = image_coordinates(project(people, intrinsics.expand(9, 9)), WIDTH, HEIGHT)
    np.save(tmp_path / "k.npy", pixels.numpy())
    return tmp_path / "k.npy"


@pytest.fixture
def checkpoint(tmp_path):
    """(rays?) -> the file of an untrained network."""

    def write(rays: bool):
        torch.manual_seed(1)
        arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1, "in_dim": 4 if rays else 2,
                     "camera_rays": rays, "root_view": rays}  # fmt: skip
        state = {"state_dict": build_model(arguments).state_dict(), "model": arguments}
        path = tmp_path / f"{rays}.pth.tar"
        torch.save(state, path)
        return path

    return write


def lifted(path) -> np.ndarray:
    return np.load(path)["poses_3d"]


@pytest.mark.parametrize("rays", [False, True])
def test_forms_of_a_file_give_the_same_poses(rays, checkpoint, keypoints, call, tmp_path):
    pixels = np.load(keypoints)
    np.savez(tmp_path / "z.npz", keypoints=pixels, others=np.zeros(3))
    (tmp_path / "j.json").write_text(json.dumps(pixels.tolist()))
    camera = INTRINSICS if rays else ()
    found = []
    for name in ("k.npy", "z.npz", "j.json"):
        status, _, err = call(predict.main, checkpoint(rays), tmp_path / name, *SIZE, *camera)
        assert (status, err) == (0, "")
        out = np.load((tmp_path / name).with_name(f"{name[0]}_3d.npz"))
        assert list(out["joints"])[:2] == ["Hip", "RHip"] and len(out["joints"]) == 16
        found.append(out["poses_3d"])
    assert found[0].shape == (9, 16, 3) and (found[0][:, 0] == 0).all()
    assert np.allclose(found[0], found[1]) and np.allclose(found[0], found[2], atol=1e-5)


def test_a_field_of_view_is_a_focal_length(checkpoint, keypoints, call, tmp_path):
    path = checkpoint(True)
    fov = 2 * math.degrees(math.atan(WIDTH / 2 / FOCAL))
    poses = []
    for flags in (INTRINSICS, ("--fov", fov), ("--fov", 1.2 * fov)):
        status, _, err = call(predict.main, path, keypoints, *SIZE, *flags, "--force")
        assert (status, err) == (0, "")
        poses.append(lifted(tmp_path / "k_3d.npz"))
    assert np.allclose(poses[0], poses[1], atol=1e-4)
    assert not np.allclose(poses[0], poses[2], atol=1e-3)


def test_twins_are_averaged_where_asked_for(checkpoint, keypoints, call, tmp_path):
    for flags in (("--flip_test",), ("--no-flip_test",), ()):
        name = tmp_path / f"{len(flags) and flags[0]}.npz"
        status, _, _ = call(predict.main, checkpoint(False), keypoints, *SIZE, *flags, "-o", name)
        assert status == 0
    both, one, default = (
        lifted(tmp_path / f"{n}.npz") for n in ("--flip_test", "--no-flip_test", 0)
    )
    assert np.array_equal(one, default) and not np.allclose(one, both, atol=1e-4)


def test_the_picture_is_drawn(checkpoint, keypoints, call, tmp_path):
    picture = tmp_path / "p.png"
    status, _, _ = call(predict.main, checkpoint(False), keypoints, *SIZE, "--picture", picture)
    assert status == 0 and picture.read_bytes()[:4] == b"\x89PNG"


def test_wrong_input_is_named(checkpoint, keypoints, call, tmp_path):
    pixels = np.load(keypoints)
    spoiled = pixels.copy()
    spoiled[4, 2, 0] = np.nan
    files = {
        "nan": spoiled,
        "flat": pixels[..., 0],
        "few": pixels[:, :12],
        "object": np.array([{}]),
    }
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "text.json").write_text("{")
    plain, rays = checkpoint(False), checkpoint(True)
    cases = [
        ((plain, tmp_path / "no.npy"), "no.npy"),
        ((plain, tmp_path / "nan.npy"), "image 4"),
        ((plain, tmp_path / "flat.npy"), "joints, 2"),
        ((plain, tmp_path / "few.npy"), "12 joints"),
        ((plain, tmp_path / "object.npy"), "array of numbers"),
        ((plain, tmp_path / "text.json"), "JSON"),
        ((tmp_path / "no.pth", keypoints), "no.pth"),
        ((rays, keypoints), "--fov"),
        ((rays, keypoints, "--fov", "180"), "between 0 and 180"),
        ((rays, keypoints, "--intrinsics", "1", "2", "3"), "4 or 9"),
        ((rays, keypoints, "--intrinsics", "0", "2", "3", "4"), "above 0"),
    ]
    for arguments, message in cases:
        status, _, err = call(predict.main, *arguments, *SIZE)
        assert status == 2 and message in err and err.count("\n") == 1, (arguments, err)
    assert not list(tmp_path.glob("*_3d.npz"))


def test_nothing_is_replaced_unasked(checkpoint, keypoints, call, tmp_path):
    (tmp_path / "k_3d.npz").write_text("mine")
    status, _, err = call(predict.main, checkpoint(False), keypoints, *SIZE)
    assert status == 2 and "--force" in err
    assert (tmp_path / "k_3d.npz").read_text() == "mine"


def test_a_camera_that_is_not_used_is_said(checkpoint, keypoints, call):
    status, out, _ = call(predict.main, checkpoint(False), keypoints, *SIZE, "--fov", 50)
    assert status == 0 and "no effect" in out


def test_a_path_that_no_system_takes_is_one_line(call, checkpoint):
    status, _, err = call(predict.main, checkpoint(False), "x" * 5000 + ".npy", *SIZE)
    assert status == 2 and err.count("\n") == 1 and "File name too long" in err
