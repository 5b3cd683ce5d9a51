"""Proportions and size of made bodies, and what is known of some of them."""

import pytest
import torch

from common.person import Known, bone_lengths, proportions_and_size
from common.skeleton import BONE_GROUPS, H36M_16, H36M_17, SKELETONS

EVERY = pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])


def lopsided_pose(skeleton):
    """One pose on the x axis, whose bone to joint j is j mm long."""
    pose = torch.zeros(1, skeleton.num_joints, 3)
    for joint, parent in skeleton.bones():
        pose[0, joint, 0] = pose[0, parent, 0] + joint / 1000
    return pose


@EVERY
def test_a_pose_is_split_into_proportions_and_size(skeleton):
    pose = torch.randn(30, skeleton.num_joints, 3)
    proportions, size = proportions_and_size(pose, skeleton)
    assert torch.allclose(proportions.mean(dim=1), torch.ones(30), atol=1e-6)
    larger, twice = proportions_and_size(2 * pose + 1, skeleton)
    assert torch.allclose(larger, proportions, atol=1e-5) and torch.allclose(twice, 2 * size)
    assert torch.allclose(size, bone_lengths(pose, skeleton).mean(dim=1))
    mirrored, same = proportions_and_size(skeleton.flip(pose), skeleton)
    assert torch.allclose(mirrored, proportions) and torch.allclose(same, size)


@EVERY
def test_left_and_right_get_their_mean(skeleton):
    proportions, size = proportions_and_size(lopsided_pose(skeleton), skeleton)
    found = dict(zip(skeleton.names[1:], (proportions * size)[0].tolist(), strict=True))
    for joint, name in enumerate(skeleton.names[1:], start=1):
        twin = {"L": "R", "R": "L"}.get(name[0], name[0]) + name[1:]
        other = skeleton.names.index(twin) if twin in skeleton.names else joint
        assert found[name] == pytest.approx((joint + other) / 2000, rel=1e-4)


@EVERY
def test_every_bone_has_a_group_that_left_and_right_share(skeleton):
    groups = skeleton.bone_groups()
    assert set(groups) == set(range(len(BONE_GROUPS))) and len(groups) == skeleton.num_joints - 1
    for left, right in zip(skeleton.joints_left, skeleton.joints_right, strict=True):
        assert groups[left - 1] == groups[right - 1]


def test_what_is_known_of_mirrored_and_of_chosen_poses():
    known = Known(torch.rand(5, 15), torch.rand(5), torch.randn(5, 3))
    both = known.with_mirrored()
    assert torch.equal(both.up, torch.cat([known.up, known.up * torch.tensor([-1.0, 1, 1])]))
    for half in (slice(5), slice(5, 10)):
        assert torch.equal(both.rows(half).proportions, known.proportions)
        assert torch.equal(both.rows(half).size, known.size)
    some = known.rows(torch.tensor([4, 1]))
    assert torch.equal(some.size, known.size[[4, 1]]) and some.up.shape == (2, 3)
    nothing = Known()
    changed = nothing.with_mirrored(), nothing.rows(slice(2)), nothing.to(torch.device("cpu"))
    assert changed == (nothing, nothing, nothing)


@pytest.mark.parametrize("joints", SKELETONS)
def test_a_size_that_is_not_known_is_that_of_the_pose(joints):
    skeleton = SKELETONS[joints]
    pose = torch.randn(3, joints, 3)
    own = bone_lengths(pose, skeleton).mean(dim=1)
    told = torch.rand(3, joints - 1)
    told[2] = torch.nan
    size = torch.tensor([0.3, torch.nan, 0.3])
    lengths = Known(told, size).lengths_of(pose, skeleton)
    assert torch.allclose(lengths[0], 0.3 * told[0]) and lengths[2].isnan().all()
    assert torch.allclose(lengths[1], own[1] * told[1])
    assert torch.allclose(Known(told).lengths_of(pose, skeleton)[:2], own[:2, None] * told[:2])
    assert Known(size=size).lengths_of(pose, skeleton).isnan().all()
