import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.skeleton import H36M_16, H36M_17
from data import prepare_data_h36m
from data.datasets import H36M
from data.npz_io import load_object_array
from data.pose_dataset import load_pose_datasets
from tests import h36m_miniature as mini

pytest.importorskip("h5py")
ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "data" / "prepare_data_h36m.py"


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """Run the script's main in this process; gives the folder of its outputs."""

    def run(*arguments):
        out = tmp_path / "out"
        flags = [str(SCRIPT), *map(str, arguments), "--output_dir", str(out)]
        monkeypatch.setattr(sys, "argv", flags)
        prepare_data_h36m.main()
        return out

    return run


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "h36m.zip"
    return mini.write_zip(path, mini.archive_files(mini.poses()))


def make_form(form, folder):
    made = mini.poses()
    if form == "zip":
        return ["--from-archive", mini.write_zip(folder / "h.zip", mini.archive_files(made))]
    if form == "unpacked zip":
        return ["--from-archive", mini.write_folder(folder, mini.archive_files(made)) / "h36m"]
    if form.startswith("mat"):
        content = mini.mat_v5 if form == "mat v5" else mini.mat_v73
        files = mini.official_files(made, ".cdf.mat", content)
        return ["--from-source", mini.write_folder(folder, files)]
    scratch = folder / "scratch"
    scratch.mkdir()

    def cdf(values):
        return mini.cdf(values, scratch)

    if form == "cdf":
        files = mini.official_files(made, ".cdf", cdf)
        return ["--from-source-cdf", mini.write_folder(folder / "cdf", files)]
    archives = [
        mini.write_tgz(
            folder / f"Poses_D3_Positions_{who}.tgz", mini.official_files(made, ".cdf", cdf, who)
        )
        for who in mini.SUBJECTS
    ]
    return ["--from_source_cdf", *(archives if form == "tgz" else [folder])]


@pytest.mark.parametrize(
    "form", ["zip", "unpacked zip", "mat v5", "mat v7.3", "cdf", "tgz", "folder of tgz"]
)
def test_all_forms_of_the_same_poses_give_the_same_file(form, convert, tmp_path, capsys):
    if "mat v5" in form:
        pytest.importorskip("scipy")
    if form in ("cdf", "tgz", "folder of tgz"):
        pytest.importorskip("cdflib")
    source = tmp_path / "source"
    source.mkdir()
    out = convert(*make_form(form, source))
    found = load_object_array(out / "data_3d_h36m.npz", "positions_3d")
    wanted = mini.expected()
    assert list(found) == list(mini.SUBJECTS)
    assert {who: sorted(names) for who, names in found.items()} == {
        who: sorted(names) for who, names in wanted.items()
    }
    assert sum(map(len, found.values())) == 7 * 30 - 1
    for who, clips in wanted.items():
        for name, motion in clips.items():
            assert found[who][name].dtype == np.float32
            np.testing.assert_array_equal(found[who][name], motion)
    warned = capsys.readouterr().err.count("has MD5")
    assert warned == (7 if "tgz" in form else 0)  # ours are not the official archives


def test_the_loader_reads_both_files_and_projects_alike(convert, archive, tmp_path):
    out = convert("--from-archive", archive)
    split = [H36M.subjects_test]
    (read,) = load_pose_datasets(H36M, out, split, H36M_16)
    (out / "data_2d_h36m_gt.npz").unlink()
    (projected,) = load_pose_datasets(H36M, out, split, H36M_16)
    assert len(read) == 4 * sum(len(m) for s in split[0] for m in mini.expected()[s].values())
    assert read.missing == ()
    assert (read.targets_3d == projected.targets_3d).all()
    assert (read.inputs_2d - projected.inputs_2d).abs().max() < 2e-6


def test_a_subject_in_two_splits_is_thinned_once(convert, archive):
    """The loader lets go of joints as it reads; a second reading must find the same frames."""
    out = convert("--from-archive", archive)
    both = load_pose_datasets(H36M, out, [["S9"], ["S9"]], H36M_16, downsample=2)
    frames = sum(-(-len(motion) // 2) for motion in mini.expected()["S9"].values())
    assert [len(data) for data in both] == [4 * frames] * 2
    assert (both[0].targets_3d == both[1].targets_3d).all()


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17], ids=["16", "17"])
def test_pixels_follow_the_published_camera_model(skeleton, convert, archive):
    """Projected again in plain numpy from the published table."""
    flags = ["--joints", "17"] if skeleton is H36M_17 else []
    path = convert("--from-archive", archive, *flags) / "data_2d_h36m_gt.npz"
    found = load_object_array(path, "positions_2d")
    table = json.loads((ROOT / "data" / "h36m_cameras.json").read_text())
    motion = mini.expected()["S9"]["WalkDog 1"].astype(np.float64)[:, list(skeleton.stored)]
    assert len(found["S9"]["WalkDog 1"]) == 4
    for inner, outer, pixels in zip(
        table["intrinsics"], table["extrinsics"]["S9"], found["S9"]["WalkDog 1"], strict=True
    ):
        w, *axis = outer["orientation"]
        moved = motion - np.array(outer["translation"]) / 1000
        # The inverse rotation of a unit quaternion (w, a): v - 2w (a x v) + 2 a x (a x v).
        turn = np.cross(axis, moved)
        camera = moved - 2 * w * turn + 2 * np.cross(axis, turn)
        ray = np.clip(camera[..., :2] / camera[..., 2:], -1, 1)
        r2 = (ray**2).sum(-1, keepdims=True)
        k1, k2, k3 = inner["radial_distortion"]
        p = np.array(inner["tangential_distortion"])
        factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + (ray * p).sum(-1, keepdims=True)
        wanted = inner["focal_length"] * (ray * factor + p * r2) + inner["center"]
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, wanted, atol=2e-4, rtol=0)
    meta = load_object_array(path, "metadata")
    sides = [list(skeleton.joints_left), list(skeleton.joints_right)]
    assert meta == {"num_joints": skeleton.num_joints, "keypoints_symmetry": sides}


def without(*left_out):
    return {key: values for key, values in mini.poses().items() if key not in left_out}


def test_missing_sequences_stop_the_run_by_name(convert, tmp_path, capsys):
    greeting = next(key for key in mini.poses() if key[0] == "S9" and "Greeting" in key[1])
    some = without(greeting, ("S11", "Directions"), ("S11", "Directions 1"))
    archive = mini.write_zip(tmp_path / "some.zip", mini.archive_files(some))
    with pytest.raises(UserError, match=r"S9/Greeting: 1 of 2, S11/Directions: 0 of 1\. .*--allow"):
        convert("--from-archive", archive)
    assert not (tmp_path / "out").exists()
    out = convert("--from-archive", archive, "--allow-missing")
    assert "S9/Greeting: 1 of 2" in capsys.readouterr().err
    (data,) = load_pose_datasets(H36M, out, [H36M.subjects_test], H36M_16)
    assert data.missing == ("S9/Greeting: 1 of 2", "S11/Directions: 0 of 1")


def test_the_trial_left_out_need_not_be_there(convert, tmp_path):
    archive = tmp_path / "h36m.zip"
    mini.write_zip(archive, mini.archive_files(without(("S11", "Directions"))))
    out = convert("--from-archive", archive)
    assert len(load_object_array(out / "data_3d_h36m.npz", "positions_3d")["S11"]) == 29


def test_frames_are_reported_beside_the_published_ones(convert, archive, capsys):
    convert("--from-archive", archive)
    printed = capsys.readouterr().out
    frames = {who: sum(map(len, clips.values())) for who, clips in mini.expected().items()}
    assert f"S11: 29 sequences, {frames['S11']:,} frames" in printed
    test = 4 * (frames["S9"] + frames["S11"])
    assert f"test: {test:,} frames over the cameras, NOT the expected 543,344" in printed


def test_outputs_are_replaced_only_by_force(convert, archive, tmp_path):
    (tmp_path / "out").mkdir()
    there = tmp_path / "out" / "data_2d_h36m_gt.npz"
    there.write_text("mine")
    with pytest.raises(UserError, match=r"data_2d_h36m_gt\.npz exists: --force"):
        convert("--from-archive", archive)
    assert there.read_text() == "mine"
    assert list(there.parent.iterdir()) == [there]
    convert("--from-archive", archive, "--force")
    assert load_object_array(there, "metadata")["num_joints"] == 16


def test_damage_names_the_file_and_writes_nothing(convert, archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[content.index(b"Eating 1.h5") + 200] ^= 255
    (tmp_path / "flipped.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    folder = mini.write_folder(tmp_path / "folder", mini.archive_files(mini.poses())) / "h36m"
    (folder / "S5/MyPoses/3D_positions/Walking 1.h5").write_bytes(b"\x89HDF\r\n\x1a\nnothing")
    for name, message in (("flipped.zip", "flipped"), ("cut.zip", "cut"), (folder, "S5.*Walking")):
        with pytest.raises(UserError, match=message):
            convert("--from-archive", tmp_path / name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_cut_off_official_archive_is_an_error(cut, convert, tmp_path):
    pytest.importorskip("cdflib")
    made = {key: values for key, values in mini.poses().items() if key[0] == "S8"}
    files = mini.official_files(made, ".cdf", lambda values: mini.cdf(values, tmp_path), "S8")
    path = mini.write_tgz(tmp_path / "Poses_D3_Positions_S8.tgz", files)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(UserError, match=r"S8\.tgz"):
        convert("--from-source-cdf", path, "--allow-missing")
    assert not (tmp_path / "out").exists()


def test_a_damaged_cdf_or_mat_is_an_error():
    values = mini.poses()["S1", "Eating 1"]
    for read in (prepare_data_h36m.read_mat, prepare_data_h36m.read_cdf):
        with pytest.raises(UserError, match="the file"):
            read(b"\xcd\xf3\x00\x01 no poses at all", "the file")
    whole = mini.mat_v5(values)
    with pytest.raises(UserError, match="the file"):
        prepare_data_h36m.read_mat(whole[: len(whole) // 2], "the file")


def test_a_cdf_with_huge_counts_or_a_bomb_is_refused(tmp_path, monkeypatch):
    """cdflib would count to the number in the file, and inflate whatever there is."""
    cdflib = pytest.importorskip("cdflib")
    content = mini.cdf(mini.poses()["S1", "Eating 1"], tmp_path)
    (tmp_path / "x.cdf").write_bytes(content)
    place = cdflib.CDF(tmp_path / "x.cdf").vdr_info("Pose").head_vxr + 8 + 16
    assert content[place : place + 4] == b"\0\0\0\1"  # one entry of the index is in use
    entries = content[:place] + b"\x7f\xff\xff\xff" + content[place + 4 :]
    with pytest.raises(UserError, match="a count in the file is far too large"):
        prepare_data_h36m.read_cdf(entries, "the file")
    monkeypatch.setattr(prepare_data_h36m, "MAX_MEMBER", 100)
    with pytest.raises(UserError, match="unpacks to 100 bytes or more"):
        prepare_data_h36m.read_cdf(content, "the file")


def test_a_sequence_given_twice_is_an_error(convert, archive):
    with pytest.raises(UserError, match=r"a second file of S1/Directions"):
        convert("--from-archive", archive, archive)


def test_a_source_without_poses_says_how_they_are_named(convert, tmp_path):
    with pytest.raises(UserError, match=r"no pose files.*S1/MyPoses/3D_positions"):
        convert("--from-archive", mini.write_zip(tmp_path / "x.zip", iter([("a.txt", b"a")])))
    with pytest.raises(UserError, match="is not there"):
        convert("--from-archive", tmp_path / "nowhere.zip")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 51)), "96 numbers expected"),
        (np.zeros((0, 96)), "96 numbers expected"),
        (np.full((4, 96), np.nan), "frame 0 .* not a number"),
        (np.concatenate([np.zeros((3, 96)), np.full((1, 96), 5e4)]), "frame 3 .* beyond 50 m"),
        (np.zeros((4, 96)), "frame 0 has all joints in one place"),
        (np.concatenate([np.eye(1, 96) * 900, np.ones((1, 96))]), "frame 1 has all joints in one"),
        (mini.poses()["S1", "Eating 1"] / 1000, "not in millimetres; multiply metres by 1000"),
    ],
)
def test_poses_that_cannot_be_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        prepare_data_h36m.to_positions(values, "a file")


@pytest.mark.parametrize(
    "stem", ["Dancing", "Directions ", "Directions x", "directions", "Photos 1"]
)
def test_unknown_sequences_are_refused(stem):
    with pytest.raises(UserError, match="is no sequence of"):
        prepare_data_h36m.sequence_name(stem, "a file")


@pytest.mark.parametrize("module", ["h5py", "cdflib"])
def test_a_missing_package_is_named_with_the_remedy(module, monkeypatch):
    values = mini.poses()["S1", "Eating 1"]
    read, content = {
        "h5py": (prepare_data_h36m.read_archive_h5, mini.archive_h5(values)),
        "cdflib": (prepare_data_h36m.read_cdf, b""),
    }[module]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {module}"):
        read(content, "a file")


def test_as_a_script_from_any_folder_bad_input_is_one_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "--from-archive", "nowhere.zip", "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.zip is not there")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
