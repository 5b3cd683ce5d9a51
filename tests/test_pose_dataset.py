import numpy as np
import pytest
import torch

from common.camera import camera_to_world
from common.errors import UserError
from common.skeleton import H36M_16, H36M_17
from data.cameras import h36m_cameras
from data.datasets import H36M, HDM05
from data.npz_io import load_object_array, save_object_arrays
from data.pose_dataset import PoseLoader, load_pose_datasets, one_thread
from tests.conftest import ROOT, load_h36m, make_h36m, write_2d
from tools.made_bodies import made_motion


def test_every_frame_of_every_camera_is_there_once_with_its_ids(tmp_path):
    positions = make_h36m(tmp_path)
    (dataset,) = load_h36m(tmp_path)
    assert len(dataset) == 2 * 4 * 6 * 4  # subjects, sequences, frames, cameras
    assert dataset.inputs_2d.shape == (len(dataset), 16, 2)
    assert dataset.inputs_2d.dtype == dataset.targets_3d.dtype == torch.float32
    seen = set()
    for i in range(len(dataset)):
        subject, name = dataset.sequences[dataset.sequence[i]].split("/")
        assert subject == dataset.subjects[dataset.subject[i]]
        assert name.split(" ")[0] == dataset.actions[dataset.action[i]]
        camera = h36m_cameras(subject)[dataset.camera[i]]
        pose = dataset.targets_3d[i] + dataset.root_3d[i]
        world = camera_to_world(pose, camera.rotation.float(), camera.translation.float())
        distance = np.abs(positions[subject][name][:, H36M_16.stored] - world.numpy()).max((1, 2))
        frame = int(distance.argmin())
        assert distance[frame] < 1e-5
        seen.add((subject, name, int(dataset.camera[i]), frame))
    assert len(seen) == len(dataset)
    assert dataset.targets_3d[:, 0].abs().max() == 0


def test_sitting_is_not_sitting_down(tmp_path):
    make_h36m(tmp_path)
    (dataset,) = load_h36m(tmp_path, actions=["Sitting"])
    assert dataset.actions == ("Sitting",)
    assert {s.split("/")[1] for s in dataset.sequences} == {"Sitting", "Sitting 1"}


def test_the_corrupted_video_is_left_out_and_not_reported_as_missing(tmp_path):
    make_h36m(tmp_path, sequences=("Directions", "Directions 1"))
    (dataset,) = load_h36m(tmp_path, actions=["Directions"])
    assert dataset.sequences == ("S9/Directions", "S9/Directions 1", "S11/Directions 1")
    assert dataset.missing == ()


def test_missing_sequences_are_listed(tmp_path):
    make_h36m(tmp_path, sequences=("Photo 1", "Sitting", "Sitting 2"))
    (dataset,) = load_h36m(tmp_path, actions=["Photo", "Sitting", "Posing"])
    assert dataset.missing == (
        "S9/Photo: 1 of 2", "S9/Posing: 0 of 2", "S11/Photo: 1 of 2", "S11/Posing: 0 of 2",
    )  # fmt: skip


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_2d_from_a_file_equals_2d_by_projection(tmp_path, skeleton):
    positions = make_h36m(tmp_path)
    (projected,) = load_h36m(tmp_path, skeleton)
    write_2d(tmp_path, positions)
    (read,) = load_h36m(tmp_path, skeleton)
    assert torch.allclose(projected.inputs_2d, read.inputs_2d, atol=2e-6)
    assert torch.equal(projected.targets_3d, read.targets_3d)


def test_longer_detections_are_cut_and_shorter_ones_refused(tmp_path):
    positions = make_h36m(tmp_path)
    (projected,) = load_h36m(tmp_path)

    def lengthen(keypoints):
        for sequences in keypoints.values():
            for views in sequences.values():
                views[:] = [np.concatenate([view, view[-3:]]) for view in views]

    write_2d(tmp_path, positions, "cpn", lengthen)
    (read,) = load_h36m(tmp_path, keypoints="cpn")
    assert torch.allclose(projected.inputs_2d, read.inputs_2d, atol=2e-6)
    (some,) = load_h36m(tmp_path, keypoints="cpn", downsample=4)
    kept = torch.arange(len(read)) % 6 % 4 == 0
    assert torch.equal(some.inputs_2d, read.inputs_2d[kept])

    def shorten(keypoints):
        keypoints["S9"]["Sitting 1"][2] = keypoints["S9"]["Sitting 1"][2][:-1]

    write_2d(tmp_path, positions, "short", change=shorten)
    with pytest.raises(UserError, match="S9/Sitting 1, camera 58860488: 5 frames of 2D for 6"):
        load_h36m(tmp_path, keypoints="short")
    with pytest.raises(UserError, match="5 frames of 2D for 6"):
        load_h36m(tmp_path, keypoints="short", downsample=5)  # though as many are kept of each


def test_wrong_2d_is_named(tmp_path):
    positions = make_h36m(tmp_path)

    def spoil(keypoints):
        keypoints["S11"]["SittingDown"][1][4, 3, 0] = np.nan

    write_2d(tmp_path, positions, "nan", change=spoil)
    with pytest.raises(UserError, match="S11/SittingDown, camera 55011271: frame 4 has values"):
        load_h36m(tmp_path, keypoints="nan")
    write_2d(tmp_path, positions, "gap", change=lambda keypoints: keypoints["S11"].pop("Sitting"))
    with pytest.raises(UserError, match="S11/Sitting has no 2D joints for camera 54138969"):
        load_h36m(tmp_path, keypoints="gap")
    write_2d(tmp_path, positions, "train_only", change=lambda keypoints: keypoints.pop("S1"))
    assert (
        len(load_h36m(tmp_path, keypoints="train_only")) == 1
    )  # subjects of no split are not needed


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        (np.zeros((4, 15, 3), np.float32), "15 joints"),
        (np.zeros((4, 32, 2), np.float32), r"\(T, joints, 3\)"),
        (np.zeros((4, 32, 3), np.int32), "numbers expected"),
        (np.full((4, 32, 3), np.inf, np.float32), "frame 0 has values that are not numbers"),
        ({"a": 1}, r"\(T, joints, 3\)"),
    ],
)
def test_wrong_motion_is_named(tmp_path, motion, message):
    rng = np.random.default_rng(0)
    positions = {s: {"Sitting 1": made_motion(rng, 4)} for s in H36M.subjects_test}
    positions["S11"]["Sitting 2"] = motion
    save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=positions)
    with pytest.raises(UserError, match=message) as caught:
        load_h36m(tmp_path)
    assert "S11/Sitting 2" in str(caught.value)


def test_unknown_subject_action_and_layout_are_named(tmp_path):
    make_h36m(tmp_path, subjects=["S9"])
    with pytest.raises(UserError, match="no subject S11"):
        load_h36m(tmp_path)
    with pytest.raises(UserError, match=r"unknown action 'Sit'.*SittingDown"):
        load_h36m(tmp_path, actions=["Sit"])
    make_h36m(tmp_path, sequences=["WalkingDog 1"])
    with pytest.raises(UserError, match="'WalkingDog 1' of S9 is of no action"):
        load_h36m(tmp_path)
    save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=[1, 2])
    with pytest.raises(UserError, match="prepare it again"):
        load_h36m(tmp_path)


def test_downsample_keeps_every_kth_frame_of_each_sequence(tmp_path):
    make_h36m(tmp_path)
    (whole,) = load_h36m(tmp_path)
    (some,) = load_h36m(tmp_path, downsample=4)
    kept = torch.arange(len(whole)) % 6 % 4 == 0
    assert torch.equal(some.targets_3d, whole.targets_3d[kept])
    assert torch.equal(some.inputs_2d, whole.inputs_2d[kept])


def test_loader_gives_every_pose_once_in_an_order_of_seed_and_epoch(tmp_path):
    make_h36m(tmp_path)
    (dataset,) = load_h36m(tmp_path)

    def order(seed, epoch):
        return torch.cat(
            [batch.index for batch in PoseLoader(dataset, 50, seed).shuffled_batches(epoch)]
        )

    assert torch.equal(order(0, 1).sort().values, torch.arange(len(dataset)))
    assert torch.equal(order(0, 1), order(0, 1))
    assert not torch.equal(order(0, 1), order(0, 2))
    assert not torch.equal(order(0, 1), order(1, 1))
    loader = PoseLoader(dataset, 50)
    sizes = [len(batch.index) for batch in loader.ordered_batches()]
    assert sizes == [50, 50, 50, 42]
    batch = next(iter(loader.shuffled_batches(3)))
    assert torch.equal(batch.targets_3d, dataset.targets_3d[batch.index])
    assert torch.equal(batch.inputs_2d, dataset.inputs_2d[batch.index])


def test_the_bundled_data_are_hdm05_at_30_hz():
    positions = load_object_array(ROOT / "dataset/data_3d_hdm05.npz", "positions_3d")
    lengths = {
        s: [
            np.concatenate([np.linalg.norm(m[:, a] - m[:, b], axis=-1) for m in clips.values()])
            .mean() for a, b in ((1, 2), (2, 3))
        ]
        for s, clips in positions.items()
    }  # fmt: skip
    expected = {"mm": (409, 378), "tr": (395, 462), "bd": (420, 402), "bk": (437, 494),
                "dg": (368, 437)}  # fmt: skip
    for subject, (thigh, shank) in expected.items():
        assert np.allclose(np.multiply(lengths[subject], 1000), (thigh, shank), atol=0.6)
    assert sum(map(len, positions.values())) == 288
    assert sum(len(m) for clips in positions.values() for m in clips.values()) == 17_951


def test_the_bundled_data_load_through_the_same_code():
    train, test = load_pose_datasets(
        HDM05, ROOT / "dataset", [HDM05.subjects_train, HDM05.subjects_test], H36M_17
    )
    assert (len(train) + len(test)) == 4 * 17_951
    assert train.missing == test.missing == ()
    assert (torch.bincount(test.action.long(), minlength=11) > 0).all()
    assert train.root_3d[:, 2].min() > 1  # all before the cameras


def test_training_epochs_hold_every_pose_as_it_is_and_mirrored(h36m_folder):
    (dataset,) = load_h36m(h36m_folder, H36M_17)
    batches = list(PoseLoader(dataset, 50, flips=True).shuffled_batches(1))
    pairs = [
        (i, f) for b in batches for i, f in zip(b.index.tolist(), b.flipped.tolist(), strict=True)
    ]
    assert sorted(pairs) == [(i, f) for i in range(len(dataset)) for f in (False, True)]
    batch = batches[0]
    for row, (i, flipped) in enumerate(pairs[:50]):
        target, root = dataset.targets_3d[i], dataset.root_3d[i].clone()
        if flipped:
            target, root[0] = H36M_17.flip(target), -root[0]
        assert torch.equal(batch.targets_3d[row], target)
        assert torch.equal(batch.root_3d[row], root)
        # the mirrored camera still sees the mirrored points where the input has them
        from common.camera import project

        seen = project(target + root, batch.intrinsics[row])
        assert torch.allclose(seen, batch.inputs_2d[row], atol=2e-6)


def test_subjects_may_share_one_dict_of_sequences(tmp_path):
    """As a file may have it whose pickle refers to one object twice."""
    sequences = {"Walking": made_motion(np.random.default_rng(0), 5)}
    save_object_arrays(
        tmp_path / "data_3d_h36m.npz", positions_3d=dict.fromkeys(H36M.subjects_test, sequences)
    )
    (dataset,) = load_h36m(tmp_path)
    assert len(dataset) == 2 * 4 * 5


def test_actions_that_the_file_lacks_are_named_with_the_subjects(tmp_path):
    make_h36m(tmp_path)
    with pytest.raises(UserError, match="has no frames of Posing, Smoking by S9, S11"):
        load_h36m(tmp_path, actions=["Smoking", "Posing"])


def test_unreadable_2d_is_passed_over_where_it_is_not_needed(tmp_path):
    positions = make_h36m(tmp_path)

    def spoil(keypoints, subjects):
        for subject in subjects:
            keypoints[subject] = {name: [0.5] * 4 for name in keypoints[subject]}

    write_2d(tmp_path, positions, "train", lambda k: spoil(k, H36M.subjects_train))
    write_2d(tmp_path, positions, "all", lambda k: spoil(k, list(k)))
    (projected,) = load_h36m(tmp_path)
    (read,) = load_h36m(tmp_path, keypoints="train")
    assert torch.allclose(projected.inputs_2d, read.inputs_2d, atol=2e-6)
    with pytest.raises(UserError, match=r"S9/Sitting, camera 54138969: \(T, joints, 2\) numbers"):
        load_h36m(tmp_path, keypoints="all")


def test_sequences_of_one_frame_are_checked_too(tmp_path):
    positions = make_h36m(tmp_path, frames=1)
    load_h36m(tmp_path)
    millimetres = {s: {n: 1000 * m for n, m in clips.items()} for s, clips in positions.items()}
    save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=millimetres)
    with pytest.raises(UserError, match="--no-check_data"):
        load_h36m(tmp_path)


def test_threads_are_as_they_were_after_one_thread():
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_second_half_of_the_numbers_of_an_epoch_are_the_mirrored_poses(h36m_folder):
    """So a seed keeps its meaning over versions."""
    (dataset,) = load_h36m(h36m_folder)
    generator = torch.Generator().manual_seed(5 * 1_000_003 + 2)
    numbers = torch.randperm(2 * len(dataset), generator=generator)
    batches = PoseLoader(dataset, 50, seed=5, flips=True).shuffled_batches(2)
    for batch, expected in zip(batches, numbers.split(50), strict=True):
        assert torch.equal(batch.index, expected % len(dataset))
        assert torch.equal(batch.flipped, expected >= len(dataset))
