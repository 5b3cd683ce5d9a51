"""Joints that cannot be right are named at load, each mistake with its remedy; right ones never."""

import json
import re

import numpy as np
import pytest
import torch

import opt
from common.camera import image_coordinates, project, world_to_camera
from common.errors import UserError
from common.skeleton import H36M_16, H36M_17
from data.cameras import h36m_cameras
from data.datasets import H36M, HDM05, MOCAP, MPI_INF_3DHP, action_of
from data.noise import add_detector_noise
from data.npz_io import load_object_array, save_object_arrays
from data.pose_dataset import load_pose_datasets
from main_gcn import main as main_gcn
from main_graph import main as main_graph
from models.build import build_model
from tests.conftest import ROOT, make_h36m, views_of, write_2d
from training import settings

# Ours -> the raw hourglass order, and the sides of both, by hand from the published facts.
RAW = [6, 2, 1, 0, 3, 4, 5, 7, 8, 9, 13, 14, 15, 12, 11, 10]
RAW_SIDES = [[3, 4, 5, 13, 14, 15], [0, 1, 2, 10, 11, 12]]
OUR_SIDES = {
    16: [[4, 5, 6, 10, 11, 12], [1, 2, 3, 13, 14, 15]],
    17: [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
}
SWAPPED = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 13, 14, 15, 10, 11, 12]


def make_people(folder, sequences=("Sitting", "Sitting 1", "Walking", "Walking 1")):
    return make_h36m(folder, sequences, H36M.subjects_test)


def load(folder, skeleton=H36M_16, **options):
    return load_pose_datasets(H36M, folder, [H36M.subjects_test], skeleton, **options)[0]


def to_raw(view):
    """(T, 16, 2) in our order -> in the hourglass's."""
    raw = np.empty_like(view)
    raw[:, RAW] = view
    return raw


def each_view(change):
    """Change the views of a file of 2D joints one by one, by a function of view and camera."""

    def edit(keypoints):
        for subject, sequences in keypoints.items():
            cameras = h36m_cameras(subject)
            for views in sequences.values():
                views[:] = [change(v, c) for v, c in zip(views, cameras, strict=True)]

    return edit


def each_sequence(change):
    def edit(keypoints):
        for sequences in keypoints.values():
            for views in sequences.values():
                views[:] = change(views)

    return edit


def size_of(camera):
    return np.array([camera.width, camera.height], np.float32)


def normalised(view, camera):
    return view * (2 / camera.width) - np.float32([1, camera.height / camera.width])


WRONG_2D = {
    "swapped": (each_view(lambda v, c: v[:, SWAPPED]), "left and right exchanged.*swap them"),
    "one camera swapped": (
        each_sequence(lambda views: [views[0], views[1], views[2][:, SWAPPED], views[3]]),
        "joints of camera 58860488 have left and right exchanged",
    ),
    "raw": (each_view(lambda v, c: to_raw(v)), "Hourglass's own order.*prepare_data_2d_h36m_sh"),
    "rotated": (
        each_sequence(lambda views: views[1:] + views[:1]),
        "joints are what another camera sees.*order 54138969, 55011271, 58860488, 60457274",
    ),
    "two exchanged": (
        each_sequence(lambda views: [views[0], views[2], views[1], views[3]]),
        "joints of camera (55011271|58860488) are what another camera sees",
    ),
    "normalised": (each_view(normalised), "normalised already.*store pixels"),
    "fractions": (each_view(lambda v, c: v / size_of(c)), "fractions of the image.*store pixels"),
    "upside down": (
        each_view(lambda v, c: np.stack([v[..., 0], c.height - v[..., 1]], -1)),
        "of the width from the projected 3D.*prepare both from one source",
    ),
    "x and y exchanged": (each_view(lambda v, c: v[..., ::-1]), "prepare both from one source"),
    "random order": (
        each_view(lambda v, c: v[:, np.random.default_rng(3).permutation(16)]),
        "prepare both from one source",
    ),
}


WRONG_3D = {
    "millimetres": (lambda m: m * 1000, "in millimetres: divide them by 1000"),
    "centimetres": (lambda m: m * 100, "in centimetres: divide them by 100"),
    "huge": (lambda m: m * 5, "times as large as an adult"),
    "y up": (lambda m: m[..., [0, 2, 1]] * [1, 1, -1], r"stand along y.*store \(x, -z, y\)"),
    "a camera's": (
        lambda m: world_to_camera(
            torch.from_numpy(m).double(),
            h36m_cameras("S9")[0].rotation,
            h36m_cameras("S9")[0].translation,
        ).numpy(),
        "stand along -y.*world coordinates if these are a camera's",
    ),
    "relative": (lambda m: m - m[:, :1], "relative to the root: store the joints' places"),
    "no floor": (lambda m: m - [0, 0, 1], "the hips are.*floor at z = 0"),
    "shuffled": (
        lambda m: m[:, np.random.default_rng(5).permutation(32)],
        "as in a body of this size.*Human3.6M's order",
    ),
    "one arm": (
        lambda m: np.insert(np.delete(m, 27, 1), 27, m[:, 26] + 0.4 * (m[:, 27] - m[:, 26]), 1),
        "times as long as in a body|LWrist and RWrist are .* m long",
    ),
}


def as_float32(positions, change):
    return {
        subject: {name: change(motion).astype(np.float32) for name, motion in sequences.items()}
        for subject, sequences in positions.items()
    }


@pytest.mark.parametrize("case", WRONG_2D)
def test_wrong_2d_is_named_and_may_be_gone_on_with(case, tmp_path):
    change, message = WRONG_2D[case]
    write_2d(tmp_path, make_people(tmp_path), "x", change, H36M_16)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, keypoints="x")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'data_2d_h36m_x.npz'}, S9: ") and "\n" not in text
    assert text.endswith("or skip the check with --no-check_data")
    assert len(load(tmp_path, keypoints="x", check=False)) == 2 * 4 * 6 * 4


@pytest.mark.parametrize("case", WRONG_3D)
def test_wrong_3d_is_named_and_may_be_gone_on_with(case, tmp_path):
    change, message = WRONG_3D[case]
    positions = as_float32(make_people(tmp_path), change)
    save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=positions)
    for skeleton in (H36M_16, H36M_17):
        with pytest.raises(UserError, match=message) as caught:
            load(tmp_path, skeleton)
        text = str(caught.value)
        assert text.startswith("data_3d_h36m.npz, S9: ") and "\n" not in text
        assert text.endswith("or skip the check with --no-check_data")
    assert len(load(tmp_path, check=False)) == 2 * 4 * 6 * 4


def test_a_swap_that_both_files_share_is_not_claimed(tmp_path):
    mirrored = list(range(32))
    for left, right in zip((6, 7, 8, 17, 18, 19), (1, 2, 3, 25, 26, 27), strict=True):
        mirrored[left], mirrored[right] = right, left
    positions = as_float32(make_people(tmp_path), lambda m: m[:, mirrored])
    save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=positions)
    write_2d(tmp_path, positions)
    load(tmp_path)


def test_a_subject_is_judged_over_all_its_sequences(tmp_path):
    """Not over those that are asked for: the same file is right or wrong for every --actions."""
    positions = make_people(tmp_path, ("Sitting", "Walking", "Walking 1", "Walking 2"))

    def swap_one(keypoints):
        for sequences in keypoints.values():
            sequences["Sitting"] = [view[:, SWAPPED] for view in sequences["Sitting"]]

    def swap_others(keypoints):
        for sequences in keypoints.values():
            for name in ("Walking", "Walking 1", "Walking 2"):
                sequences[name] = [view[:, SWAPPED] for view in sequences[name]]

    write_2d(tmp_path, positions, "few", swap_one, H36M_16)
    write_2d(tmp_path, positions, "most", swap_others, H36M_16)
    for actions in (["Sitting"], ["Walking"], None):
        load(tmp_path, keypoints="few", actions=actions)
        with pytest.raises(UserError, match="left and right exchanged"):
            load(tmp_path, keypoints="most", actions=actions)


def test_the_subject_that_is_wrong_is_the_one_named(tmp_path):
    def swap(keypoints):
        for views in keypoints["S11"].values():
            views[:] = [view[:, SWAPPED] for view in views]

    write_2d(tmp_path, make_people(tmp_path), "x", swap, H36M_16)
    with pytest.raises(UserError, match="S11: the 2D joints have left and right exchanged"):
        load(tmp_path, keypoints="x")
    load_pose_datasets(H36M, tmp_path, [["S9"]], H36M_16, keypoints="x")  # of no split, not needed


@pytest.mark.parametrize("size", [0.47, 1.3], ids=["child", "giant"])
def test_bodies_of_every_size_pass(size, tmp_path):
    positions = as_float32(make_people(tmp_path), lambda m: m * size)
    save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=positions)
    write_2d(tmp_path, positions)
    load(tmp_path)


@pytest.fixture(scope="module")
def hdm05():
    return load_object_array(ROOT / "dataset/data_3d_hdm05.npz", "positions_3d")


def detected(motion, skeleton, name, info=HDM05):
    """What the made detector sees of a motion of 17 joints, pixels of each camera."""
    kept = torch.tensor([H36M_17.stored.index(stored) for stored in skeleton.stored])
    points, views = torch.from_numpy(motion.copy())[:, kept], []
    for camera in info.cameras_of(*name.split("/"), points):
        points_there = world_to_camera(points, camera.rotation.float(), camera.translation.float())
        screen = project(points_there, camera.intrinsics.float())
        screen = add_detector_noise(screen, skeleton, f"{name}/{camera.id}")
        views.append(image_coordinates(screen, camera.width, camera.height).numpy())
    return views


@pytest.mark.parametrize("action", HDM05.actions)
def test_recorded_people_are_never_named(action, hdm05, tmp_path):
    """Even a file of one action alone, such as lying on the floor, from a noisy detector."""
    positions = {
        subject: {name: motion for name, motion in clips.items() if action_of(name) == action}
        for subject, clips in hdm05.items()
    }
    save_object_arrays(tmp_path / "data_3d_hdm05.npz", positions_3d=positions)
    for name, skeleton in (("gt", H36M_17), ("x", H36M_16)):
        if name == "x":
            found = {
                who: {n: detected(m, skeleton, f"{who}/{n}") for n, m in clips.items()}
                for who, clips in positions.items()
            }
            save_object_arrays(tmp_path / "data_2d_hdm05_x.npz", positions_2d=found)
        load_pose_datasets(HDM05, tmp_path, [tuple(positions)], skeleton, name)


def test_each_sequence_of_virtual_cameras_is_checked_with_its_own(tmp_path):
    clips = load_object_array(ROOT / "dataset/data_3d_mocap.npz", "positions_3d")["49"]
    save_object_arrays(tmp_path / "data_3d_mocap.npz", positions_3d={"49": clips})
    seen = {n: detected(m, H36M_16, f"49/{n}", MOCAP) for n, m in clips.items()}
    swapped = {name: [view[:, SWAPPED] for view in views] for name, views in seen.items()}
    for name, views in {"x": seen, "swapped": swapped, "gt": swapped}.items():
        save_object_arrays(tmp_path / f"data_2d_mocap_{name}.npz", positions_2d={"49": views})
    load_pose_datasets(MOCAP, tmp_path, [["49"]], H36M_16, "x")
    with pytest.raises(UserError, match="49: the 2D joints have left and right exchanged"):
        load_pose_datasets(MOCAP, tmp_path, [["49"]], H36M_16, "swapped")
    (data,) = load_pose_datasets(MOCAP, tmp_path, [["49"]], H36M_17, "gt")  # 16 are too few
    assert data.image_size.shape == (len(clips), 4, 2) and len(data.image_size.unique()) > 2
    assert MOCAP.is_calibrated("49") and not MPI_INF_3DHP.is_calibrated("TS1")


def test_random_orders_of_recorded_people_are_named(hdm05, tmp_path):
    rng = np.random.default_rng(0)
    motions = list(hdm05["tr"].values())[::20]
    for _ in range(20):
        order = rng.permutation(17)
        positions = {"tr": {f"squat {n}": m[:, order] for n, m in enumerate(motions)}}
        save_object_arrays(tmp_path / "data_3d_hdm05.npz", positions_3d=positions)
        with pytest.raises(UserError, match=r"Human3\.6M's order|stand along"):
            load_pose_datasets(HDM05, tmp_path, [["tr"]], H36M_17)


def metadata(sides, joints=16):
    return {"num_joints": joints, "keypoints_symmetry": sides}


def nested_array(sides):
    array = np.empty(2, dtype=object)
    array[:] = [np.array(side, np.int64) for side in sides]
    return array


@pytest.mark.parametrize(
    "sides",
    [
        RAW_SIDES,
        [side[::-1] for side in RAW_SIDES],  # sets: their order says nothing
        tuple(map(tuple, RAW_SIDES)),
        np.array(RAW_SIDES, np.int32),
        nested_array(RAW_SIDES),
    ],
    ids=["lists", "reversed", "tuples", "array", "arrays"],
)
def test_files_in_the_raw_hourglass_order_are_read(sides, tmp_path):
    positions = make_people(tmp_path)
    write_2d(tmp_path, positions, "ours", None, H36M_16, metadata=metadata(OUR_SIDES[16]))
    change = each_view(lambda v, c: to_raw(v))
    write_2d(tmp_path, positions, "sh_raw", change, H36M_16, metadata=metadata(sides))
    ours, raw = (load(tmp_path, keypoints=name) for name in ("ours", "sh_raw"))
    assert torch.equal(ours.inputs_2d, raw.inputs_2d)
    assert (ours.inputs_2d - load(tmp_path).inputs_2d).abs().max() < 2e-6
    with pytest.raises(UserError, match="16 joints does not have the 17"):
        load(tmp_path, H36M_17, keypoints="sh_raw")


def test_metadata_may_be_absent_or_say_less(tmp_path):
    positions = make_people(tmp_path)
    write_2d(tmp_path, positions, "none")
    write_2d(tmp_path, positions, "less", metadata={"num_joints": np.int64(17)})
    write_2d(tmp_path, positions, "whole", metadata=metadata(OUR_SIDES[17], 17))
    found = [load(tmp_path, keypoints=name).inputs_2d for name in ("none", "less", "whole")]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_all_32_joints_may_be_stored(tmp_path):
    positions = make_people(tmp_path)
    keypoints = {
        subject: {name: views_of(motion, subject) for name, motion in clips.items()}
        for subject, clips in positions.items()
    }
    sides = [[6, 7, 8, 9, 10, *range(16, 24)], [1, 2, 3, 4, 5, *range(24, 32)]]
    path = tmp_path / "data_2d_h36m_gt.npz"
    save_object_arrays(path, positions_2d=keypoints, metadata=metadata(sides, 32))
    found = load(tmp_path).inputs_2d
    path.unlink()
    assert (found - load(tmp_path).inputs_2d).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (metadata([list(range(1, 16, 2)), list(range(2, 17, 2))], 17), "COCO's order"),
        (metadata(OUR_SIDES[17][::-1], 17), "have left and right exchanged"),
        (metadata([[1, 2, 3], [4, 5, 6]], 17), r"unknown order .*left is \[1, 2, 3\]"),
        (metadata(OUR_SIDES[16], 16), "give 16 joints, but its arrays have 17"),
        (metadata(OUR_SIDES[16], 17), "unknown order"),
        (metadata([["a"], ["b"]], 17), "are not {num_joints"),
        (metadata([[0.5], [1.5]], 17), "are not {num_joints"),
        (metadata([[1]], 17), "are not {num_joints"),
        (metadata(7, 17), "are not {num_joints"),
        (metadata(OUR_SIDES[17], "17"), "are not {num_joints"),
        ([17], "are not {num_joints"),
        ("h36m", "are not {num_joints"),
    ],
)
def test_unknown_orders_and_metadata_that_contradict_are_refused(found, message, tmp_path):
    write_2d(tmp_path, make_people(tmp_path), "x", metadata=found)
    for check in (True, False):
        with pytest.raises(UserError, match=message) as caught:
            load(tmp_path, H36M_17, keypoints="x", check=check)
        assert str(caught.value).startswith(f"{tmp_path / 'data_2d_h36m_x.npz'}: ")
        assert "\n" not in str(caught.value)


def test_metadata_of_the_raw_order_on_joints_in_ours_are_named(tmp_path):
    write_2d(tmp_path, make_people(tmp_path), "x", None, H36M_16, metadata=metadata(RAW_SIDES))
    with pytest.raises(UserError, match=r"in our order.*correct keypoints_symmetry"):
        load(tmp_path, keypoints="x")


def test_an_array_unlike_the_others_of_a_raw_file_is_named(tmp_path):
    def spoil(keypoints):
        views = keypoints["S11"]["Sitting"]
        views[1] = np.concatenate([views[1], views[1][:, :1]], axis=1)

    raw = metadata(RAW_SIDES)
    write_2d(tmp_path, make_people(tmp_path), "x", spoil, H36M_16, metadata=raw)
    with pytest.raises(UserError, match="S11/Sitting, camera 55011271: 17 joints in a file of 16"):
        load(tmp_path, keypoints="x", check=False)


def test_17_joints_are_projected_where_ground_truth_2d_has_16(tmp_path):
    positions = make_people(tmp_path)
    projected = load(tmp_path, H36M_17)
    write_2d(tmp_path, positions, "gt", None, H36M_16, metadata=metadata(OUR_SIDES[16]))
    assert torch.equal(load(tmp_path, H36M_17).inputs_2d, projected.inputs_2d)
    write_2d(tmp_path, positions, "sh_ft_h36m", None, H36M_16)
    with pytest.raises(UserError, match="16 joints does not have the 17"):
        load(tmp_path, H36M_17, keypoints="sh_ft_h36m")


def test_the_flag_is_of_a_call_and_not_of_a_run():
    for parse in (opt.parse_gcn, opt.parse_graph):
        assert parse([]).check_data is True
        args = parse(["--no-check_data"])
        assert args.check_data is False
        assert settings.settings_of(args) == settings.settings_of(parse([]))
        assert parse(["-r", "x"], defaults={"check_data": False}).check_data is True


@pytest.fixture
def evaluate(call, tmp_path):
    """Test a small network by main_gcn.py on the files in tmp_path."""
    model = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1})
    torch.save(model.state_dict(), tmp_path / "a.pth")
    common = ("--dataset", "h36m", "--dataset_dir", tmp_path, "-z", 8, "-l", 1, "--device", "cpu",
              "--evaluate", tmp_path / "a.pth")  # fmt: skip
    return lambda *flags: call(main_gcn, *common, *flags)


def test_the_table_of_the_raw_order_is_that_of_ours(evaluate, tmp_path):
    positions = make_people(tmp_path)
    noise = np.random.default_rng(2)

    def detect(view, camera):
        return view + noise.normal(0, 5, view.shape).astype(np.float32)

    def detect_raw(view, camera):
        return to_raw(detect(view, camera))

    tables = []
    for change, sides in ((detect, OUR_SIDES[16]), (detect_raw, RAW_SIDES)):
        noise = np.random.default_rng(2)
        write_2d(tmp_path, positions, "sh", each_view(change), H36M_16, metadata=metadata(sides))
        status, out, _ = evaluate("-k", "sh", "--results", tmp_path / "r.json")
        assert status == 0
        tables.append((out, json.loads((tmp_path / "r.json").read_text())["results"]))
    assert tables[0] == tables[1]


@pytest.mark.parametrize("case", ["swapped", "upside down", "millimetres"])
def test_the_script_stops_with_one_line_or_goes_on(case, evaluate, tmp_path):
    positions = make_people(tmp_path)
    change, message = (WRONG_2D | WRONG_3D)[case]
    if case in WRONG_3D:
        positions = as_float32(positions, change)
        save_object_arrays(tmp_path / "data_3d_h36m.npz", positions_3d=positions)
    else:
        write_2d(tmp_path, positions, "gt", change, H36M_16)
    status, _, err = evaluate()
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err) and "--no-check_data" in err
    status, out, err = evaluate("--no-check_data")
    assert status == 0 and "error" not in err and "Mean of actions" in out


def test_main_graph_takes_ground_truth_2d_after_either_preparation(call, tmp_path):
    positions = make_people(tmp_path)
    model = build_model({"joints": 17, "hid_dim": 8, "num_layers": 1})
    torch.save(model.state_dict(), tmp_path / "a.pth")
    found = []
    for skeleton in (H36M_17, H36M_16):
        sides = metadata(OUR_SIDES[skeleton.num_joints], skeleton.num_joints)
        write_2d(tmp_path, positions, "gt", None, skeleton, metadata=sides)
        status, _, _ = call(
            main_graph, "-k", "gt", "--dataset_dir", tmp_path, "--device", "cpu", "--no-non_local",
            "-z", 8, "-l", 1, "--eva", tmp_path / "a.pth", "--results", tmp_path / "r.json",
        )  # fmt: skip
        assert status == 0
        found.append(json.loads((tmp_path / "r.json").read_text())["results"]["xyz"]["mpjpe_mm"])
    assert found[0] == pytest.approx(found[1], abs=1e-3)
