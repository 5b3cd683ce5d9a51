"""Lifting a user's own 2D joints."""

import json
import math

import numpy as np
import pytest
import torch

import predict
from common.skeleton import H36M_17
from data.npz_io import save_object_arrays
from models.build import build_model
from tests import keypoint_writers as made
from tests.conftest import ROOT
from tools.made_bodies import made_motion

WIDTH, HEIGHT = made.SIZE
SIZE = ("--size", WIDTH, HEIGHT)
FOCAL = 1200.0
INTRINSICS = ("--intrinsics", FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)


@pytest.fixture(scope="module")
def person() -> made.Points:
    return made.made_person()


@pytest.fixture
def keypoints(person, tmp_path):
    return made.npy("h36m17")(tmp_path, person).rename(tmp_path / "k.npy")


@pytest.fixture
def checkpoint(tmp_path):
    """(rays?) -> the file of an untrained network."""

    def write(rays: bool):
        torch.manual_seed(1)
        arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1, "in_dim": 4 if rays else 2,
                     "camera_rays": rays, "root_view": rays}  # fmt: skip
        state = {"state_dict": build_model(arguments).state_dict(), "model": arguments}
        path = tmp_path / f"{rays}.pth.tar"
        torch.save(state, path)
        return path

    return write


def lifted(path) -> np.ndarray:
    return np.load(path)["poses_3d"]


@pytest.mark.parametrize("rays", [False, True])
def test_forms_of_a_file_give_the_same_poses(rays, checkpoint, keypoints, call, tmp_path):
    pixels = np.load(keypoints)
    np.savez(tmp_path / "z.npz", keypoints=pixels, others=np.zeros(3))
    (tmp_path / "j.json").write_text(json.dumps(pixels.tolist()))
    camera = INTRINSICS if rays else ()
    found = []
    for name in ("k.npy", "z.npz", "j.json"):
        status, _, err = call(
            predict.main, tmp_path / name, "--weights", checkpoint(rays), *SIZE, *camera
        )
        assert (status, err) == (0, "")
        out = np.load((tmp_path / name).with_name(f"{name[0]}_3d.npz"))
        assert list(out["joints"])[:2] == ["Hip", "RHip"] and len(out["joints"]) == 16
        found.append(out["poses_3d"])
    assert found[0].shape == (made.FRAMES, 16, 3) and (found[0][:, 0] == 0).all()
    assert np.allclose(found[0], found[1]) and np.allclose(found[0], found[2], atol=1e-5)


def test_a_field_of_view_is_a_focal_length(checkpoint, keypoints, call, tmp_path):
    path = checkpoint(True)
    fov = 2 * math.degrees(math.atan(WIDTH / 2 / FOCAL))
    poses = []
    for flags in (INTRINSICS, ("--fov", fov), ("--fov", 1.2 * fov)):
        status, _, err = call(predict.main, keypoints, "--weights", path, *SIZE, *flags, "--force")
        assert (status, err) == (0, "")
        poses.append(lifted(tmp_path / "k_3d.npz"))
    assert np.allclose(poses[0], poses[1], atol=1e-4)
    assert not np.allclose(poses[0], poses[2], atol=1e-3)


def test_twins_are_averaged_where_asked_for(checkpoint, keypoints, call, tmp_path):
    for flags in (("--flip_test",), ("--no-flip_test",), ()):
        name = tmp_path / f"{len(flags) and flags[0]}.npz"
        status, _, _ = call(
            predict.main, keypoints, "--weights", checkpoint(False), *SIZE, *flags, "-o", name
        )
        assert status == 0
    both, one, default = (
        lifted(tmp_path / f"{n}.npz") for n in ("--flip_test", "--no-flip_test", 0)
    )
    assert np.array_equal(one, default) and not np.allclose(one, both, atol=1e-4)


def test_the_picture_is_drawn(checkpoint, keypoints, call, tmp_path):
    picture = tmp_path / "p.png"
    status, _, _ = call(
        predict.main, keypoints, "--weights", checkpoint(False), *SIZE, "--picture", picture
    )
    assert status == 0 and picture.read_bytes()[:4] == b"\x89PNG"


def array(folder, values):
    np.save(folder / "k.npy", values)
    return folder / "k.npy"


def npy(values):
    """A writer of what ``values`` makes of the person's points in COCO's order."""
    return lambda folder, person: array(folder, values(made.points_of(person, "coco17")))


def text(folder, content):
    (folder / "k.json").write_text(content)
    return folder / "k.json"


def tall(folder, person):
    """Pixels of an image of 400 x 1000, whose points reach beyond one of 1000 x 400."""
    points = made.points_of(person, "coco17")
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    return array(folder, 10 + (points - low) / (high - low) * (380, 980))


def screen(points):
    return points / (WIDTH / 2) - (1, HEIGHT / WIDTH)


def with_third(points, number):
    return np.concatenate([points, np.full((*points.shape[:2], 1), number)], axis=2)


def space(scale):
    motion = made_motion(np.random.default_rng(0), 5)[:, list(H36M_17.stored)]
    return scale * (motion - motion[:, :1])


def world(folder, person):
    """MediaPipe's world landmarks: metres around the middle of the hips."""
    points = made.points_of(person, "mediapipe33") / 200
    points -= points[:, 23:25].mean(axis=1, keepdims=True)
    return array(folder, with_third(points, -0.1))


def half(folder, person):
    points = made.points_of(person, "coco17")
    points[:, 13:] = 0
    return array(folder, points)


def named(folder, person):
    point = {"x": 100.0, "y": 200.0}
    return text(folder, json.dumps([dict.fromkeys("abcdef", point)]))


def changing(folder, person):
    images = json.loads(made.by_name(folder, person).read_text())
    images[3] = {name.upper(): point for name, point in images[3].items()}
    return text(folder, json.dumps(images))


def videos(folder, person):
    poses = [made.points_of(person, "coco17")]
    save_object_arrays(folder / "k.npz", positions_2d={n: {"custom": poses} for n in ("a", "b")})
    return folder / "k.npz"


def sizes(folder, person):
    path = made.coco_annotations(folder, person)
    content = json.loads(path.read_text())
    content["images"][0]["width"] = 500
    return text(folder, json.dumps(content))


def csv(content):
    """A csv file of rows of text."""

    def write(folder, person):
        rows = [",".join(map(str, pose.ravel())) for pose in made.points_of(person, "coco17")]
        (folder / "k.csv").write_text("\n".join(content(rows)))
        return folder / "k.csv"

    return write


def labels(folder, person):
    """A txt of points alone, which is not Ultralytics'."""
    (folder / "k.txt").write_text(" ".join(["7"] * 34))
    return folder / "k.txt"


def note(folder, content):
    """A txt in a folder of its own."""
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text(content)
    return folder / "notes" / "notes.txt"


def objects(folder, person):
    save_object_arrays(folder / "k.npz", keypoints={"a": 1})
    return folder / "k.npz"


def arrays(folder, person):
    np.savez(folder / "k.npz", a=np.zeros(3), b=np.zeros(3))
    return folder / "k.npz"


WRONG = {
    # what: (files to write, flags, what the line says)
    "nothing there": (lambda d, p: d / "no.npy", SIZE, "no.npy: No such file"),
    "one number a joint": (npy(lambda k: k[..., 0]), SIZE, "17 numbers"),
    "12 joints": (npy(lambda k: k[:, :12]), SIZE, "12 points"),
    "objects": (npy(lambda k: np.array([{}])), SIZE, "objects of Python: save numbers"),
    "objects in an npz": (objects, SIZE, "(T, joints, 2) numbers of one person expected"),
    "poses of a data set": (
        lambda d, p: ROOT / "dataset" / "data_3d_hdm05.npz", SIZE, "is a data set of 3D poses",
    ),
    "words in a txt": (lambda d, p: note(d, "hello"), SIZE, "has other things than numbers: Ultra"),
    "only a readme": (lambda d, p: note(d, "hello").parent, SIZE, "notes.txt has other things"),
    "no npy": (lambda d, p: note(d, "hello").rename(d / "k.npy"), SIZE, "it is damaged, or holds"),
    "half a JSON": (lambda d, p: text(d, "{"), SIZE, "JSONDecodeError"),
    "all zero": (npy(lambda k: 0 * k), SIZE, "all of its points are zero"),
    "all absent": (npy(lambda k: np.nan * k), SIZE, "zero or absent"),
    "no size": (made.npy("coco17"), (), "give --size"),
    "no size of fractions": (made.yolo_folder(), (), "give --size"),
    "another size": (made.coco_annotations, ("--size", 9, 9), "1000 x 800 pixels, not 9 x 9"),
    "exchanged sides": (tall, ("--size", 1000, 400), "exchanged, give --size 400 1000"),
    "outside": (npy(lambda k: 9 * k), SIZE, "outside of the image"),
    "normalised": (npy(screen), SIZE, "already normalised"),
    "normalised, scores": (npy(lambda k: with_third(screen(k), 0.9)), SIZE, "already normalised"),
    "fractions": (npy(lambda k: k / made.SIZE), SIZE, "fractions"),
    "3D metres": (npy(lambda k: space(1)), SIZE, "3D poses in metres"),
    "3D millimetres": (npy(lambda k: space(1000)), SIZE, "3D poses in millimetres"),
    "MediaPipe's world": (world, SIZE, "3D poses in metres"),
    "x, y and depth": (npy(lambda k: with_third(k, 4500)), SIZE, "no score: it holds 3D poses"),
    "unknown order": (npy(lambda k: k[:, np.arange(17) * 5 % 17]), SIZE, "do not tell"),
    "another format": (made.npy("coco17"), (*SIZE, "--format", "body25"), "body25 has 25"),
    "no such format": (made.npy("coco17"), (*SIZE, "--format", "coco"), "coco17"),
    "no such person": (made.npy("coco17"), (*SIZE, "--person", 7), "no person 7"),
    "no person at all": (lambda d, p: text(d, json.dumps({"people": []})), SIZE, "no keypoints"),
    "half a body": (half, (*SIZE, "--format", "coco17"), "never seen with"),
    "only a width": (made.npy("coco17"), ("--width", 10), "--width and --height together"),
    "sizes twice": (made.npy("coco17"), (*SIZE, "--width", 9, "--height", 9), "--size W H alone"),
    "several persons": (npy(lambda k: k[:, None]), SIZE, "(6, 1, 17, 2); of several persons give"),
    "transposed": (npy(lambda k: k.swapaxes(0, 1)), SIZE, "(17, 6, 2) has 6 joints, as no format"),
    "5 numbers a joint": (npy(lambda k: np.zeros((6, 17, 5))), SIZE, "got the shape (6, 17, 5)"),
    "names that change": (changing, SIZE, "names of its points are not the same"),
    "unknown names": (named, SIZE, "none of the known formats"),
    "two videos": (videos, SIZE, "2 sequences"),
    "several sizes": (sizes, (), "2 sizes"),
    "several arrays": (arrays, SIZE, "name one of them keypoints"),
    "nothing in it": (lambda d, p: text(d, ""), SIZE, "k.json is empty"),
    "complex numbers": (npy(lambda k: k[..., 0] + 1j * k[..., 1]), SIZE, "give x and y apart"),
    "zero scores": (npy(lambda k: with_third(k, 0)), SIZE, "all of its scores are zero"),
    "text in a csv": (csv(lambda rows: [*rows[:2], "no,body"]), SIZE, "rows of 2 and of 34 cells"),
    "words in a csv": (csv(lambda rows: ["hello, world"]), SIZE, "row 1 has other things than"),
    "points in a txt": (labels, SIZE, "34 numbers in a line"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_keypoints_are_named(what, person, checkpoint, call, tmp_path):
    write, flags, message = WRONG[what]
    path = write(tmp_path, person)
    status, out, err = call(predict.main, path, "--weights", checkpoint(False), *flags)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("*_3d*"))


def test_wrong_flags_are_named(checkpoint, keypoints, call, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "BUNDLED_WEIGHTS", tmp_path / "bundled.pth.tar")  # not there
    plain, rays = checkpoint(False), checkpoint(True)
    cases = [
        ((keypoints, "--weights", tmp_path / "no.pth"), "no.pth"),
        ((keypoints, "--weights", rays, "--fov", "180"), "between 0 and 180"),
        ((keypoints, "--weights", rays, "--intrinsics", "1", "2", "3"), "4 or 9"),
        ((keypoints, "--weights", rays, "--intrinsics", "0", "2", "3", "4"), "above 0"),
        ((keypoints, "--weights", plain, "--person_height", "175"), "metres, from 0.4 to 2.6"),
        ((keypoints, "--weights", plain, "--fps", "1e9"), "fps: give the images a second"),
        ((keypoints, "--weights", plain, "--smooth", "one_euro"), "give --fps"),
        ((keypoints, "--weights", plain, "-o", tmp_path / "x.txt"), "x.txt: give a name that ends"),
        ((keypoints, "--weights", plain, "-o", "/"), "--out / is a folder: give the name of a"),
        (
            (keypoints, "-o", tmp_path / "a.csv", "-o", tmp_path / "b.json"),
            "--out is given 2 times",
        ),
        ((keypoints, "--weights", plain, "--stream"), "leave INPUT, --out, --render and --person"),
        (("--stream", "--weights", plain, "--smooth", "one_euro"), "give --fps"),
        ((keypoints,), "--weights CKPT"),
        ((plain, keypoints), "python predict.py INPUT --weights CKPT"),  # as it once was
        ((), "give the keypoints: python predict.py INPUT (--help"),
    ]
    for arguments, message in cases:
        status, _, err = call(predict.main, *arguments, *SIZE)
        assert status == 2 and message in err and err.count("\n") == 1, (arguments, err)
    assert not list(tmp_path.glob("*_3d.npz"))


def test_17_joints_need_a_format_that_has_them(person, call, tmp_path):
    network = build_model({"joints": 17, "hid_dim": 8, "num_layers": 1})
    torch.save({"state_dict": network.state_dict()}, tmp_path / "17.pth")
    path = made.npy("sh16")(tmp_path, person)
    status, _, err = call(predict.main, path, "--weights", tmp_path / "17.pth", *SIZE)
    assert status == 2 and "does not have Neck/Nose" in err


def test_the_file_says_all_that_is_needed_to_use_it(person, checkpoint, call, tmp_path):
    path = made.npz(tmp_path, person)
    status, printed, err = call(predict.main, path, "--weights", checkpoint(False))
    assert (status, err) == (0, "") and "COCO (in the order of h36m17 the limbs" in printed
    out = dict(np.load(tmp_path / "k_3d.npz"))
    assert set(out) == {"poses_3d", "joints", "keypoints_2d", "scores", "interpolated", "frames",
                        "person", "size", "fps", "assumed", "known", "axes", "units"}  # fmt: skip
    assert out["poses_3d"].shape == (made.FRAMES, 16, 3)
    assert out["keypoints_2d"].shape == (made.FRAMES, 16, 2)
    assert out["scores"].shape == out["interpolated"].shape == (made.FRAMES, 16)
    assert (out["person"], out["fps"], tuple(out["size"])) == (1, 25, made.SIZE)
    assert out["frames"].tolist() == [*range(made.FRAMES)]
    assert "metres" in str(out["units"]) and "z forward" in str(out["axes"])
    # What was lifted can be lifted again.
    again = tmp_path / "again.npz"
    flags = ("--weights", checkpoint(False), "-o", again)
    status, _, err = call(predict.main, tmp_path / "k_3d.npz", *flags)
    assert (status, err) == (0, "")
    assert np.array_equal(np.load(again)["poses_3d"], out["poses_3d"])


def test_every_person_gets_a_file(person, checkpoint, call, tmp_path):
    other = made.made_person(5, shift=1.2)
    path = made.openpose("body25", [other])(tmp_path, person)
    flags = ("--weights", checkpoint(False), *SIZE, "--person")
    status, printed, _ = call(predict.main, path, *flags, "all")
    assert status == 0 and "persons: 1 (6 images), 2 (6 images); lifted: 1, 2" in printed
    poses = [lifted(tmp_path / f"json_3d_person{number}.npz") for number in (1, 2)]
    assert not np.allclose(*poses)
    status, _, _ = call(predict.main, path, *flags, 2)
    assert status == 0 and np.array_equal(lifted(tmp_path / "json_3d.npz"), poses[1])


def test_what_was_filled_in_and_left_out_is_said(person, checkpoint, call, tmp_path):
    path = made.coco_results("coco17")(tmp_path, person)
    images = json.loads(path.read_text())
    images[1]["keypoints"][:3] = images[1]["keypoints"][27:30] = [0, 0, 0]
    images[5]["image_id"] = 50
    beside = np.array(images[0]["keypoints"]).reshape(17, 3)
    beside[:, 0] += 300
    beside[13:] = 0
    path.write_text(json.dumps([*images, dict(images[0], keypoints=beside.ravel().tolist())]))
    flags = ("--weights", checkpoint(False), *SIZE, "--person", "all")
    status, printed, _ = call(predict.main, path, *flags)
    assert status == 0
    assert "not seen, and filled in between other images: 1 joint (1.2%)" in printed
    assert "k_3d_person2.npz: 1 pose of 16 joints\n" in printed and "1 poses" not in printed
    assert "is never seen with left_knee, right_knee, left_ankle, right_ankle" in printed


def test_nothing_is_replaced_unasked(checkpoint, keypoints, call, tmp_path):
    (tmp_path / "k_3d.npz").write_text("mine")
    status, _, err = call(predict.main, keypoints, "--weights", checkpoint(False), *SIZE)
    assert status == 2 and "--force" in err
    assert (tmp_path / "k_3d.npz").read_text() == "mine"


def test_a_camera_that_is_not_used_is_said(checkpoint, keypoints, call):
    flags = ("--weights", checkpoint(False), *SIZE, "--fov", 50)
    status, out, _ = call(predict.main, keypoints, *flags)
    assert status == 0 and "does not use the camera: it only gives the person's place" in out


def test_a_path_that_no_system_takes_is_one_line(call, checkpoint):
    status, _, err = call(predict.main, "x" * 5000 + ".npy", "--weights", checkpoint(False), *SIZE)
    assert status == 2 and err.count("\n") == 1 and "File name too long" in err


def test_json_and_csv_hold_the_same_as_npz(checkpoint, keypoints, call, tmp_path):
    flags = ("--weights", checkpoint(True), *SIZE, "--fov", 60, "--fps", 25, "-o")
    for suffix in ("npz", "json", "csv"):
        status, _, err = call(predict.main, keypoints, *flags, tmp_path / f"out.{suffix}")
        assert (status, err) == (0, "")
    stored = dict(np.load(tmp_path / "out.npz"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert set(content) == set(stored) and content["scores"][0][0] is None
    for name in set(stored) - {"scores"}:
        value = np.array(content[name], dtype=stored[name].dtype)
        same = np.allclose if value.dtype.kind == "f" else np.array_equal
        assert same(value, stored[name], **({"atol": 1e-6} if same is np.allclose else {})), name
    header, *rows = (line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines())
    assert header[:5] == ["frame", "person", "Hip_x", "Hip_y", "Hip_z"]
    assert [row[:2] for row in rows] == [[str(frame), "1"] for frame in stored["frames"]]
    column = header.index("LWrist_absolute_y")
    there = [float(row[column] or "nan") for row in rows]
    expected = stored["absolute_3d"][:, stored["joints"].tolist().index("LWrist"), 1]
    assert np.allclose(there, expected, atol=1e-6, equal_nan=True)


def test_an_unknown_camera_is_assumed_and_gives_no_place(checkpoint, keypoints, call, tmp_path):
    flags = ("--weights", checkpoint(True), *SIZE)
    poses = {}
    for fov in ((), ("--fov", 50)):
        out = tmp_path / f"{len(fov)}.npz"
        status, printed, err = call(predict.main, keypoints, *flags, *fov, "-o", out)
        assert (status, err) == (0, "")
        poses[bool(fov)] = dict(np.load(out))
        assert ("assumed: a horizontal field of view of 50 degrees" in printed) == (not fov)
    assert np.array_equal(poses[False]["poses_3d"], poses[True]["poses_3d"])
    assert poses[False]["assumed"].tolist() == ["a horizontal field of view of 50 degrees"]
    assert "absolute_3d" not in poses[False] and "absolute_3d" in poses[True]
    assert "as the network sees it" in poses[True]["assumed"][0]
    status, _, _ = call(predict.main, keypoints, "--weights", checkpoint(False), *SIZE)
    assert status == 0 and not len(np.load(tmp_path / "k_3d.npz")["assumed"])


def test_without_weights_one_line_names_them(checkpoint, keypoints, call, monkeypatch, tmp_path):
    monkeypatch.setattr(predict, "BUNDLED_WEIGHTS", tmp_path / "none.pth.tar")
    status, _, err = call(predict.main, keypoints, *SIZE)
    assert status == 2 and "none.pth.tar are not there: give --weights" in err
    monkeypatch.setattr(predict, "BUNDLED_WEIGHTS", checkpoint(False))
    status, _, err = call(predict.main, keypoints, *SIZE)
    assert (status, err) == (0, "")


def test_a_filter_smooths_a_file(checkpoint, keypoints, call, tmp_path):
    np.save(keypoints, np.load(keypoints) + np.random.default_rng(0).normal(0, 3, (6, 17, 2)))
    for smooth in ((), ("--smooth", "one_euro")):
        flags = ("--weights", checkpoint(False), *SIZE, "--fps", 30, "--fov", 50, *smooth)
        out = tmp_path / f"{len(smooth)}.npz"
        assert call(predict.main, keypoints, *flags, "-o", out)[0] == 0
    raw, smooth = (dict(np.load(tmp_path / f"{n}.npz")) for n in (0, 2))
    speed = [np.linalg.norm(np.diff(x["poses_3d"], axis=0), axis=-1).mean() for x in (raw, smooth)]
    assert speed[1] < 0.7 * speed[0] and np.array_equal(raw["poses_3d"][0], smooth["poses_3d"][0])
    assert (smooth["poses_3d"][:, 0] == 0).all()
