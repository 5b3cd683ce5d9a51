"""The MPI-INF-3DHP test set, from miniature annotation files to poses."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.camera import project
from common.errors import UserError
from common.metrics import pck
from common.skeleton import H36M_16, H36M_17
from data import archive as archive_module
from data import prepare_data_3dhp as prepare
from data.datasets import MPI_INF_3DHP, SCENES_3DHP
from data.npz_io import load_object_array
from data.pose_dataset import load_pose_datasets
from main_gcn import main as main_gcn
from models.build import build_model
from tools.made_bodies import made_motion

h5py = pytest.importorskip("h5py")

# The annotated joints by name, as the data set's documentation lists them.
ANNOTATED = (
    "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder",
    "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "pelvis", "spine", "head",
)  # fmt: skip
THEIR_NAME = {
    "Hip": "pelvis", "RHip": "right_hip", "RKnee": "right_knee", "RFoot": "right_ankle",
    "LHip": "left_hip", "LKnee": "left_knee", "LFoot": "left_ankle", "Spine": "spine",
    "Thorax": "neck", "Neck/Nose": "head", "Head": "head_top", "LShoulder": "left_shoulder",
    "LElbow": "left_elbow", "LWrist": "left_wrist", "RShoulder": "right_shoulder",
    "RElbow": "right_elbow", "RWrist": "right_wrist",
}  # fmt: skip
OUR_NAME = {theirs: ours for ours, theirs in THEIR_NAME.items()}


def annotation(seed: int, frames: int = 9) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    valid = (random.random((frames, 1)) < 0.6).astype(np.uint8)
    valid[0] = 1
    x, y, z = np.moveaxis(made_motion(random, frames).astype(np.float64) * 1000, -1, 0)
    ours = [H36M_17.stored[H36M_17.names.index(OUR_NAME[name])] for name in ANNOTATED]
    camera = np.stack([x, 1000 - z, 3500 + y], axis=-1)[:, None, ours]
    return {
        "valid_frame": valid,
        "annot3": camera,
        "univ_annot3": camera * 0.9,
        "annot2": 540 + 1000 * camera[..., :2] / camera[..., 2:],
    }


def write_mat(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:  # as MATLAB does
        for name, array in arrays.items():
            file[name] = array


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "mpi_inf_3dhp_test_set"
    for number, subject in enumerate(SCENES_3DHP):
        write_mat(folder / subject / "annot_data.mat", annotation(number))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_data_3dhp.py", *map(str, arguments)])
    prepare.main()


@pytest.mark.parametrize(("choice", "name"), [("univ", "univ_annot3"), ("camera", "annot3")])
def test_poses_reach_the_data_set(source, tmp_path, monkeypatch, capsys, choice, name):
    run(monkeypatch, source, "--annotation", choice, "--output_dir", tmp_path)
    printed = capsys.readouterr()
    assert printed.err.count("warning:") == 6  # a miniature has other numbers of frames
    [poses] = load_pose_datasets(MPI_INF_3DHP, tmp_path, [MPI_INF_3DHP.subjects_test], H36M_17)
    assert poses.missing == ()
    start = 0
    for number, subject in enumerate(SCENES_3DHP):
        arrays = annotation(number)
        width, height = (1920, 1080) if subject in ("TS5", "TS6") else (2048, 2048)
        for frame in np.flatnonzero(arrays["valid_frame"]):
            for joint, joint_name in enumerate(H36M_17.names):
                there = ANNOTATED.index(THEIR_NAME[joint_name])
                x, y, z = arrays[name][frame, 0, there] / 1000
                root = arrays[name][frame, 0, 14] / 1000
                u, v = arrays["annot2"][frame, 0, there]
                expected = np.array([x, y, z]) - root
                np.testing.assert_allclose(poses.targets_3d[start, joint], expected, atol=1e-6)
                seen = [2 * u / width - 1, 2 * v / width - height / width]
                np.testing.assert_allclose(poses.inputs_2d[start, joint], seen, atol=1e-6)
            assert poses.actions[poses.action[start]] == SCENES_3DHP[subject]
            start += 1
    assert start == len(poses)
    assert f"{start:>5} frames, official  2929" in printed.out


def test_16_joints_and_one_scene(source, tmp_path, monkeypatch):
    run(monkeypatch, source, "--output_dir", tmp_path)
    [poses] = load_pose_datasets(
        MPI_INF_3DHP, tmp_path, [MPI_INF_3DHP.subjects_test], H36M_16, actions=["Outdoor"]
    )
    frames = sum(int(annotation(number)["valid_frame"].sum()) for number in (4, 5))
    assert poses.inputs_2d.shape == (frames, 16, 2)


def test_zip_and_parent_folder_give_the_same(source, tmp_path):
    archive = tmp_path / "test_set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.rglob("*.mat"):
            file.write(path, path.relative_to(tmp_path))
            file.writestr(f"__MACOSX/{path.parent.name}/._annot_data.mat", "x")
    expected = prepare.read_files(source)
    assert prepare.read_files(archive) == expected
    assert prepare.read_files(tmp_path) == expected


def test_a_missing_scene_is_reported_and_the_others_are_not(source, tmp_path, monkeypatch):
    run(monkeypatch, source, "--output_dir", tmp_path)
    positions = load_object_array(tmp_path / "data_3d_3dhp.npz", "positions_3d")
    positions["TS3"] = {}
    prepare.save_object_arrays(tmp_path / "data_3d_3dhp.npz", positions_3d=positions)
    [poses] = load_pose_datasets(MPI_INF_3DHP, tmp_path, [MPI_INF_3DHP.subjects_test], H36M_16)
    assert poses.missing == ("TS3/StudioNoGreenScreen: 0 of 1",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m * 1000, "in millimetres: divide them by 1000"),
        (lambda m: m - m[:, :1], "relative to the root"),
        (lambda m: m[:, ::-1], "store the joints in Human3.6M's order"),
    ],
)
def test_wrong_joints_are_named_though_no_camera_is_known(
    source, tmp_path, monkeypatch, change, message
):
    run(monkeypatch, source, "--output_dir", tmp_path)
    positions = load_object_array(tmp_path / "data_3d_3dhp.npz", "positions_3d")
    for clips in positions.values():
        clips.update({name: change(motion) for name, motion in clips.items()})
    prepare.save_object_arrays(tmp_path / "data_3d_3dhp.npz", positions_3d=positions)
    with pytest.raises(UserError, match=re.escape(message)):
        load_pose_datasets(MPI_INF_3DHP, tmp_path, [MPI_INF_3DHP.subjects_test], H36M_17)


def test_unknown_intrinsics_give_no_plausible_figure(source, tmp_path, monkeypatch):
    """A projection that nobody asked for must show itself, not look like 2D joints."""
    for subject in SCENES_3DHP:
        [camera] = MPI_INF_3DHP.cameras(subject)
        points = torch.tensor([[[0.1, -0.2, 3.0], [0.0, 0.0, 4.0]]])
        assert project(points, camera.intrinsics.float()).isnan().all()
    run(monkeypatch, source, "--output_dir", tmp_path)
    (tmp_path / "data_2d_3dhp_gt.npz").unlink()
    with pytest.raises(UserError, match=r"data_2d_3dhp_gt\.npz is not there"):
        load_pose_datasets(MPI_INF_3DHP, tmp_path, [MPI_INF_3DHP.subjects_test], H36M_16)


def test_a_checkpoint_is_tested_by_scene(source, tmp_path, monkeypatch, call):
    run(monkeypatch, source, "--output_dir", tmp_path)
    model = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1}).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    flags = ["--dataset", "3dhp", "--dataset_dir", tmp_path, "-z", "8", "-l", "1"]
    out = tmp_path / "results.json"
    status, text, err = call(main_gcn, *flags, "--eva", tmp_path / "a.pth", "--results", out)
    assert (status, err) == (0, "") and "PCK %" in text and "AUC %" in text
    found = json.loads(out.read_text())["results"]["evaluated"]

    [poses] = load_pose_datasets(MPI_INF_3DHP, tmp_path, [MPI_INF_3DHP.subjects_test], H36M_16)
    with torch.no_grad():
        pred = model(poses.inputs_2d)
    pred = pred - pred[:, :1]
    share, distance = pck(pred, poses.targets_3d), (pred - poses.targets_3d).norm(dim=-1)
    assert found["frames"] == len(poses) and found["mean_over"] == "frames"
    assert found["pck_percent"] == pytest.approx(100 * share.mean().item(), abs=1e-3)
    assert found["mpjpe_mm"] == pytest.approx(1000 * distance.mean().item(), abs=1e-3)
    outdoor = poses.action == poses.actions.index("Outdoor")
    row = found["per_action"]["Outdoor"]
    assert row["pck_percent"] == pytest.approx(100 * share[outdoor].mean().item(), abs=1e-3)

    status, _, err = call(main_gcn, *flags)
    assert status == 2 and "for testing only" in err


def test_official_number_of_frames_is_no_warning(source, tmp_path, monkeypatch, capsys):
    arrays = annotation(0, prepare.FRAMES["TS1"])
    write_mat(source / "TS1" / "annot_data.mat", {**arrays, "valid_frame": np.ones((603, 1))})
    prepare.convert(source, "univ")
    warnings = capsys.readouterr().err
    assert "TS1" not in warnings
    assert "TS2" in warnings


def test_nothing_is_overwritten_unasked(source, tmp_path, monkeypatch):
    run(monkeypatch, source, "--output_dir", tmp_path)
    before = (tmp_path / "data_3d_3dhp.npz").read_bytes()
    with pytest.raises(UserError, match="--force"):
        run(monkeypatch, source, "--annotation", "camera", "--output_dir", tmp_path)
    assert (tmp_path / "data_3d_3dhp.npz").read_bytes() == before
    run(monkeypatch, source, "--annotation", "camera", "--output_dir", tmp_path, "--force")
    assert (tmp_path / "data_3d_3dhp.npz").read_bytes() != before
    origin = load_object_array(tmp_path / "data_3d_3dhp.npz", "metadata")
    assert origin == {"annotation": "annot3"}


def _spoil(arrays: dict, name: str, value: np.ndarray | None) -> dict:
    changed = {**arrays, name: value}
    return {key: array for key, array in changed.items() if array is not None}


SOUND = annotation(0)
NOT_FINITE = SOUND["annot2"].copy()
NOT_FINITE[0, 0, 3, 1] = np.nan


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("valid_frame", None, "no dataset 'valid_frame'"),
        ("univ_annot3", None, "no dataset 'univ_annot3'"),
        ("annot2", SOUND["annot2"][:, :, :16], "has shape"),
        ("annot2", SOUND["annot2"][:-1], "has shape"),
        ("univ_annot3", SOUND["annot3"].astype("S8"), "holds no poses"),
        ("valid_frame", np.zeros((9, 1)), "no frame as valid"),
        ("annot2", NOT_FINITE, "not numbers"),
    ],
)
def test_wrong_arrays_are_refused(source, name, value, message):
    write_mat(source / "TS4" / "annot_data.mat", _spoil(SOUND, name, value))
    with pytest.raises(UserError, match=message) as caught:
        prepare.convert(source, "univ")
    assert "TS4" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("soft", "no dataset 'annot2' of its own"),
        ("external", "no dataset 'annot2' of its own"),
        ("dangling", "no dataset 'annot2' of its own"),
        ("external data", "annot2 is stored in other files"),
        ("virtual", "annot2 is stored in other files"),
        ("huge", "valid_frame holds no poses"),
        ("group", "annot2 is not an array of numbers"),
    ],
)
def test_links_and_bombs_are_refused(source, tmp_path, kind, message):
    path = source / "TS2" / "annot_data.mat"
    elsewhere = tmp_path / "elsewhere.h5"
    write_mat(elsewhere, SOUND)
    write_mat(path, _spoil(SOUND, "annot2", None))
    shape = SOUND["annot2"].shape
    with h5py.File(path, "a") as file:
        if kind == "soft":
            file["pixels"] = SOUND["annot2"]
            file["annot2"] = h5py.SoftLink("/pixels")
        elif kind == "dangling":
            file["annot2"] = h5py.SoftLink("/nowhere")
        elif kind == "external":
            file["annot2"] = h5py.ExternalLink(str(elsewhere), "annot2")
        elif kind == "external data":
            size = SOUND["annot2"].nbytes
            file.create_dataset("annot2", shape, "f8", external=[(str(elsewhere), 0, size)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, "f8")
            layout[...] = h5py.VirtualSource(str(elsewhere), "annot2", shape)
            file.create_virtual_dataset("annot2", layout)
        elif kind == "huge":
            del file["valid_frame"]
            file.create_dataset("valid_frame", (10**10, 1), "f8", chunks=(10**6, 1))
        else:
            file.create_group("annot2")
    with pytest.raises(UserError, match=f"TS2.* {message}"):
        prepare.convert(source, "univ")


def test_damaged_sources_leave_nothing(source, tmp_path, monkeypatch):
    output = tmp_path / "out"
    path = source / "TS6" / "annot_data.mat"
    whole = path.read_bytes()
    for content in (b"", b"MATLAB 5.0 MAT-file", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="TS6"):
            run(monkeypatch, source, "--output_dir", output)
    path.unlink()
    with pytest.raises(UserError, match=r"has no annot_data\.mat of TS6"):
        run(monkeypatch, source, "--output_dir", output)
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    for missing in ("broken.zip", "nowhere"):
        with pytest.raises(UserError, match=missing):
            run(monkeypatch, tmp_path / missing, "--output_dir", output)
    assert not output.exists()


def test_oversized_members_are_not_read(source, tmp_path, monkeypatch):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("TS1/annot_data.mat", bytes(10**6))
    monkeypatch.setattr(archive_module, "MAX_MEMBER", 10**5)
    with pytest.raises(UserError, match="1,000,000 bytes"):
        prepare.read_files(archive)


def test_a_subject_twice_is_refused(source, tmp_path):
    archive = tmp_path / "test_set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for folder in "ab":
            file.write(source / "TS1" / "annot_data.mat", f"{folder}/TS1/annot_data.mat")
    with pytest.raises(UserError, match="second file of TS1"):
        prepare.read_files(archive)


def test_missing_h5py_says_how_to_install_it(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install h5py"):
        prepare.convert(source, "univ")


def test_runs_from_any_folder(tmp_path):
    script = Path(prepare.__file__).resolve()
    command = [sys.executable, script, "nowhere", "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: nowhere is not there")
