#!/usr/bin/env python
"""Draw the coordinate frames: the image in pixels, the screen, camera space, and the world.

python tools/plot_frames.py                    -> docs/coordinate_frames.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.camera import image_coordinates, normalize_screen_coordinates, project, world_to_camera
from common.draw import bone_colours
from common.errors import run_script
from common.files import atomic_write
from common.skeleton import H36M_17
from tools.made_bodies import standing_body
from tools.picture_flags import picture_of_call
from training.given import Given

_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "coordinate_frames.png"
_SIZE = (1280, 720)
_FOV = 60.0
_CAMERA = np.array([-0.9, -3.0, 1.4])  # metres, world: where the camera stands
_ORIGIN = np.array([1.3, -1.6, 0.0])  # of the world, in this drawing
_AXES = ("#cc3311", "#117733", "#332288")


def made_scene() -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Joints (17, 3) of a person in the world, the camera-to-world rotation (3, 3), and pixels."""
    joints = standing_body()[0].astype(np.float64)
    joints = joints - joints[:, 2:].min() * np.array([0, 0, 1])
    forward = torch.from_numpy(joints[0] - _CAMERA)
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    inside = world_to_camera(torch.from_numpy(joints), rotation, torch.from_numpy(_CAMERA))
    screen = project(inside, Given(fov=_FOV).camera(_SIZE).double())
    return joints, rotation, image_coordinates(screen, *_SIZE).numpy()


def draw_scene(axes: Axes, joints: np.ndarray, rotation: np.ndarray) -> None:
    """The world: the person, and the axes of the world, of the camera, and of poses."""
    axes.set(title="World, camera space, and poses relative to the hip (metres)")
    for start, end, colour in _bones(joints):
        axes.plot(*np.stack([start, end]).T, color=colour, linewidth=2)
    _arrows(axes, _ORIGIN, np.eye(3), "world: z up  ", "right")
    _arrows(axes, _CAMERA, rotation.T, "camera: x right, y down, z forward\nabsolute_3d")
    _arrows(axes, joints[0], rotation.T, "at the hip: poses_3d      ", "right", -0.2)
    axes.plot(*np.stack([_CAMERA, joints[0]]).T, color="0.6", linestyle=":")
    low, high = np.array([-1.2, -3.2, 0.0]), np.array([1.6, 0.6, 1.9])
    axes.set_box_aspect(high - low, zoom=1.6)
    axes.set(**dict(zip(("xlim", "ylim", "zlim"), np.stack([low, high]).T.tolist(), strict=True)))
    axes.set_axis_off()
    axes.view_init(elev=20, azim=-40)


def _arrows(
    axes: Axes,
    at: np.ndarray,
    directions: np.ndarray,
    title: str,
    align: str = "left",
    above: float = 0.12,
) -> None:
    for direction, name, colour in zip(directions, "xyz", _AXES, strict=True):
        axes.quiver(*at, *(0.6 * direction), color=colour, linewidth=1.5, clip_on=False)
        axes.text(*(at + 0.68 * direction), name, color=colour, fontsize=9)
    x, y, z = at
    axes.text(x, y, z + above, title, fontsize=8, horizontalalignment=align)


def draw_image(axes: Axes, pixels: np.ndarray) -> None:
    """The image: pixels and screen coordinates on the same points."""
    width, height = _SIZE
    for start, end, colour in _bones(pixels):
        axes.plot(*np.stack([start, end]).T, color=colour, linewidth=2)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", title="The image")
    axes.set(xlabel="x, pixels", ylabel="y, pixels (down)", xticks=[0, width], yticks=[0, height])
    corners = torch.tensor([[0.0, 0.0], [width, height], [width / 2, height / 2]])
    screen = normalize_screen_coordinates(corners, *_SIZE).tolist()
    aligned = (("left", "top"), ("right", "bottom"), ("left", "center"))
    for (x, y), (u, v), (across, along) in zip(corners.tolist(), screen, aligned, strict=True):
        axes.plot(x, y, "+", color="0.3", clip_on=False)
        place = {"horizontalalignment": across, "verticalalignment": along}
        y += 18 * (along == "center")
        axes.text(x, y, f" screen ({u:.2g}, {v:.2g}) ", fontsize=8, **place)


def _bones(points: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Both ends of each bone, and its colour: the person's right and left."""
    bones = zip(H36M_17.bones(), bone_colours(H36M_17), strict=True)
    return [(points[parent], points[joint], colour) for (joint, parent), colour in bones]


def main(argv: Sequence[str] | None = None) -> None:
    out = picture_of_call("Draw the coordinate frames.", _PICTURE, argv)
    joints, rotation, pixels = made_scene()
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    scene, image = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    draw_scene(figure.add_subplot(scene, projection="3d"), joints, rotation.numpy())
    draw_image(figure.add_subplot(image), pixels)
    with atomic_write(out) as partial:
        figure.savefig(partial, dpi=90)
    print(out)


if __name__ == "__main__":
    run_script(main)
