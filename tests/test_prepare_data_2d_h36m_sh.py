import sys
from functools import cache

import numpy as np
import pytest

from common.errors import UserError
from common.skeleton import H36M_16
from data import prepare_data_2d_h36m_sh as script
from data.datasets import H36M
from data.joint_order import SH_JOINTS
from data.npz_io import load_object_array, save_object_arrays
from data.pose_dataset import load_pose_datasets
from tests import h36m_miniature as mini
from tests.conftest import views_of

pytest.importorskip("h5py")
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
# Ours -> the detector's, written out by hand.
SH_INDEX = {
    "Hip": 6, "RHip": 2, "RKnee": 1, "RFoot": 0, "LHip": 3, "LKnee": 4, "LFoot": 5, "Spine": 7,
    "Thorax": 8, "Head": 9, "LShoulder": 13, "LElbow": 14, "LWrist": 15, "RShoulder": 12,
    "RElbow": 11, "RWrist": 10,
}  # fmt: skip


@cache
def all_detections():
    """{(subject, official name, camera): (T + 1, 16, 2)}: the poses as seen with errors, and a
    frame more than they have."""
    random = np.random.default_rng(9)
    theirs = sorted(SH_INDEX, key=SH_INDEX.get)
    stored = [H36M_16.stored[H36M_16.names.index(joint)] for joint in theirs]
    made = {}
    for (who, name), values in mini.poses().items():
        views = views_of(values.reshape(-1, 32, 3)[:, stored] / 1000, who)
        for camera, view in reversed(list(zip(CAMERAS, views, strict=True))):
            seen = np.concatenate([view, view[-1:]]).astype(np.float64)
            made[who, name, camera] = seen + random.normal(0, 5, seen.shape)
    return made


def detections():
    return dict(all_detections())


def files(folder, made, prefix=""):
    for (who, name, camera), values in made.items():
        stem = f"{name.replace(' ', '_')}.{camera}"
        yield f"{prefix}{who}/{folder}/{stem}.h5", mini.h5_bytes(poses=values)
    yield f"{prefix}S1/{folder}/_ALL.54138969.h5", b"not to be read"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    script.main()


def check(path):
    found = load_object_array(path, "positions_2d")
    assert {who: sorted(clips) for who, clips in found.items()} == {
        who: sorted(clips) for who, clips in mini.expected().items()
    }
    ours_of = {theirs: ours for ours, theirs in mini.OFFICIAL.items()}
    for (who, name, camera), values in detections().items():
        action, space, trial = name.partition(" ")
        ours = ours_of.get(action, action) + space + trial
        if (who, ours) == ("S11", "Directions"):
            continue
        pixels = found[who][ours][CAMERAS.index(camera)]
        wanted = values[:, [SH_INDEX[joint] for joint in H36M_16.names]].astype(np.float32)
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels, wanted)
    meta = load_object_array(path, "metadata")
    assert meta["num_joints"] == 16
    assert meta["keypoints_symmetry"] == [[4, 5, 6, 10, 11, 12], [1, 2, 3, 13, 14, 15]]


def test_both_archives_and_the_loader(monkeypatch, tmp_path):
    made = detections()
    pt = mini.write_zip(tmp_path / "h36m.zip", files("StackedHourglass", made, "h36m/"))
    ft = mini.write_tgz(tmp_path / "ft.tar.gz", files("StackedHourglassFineTuned240", made))
    out = tmp_path / "out"
    run(monkeypatch, "-pt", pt, "-ft", ft, "--output_dir", out)
    assert sorted(path.name for path in out.iterdir()) == [
        "data_2d_h36m_sh_ft_h36m.npz", "data_2d_h36m_sh_pt_mpii.npz",
    ]  # fmt: skip
    for path in out.iterdir():
        check(path)
    save_object_arrays(out / "data_3d_h36m.npz", positions_3d=mini.expected())
    (data,) = load_pose_datasets(H36M, out, [H36M.subjects_test], H36M_16, keypoints="sh_pt_mpii")
    who, name = data.sequences[0].split("/")
    x, y = detections()[who, name, CAMERAS[0]][0, SH_INDEX["Head"]]
    head = data.inputs_2d[0, H36M_16.names.index("Head")].tolist()
    assert head == pytest.approx([x / 500 - 1, y / 500 - 1.002], abs=1e-5)  # 1000 x 1002 pixels


def test_an_unpacked_folder_is_read(monkeypatch, tmp_path):
    folder = mini.write_folder(tmp_path / "x", files("StackedHourglass", detections()))
    run(monkeypatch, "-pt", folder, "--output_dir", tmp_path)
    check(tmp_path / "data_2d_h36m_sh_pt_mpii.npz")


def broken(tmp_path, change):
    made = detections()
    change(made)
    return mini.write_zip(tmp_path / "x.zip", files("StackedHourglass", made))


def test_incomplete_or_wrong_files_stop_the_run(monkeypatch, tmp_path):
    first = next(iter(detections()))

    def no_view(made):
        del made[first]

    def no_sequence(made):
        for camera in CAMERAS:
            del made[(*first[:2], camera)]

    def other_camera(made):
        made[(*first[:2], "12345678")] = made[first]

    def joints(made):
        made[first] = made[first][:, :15]

    def infinite(made):
        made[first] = made[first].copy()
        made[first][0, 0, 0] = np.inf

    for change, message in (
        (no_view, f"{first[0]}/.* has the cameras"),
        (no_sequence, f"missing: {first[0]}/.*: 1 of 2.*--allow-missing"),
        (other_camera, "12345678"),
        (joints, r"\(T, 16, 2\) expected"),
        (infinite, "not numbers"),
    ):
        archive = broken(tmp_path, change)
        with pytest.raises(UserError, match=message):
            run(monkeypatch, "-pt", archive, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_outputs_are_replaced_only_by_force(monkeypatch, tmp_path):
    archive = broken(tmp_path, lambda made: None)
    there = tmp_path / "data_2d_h36m_sh_pt_mpii.npz"
    there.write_text("mine")
    with pytest.raises(UserError, match="exists: --force"):
        run(monkeypatch, "-pt", archive, "--output_dir", tmp_path)
    assert there.read_text() == "mine"
    run(monkeypatch, "-pt", archive, "--output_dir", tmp_path, "--force")
    check(there)


def test_the_order_is_a_permutation():
    assert sorted(SH_JOINTS) == sorted(H36M_16.names)
    assert sorted(SH_INDEX.values()) == list(range(16))
