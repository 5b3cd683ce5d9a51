from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common.camera import project
from common.skeleton import H36M_16, H36M_17
from data.augment import Augmentation
from data.cameras import h36m_cameras
from data.datasets import HDM05
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader, augment_batch, load_pose_datasets
from tests.conftest import ROOT
from tests.formulas import pixel

_H36M = h36m_cameras("S9")


@pytest.fixture(scope="module", params=["gt", "noisy"])
def dataset(request) -> PoseDataset:
    subjects = HDM05.subjects_test
    (found,) = load_pose_datasets(
        HDM05, ROOT / "dataset", [subjects], H36M_17, request.param, ["throwBasketball"], 10
    )
    return found


def bones(pose: torch.Tensor, skeleton=H36M_17) -> torch.Tensor:
    joints, parents = zip(*skeleton.bones(), strict=True)
    return pose[:, list(joints)] - pose[:, list(parents)]


def up(count: int) -> torch.Tensor:
    return _H36M[0].up.float().expand(count, 3)


def test_up_is_where_the_worlds_z_axis_points():
    for camera in _H36M:
        world = torch.tensor([[0.3, -0.2, 0.5], [0.3, -0.2, 1.5]], dtype=torch.float64)
        seen = (world - camera.translation) @ camera.rotation
        assert torch.allclose(seen[1] - seen[0], camera.up)


def test_bodies_keep_their_joint_angles(dataset):
    pose = dataset.targets_3d
    changed = Augmentation().change_bone_lengths(pose, H36M_17)
    assert (changed[:, 0] == 0).all()
    before, after = bones(pose), bones(changed)
    cosine = torch.cosine_similarity(before, after, dim=-1)
    assert (cosine > 1 - 1e-5).all()
    scale = after.norm(dim=-1) / before.norm(dim=-1)
    assert 0.03 < scale.log().std() < 0.08 and scale.log().mean().abs() < 0.01


def test_left_and_right_stay_alike(dataset):
    changed = Augmentation(bone_sigma=0.3).change_bone_lengths(dataset.targets_3d, H36M_17)
    scale = bones(changed).norm(dim=-1) / bones(dataset.targets_3d).norm(dim=-1)
    joints = [joint for joint, _ in H36M_17.bones()]
    for left, right in zip(H36M_17.joints_left, H36M_17.joints_right, strict=True):
        sides = scale[:, joints.index(left)], scale[:, joints.index(right)]
        assert torch.allclose(*sides, atol=1e-4)
    thigh, forearm = (scale[:, joints.index(H36M_17.names.index(n))] for n in ("LKnee", "LWrist"))
    assert (thigh - forearm).abs().mean() > 0.1  # drawn apart


def test_a_turn_is_about_the_vertical_through_the_root(dataset):
    pose = dataset.targets_3d
    changed, _ = Augmentation(0.0, 0.0, turn=1.0).augment_poses(pose, up(len(pose)), H36M_17)
    height = (pose @ up(1)[0], changed @ up(1)[0])
    assert torch.allclose(*height, atol=1e-5)
    assert torch.allclose(torch.cdist(pose, pose), torch.cdist(changed, changed), atol=1e-3)
    assert (changed - pose).norm(dim=-1).amax(dim=1).median() > 0.1
    some, _ = Augmentation(0.0, 0.0, turn=0.3).augment_poses(pose, up(len(pose)), H36M_17)
    share = ((some - pose).abs().amax(dim=(1, 2)) > 1e-5).float().mean()
    assert 0.15 < share < 0.45


def test_a_tilt_leaves_the_vertical():
    vertical = up(2000)
    rotation = Augmentation(turn=0.0, tilt=10.0)._random_rotations(vertical)
    angle = torch.tensor(Rotation.from_matrix(rotation.double().numpy()).magnitude())
    assert 8 < torch.rad2deg(angle.square().mean().sqrt()) < 12
    turned = (rotation @ vertical.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(
        torch.acos((turned * vertical).sum(-1).clamp(-1, 1)).double(), angle, atol=2e-3
    )


def test_changed_poses_are_projected_as_a_camera_would(dataset):
    index = torch.arange(0, len(dataset), 7)
    flipped = torch.arange(len(index)) % 2 == 0
    original = dataset.batch(index).mirrored(flipped, dataset.skeleton)
    batch = augment_batch(original, Augmentation(), dataset.skeleton)
    assert torch.equal(batch.root_3d, original.root_3d)
    points = (batch.targets_3d + batch.root_3d.unsqueeze(1)).double()
    before = (original.targets_3d + original.root_3d.unsqueeze(1)).double()
    for row in range(0, len(index), 5):
        fx, fy, cx, cy, k1, k2, k3, p1, p2 = original.intrinsics[row].double().tolist()
        camera = {
            "focal_length": (fx, fy),
            "center": (cx, cy),
            "radial_distortion": (k1, k2, k3),
            "tangential_distortion": (p1, p2),
        }
        for joint in range(17):
            new, old = (pixel(p[row, joint].numpy(), camera) for p in (points, before))
            error = original.inputs_2d[row, joint].double() - torch.tensor(old)
            expected = torch.tensor(new) + error
            assert torch.allclose(batch.inputs_2d[row, joint].double(), expected, atol=1e-6)


def heights(joints: torch.Tensor, batch: PoseBatch) -> torch.Tensor:
    """World heights (B, J), metres, of joints (B, J, 3) in Human3.6M's cameras, pose by pose."""
    cameras = {tuple(c.intrinsics.float().tolist()[:4]): c for c in _H36M}
    rows = zip(joints.double(), batch.intrinsics.tolist(), strict=True)
    seen = [(points, cameras[tuple(values[:4])]) for points, values in rows]
    return torch.stack([(camera.rotation @ p.mT).mT[:, 2] + camera.translation[2]
                        for p, camera in seen])  # fmt: skip


@pytest.mark.parametrize("tilt", [0.0, 10.0])
def test_changed_bodies_stand_on_the_floor(dataset, tilt):
    original = dataset.batch(torch.arange(0, len(dataset), 7))
    sizes = {"bone_sigma": 0.1, "size_sigma": 0.2, "tilt": tilt}
    torch.manual_seed(1)
    sunk = augment_batch(original, Augmentation(**sizes), dataset.skeleton)
    torch.manual_seed(1)
    batch = augment_batch(original, Augmentation(**sizes, keep_ground=True), dataset.skeleton)
    assert torch.equal(batch.targets_3d, sunk.targets_3d)
    points, before, low = (b.targets_3d + b.root_3d.unsqueeze(1) for b in (batch, original, sunk))
    floor = heights(before, original).amin(dim=1)
    assert (heights(points, original).amin(dim=1) - floor).abs().max() < 1e-5
    assert (heights(low, original).amin(dim=1) - floor).abs().max() > 0.1
    # straight up or down
    aside = batch.root_3d - original.root_3d
    aside = aside - (aside * original.up).sum(dim=1, keepdim=True) * original.up
    assert aside.abs().max() < 1e-6
    # and the camera sees the body where it now stands
    expected = project(points, original.intrinsics) - project(before, original.intrinsics)
    assert torch.allclose(batch.inputs_2d, original.inputs_2d + expected, atol=1e-6)


def test_a_mirrored_body_stands_on_the_floor_too(dataset):
    index = torch.arange(0, len(dataset), 7)
    mirrored = dataset.batch(index).mirrored(torch.ones(len(index), dtype=bool), dataset.skeleton)
    batch = augment_batch(mirrored, Augmentation(keep_ground=True), dataset.skeleton)
    low = [
        ((b.targets_3d + b.root_3d.unsqueeze(1)) * b.up.unsqueeze(1)).sum(-1).amin(1)
        for b in (mirrored, batch)
    ]
    assert torch.allclose(*low, atol=1e-5)


def test_without_strength_nothing_changes(dataset):
    batch = augment_batch(
        dataset.batch(torch.arange(50)), Augmentation(0.0, 0.0, turn=0.0), dataset.skeleton
    )
    assert torch.allclose(batch.targets_3d, dataset.targets_3d[:50], atol=1e-6)
    assert torch.allclose(batch.inputs_2d, dataset.inputs_2d[:50], atol=1e-6)


def test_an_epoch_has_every_pose_once_half_of_them_mirrored(dataset):
    loader = PoseLoader(dataset, 64, augmentation=Augmentation())
    batches = list(loader.shuffled_batches(1))
    assert len(batches) == loader.epoch_steps
    index = torch.cat([batch.index for batch in batches])
    assert torch.equal(index.sort().values, torch.arange(len(dataset)))
    share = torch.cat([batch.flipped for batch in batches]).float().mean()
    assert 0.4 < share < 0.6


def test_sixteen_joints_change_as_seventeen_do(dataset):
    kept = [joint for joint, name in enumerate(H36M_17.names) if name != "Neck/Nose"]
    changed = Augmentation().change_bone_lengths(dataset.targets_3d[:, kept], H36M_16)
    before = bones(dataset.targets_3d[:, kept], H36M_16)
    assert (torch.cosine_similarity(before, bones(changed, H36M_16), dim=-1) > 1 - 1e-5).all()


def test_reading_a_batch_draws_no_random_numbers(dataset):
    augmented = PoseLoader(dataset, 64, augmentation=Augmentation())
    plain = PoseLoader(dataset, 64, flips=True)
    for batch in (next(augmented.shuffled_batches(1)), next(plain.shuffled_batches(1))):
        before = torch.get_rng_state()
        for name in ("inputs_2d", "targets_3d", "root_3d", "intrinsics", "up"):
            assert getattr(batch, name) is getattr(batch, name)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_loader_draws_the_mirror_then_bones_size_and_turn(dataset):
    torch.manual_seed(5)
    batch = next(PoseLoader(dataset, 64, augmentation=Augmentation()).shuffled_batches(1))
    after = torch.rand(1)
    torch.manual_seed(5)
    flipped = torch.rand(64) < 0.5
    original = dataset.batch(batch.index).mirrored(flipped, dataset.skeleton)
    expected, _ = Augmentation().augment_poses(original.targets_3d, original.up, H36M_17)
    assert torch.equal(batch.flipped, flipped) and torch.equal(batch.targets_3d, expected)
    assert torch.equal(torch.rand(1), after)


def test_the_source_is_left_as_it_was(dataset):
    before = dataset.targets_3d.clone(), dataset.inputs_2d.clone()
    for batch in PoseLoader(replace(dataset), 64, augmentation=Augmentation()).shuffled_batches(1):
        assert batch.inputs_2d.isfinite().all()
    assert torch.equal(before[0], dataset.targets_3d) and torch.equal(before[1], dataset.inputs_2d)


def test_half_of_the_poses_are_turned_by_any_angle_alike():
    vertical = up(20_000)
    share = (Augmentation()._random_rotations(vertical) == torch.eye(3)).all(dim=(1, 2))
    assert 0.48 < share.float().mean() < 0.52
    rotation = Augmentation(turn=1.0)._random_rotations(vertical).double().numpy()
    angle = Rotation.from_matrix(rotation).as_rotvec() @ vertical[0].double().numpy()
    for k in (1, 2, 3):  # the harmonics of angles that are uniform over the circle are zero
        assert abs(np.exp(1j * k * angle).mean()) < 0.03


def test_a_size_is_of_the_whole_body_and_lengths_are_of_groups_of_bones(dataset):
    pose = dataset.targets_3d.repeat(20, 1, 1)[:4000]
    for strength, spread in (
        (Augmentation(bone_sigma=0.0), 0.03),
        (Augmentation(size_sigma=0.0), 0.05),
    ):
        changed = strength.change_bone_lengths(pose, H36M_17)
        factor = (bones(changed).norm(dim=-1) / bones(pose).norm(dim=-1)).log()
        assert factor.std(dim=0).mean() == pytest.approx(spread, rel=0.1)
        alike = factor.std(dim=1).max() < 1e-4
        assert alike == (strength.bone_sigma == 0)
