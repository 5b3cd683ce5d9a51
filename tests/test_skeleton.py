import pytest
import torch

from common.errors import UserError
from common.skeleton import H36M_16, H36M_17


def test_sixteen_joints_are_the_published_ones():
    assert H36M_16.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14)
    assert H36M_16.joints_left == (4, 5, 6, 10, 11, 12)
    assert H36M_16.joints_right == (1, 2, 3, 13, 14, 15)


def test_seventeen_joints_are_the_published_ones():
    assert H36M_17.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
    assert H36M_17.joints_left == (4, 5, 6, 11, 12, 13)
    assert H36M_17.joints_right == (1, 2, 3, 14, 15, 16)
    assert H36M_17.stored == (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)


def test_adjacency_of_16_joints():
    adjacency = H36M_16.adjacency()
    row = torch.zeros(16)
    row[0] = 1.0
    row[[1, 4, 7]] = 1 / 3
    assert torch.equal(adjacency[0], row)
    assert torch.equal(adjacency.diagonal(), torch.ones(16))
    assert torch.allclose(adjacency.sum(1), torch.full((16,), 2.0))
    assert not torch.equal(adjacency, adjacency.T)


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_flip_swaps_names_and_undoes_itself(skeleton):
    order = skeleton.flip_order()
    assert [order[i] for i in order] == list(range(skeleton.num_joints))
    mirrored = {"L": "R", "R": "L"}
    for joint, other in enumerate(order):
        name = skeleton.names[joint]
        side = name[0] if joint in skeleton.joints_left + skeleton.joints_right else None
        assert skeleton.names[other] == (mirrored[side] + name[1:] if side else name)


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_mirrored_points_have_the_other_sign_of_x_and_sides_exchanged(skeleton):
    pose = torch.randn(20, skeleton.num_joints, 3, dtype=torch.float64)
    flipped = skeleton.flip(pose)
    assert torch.equal(skeleton.flip(flipped), pose)
    for joint, name in enumerate(skeleton.names):
        other = {"L": "R", "R": "L"}.get(name[0], name[0]) + name[1:]
        x, y, z = pose[:, joint].unbind(-1)
        expected = torch.stack([-x, y, z], dim=-1)
        assert torch.equal(flipped[:, skeleton.names.index(other)], expected)


def test_joints_are_found_in_files_of_32_17_and_16():
    assert H36M_16.indices_in(32) == list(H36M_16.stored)
    assert H36M_16.indices_in(17) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16]
    assert H36M_16.indices_in(16) == list(range(16))
    assert H36M_17.indices_in(17) == list(range(17))


@pytest.mark.parametrize("stored", [15, 16, 33])
def test_seventeen_joints_cannot_come_from(stored):
    with pytest.raises(UserError, match=f"{stored} joints"):
        H36M_17.indices_in(stored)
