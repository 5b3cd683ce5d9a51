"""The drawing of the coordinate frames shows what the code computes."""

import numpy as np

from common.skeleton import H36M_17
from tools import plot_frames


def test_the_scene_has_the_axes_that_are_written_beside_them():
    joints, rotation, pixels = plot_frames.made_scene()
    assert np.allclose(rotation.T @ rotation, np.eye(3)) and np.linalg.det(rotation) > 0.99
    right, down, forward = rotation.numpy().T
    assert abs(right[2]) < 1e-9 and right[0] > 0.9 and down[2] < -0.9
    assert np.allclose(forward, (joints[0] - plot_frames._CAMERA) / np.linalg.norm(
        joints[0] - plot_frames._CAMERA
    ))  # fmt: skip
    assert np.allclose(pixels[0], np.array(plot_frames._SIZE) / 2)  # the camera looks at the hip
    place = H36M_17.names.index
    assert pixels[place("Head"), 1] < pixels[0, 1] < pixels[place("LFoot"), 1]
    assert pixels[place("LHip"), 0] > pixels[place("RHip"), 0]  # the person faces the camera
    assert (pixels > 0).all() and (pixels < plot_frames._SIZE).all()


def test_the_drawing_is_written_once(call, tmp_path):
    picture = tmp_path / "p.png"
    assert call(plot_frames.main, "-o", picture)[0] == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    status, _, err = call(plot_frames.main, "-o", picture)
    assert status == 2 and "--force" in err
