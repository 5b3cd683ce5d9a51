"""What a user tells of the person and the camera: what it does to poses, and what is refused."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import predict
from common.body import Body, bone_names, by_bone, read_body
from common.camera import image_coordinates, project
from common.clip import LEVEL_UP
from common.errors import UserError
from common.input_view import InputView
from common.person import PersonStatistics, bone_lengths, proportions_and_size
from common.prediction import Prediction
from common.skeleton import H36M_16, H36M_17
from common.standing_height import standing_height
from common.told_channels import ToldChannels
from data.keypoint_formats import FORMATS
from data.keypoints import keypoints_of_array
from models.build import build_model
from tests import keypoint_writers as made
from tools.made_bodies import made_motion
from training import predicting
from training.given import Given
from training.lifter import Lifter

SIZE = (1000, 800)
CAMERA = {"fov": 60}
FRAMES = 6
UP = (0.0, -0.96, -0.28)  # the camera looks down
CAMERA_HEIGHT, ANKLE_HEIGHT = 2.0, 0.07


class Remembers(nn.Module):
    """Answers with its poses, and keeps its last input."""

    def __init__(self, poses: torch.Tensor) -> None:
        super().__init__()
        self.poses = nn.Parameter(poses, requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.inputs = inputs
        return self.poses[: len(inputs)]


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """Poses (T, 17, 3) in camera space of one person, whose lowest joint is at one height."""
    motion = made_motion(np.random.default_rng(5), FRAMES)[:, list(H36M_17.stored)]
    pose = torch.from_numpy((motion - motion[:, :1])[..., [0, 2, 1]]).float()
    pose = pose * torch.tensor([1.0, -1, 1])
    up = torch.tensor(UP)
    place = torch.tensor([[0.2, 0.1, 5.5]]).repeat(FRAMES, 1)
    lowest = ((pose + place[:, None]) @ up).amin(dim=1)
    return pose + (place + (ANKLE_HEIGHT - CAMERA_HEIGHT - lowest)[:, None] * up)[:, None]


@pytest.fixture(scope="module")
def pixels(truth) -> np.ndarray:
    return image_coordinates(project(truth, Given(**CAMERA).camera(SIZE)), *SIZE).numpy()


@pytest.fixture
def lifter(truth) -> Lifter:
    """It can be told everything, sees persons of 0.9 times the size, and errs by some cm."""
    pose = 0.9 * (truth - truth[:, :1])
    off = 0.03 * torch.randn(pose.shape, generator=torch.Generator().manual_seed(0))
    off[:, 0] = 0
    proportions, size = proportions_and_size(truth, H36M_17)
    persons = PersonStatistics(
        tuple(proportions.mean(dim=0).tolist()), 0.9 * size.mean().item(), ANKLE_HEIGHT, 0.0,
        (0.004,) * 16, 0.006,
    )  # fmt: skip
    told = ToldChannels(body=True, gravity=True)
    return Lifter(Remembers(pose + off), {}, InputView(), H36M_17, told=told, persons=persons)


@pytest.fixture
def plain(lifter) -> Lifter:
    return replace(lifter, told=ToldChannels(), persons=None)


@pytest.fixture(scope="module")
def body(truth) -> Body:
    return Body("calibrated", by_bone(proportions_and_size(truth, H36M_17)[0][0], H36M_17))


def lift(lifter, pixels, **told):
    return lifter(pixels, SIZE, "h36m17", **CAMERA, **told)


def size_of(poses) -> float:
    return np.median(bone_lengths(torch.as_tensor(poses), H36M_17), axis=0).mean()


def error(found, truth) -> float:
    """Mean distance of the joints from their true place, metres."""
    return np.linalg.norm(found.absolute_3d - truth.numpy(), axis=2).mean()


def test_a_network_is_told_what_is_known(lifter, pixels, truth, body):
    lift(lifter, pixels)
    assert not lifter.network.inputs[..., 2:].any()
    size = size_of(truth)
    sized = body.with_size(size, "measured")
    found = lift(lifter, pixels, body=sized, gravity=(0, -24, -7))
    channels = lifter.network.inputs[0, :, 2:]
    persons = lifter.persons
    expected = 20 * (body.known(1, H36M_17).proportions[0] - torch.tensor(persons.proportions))
    assert torch.allclose(channels[1:, 0], expected, atol=1e-4)
    assert torch.allclose(channels[:, 2], torch.tensor(20 * (size / persons.size - 1)), atol=1e-3)
    assert (channels[:, [1, 3]] == 1).all() and torch.allclose(channels[:, 4:], torch.tensor(UP))
    assert found.up == pytest.approx(UP) and found.clip().up == found.up
    assert found.known == (
        "a horizontal field of view of 60 degrees",
        "the upward direction in camera space",
        "calibrated; size measured",
    )
    assert lift(lifter, pixels).clip().up == LEVEL_UP and lift(lifter, pixels).up is None


def test_bones_that_are_not_rigid_with_a_detector_are_left_out_of_a_body(lifter, pixels, body):
    points = made.points_of(made.made_person(frames=FRAMES), "coco17")
    found = lifter(points, made.SIZE, "coco17", **CAMERA, body=body)
    channels = lifter.network.inputs[0, :, 2:]
    rigid = FORMATS["coco17"].rigid_kinds(H36M_17)
    told = torch.tensor([bone in rigid for bone in bone_names(H36M_17)])
    away = body.known(1, H36M_17).proportions[0] - torch.tensor(lifter.persons.proportions)
    assert torch.allclose(channels[1:, 0], 20 * away * told, atol=1e-4) and away[~told].any()
    assert (channels[:, 1] == 1).all()
    left_out = "without Spine, Thorax, Neck/Nose, Head, Shoulder, not rigid with these keypoints"
    assert any(words.endswith(left_out) for words in found.known)
    assert "not rigid" not in str(lift(lifter, pixels, body=body).known)


def test_a_network_is_told_how_exact_the_keypoints_are(plain, pixels):
    told = replace(plain, told=ToldChannels(noise=True))
    line = "2D joints that are off by {} px at width 1,000"
    found = lift(told, pixels)
    assert torch.allclose(told.network.inputs[..., 2:], torch.tensor(10 / 12))
    assert line.format(10) in found.assumed
    found = lift(told, pixels, keypoint_error=2)
    assert torch.allclose(told.network.inputs[..., 2:], torch.tensor(0.5))
    assert line.format(2) in found.known and line.format(10) not in found.assumed
    Given(keypoint_error=2).check_keypoint_error(told, calibrate=False)


def test_a_known_size_is_that_of_the_poses_and_of_the_place(plain, pixels, truth, body):
    sized = body.with_size(size_of(truth), "measured")
    found, without = (lift(plain, pixels, **told) for told in ({"body": sized}, {}))
    assert size_of(found.poses_3d) == pytest.approx(size_of(truth), rel=1e-5)
    assert found.assumed == () and "as the network sees it" in without.assumed[0]
    assert error(found, truth) < 0.5 * error(without, truth)
    scale = found.poses_3d[:, 1:] / without.poses_3d[:, 1:]
    assert np.allclose(scale, scale[0, 0, 0], rtol=1e-3)  # one factor for all


def test_the_height_of_the_camera_tells_the_size(lifter, pixels, truth):
    told = {"gravity": UP, "camera_height": CAMERA_HEIGHT, "keypoint_error": 0}
    found = lift(lifter, pixels, **told)
    assert size_of(found.poses_3d) == pytest.approx(size_of(truth), rel=0.03)
    assert "size from the camera height" in found.known and found.assumed == ()
    higher = lift(lifter, pixels, **told | {"camera_height": 2 * CAMERA_HEIGHT - ANKLE_HEIGHT})
    assert size_of(higher.poses_3d) == pytest.approx(2 * size_of(found.poses_3d), rel=1e-4)
    level = lift(lifter, pixels, camera_height=1.0)
    assert level.assumed == ("a camera that is held level",) and level.up is None


def test_the_height_of_a_person_goes_through_the_body(plain, lifter, pixels, truth, body):
    lengths = size_of(truth) * body.known(1, H36M_17).proportions.numpy()
    height = standing_height(lengths, H36M_17).item()
    found = lift(plain, pixels, body=body, person_height=height)
    assert size_of(found.poses_3d) == pytest.approx(size_of(truth), rel=1e-4)
    assert f"calibrated; size from a height of {height:g} m" in found.known
    told = lift(lifter, pixels, person_height=height)  # of the mean proportions
    assert (lifter.network.inputs[..., 5] == 1).all() and not lifter.network.inputs[..., 3].any()
    lengths = np.median(bone_lengths(torch.from_numpy(told.poses_3d), H36M_17), axis=0)
    assert standing_height(lengths, H36M_17) == pytest.approx(height, abs=1e-3)
    assert (
        f"a person who stands {height:g} m tall" in lift(plain, pixels, person_height=height).known
    )


def test_poses_are_put_on_the_rays(plain, pixels, truth, body):
    camera = Given(**CAMERA).camera(SIZE)

    def off_the_rays(found):
        seen = project(torch.from_numpy(found.absolute_3d), camera.expand(FRAMES, 9))
        return np.abs(image_coordinates(seen, *SIZE).numpy() - pixels).max()

    raw, exact, usual = (
        lift(plain, pixels, **told)
        for told in ({}, {"ray_fit": True, "keypoint_error": 0}, {"ray_fit": True})
    )
    assert off_the_rays(exact) < 0.05 < off_the_rays(usual) < off_the_rays(raw)
    assert "2D joints that are off by 10 px at width 1,000" in usual.assumed
    assert "2D joints that are off by 0 px at width 1,000" in exact.known
    assert {"poses on the rays of the 2D joints"} <= {*exact.known} & {*usual.known}
    sized = body.with_size(size_of(truth), "measured")
    known = lift(plain, pixels, ray_fit=True, keypoint_error=0, body=sized)
    assert off_the_rays(known) < 0.05 and error(known, truth) < 0.5 * error(exact, truth)


def test_a_pose_without_a_place_is_not_fitted(plain, pixels):
    plain.network.poses[0].neg_()
    found, raw = (lift(plain, pixels, ray_fit=fit) for fit in (True, False))
    assert np.isnan(found.absolute_3d[0]).all() and np.array_equal(found.poses_3d[0],
                                                                  raw.poses_3d[0])  # fmt: skip
    assert np.isfinite(found.absolute_3d[1:]).all()
    assert not np.allclose(found.poses_3d[1:], raw.poses_3d[1:], atol=1e-3)


BODY = Body("x", dict.fromkeys(bone_names(H36M_17), 1.0))
WRONG = {
    "gravity": ({"gravity": (0, 0, 0)}, "is no direction"),
    "two numbers": ({"gravity": (0, 1)}, "gravity: give three numbers"),
    "centimetres": ({"camera_height": 150}, "camera_height: give metres above the floor"),
    "below the floor": ({"camera_height": -1}, "camera_height: give metres above the floor"),
    "no number": ({"camera_height": float("nan")}, "camera_height: give metres"),
    "two sizes": ({"camera_height": 1, "person_height": 1.7}, "both tell the size of the person"),
    "an error": ({"keypoint_error": -1}, "keypoint_error: give pixels at image width 1,000"),
    "a tiny error": ({"keypoint_error": 1e-30}, "keypoint_error: give pixels"),
    "upside down": ({"gravity": (0, 0.96, 0.28), "camera_height": 2}, "not seen below the camera"),
    "a body in vain": ({"body": BODY}, "body: this network cannot be told a body: give --ray_fit"),
    "another body": (
        {"body": Body("x", dict.fromkeys(bone_names(H36M_16), 1.0)), "ray_fit": True},
        "the body has not the bones of a network of 17 joints",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused(what, plain, pixels):
    told, line = WRONG[what]
    with pytest.raises(UserError, match=line):
        lift(plain, pixels, **told)
    if what in ("below the floor", "a body in vain"):
        return
    with pytest.raises(UserError, match="camera_height needs the camera: give --fov"):
        plain(pixels, SIZE, "h36m17", camera_height=1)
    with pytest.raises(UserError, match="ray_fit needs the camera: give --fov"):
        plain(pixels, SIZE, "h36m17", ray_fit=True)


@pytest.fixture
def files(tmp_path, pixels):
    """Keypoints, and the weights of two untrained networks: "told" and "plain"."""
    np.save(tmp_path / "k.npy", pixels)
    means = [1.0] * 16
    persons = PersonStatistics(tuple(means), 0.25, 0.07, 0.0, (0.004,) * 16, 0.006).plain()
    for name, told in (("told", True), ("plain", False)):
        arguments = {"joints": 17, "hid_dim": 8, "num_layers": 1, "in_dim": 9 if told else 2,
                     "tell_body": told, "tell_gravity": told}  # fmt: skip
        state = {"state_dict": build_model(arguments).state_dict(), "model": arguments}
        torch.save(state | {"persons": persons}, tmp_path / f"{name}.pth")
    return tmp_path


@pytest.fixture
def run(call, files):
    """(name of the network, flags) -> status, printed lines, errors."""
    size = ("--format", "h36m17", "--size", *SIZE)

    def run(name, *flags):
        return call(
            predict.main, files / "k.npy", "--weights", files / f"{name}.pth", *size, *flags
        )

    return run


EXACT = ("--fov", 60, "--keypoint_error", 0)


def test_a_calibrated_body_is_written_and_read_again(run, files, monkeypatch):
    given_frames = []

    def calibrate(lifter, screen, camera, sigma, bones):
        assert bones == set(bone_names(H36M_17))
        given_frames.append((len(screen), sigma, torch.is_inference_mode_enabled()))
        return BODY

    monkeypatch.setattr(predicting, "calibrate", calibrate)
    out = files / "out" / "a.json"
    status, printed, err = run("told", "--calibrate", *EXACT, "-o", out, "--gravity", 0, -2, 0)
    assert (status, err) == (0, "") and given_frames == [(FRAMES, 0.0, False)]
    path = out.with_name("k_body.json")
    assert f"{path}: x\n" in printed and read_body(path, H36M_17) == BODY
    found = json.loads(out.read_text())
    assert found["known"][2] == "x" and found["up"] == [0, -1, 0]
    status, _, err = run("told", "--body", path, *EXACT[:2], "-o", files / "b.npz")
    assert (status, err) == (0, "")
    again = np.load(files / "b.npz")
    assert "x" in again["known"] and "up" not in again
    status, _, err = run("told", "--calibrate", *EXACT, "-o", out.with_name("c.npz"))
    assert status == 2 and "k_body.json exists: --force" in err
    path.write_text("[]")
    status, _, err = run("told", "--calibrate", *EXACT, "-o", out.with_name("c.npz"), "--force")
    assert status == 2 and "is no body file of this program" in err and path.read_text() == "[]"
    assert len(given_frames) == 1 and not out.with_name("c.npz").exists()


def test_too_few_images_leave_the_body_unknown(run, files):
    status, printed, err = run("told", "--calibrate", *EXACT)
    line = "proportions unknown: 6 frames are too few, 50 are needed"
    assert (status, err) == (0, "") and f"k_body.json: {line}\n" in printed
    found = dict(np.load(files / "k_3d.npz"))
    assert not any("proportions" in words for words in found["known"])
    assert run("told", "--fov", 60, "-o", files / "without.npz")[0] == 0
    assert np.array_equal(np.load(files / "without.npz")["poses_3d"], found["poses_3d"])
    status, _, err = run("told", "--body", files / "k_body.json", "--force")
    assert status == 2 and f"says nothing of the body ({line}): leave out --body" in err


def test_a_filter_that_cannot_run_is_refused_before_a_body_is_written(run, files):
    status, _, err = run("told", "--calibrate", *EXACT, "--smooth", "one_euro")
    assert status == 2 and "give --fps" in err
    assert not (files / "k_body.json").exists()


@pytest.mark.parametrize(
    ("gravity", "remedy"),
    [((0, 1, 0), "--gravity is the upward direction"), ((0, -2, 0), "y of the keypoints may")],
)
def test_a_person_upside_down_by_the_vertical_is_said(gravity, remedy, run, monkeypatch):
    for down in (True, False):
        monkeypatch.setattr(Prediction, "is_upside_down", down)
        status, printed, _ = run("plain", "--gravity", *gravity, "--force")
        said = f"the person is upside down: {remedy}" in printed
        assert status == 0 and said is down and printed.count("upside down") == down


def test_y_that_points_up_is_warned_of(run, files, pixels):
    for y_up in (False, True):
        np.save(files / "k.npy", [0, SIZE[1]] + pixels * [1, -1] if y_up else pixels)
        status, printed, _ = run("plain", "--force")
        warning = "warning: the person is upside down in most images: y of keypoints points down"
        assert status == 0 and (warning in printed) is y_up


def test_images_with_joints_that_were_filled_in_do_not_calibrate(lifter, pixels, monkeypatch):
    seen = []
    monkeypatch.setattr(
        predicting, "calibrate", lambda _, screen, *given, bones: seen.append(screen)
    )
    gap = pixels.copy()
    gap[2, 5] = np.nan
    found = keypoints_of_array(gap, H36M_17, "h36m17", SIZE)
    told = Given(**CAMERA, keypoint_error=0)
    predicting.calibrated(lifter, found.tracks[0], found, told)
    kept = [0, 1, 3, 4, 5]
    expected = predicting.screen_joints(found.tracks[0], found)[kept]
    assert torch.equal(seen[0], expected)


def test_what_changes_nothing_is_refused_or_said(run, files):
    BODY.save(files / "body.json")
    for flags, line in (
        (
            ("--calibrate", *EXACT),
            "--calibrate: this network cannot be told a body: give --ray_fit",
        ),
        (
            ("--body", files / "body.json"),
            "body: this network cannot be told a body: give --ray_fit",
        ),
        (("--calibrate", *EXACT[2:]), "--calibrate needs the camera, by --fov"),
        (("--calibrate", *EXACT[:2]), "--calibrate needs the camera, by --fov"),
        (EXACT, "--keypoint_error changes nothing alone"),
        (("--body", files / "none.json"), "none.json: No such file"),
        (("--ray_fit",), "--ray_fit needs the camera"),
        (("--body", "x", "--calibrate"), "not allowed with"),
    ):
        status, _, err = run("plain", *flags)
        assert status == 2 and line in err and err.count("\n") == 1, (flags, err)
    assert not (files / "k_3d.npz").exists()
    BODY.with_size(0.25, "y").save(files / "body.json")
    status, printed, _ = run("plain", "--body", files / "body.json", "--gravity", 0, -1, 0)
    assert status == 0 and "cannot be told a body: it only gives the size" in printed
    assert "cannot be told where up is: pictures and BVH are turned by it" in printed


def test_a_stream_knows_the_person(call, files, pixels, monkeypatch):
    BODY.with_size(0.25, "y").save(files / "body.json")
    line = json.dumps({"keypoints": pixels[0].tolist(), "size": SIZE}).encode()
    flags = ("--stream", "--weights", files / "told.pth", "--format", "h36m17", "--fov", 60)

    def ask(*more):
        monkeypatch.setattr(sys, "stdin", type("", (), {"buffer": io.BytesIO(line)}))
        return call(predict.main, *flags, *more)

    status, out, err = ask("--body", files / "body.json", "--ray_fit", "--gravity", 0, -1, 0)
    answer = json.loads(out)
    assert (status, err) == (0, "") and answer["up"] == [0, -1, 0]
    assert "x; size y" in answer["known"]
    assert size_of(np.array([answer["poses_3d"]])) == pytest.approx(0.25, rel=1e-4)
    status, _, err = ask("--calibrate", "--keypoint_error", 0)
    assert status == 2 and "use --body FILE beside --stream" in err
