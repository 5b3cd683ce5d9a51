"""Files of keypoints: every format becomes our joints, and what is missing is filled in."""

import collections
import json

import numpy as np
import pytest

from common.body import bone_names
from common.errors import UserError
from common.skeleton import H36M_16, H36M_17
from data.keypoint_files import read_keypoint_file
from data.keypoint_formats import FORMATS, format_of_names, format_of_poses
from data.keypoints import load_keypoints
from data.npz_io import load_object_array
from tests import keypoint_writers as made
from tests.conftest import ROOT, views_of
from tools.made_bodies import detector_points, made_motion

# The places of our limbs' joints in each order: RHip RKnee RFoot LHip LKnee LFoot, then LShoulder
# LElbow LWrist RShoulder RElbow RWrist.
LIMBS = ("RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot",
         "LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist")  # fmt: skip
PLACES = {
    "h36m17": (1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16),
    "h36m16": (1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15),
    "h36m32": (1, 2, 3, 6, 7, 8, 17, 18, 19, 25, 26, 27),
    "sh16": (2, 1, 0, 3, 4, 5, 13, 14, 15, 12, 11, 10),
    "coco17": (12, 14, 16, 11, 13, 15, 5, 7, 9, 6, 8, 10),
    "halpe26": (12, 14, 16, 11, 13, 15, 5, 7, 9, 6, 8, 10),
    "body25": (9, 10, 11, 12, 13, 14, 5, 6, 7, 2, 3, 4),
    "coco18": (8, 9, 10, 11, 12, 13, 5, 6, 7, 2, 3, 4),
    "mediapipe33": (24, 26, 28, 23, 25, 27, 11, 13, 15, 12, 14, 16),
}
# Trunk and head: the weights of the points by their places.
TRUNK = {
    "coco17": {"Hip": {11: 1, 12: 1}, "Thorax": {5: 1, 6: 1}, "Neck/Nose": {0: 1},
               "Spine": {5: 1, 6: 1, 11: 1, 12: 1}, "Head": {1: 1, 2: 1}},
    "halpe26": {"Hip": {19: 1}, "Thorax": {18: 1}, "Neck/Nose": {0: 1}, "Spine": {18: 1, 19: 1},
                "Head": {17: 1}},
    "body25": {"Hip": {8: 1}, "Thorax": {1: 1}, "Neck/Nose": {0: 1}, "Spine": {1: 1, 8: 1},
               "Head": {15: 1, 16: 1}},
    "coco18": {"Hip": {8: 1, 11: 1}, "Thorax": {1: 1}, "Neck/Nose": {0: 1},
               "Spine": {1: 2, 8: 1, 11: 1}, "Head": {14: 1, 15: 1}},
    "mediapipe33": {"Hip": {23: 1, 24: 1}, "Thorax": {11: 1, 12: 1}, "Neck/Nose": {0: 1},
                    "Spine": {11: 1, 12: 1, 23: 1, 24: 1}, "Head": {2: 1, 5: 1}},
    "sh16": {"Hip": {6: 1}, "Spine": {7: 1}, "Thorax": {8: 1}, "Head": {9: 1}},
    "h36m17": {"Hip": {0: 1}, "Spine": {7: 1}, "Thorax": {8: 1}, "Neck/Nose": {9: 1},
               "Head": {10: 1}},
    "h36m16": {"Hip": {0: 1}, "Spine": {7: 1}, "Thorax": {8: 1}, "Head": {9: 1}},
    "h36m32": {"Hip": {0: 1}, "Spine": {12: 1}, "Thorax": {13: 1}, "Neck/Nose": {14: 1},
               "Head": {15: 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def person() -> made.Points:
    return made.made_person()


def expected(word: str, points: np.ndarray, skeleton) -> np.ndarray:
    """(T, P, 2) -> (T, J, 2), by the tables above."""
    places = {joint: {place: 1} for joint, place in zip(LIMBS, PLACES[word], strict=True)}
    joints = []
    for name in skeleton.names:
        weights = (places | TRUNK[word])[name]
        total = sum(weight * points[:, place] for place, weight in weights.items())
        joints.append(total / sum(weights.values()))
    return np.stack(joints, axis=1)


@pytest.mark.parametrize("what", made.FILES)
def test_every_format_is_known_and_its_joints_land(what, person, tmp_path):
    word, knows_size, write = made.FILES[what]
    path = write(tmp_path, person)
    skeleton = H36M_17 if "Neck/Nose" in FORMATS[word].rules else H36M_16
    found = load_keypoints(path, skeleton, "auto", None if knows_size else made.SIZE)
    assert (found.form.word, found.size, list(found.images)) == (
        word, made.SIZE, [{"Ultralytics tracks": 4, "Ultralytics JSON": 7}.get(what, 1)],
    )  # fmt: skip
    (track,) = found.tracks
    joints = expected(word, made.points_of(person, word), skeleton)
    joints = joints[:1] if what == "MMPose image" else joints
    assert track.keypoints == pytest.approx(joints, abs=0.01)
    assert not track.interpolated.any() and (np.diff(track.frames) == 1).all()
    with pytest.raises(UserError, match=r"--size|leave"):
        load_keypoints(path, skeleton, "auto", (3000, 2000) if knows_size else None)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.word)
def test_left_and_right_never_swap(form):
    def sides(points):
        return {point.partition("_")[0] if "_" in point else point[0] for point in points}

    for joint, points in form.rules.items():
        if joint in LIMBS:
            assert sides(points) <= {joint[0], {"L": "left", "R": "right"}[joint[0]]}, joint
        else:  # as many of the left as of the right
            mirrored = {"left": "right", "right": "left"}
            swapped = [
                "_".join(mirrored.get(part, part) for part in point.split("_")) for point in points
            ]
            assert sorted(swapped) == sorted(points), joint


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.word)
def test_rigid_bones_have_one_length_in_every_pose(form):
    """And the others do not, of a detector's points: a back that bends, a head that turns."""
    rng = np.random.default_rng(0)
    bodies = made_motion(rng, 8)[:, list(H36M_17.stored)].astype(np.float64)
    points = detector_points(bodies)
    joints = {
        joint: np.mean([points[name] for name in names], axis=0)
        for joint, names in form.rules.items()
    }
    skeleton = H36M_17 if "Neck/Nose" in form.rules else H36M_16
    rigid = {skeleton.names[joint] for joint, _ in form.rigid_bones(skeleton)}
    limbs = {name for name in LIMBS if name[1:] not in ("Shoulder", "Hip")}
    assert limbs | {"LHip", "RHip"} <= rigid
    for name in limbs:
        parent = skeleton.names[skeleton.parents[skeleton.names.index(name)]]
        lengths = np.linalg.norm(joints[name] - joints[parent], axis=-1)
        assert np.ptp(lengths) < 1e-3
    if form.word in TRUNK and not form.word.startswith(("h36m", "sh")):
        assert rigid.isdisjoint({"Spine", "Thorax", "Neck/Nose", "LShoulder"})
        assert "Head" not in {H36M_16.names[j] for j, _ in form.rigid_bones(H36M_16)}
        # With 17 joints the bone from nose to eyes is rigid, but not its kind: the neck is not.
        for each in (H36M_16, H36M_17):
            assert form.rigid_kinds(each) == {"Hip", "Knee", "Foot", "Elbow", "Wrist"}
    elif form.word.startswith(("h36m", "sh")):
        assert form.rigid_kinds(skeleton) == set(bone_names(skeleton))


def test_order_is_told_by_the_poses_of_the_bundled_data():
    """One clip each of what actors do, also lying on the floor; 3 px of noise."""
    actors = load_object_array(ROOT / "dataset" / "data_3d_hdm05.npz", "positions_3d")
    rng, clips = np.random.default_rng(0), 0
    for name, motion in actors["mm"].items():
        points = detector_points(np.array(motion[::30], dtype=np.float64))
        for word in ("h36m17", "h36m16", "sh16", "coco17", "halpe26", "mediapipe33"):
            poses = np.stack([points[point] for point in FORMATS[word].points], axis=1)
            view = views_of(poses, "S9")[1]
            found, _ = format_of_poses(view + rng.normal(0, 3, view.shape))
            assert found.word == word, name
        clips += 1
    assert clips > 10


@pytest.mark.slow
def test_order_is_told_in_every_view():
    """Of each clip and view all images, and the middle one alone: the figures of own-data.md."""
    actors = load_object_array(ROOT / "dataset" / "data_3d_hdm05.npz", "positions_3d")
    rng = np.random.default_rng(0)
    clips, single = collections.Counter(), collections.Counter()
    for motion in (clip for clips in actors.values() for clip in clips.values()):
        points = detector_points(np.array(motion[::10], dtype=np.float64))
        for word in (word for word in FORMATS if word != "h36m32"):
            poses = np.stack([points[point] for point in FORMATS[word].points], axis=1)
            for view in views_of(poses, "S9"):
                seen = view + rng.normal(0, 3, view.shape)
                clips[verdict(seen, word)] += 1
                single[verdict(seen[len(seen) // 2][None], word)] += 1
    print(f"clips: {dict(clips)}; single images: {dict(single)}")
    assert clips["right"] == clips.total() == 9216
    assert single["wrong"] < 10 and single["refused"] < 0.02 * single.total()


def verdict(points: np.ndarray, word: str) -> str:
    """What becomes of points (T, P, 2) in the order of a format: right, wrong or refused."""
    try:
        return "right" if format_of_poses(points)[0].word == word else "wrong"
    except UserError:
        return "refused"


def test_an_unknown_order_is_not_guessed(person):
    rng = np.random.default_rng(1)
    for word in ("h36m17", "coco17", "body25", "mediapipe33"):
        points = made.points_of(person, word)
        with pytest.raises(UserError, match=f"--format .*{word}"):
            format_of_poses(points[:, rng.permutation(points.shape[1])])
    with pytest.raises(UserError, match="21 points"):
        format_of_poses(np.zeros((2, 21, 2)))


def test_names_in_all_spellings():
    for form in FORMATS.values():
        camel = ["".join([first, *map(str.title, rest)]) for first, *rest in
                 (name.split("_") for name in form.points)]  # fmt: skip
        short = [name.replace("left_", "L").replace("right_", "R") for name in form.points]
        short = [name[0] + name[1:].capitalize() if name[0] in "LR" else name for name in short]
        for names in (form.points, camel, [name.upper() for name in form.points[::-1]], short):
            if form.points[0].islower():
                assert format_of_names(names) is form
    assert format_of_names(FORMATS["h36m17"].points) is FORMATS["h36m17"]
    assert format_of_names(["nose", "tail"]) is None


# ---- persons ----


def two_persons() -> tuple[made.Points, made.Points]:
    return made.made_person(shift=-0.8), made.made_person(5, shift=0.9)


def test_a_mark_of_the_byte_order_is_passed_over(person, tmp_path):
    """Programs of Windows write it."""
    for write in (made.nested_lists("coco17"), made.csv_rows("coco17")):
        path = write(tmp_path, person)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert load_keypoints(path, H36M_17, "auto", made.SIZE).form.word == "coco17"


def test_persons_without_numbers_are_followed(tmp_path):
    one, two = two_persons()
    path = made.openpose("body25", [two])(tmp_path, one)
    found = load_keypoints(path, H36M_17, size=made.SIZE, person="all")
    assert found.images == {1: made.FRAMES, 2: made.FRAMES}
    wholes = [expected("body25", made.points_of(p, "body25"), H36M_17) for p in (one, two)]
    extents = [np.ptp(made.points_of(p, "body25"), axis=1).sum() for p in (one, two)]
    wholes = wholes if extents[0] > extents[1] else wholes[::-1]  # the larger person first
    for track, whole in zip(found.tracks, wholes, strict=True):
        assert track.keypoints == pytest.approx(whole, abs=0.01)
    (track,) = load_keypoints(path, H36M_17, size=made.SIZE).tracks
    assert track.person == 1
    (track,) = load_keypoints(path, H36M_17, size=made.SIZE, person=2).tracks
    assert track.person == 2
    with pytest.raises(UserError, match="no person 3: --person takes 1, 2 or all"):
        load_keypoints(path, H36M_17, size=made.SIZE, person=3)


def test_numbers_of_the_file_are_kept(tmp_path):
    contents = []
    for number, each in zip((30, 4), two_persons(), strict=True):
        path = made.coco_results("coco17", idx=number)(tmp_path, each)
        contents += json.loads(path.read_text())
    path.write_text(json.dumps(contents))
    found = load_keypoints(path, H36M_17, size=made.SIZE, person="all")
    assert set(found.images) == {30, 4} == {track.person for track in found.tracks}
    path.write_text(json.dumps([contents[0], *contents]))
    with pytest.raises(UserError, match="person 30 is more than once in an image"):
        load_keypoints(path, H36M_17, size=made.SIZE)


def test_a_crowd_is_refused(person, tmp_path):
    path = made.coco_results("coco17", image=lambda t: 1)(tmp_path, person)
    path.write_text(json.dumps(20 * json.loads(path.read_text())))
    with pytest.raises(UserError, match="more than 100 persons in image 1"):
        load_keypoints(path, H36M_17, size=made.SIZE)


# ---- what is missing ----


def test_what_was_not_seen_is_filled_in_and_marked(tmp_path):
    """A low score, an absent point (zeros), an image without the person, and a long gap."""
    person = made.made_person(frames=10)
    path = made.coco_results("coco17")(tmp_path, person)
    images = json.loads(path.read_text())
    wrist, ankle, left_hip = 3 * 10, 3 * 15, 3 * 11
    images[2]["keypoints"][wrist : wrist + 3] = [3.0, 5.0, 0.1]
    images[4]["keypoints"][ankle : ankle + 3] = [0, 0, 0]
    images[0]["keypoints"][left_hip : left_hip + 3] = [0, 0, 0]
    for image in images[8:]:
        image["image_id"] += 40
    del images[6]
    path.write_text(json.dumps(images))
    (track,) = load_keypoints(path, H36M_17, size=made.SIZE).tracks
    assert track.frames.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 48, 49]
    whole = expected("coco17", made.points_of(person, "coco17"), H36M_17)
    marked = np.zeros((10, 17), dtype=bool)
    names = H36M_17.names
    for frame, joint in ((2, "RWrist"), (4, "LFoot"), (0, "LHip"), (0, "Hip"), (0, "Spine")):
        marked[frame, names.index(joint)] = True
    marked[6] = True
    assert (track.interpolated == marked).all()
    assert track.keypoints[~marked] == pytest.approx(whole[~marked], abs=0.01)
    for frame, joint in ((2, "RWrist"), (4, "LFoot"), (6, "Head")):
        j = names.index(joint)
        middle = (whole[frame - 1, j] + whole[frame + 1, j]) / 2
        assert track.keypoints[frame, j] == pytest.approx(middle, abs=0.01)
    j = names.index("LHip")  # nothing is known before: it stays where it is seen first
    assert track.keypoints[0, j] == pytest.approx(whole[1, j], abs=0.01)


def test_a_joint_that_is_never_seen_well(tmp_path):
    person = made.made_person()
    path = made.coco_results("coco17")(tmp_path, person)
    images = json.loads(path.read_text())
    for image in images:
        image["keypoints"][3 * 15 + 2] = 0.05
    path.write_text(json.dumps(images))
    (track,) = load_keypoints(path, H36M_17, size=made.SIZE).tracks
    assert track.keypoints[:, 6] == pytest.approx(person["left_ankle"], abs=0.01)
    assert not track.interpolated.any() and track.scores[:, 6] == pytest.approx(0.05)
    for image in images:
        image["keypoints"][3 * 15 : 3 * 15 + 3] = [0, 0, 0]
    path.write_text(json.dumps(images))
    with pytest.raises(UserError, match="person 1 is never seen with left_ankle"):
        load_keypoints(path, H36M_17, size=made.SIZE)


# ---- the files themselves ----


def test_large_deep_and_strange_files_are_refused(tmp_path, monkeypatch):
    def refused(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError) as caught:
            read_keypoint_file(tmp_path / name)
        return str(caught.value)

    assert "cannot be read" in refused("a.json", "[" * 10**5)
    assert "too many levels" in refused("a.json", 40 * '{"data": ' + "1" + 40 * "}")
    assert "holds no keypoints" in refused("a.json", "{}")
    assert "holds no keypoints" in refused("a.csv", "")
    assert "give a file of .json" in refused("a.pkl", "")
    assert "some points have a score" in refused("a.csv", "a_x,a_y,a_score,b_x,b_y\n1,2,3,4,5")
    assert "4 numbers in a line" in refused("a.txt", "1 2 3 4")
    two = [{"keypoints": [[1, 2]] * 17}, {"keypoints": [[1, 2]] * 18}]
    assert "of 17 and of 18 points" in refused("a.json", json.dumps(two))
    monkeypatch.setattr("data.keypoint_files.MAX_BYTES", 10)
    assert "more than 10: split it" in refused("a.json", json.dumps(two))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no json of OpenPose"):
        read_keypoint_file(tmp_path / "folder")
