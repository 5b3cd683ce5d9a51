"""The cameras of the data set ``mocap``, and its split."""

import math

import numpy as np
import pytest
import torch

from common.camera import camera_to_world, image_coordinates, project, world_to_camera
from common.skeleton import H36M_17
from data.cameras import virtual_cameras
from data.datasets import HDM05, MOCAP
from data.npz_io import load_object_array
from data.pose_dataset import load_pose_datasets
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def positions():
    return load_object_array(ROOT / "dataset/data_3d_mocap.npz", "positions_3d")


def cameras_of(positions):
    """Every 19th sequence with its cameras."""
    names = [(who, name) for who, clips in positions.items() for name in clips][::19]
    for who, name in names:
        motion = torch.tensor(positions[who][name]).double()
        yield motion, virtual_cameras(f"{who}/{name}", motion.float())


def test_no_test_person_is_trained_on_and_all_are_of_a_known_action(positions):
    train, test = set(MOCAP.subjects_train), set(MOCAP.subjects_test)
    assert not train & test and train | test == positions.keys()
    assert set(HDM05.subjects_test) <= test
    found = {name.split(" ")[0] for clips in positions.values() for name in clips}
    assert found == set(MOCAP.actions)


def test_cameras_are_of_many_kinds_and_see_the_person_upright(positions):
    views = [camera for _, cameras in cameras_of(positions) for camera in cameras]
    fields = [2 * math.degrees(math.atan(1 / c.intrinsics[0].item())) for c in views]
    assert 30 <= min(fields) < 35 and 70 < max(fields) <= 75
    heights = [c.translation[2].item() for c in views]
    assert 0.3 <= min(heights) < 0.6 and 2.2 < max(heights) <= 2.5
    assert {c.width > c.height for c in views} == {True, False}
    for camera in views:
        assert torch.allclose(camera.rotation @ camera.rotation.T, torch.eye(3).double())
        assert torch.linalg.det(camera.rotation) > 0.99
        assert camera.up[1] < -0.5  # y is down in camera space


def test_persons_are_inside_the_images(positions):
    inside, sizes = [], []
    for motion, cameras in cameras_of(positions):
        distances = [(c.translation - motion.mean(dim=(0, 1)))[:2].norm() for c in cameras]
        assert min(distances) > 1.4 and max(distances) < 8.6
        for c in cameras:
            seen = world_to_camera(motion, c.rotation, c.translation)
            assert torch.allclose(camera_to_world(seen, c.rotation, c.translation), motion)
            pixels = image_coordinates(project(seen, c.intrinsics), c.width, c.height)
            assert seen[..., 2].min() > 0.5
            within = (pixels > 0) & (pixels < pixels.new_tensor([c.width, c.height]))
            inside.append(within.all(dim=-1).double().mean())
            extent = (pixels.amax(1) - pixels.amin(1)).amax(1).median()
            sizes.append(extent / min(c.width, c.height))
    assert np.mean(inside) > 0.999 and np.median(sizes) > 0.5


def test_each_sequence_has_cameras_of_its_own_the_same_in_every_run(tmp_path):
    options = {"skeleton": H36M_17, "actions": ["squat"]}
    sets = [load_pose_datasets(MOCAP, ROOT / "dataset", [["bd"]], downsample=k, **options)[0]
            for k in (1, 3)]  # fmt: skip
    assert sets[0].intrinsics.shape == (len(sets[0].sequences), 4, 9)
    for key in ("intrinsics", "up", "camera_height"):
        assert torch.equal(*(getattr(dataset, key) for dataset in sets))
    focal = sets[0].intrinsics[..., 0].flatten()
    assert len(focal.unique()) == len(focal) > 4
    batch = sets[0].batch(torch.arange(len(sets[0])))
    points = batch.targets_3d + batch.root_3d.unsqueeze(1)
    assert torch.allclose(project(points, batch.intrinsics), batch.inputs_2d, atol=1e-6)
    lowest = (points * batch.up.unsqueeze(1)).sum(2).amin(1)
    heights = sets[0].camera_height[sets[0].sequence.long(), sets[0].camera.long()]
    assert ((lowest + heights) - 0.1).abs().max() < 0.25  # the feet are near the floor


def test_all_persons_of_the_shared_data_pass_the_checks():
    splits = [MOCAP.subjects_train, MOCAP.subjects_test]
    options = {"actions": ["clip", "sneak"], "downsample": 45}
    for dataset in load_pose_datasets(MOCAP, ROOT / "dataset", splits, H36M_17, **options):
        assert {name.split("/")[0] for name in dataset.sequences} == set(dataset.subjects)
        assert dataset.missing == ()
