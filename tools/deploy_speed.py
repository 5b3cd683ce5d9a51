"""Speed of an exported network beside torch's, and of an animation beside the page."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.clip import Clip
from common.clip_files import write_clip
from common.input_view import InputView
from common.skeleton import H36M_16, H36M_17
from models.build import build_model
from tools.export import Program, export, onnx_results
from tools.made_bodies import made_motion
from training.lifter import Lifter

_MANY = 1024  # poses of a batch
_FPS, _SECONDS = 25, 10  # of the clip


def measure_deploy(channels: int, turns: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Measure the bare network in torch and in onnxruntime, in turns, and write a clip twice.

    Args:
        turns: of the batch; one pose is timed a hundred times as often.
        clock: seconds.

    Raises:
        UserError: requirements-export.txt is not installed.
    """
    arguments = {"joints": 16, "hid_dim": channels, "num_layers": 4}
    network = build_model(arguments).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        lifter = Lifter(network, arguments, InputView(), H36M_16)
        export(path, Program(lifter, with_view=False, scale=1.0), {})
        sides = {"torch": network, "onnxruntime": onnx_results(path)}
        one, many = (
            seconds_in_turns(_given(sides, torch.rand(poses, 16, 2)), times, clock)
            for poses, times in ((1, 100 * turns), (_MANY, turns))
        )
        clip_seconds = _write_clips(Path(folder), clock)
    return {
        "one pose, ms": {
            side: {f"p{q}": 1000 * float(np.percentile(times, q)) for q in (50, 99)}
            for side, times in one.items()
        },
        f"poses/s, batches of {_MANY}": {
            side: _MANY / float(np.median(times)) for side, times in many.items()
        },
        f"seconds to write {_SECONDS} s": clip_seconds,
    }


def _given(
    sides: dict[str, Callable[[Tensor], Tensor]], inputs: Tensor
) -> dict[str, Callable[[], Tensor]]:
    return {side: partial(compute, inputs) for side, compute in sides.items()}


@torch.inference_mode()
def seconds_in_turns(
    sides: dict[str, Callable[[], Any]], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each call, in turns, after a tenth of the calls for warm-up."""
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(-(turns // 10), turns):
        for side, compute in sides.items():
            start = clock()
            compute()
            if turn >= 0:
                taken[side].append(clock() - start)
    return taken


def _write_clips(folder: Path, clock: Callable[[], float]) -> dict[str, float]:
    world = made_motion(np.random.default_rng(0), _FPS * _SECONDS)[:, list(H36M_17.stored)]
    camera = world @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    clip = Clip(camera - camera[:, :1], H36M_17, float(_FPS), keypoints=camera[..., :2])
    taken = {}
    for suffix in (".html", ".gif"):
        start = clock()
        write_clip(folder / f"clip{suffix}", clip)
        taken[suffix] = clock() - start
    return taken


def print_figures(figures: dict[str, Any]) -> None:
    """Print a line for each figure."""
    for what, sides in figures.items():
        for side, value in sides.items():
            numbers = value.items() if isinstance(value, dict) else [("", value)]
            shown = "  ".join(f"{name} {number:,.4g}".strip() for name, number in numbers)
            print(f"{what:32}{side:14}{shown}")
