"""Lifting from Python: the place, the size, what is told, and threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from common.camera import image_coordinates, project
from common.errors import UserError
from common.input_view import InputView
from common.person import bone_lengths
from common.skeleton import H36M_17
from common.standing_height import standing_height
from models.build import build_model
from tests import keypoint_writers as made
from tools.made_bodies import made_motion
from training.given import Given
from training.lifter import Lifter, load_lifter

SIZE = (1000, 800)
LENS = [900.0, 950.0, 520.0, 390.0, -0.2, 0.1, 0.0, 0.002, -0.001]
FRAMES = 5


class Oracle(nn.Module):
    """Answers with the true poses, as a network that was trained on other sizes would."""

    def __init__(self, poses: torch.Tensor) -> None:
        super().__init__()
        self.poses = nn.Parameter(poses, requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.poses[: len(inputs)]


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, Lifter]:
    """Absolute poses (T, 17, 3), the pixels (T, 17, 2) that a lens makes of them, and a lifter that
    sees a person of 0.8 times the size."""
    rng = np.random.default_rng(5)
    pose = made_motion(rng, FRAMES)[:, list(H36M_17.stored)].astype(np.float32)
    pose = (pose - pose[:, :1])[..., [0, 2, 1]] * np.array([1, -1, 1], np.float32)
    places = rng.uniform([-0.5, -0.2, 4], [0.5, 0.2, 5], (FRAMES, 1, 3)).astype(np.float32)
    absolute = torch.from_numpy(pose + places)
    camera = Given(intrinsics=LENS).camera(SIZE)
    pixels = image_coordinates(project(absolute, camera), *SIZE).numpy()
    lifter = Lifter(Oracle(torch.from_numpy(0.8 * pose)), {}, InputView(), H36M_17)
    return absolute.numpy(), pixels, lifter


def test_the_place_is_where_the_person_is(scene):
    absolute, pixels, lifter = scene
    found = lifter(pixels, SIZE, "h36m17", intrinsics=LENS)
    assert found.absolute_3d.dtype == found.poses_3d.dtype == np.float32
    assert np.allclose(found.absolute_3d, 0.8 * absolute, atol=5e-3)  # smaller, and nearer
    assert np.allclose(found.absolute_3d - found.absolute_3d[:, :1], found.poses_3d, atol=1e-6)
    lengths = np.median(bone_lengths(torch.from_numpy(found.poses_3d), H36M_17).numpy(), axis=0)
    assert found.assumed == (
        f"a person who stands {standing_height(lengths, H36M_17):.2f} m tall, as the network sees "
        "it",
    )


def test_a_height_gives_poses_and_place_their_size(scene):
    absolute, pixels, lifter = scene
    true_lengths = np.median(bone_lengths(torch.from_numpy(absolute), H36M_17).numpy(), axis=0)
    height = float(standing_height(true_lengths, H36M_17))
    found = lifter(pixels, SIZE, "h36m17", intrinsics=LENS, person_height=height)
    assert found.assumed == () and np.allclose(found.absolute_3d, absolute, atol=5e-3)
    without = lifter(pixels, SIZE, "h36m17", person_height=height)
    assert without.absolute_3d is None and np.allclose(without.poses_3d, found.poses_3d)


def test_a_person_upside_down_is_noticed(scene):
    _, pixels, lifter = scene
    cases = [((0, -1, 0), False), ((0, 1, 0), True), ((1, 0, 0), False), (None, False)]
    for gravity, expected in cases:
        assert lifter(pixels, SIZE, "h36m17", gravity=gravity).is_upside_down is expected


def test_ankles_above_the_head_are_noticed(scene):
    _, pixels, lifter = scene
    turned = np.array(SIZE) - pixels
    lying = 0.8 * np.stack([SIZE[0] - pixels[..., 1], pixels[..., 0]], axis=-1)
    mostly_standing = np.concatenate([pixels[:3], turned[3:]])
    cases = [(pixels, False), (turned, True), (lying, False), (mostly_standing, False)]
    for points, expected in cases:
        assert lifter(points, SIZE, "h36m17").has_ankles_above_head is expected


def test_a_place_behind_the_camera_is_not_given(scene):
    _, pixels, lifter = scene
    turned = Lifter(Oracle(-lifter.network.poses), {}, InputView(), H36M_17)
    found = turned(pixels, SIZE, "h36m17", intrinsics=LENS)
    assert np.isnan(found.absolute_3d).all() and np.isfinite(found.poses_3d).all()


def test_one_image_is_one_pose(scene):
    _, pixels, lifter = scene
    found = lifter(pixels[0].tolist(), SIZE, "h36m17", fps=25)
    assert len(found) == 1 and found.fps == 25 and found.frames.tolist() == [0]
    assert np.allclose(found.keypoints_2d[0], pixels[0], atol=1e-3)


@pytest.fixture
def checkpoint(tmp_path):
    arguments = {"joints": 17, "hid_dim": 8, "num_layers": 1, "in_dim": 4, "root_view": True}
    state = {"state_dict": build_model(arguments).state_dict(), "model": arguments}
    torch.save(state | {"options": {"flip_test": True}}, tmp_path / "c.pth")
    return tmp_path / "c.pth"


def test_a_checkpoint_is_loaded_ready_to_lift(checkpoint):
    lifter = Lifter.load(checkpoint, device="cpu")
    assert lifter.flip_test and not lifter.network.training
    assert not Lifter.load(checkpoint, flip_test=False, device="cpu").flip_test
    points = made.scored(made.made_person(), "coco17")
    found = lifter(points, made.SIZE, "coco17")
    assert found.assumed == ("a horizontal field of view of 50 degrees",)
    told = lifter(points, made.SIZE, "coco17", fov=50)
    assert np.array_equal(found.poses_3d, told.poses_3d)
    assert not np.allclose(found.poses_3d, lifter(points, made.SIZE, fov=30).poses_3d, atol=1e-4)


def test_the_bundled_weights_are_loaded_without_a_path():
    lifter = Lifter.load(device="cpu")
    assert lifter.skeleton is H36M_17 and lifter.told.body


def test_threads_share_a_lifter(checkpoint):
    lifter = load_lifter(checkpoint, None)
    people = [made.points_of(made.made_person(seed), "coco17") for seed in range(4)]

    def lift(number: int) -> np.ndarray:
        return lifter(people[number % 4], made.SIZE, "coco17", fov=40 + number % 4).poses_3d

    alone = [lift(number) for number in range(4)]
    before = {name: value.clone() for name, value in lifter.network.state_dict().items()}
    with ThreadPoolExecutor(4) as pool:
        for number, poses in enumerate(pool.map(lift, range(40))):
            assert np.array_equal(poses, alone[number % 4])
    after = lifter.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


WRONG = {
    "both cameras": ({"fov": 50, "intrinsics": LENS}, "not both"),
    "an angle": ({"fov": 0}, "between 0 and 180"),
    "intrinsics": ({"intrinsics": LENS[:5]}, "4 or 9 numbers"),
    "a focal length": ({"intrinsics": [-1.0, *LENS[1:]]}, "above 0 pixels"),
    "millimetres": ({"intrinsics": [35.0, 35.0, 500.0, 400.0]}, "pixels, not millimetres"),
    "fps": ({"fps": 0}, "fps: give the images a second"),
    "centimetres": ({"person_height": 175}, "metres, from 0.4 to 2.6, not 175"),
    "a filter": ({"smooth": "kalman"}, "smooth: give one_euro, not kalman"),
    "time": ({"smooth": "one_euro"}, "the filter needs the images a second"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused(what, scene):
    options, message = WRONG[what]
    with pytest.raises(UserError, match=message):
        scene[2](scene[1], SIZE, "h36m17", **options)


@pytest.mark.parametrize("points", [[[1, 2], [3]], "text", [[["a", "b"]]], 3.0, None, np.zeros(4)])
def test_what_is_no_array_of_points_is_refused(points, scene):
    with pytest.raises(UserError, match="joints, 2"):
        scene[2](points, SIZE)


def test_a_gap_in_the_images_keeps_their_numbers(scene):
    _, pixels, lifter = scene
    far = np.full((40, 17, 2), np.nan)
    far[0], far[2], far[39] = pixels[:3]
    found = lifter(far, SIZE, "h36m17")
    assert found.frames.tolist() == [0, 1, 2, 39]
    assert found.interpolated.all(axis=1).tolist() == [False, True, False, False]
