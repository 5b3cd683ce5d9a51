"""How tall a person is, from the bones."""

import numpy as np
import pytest
import torch

from common.person import bone_lengths
from common.skeleton import H36M_16, H36M_17
from common.standing_height import scale_to_height, standing_height
from data.npz_io import load_object_array
from tests.conftest import ROOT


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_the_height_is_the_stated_sum(skeleton):
    lengths = np.zeros(len(skeleton.bones()))
    place = {skeleton.names[joint]: i for i, (joint, _) in enumerate(skeleton.bones())}
    for name, length in {
        "LKnee": 0.5, "RKnee": 0.4, "LFoot": 0.41, "RFoot": 0.39, "Spine": 0.2, "Thorax": 0.3,
        "Head": 0.25, "LElbow": 0.3, "RHip": 0.1,
    }.items():  # fmt: skip
        lengths[place[name]] = length
    assert standing_height(lengths, skeleton) == pytest.approx(0.45 + 0.40 + 0.75 + 0.18)
    scale = scale_to_height(lengths, skeleton, 1.5)
    assert standing_height(scale * lengths, skeleton) == pytest.approx(1.5)


def test_lengths_are_those_between_a_joint_and_its_parent():
    poses = np.random.default_rng(0).normal(size=(2, 17, 3))
    lengths = bone_lengths(torch.from_numpy(poses), H36M_17).numpy()
    assert lengths.shape == (2, 16)
    for place, (joint, parent) in enumerate(H36M_17.bones()):
        expected = np.sqrt(((poses[..., joint, :] - poses[..., parent, :]) ** 2).sum(axis=-1))
        assert np.allclose(lengths[..., place], expected)


def test_the_people_of_motion_capture_are_as_tall_as_their_legs_say():
    """Hip to ankle is 0.491 of the height of an adult (Winter 2009)."""
    path = ROOT / "dataset" / "data_3d_hdm05.npz"
    people = load_object_array(path, "positions_3d")
    heights, by_legs = [], []
    for sequences in people.values():
        poses = np.concatenate([*sequences.values()])
        lengths = np.median(bone_lengths(torch.from_numpy(poses), H36M_17).numpy(), axis=0)
        heights.append(standing_height(lengths, H36M_17))
        by_legs.append(lengths[[1, 2, 4, 5]].sum() / 2 / 0.491)
    assert len(heights) == 5
    assert abs(np.mean(heights) - np.mean(by_legs)) < 0.01
    assert (abs(np.array(heights) - by_legs) < 0.07).all()
