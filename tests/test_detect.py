"""Finding the person in images; stand-ins take the place of OpenCV and MediaPipe."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import predict
from common.errors import UserError
from common.skeleton import H36M_17
from data import detect
from data.keypoint_files import read_keypoint_file
from data.keypoints import load_keypoints
from tests import keypoint_writers as made
from tests.conftest import ROOT

WIDTH, HEIGHT = made.SIZE
FRAMES = 4


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return made.points_of(made.made_person(frames=FRAMES), "mediapipe33")


class Video:
    """OpenCV's video: image t holds t in its first pixel."""

    def __init__(self, path: str) -> None:
        self._left = [*range(FRAMES)] if "broken" not in path else []

    def get(self, key: str) -> float:
        return {"count": float(len(self._left)), "fps": 25.0 if self._left else 0.0}[key]

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, image(self._left.pop(0))) if self._left else (False, None)

    def release(self) -> None:
        pass


def image(number: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[0, 0] = number, 0, 200  # blue, green, red
    return pixels


@pytest.fixture
def detector(monkeypatch, points):
    """Installs the two packages; {"absent": numbers of images without a person}."""
    about = {"absent": ()}

    class Pose:
        def __init__(self, static_image_mode: bool, model_complexity: int) -> None:
            about.update(static=static_image_mode, complexity=model_complexity)

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            pass

        def process(self, rgb: np.ndarray) -> SimpleNamespace:
            assert rgb[0, 0, 0] == 200  # MediaPipe wants red first
            number = int(rgb[0, 0, 2])
            places = points[number] / made.SIZE
            landmarks = [SimpleNamespace(x=x, y=y, z=9.0, visibility=0.75) for x, y in places]
            found = SimpleNamespace(landmark=landmarks)
            return SimpleNamespace(pose_landmarks=None if number in about["absent"] else found)

    cv2 = SimpleNamespace(
        VideoCapture=Video, CAP_PROP_FRAME_COUNT="count", CAP_PROP_FPS="fps", COLOR_BGR2RGB=0,
        cvtColor=lambda pixels, code: pixels[..., ::-1],
        imread=lambda path: None if "broken" in path else image(2),
    )  # fmt: skip
    solutions = SimpleNamespace(pose=SimpleNamespace(Pose=Pose))
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    monkeypatch.setitem(sys.modules, "mediapipe", SimpleNamespace(solutions=solutions))
    return about


def empty(path):
    path.write_bytes(b"")
    return path


def test_a_video_becomes_points_in_pixels(detector, points, tmp_path):
    detector["absent"] = (2,)
    file = read_keypoint_file(empty(tmp_path / "v.MP4"))
    assert (file.size, file.fps, file.fractions) == (made.SIZE, 25.0, False)
    assert [seen.frame for seen in file.seen] == [0, 1, 3] and detector["static"] is False
    for seen in file.seen:
        assert np.allclose(seen.points[:, :2], points[seen.frame])
        assert (seen.points[:, 2] == 0.75).all()
    found = load_keypoints(tmp_path / "v.MP4", H36M_17)
    assert found.form.word == "mediapipe33" and found.tracks[0].frames.tolist() == [0, 1, 2, 3]
    assert found.tracks[0].interpolated.all(axis=1).tolist() == [False, False, True, False]
    assert np.allclose(found.tracks[0].scores[0], 0.75)


def test_an_image_becomes_one_pose(detector, points, tmp_path):
    file = read_keypoint_file(empty(tmp_path / "i.jpg"))
    assert file.fps is None and len(file.seen) == 1 and detector["static"] is True
    assert np.allclose(file.seen[0].points[:, :2], points[2])


@pytest.mark.parametrize("name", ["v.mp4", "i.jpg"])
def test_what_is_drawn_lies_over_the_images(name, detector, call, tmp_path, monkeypatch):
    detector["absent"] = (0, 1)
    drawn = []
    monkeypatch.setattr(predict, "write_clip", lambda path, clip: drawn.append(clip))
    flags = ("--render", "a.gif", "--render", "b.html")
    status, _, err = call(predict.main, empty(tmp_path / name), *flags)
    assert (status, err) == (0, "")
    for clip in drawn:  # each reads the images anew
        numbers = [2] if name == "i.jpg" else [2, 3]
        for index, number in enumerate(numbers):
            assert clip.image(index)[0, 0].tolist() == [200, 0, number]  # red first
        assert len(clip) == len(numbers) and clip.image(len(numbers) - 1) is None
    call(detect.main, tmp_path / name, "-o", tmp_path / "k.json")
    assert call(predict.main, tmp_path / "k.json", *flags)[0] == 0 and drawn[-1].image is None
    assert len(drawn) == 4


def test_the_script_writes_what_is_read_again(detector, points, call, tmp_path):
    video = empty(tmp_path / "v.mp4")
    status, printed, err = call(detect.main, video)
    assert (status, err) == (0, "") and "v_2d.json: a person in 4 images" in printed
    file = read_keypoint_file(tmp_path / "v_2d.json")
    assert (file.size, file.fps) == (made.SIZE, 25.0)
    assert np.allclose([seen.points[:, :2] for seen in file.seen], points, atol=0.051)
    status, _, err = call(detect.main, video)
    assert status == 2 and "--force" in err


@pytest.mark.parametrize("name", ["broken.png", "broken.mp4"])
def test_what_opencv_cannot_read_is_named(name, detector, tmp_path):
    with pytest.raises(UserError, match=f"{name} is no image or video"):
        read_keypoint_file(empty(tmp_path / name))


def test_nobody_in_a_video_is_said(detector, tmp_path):
    detector["absent"] = range(FRAMES)
    with pytest.raises(UserError, match=r"v\.mp4: no person is found"):
        read_keypoint_file(empty(tmp_path / "v.mp4"))


def test_without_mediapipe_the_line_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"not installed \(cv2\): make video VIDEO="):
        read_keypoint_file(empty(tmp_path / "v.mp4"))


def test_a_python_that_is_too_new_is_named(detector, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UserError, match=r"needs Python 3\.12 or older: make video"):
        read_keypoint_file(empty(tmp_path / "v.mp4"))


def test_the_bundled_keypoints_are_taken_for_what_they_are():
    path = ROOT / "dataset" / "keypoints_squats.json"
    found = load_keypoints(path, H36M_17)
    assert (found.form.word, found.size, found.fps) == ("mediapipe33", (720, 1280), 5.0)
    (track,) = found.tracks
    assert len(track.frames) == 65 and not track.interpolated.all(axis=1).any()
    hip, knee = (track.keypoints[:, H36M_17.names.index(name), 1] for name in ("Hip", "LKnee"))
    shank = track.keypoints[:, H36M_17.names.index("LFoot"), 1] - knee
    depth = (knee - hip) / shank  # about 1 standing, and 0 deep in a squat
    assert depth.max() > 0.9 and depth.min() < 0.35
    assert json.loads(path.read_text())["size"] == [720, 1280]


def test_the_list_of_packages_is_complete():
    lines = (ROOT / "requirements-video.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned["mediapipe"] == "0.10.21" and pinned["protobuf"].startswith("4.")
    assert set(pinned) == {
        "mediapipe", "absl-py", "attrs", "flatbuffers", "protobuf", "opencv-python-headless"
    }  # fmt: skip
