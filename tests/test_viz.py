"""Sequences of a data set and its best and worst poses, drawn."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import main_gcn
import viz
from common.skeleton import SKELETONS
from data.datasets import HDM05, MOCAP
from data.pose_dataset import load_pose_datasets
from models.build import build_model
from tests.conftest import ROOT, SLICE
from training import pictures
from training.lifter import load_lifter


@pytest.fixture
def checkpoint(tmp_path):
    arguments = {"joints": 16, "hid_dim": 16, "num_layers": 1}
    state = {"state_dict": build_model(arguments).state_dict(), "model": arguments}
    torch.save(state, tmp_path / "c.pth.tar")
    return tmp_path / "c.pth.tar"


@pytest.fixture
def drawn(monkeypatch):
    """The clips and styles that would be written."""
    found = []
    monkeypatch.setattr(viz, "write_clip", lambda path, *given: found.append(given))
    return found


FLAGS = ("--dataset", "hdm05", "--viz_action", "throwBasketball")


def test_every_published_flag(checkpoint, drawn, call, tmp_path):
    more = ("-a", "gcn", "--viz_subject", "mm", "--viz_camera", 1, "--viz_skip", 10, "--viz_limit",
            20, "--viz_downsample", 3, "--viz_size", 10, "--viz_bitrate", 500, "--viz_output",
            tmp_path / "o.gif")  # fmt: skip
    for flags in ((), more):
        status, _, err = call(viz.main, "--evaluate", checkpoint, *FLAGS, *flags)
        assert (status, err) == (0, "")
    (whole, _), (part, style) = drawn
    assert whole.title.startswith("tr/throwBasketball") and whole.title.endswith("camera 0")
    assert (style.scale, style.bitrate) == (2.0, 500) and part.title.endswith("camera 1")
    assert [part.number(i) for i in range(len(part))] == list(range(10, 70, 3))
    assert part.fps == 10


def test_the_truth_is_that_of_the_data_set(checkpoint, drawn, call):
    assert call(viz.main, "--evaluate", checkpoint, *FLAGS, "--viz_output", "x.html")[0] == 0
    ((clip, _),) = drawn
    (data,) = load_pose_datasets(HDM05, ROOT / "dataset", [["tr"]], SKELETONS[16],
                                 actions=["throwBasketball"])  # fmt: skip
    first = ((data.sequence == 0) & (data.camera == 0)).nonzero()[:, 0]
    assert np.array_equal(clip.truth, data.targets_3d[first].numpy())
    root = data.root_3d[first].numpy()
    assert np.allclose(clip.absolute[:, 0], root, atol=1e-5)
    _, truth = clip.standing()  # hdm05's floor is level, and people stand on it
    assert abs(np.median(truth[..., 1].min(axis=1))) < 0.1 and truth[..., 1].max() > 1.4


def test_a_sequence_is_seen_by_its_own_virtual_camera(checkpoint, drawn, call):
    flags = ("--evaluate", checkpoint, "--dataset", "mocap", "--viz_camera")
    for camera in (0, 3):
        assert call(viz.main, *flags, camera, "--viz_output", f"{camera}.html")[0] == 0
    (data,) = load_pose_datasets(MOCAP, ROOT / "dataset", [["49"]], SKELETONS[16])
    for (clip, _), number in zip(drawn, (0, 3), strict=True):
        assert clip.title == f"{data.sequences[0]}, camera {number}" and clip.fps == 15
        first = ((data.sequence == 0) & (data.camera == number)).nonzero()[:, 0]
        assert np.array_equal(clip.truth, data.targets_3d[first].numpy())
        width, height = clip.size
        screen = data.inputs_2d[first].numpy()
        assert np.allclose(
            clip.keypoints, (screen + np.array([1, height / width])) * width / 2, atol=1e-3
        )
        assert ((clip.keypoints > 0) & (clip.keypoints < clip.size)).mean() > 0.99
    assert drawn[0][0].size != drawn[1][0].size
    status, _, err = call(viz.main, *flags, 4)
    assert status == 2 and "49 has clip 18 part 1" in err and "cameras 0 to 3" in err


@pytest.mark.parametrize(
    "flags, what",
    [
        (("--viz_subject", "S1"), "has bd"),
        (("--viz_camera", 4), "cameras 0 to 3"),
        (("--viz_skip", 10**6), "nothing is left"),
        (("--viz_output", "a.txt"), ".gif"),
        (("--viz_size", 0.5), "give 1 to 50"),
        (("--viz_size", 51), "give 1 to 50"),
        (("--viz_video", "none.mp4"), "not there"),
        (("--viz_video", __file__), "give a video"),
    ],
)
def test_wrong_input_is_refused(flags, what, checkpoint, drawn, call, monkeypatch):
    def no_video(path):
        raise OSError(path)

    package = SimpleNamespace(read_frames=lambda path: map(no_video, [path]))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)
    status, _, err = call(viz.main, "--evaluate", checkpoint, *FLAGS, *flags)
    assert status == 2 and what in err and err.count("\n") == 1 and not drawn


def test_the_video_is_behind_the_joints(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="requirements-export.txt is missing")
    writer = ffmpeg.write_frames(str(tmp_path / "v.mp4"), (64, 48), fps=10)
    writer.send(None)
    for number in range(6):
        writer.send(np.full((48, 64, 3), 40 * number, np.uint8).tobytes())
    writer.close()
    image = viz.images_of(str(tmp_path / "v.mp4"))
    for number in (0, 3, 5):
        assert abs(float(image(number).mean()) - 40 * number) < 6
    assert image(9) is None and image(1) is None


def test_the_best_the_median_and_the_worst_are_drawn(checkpoint, call, monkeypatch):
    found = []
    monkeypatch.setattr(pictures, "save_poses", lambda *given: found.append(given))
    flags = [*SLICE[:6], *SLICE[-2:], "--evaluate", checkpoint, "--draw", 2]
    status, out, _ = call(main_gcn.main, *flags)
    path, _, poses, targets, titles, *_ = found[0]
    assert status == 0 and path == checkpoint.with_name("c_poses.png") and str(path) in out
    errors = (poses - targets).norm(dim=-1).mean(dim=-1)
    lifter = load_lifter(checkpoint, None)
    (data,) = load_pose_datasets(HDM05, ROOT / "dataset", [HDM05.subjects_test], SKELETONS[16],
                                 actions=["throwBasketball"], downsample=12)  # fmt: skip
    with torch.no_grad():
        every = lifter.network(data.inputs_2d)
    every = (every - every[:, :1] - data.targets_3d).norm(dim=-1).mean(dim=-1).sort().values
    middle = (len(every) - 2) // 2
    expected = torch.cat([every[:2], every[middle : middle + 2], every[-2:]])
    assert torch.allclose(errors, expected, atol=1e-5)
    assert [title.partition(":")[0] for title in titles] == ["best"] * 2 + ["median"] * 2 + [
        "worst"
    ] * 2
    path.touch()
    status, _, err = call(main_gcn.main, *flags)
    assert status == 2 and "--draw does not replace it" in err
