"""Lifting line by line: a JSON object in, a JSON object out."""

import io
import json
import sys

import numpy as np
import pytest
import torch

import predict
from models.build import build_model
from tests import keypoint_writers as made
from training import stream
from training.given import Given
from training.lifter import Lifter


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return made.scored(made.made_person(frames=20), "coco17")


@pytest.fixture
def weights(tmp_path):
    network = build_model({"joints": 17, "hid_dim": 8, "num_layers": 1})
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


class Input:
    """The standard input: lines, which are noted when they are read."""

    def __init__(self, lines: list[bytes], output: list) -> None:
        self.buffer, self._lines, self._output = self, iter(lines), output

    def readline(self, limit: int) -> bytes:
        line = next(self._lines, b"")
        self._output.append("read")
        return line


@pytest.fixture
def ask(call, weights, monkeypatch):
    """(contents of the lines, flags) -> the answers."""

    def run(lines, *flags):
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        monkeypatch.setattr(sys, "stdin", type("", (), {"buffer": io.BytesIO(b"\n".join(lines))}))
        status, out, err = call(predict.main, "--stream", "--weights", weights, *flags)
        assert (status, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return run


def line(points):
    return {"keypoints": points.tolist(), "size": made.SIZE}


def test_a_stream_gives_what_a_file_gives(ask, points, weights):
    answers = ask([line(pose) for pose in points], "--fov", 60)
    whole = Lifter.load(weights, device="cpu")(points, made.SIZE, "coco17", fov=60)
    assert [answer["frames"] for answer in answers] == [*range(20)]
    for name in ("poses_3d", "keypoints_2d", "scores"):
        found = np.array([answer[name] for answer in answers])
        assert np.allclose(found, getattr(whole, name), atol=2e-6), name
    places = np.array([answer["absolute_3d"] for answer in answers], dtype=float)
    assert np.allclose(places, whole.absolute_3d, rtol=1e-4, atol=1e-3, equal_nan=True)


def test_a_point_that_is_not_seen_is_that_of_the_image_before(ask, points):
    points = points.copy()
    points[1, 9] = 0  # the left wrist
    first, second = ask([line(pose) for pose in points[:2]])
    wrist = first["joints"].index("LWrist")
    assert second["interpolated"][wrist] and sum(second["interpolated"]) == 1
    assert second["keypoints_2d"][wrist] == first["keypoints_2d"][wrist]


def test_it_is_not_remembered_for_ever(ask, points):
    points = points.copy()
    points[1:, 9] = 0
    answers = ask([line(pose) for pose in points], "--format", "coco17")
    assert ["error" in answer for answer in answers] == [False] * 16 + [True] * 4
    assert "never seen with left_wrist" in answers[16]["error"]


def test_bad_lines_are_answered_and_do_not_spoil_the_next(ask, points):
    good, absent = line(points[0]), np.zeros_like(points[0])
    bad = {
        '{"keypoints"': b"{", '"keypoints": [[': {"keypoints": [1, 2]}, "[[x": {"size": made.SIZE},
        "[[x, y, score]": b"[" * 5000, "score]": {"keypoints": [["a", "b"]], "size": made.SIZE},
        '"size"': dict(good, size=[-1, 5]), '"size": [': dict(good, size=[float("inf"), 5]),
        "no person is seen": line(absent), "not pixels but": line(points[0] / 1000),
        "give --size": {"keypoints": good["keypoints"]}, "it has 9 points": line(points[0, :9]),
    }  # fmt: skip
    answers = ask([entry for wrong in bad.values() for entry in (good, wrong)] + [good])
    alone = ask([good])[0]["poses_3d"]
    for message, answer in zip(bad, answers[1::2], strict=True):
        assert set(answer) == {"frames", "error"} and message in answer["error"]
        assert "\n" not in answer["error"]
    assert all(np.allclose(answer["poses_3d"], alone, atol=2e-6) for answer in answers[::2])
    assert [answer["frames"] for answer in answers] == [*range(len(answers))]


def test_the_first_line_tells_the_format(ask, points):
    lying = points[1].copy()
    lying[:, :2] = np.random.default_rng(0).uniform(100, 700, (17, 2))
    first, second = ask([line(points[0]), line(lying)])
    assert "error" not in first and "error" not in second
    assert "do not tell" in ask([line(lying)])[0]["error"]


def test_a_size_is_that_of_the_line_or_the_flag(ask, points):
    without = {"keypoints": points[0].tolist()}
    larger = dict(line(points[0]), size=[1100, 900])
    one, two, three = ask([without, line(points[0]), larger], "--size", *made.SIZE)
    assert one["poses_3d"] == two["poses_3d"] != three["poses_3d"]
    assert three["size"] == [1100, 900]


def test_a_filter_knows_the_images_before(ask, points):
    lines = [line(pose) for pose in points[:4]]
    raw = ask(lines)
    smooth = ask(lines, "--smooth", "one_euro", "--fps", 30)
    assert raw[0]["poses_3d"] == smooth[0]["poses_3d"]
    steps = [np.array(answers[1]["poses_3d"]) - answers[0]["poses_3d"] for answers in (raw, smooth)]
    moved = np.linalg.norm(steps, axis=-1)
    assert (moved[1] <= moved[0] + 1e-6).all() and moved[1].sum() < 0.9 * moved[0].sum()


def test_each_line_is_answered_before_the_next_is_read(points, weights):
    output, lines = [], [json.dumps(line(pose)).encode() + b"\n" for pose in points[:2]]
    lifter = Lifter.load(weights, device="cpu")
    stream.lift_lines(
        Input(lines, output), output.append,
        stream.Stream(lifter, "coco17", None, Given(), False),
    )  # fmt: skip
    assert [entry == "read" for entry in output] == [True, False, True, False, True]


def test_a_line_without_an_end_is_refused(points, weights, monkeypatch):
    monkeypatch.setattr(stream, "_LONGEST_LINE", 100)
    lifter, answers = Lifter.load(weights, device="cpu"), []
    stream.lift_lines(
        io.BytesIO(b"[" * 250), answers.append,
        stream.Stream(lifter, "coco17", None, Given(), False),
    )  # fmt: skip
    assert "a line of more than 100 bytes" in answers[0] and len(answers) == 3
