"""Speed of ``predict.py``: a clip from the shell beside ``import torch``, and one pose beside the
network alone."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.deploy_speed import seconds_in_turns
from training.lifter import Lifter

_ROOT = Path(__file__).resolve().parents[1]
_SQUATS = _ROOT / "dataset" / "keypoints_squats.json"
_FPS, _SECONDS = 25, 10  # of the clip


def measure_predict(turns: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Measure the bundled weights on the bundled keypoints, each figure in turns with what it
    cannot be faster than.

    Args:
        turns: of the clip, whose processes are timed by the wall clock; one pose is timed a hundred
            times as often.
        clock: seconds, for one pose.
    """
    squats = json.loads(_SQUATS.read_text(encoding="utf-8"))
    return {
        f"{_SECONDS} s of keypoints, s": _compared(_clip_seconds(squats, turns)),
        "one pose and its twin, ms": _compared(_pose_seconds(squats, 100 * turns, clock), 1000),
    }


def _compared(seconds: dict[str, list[float]], scale: float = 1.0) -> dict[str, float]:
    """The medians of the two sides, and the ratio of the second to the first."""
    medians = {side: scale * float(np.median(times)) for side, times in seconds.items()}
    bare, ours = medians.values()
    return medians | {"ratio": ours / bare}


def _clip_seconds(squats: dict[str, Any], turns: int) -> dict[str, list[float]]:
    """The squats again and again, from a file of JSON to one of npz, in processes of their own."""
    count, frames = _FPS * _SECONDS, squats["frames"]
    clip = [frames[number % len(frames)] | {"frame": number} for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.json"
        path.write_text(json.dumps(squats | {"fps": _FPS, "frames": clip}), encoding="utf-8")
        sides = {
            "import torch": lambda: _run("-c", "import torch"),
            "predict.py": lambda: _run(_ROOT / "predict.py", path, "--force"),
        }
        return seconds_in_turns(sides, turns, time.perf_counter)


def _run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)


def _pose_seconds(
    squats: dict[str, Any], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """From pixels to a :class:`~common.prediction.Prediction`, and the network's part of it."""
    lifter = Lifter.load(flip_test=True, device="cpu")
    inputs = torch.rand(2, lifter.skeleton.num_joints, lifter.in_dim)
    points = np.array(squats["frames"][0]["keypoints"])
    sides = {
        "network": lambda: lifter.network(inputs),
        "Lifter": lambda: lifter(points, squats["size"], "mediapipe33"),
    }
    return seconds_in_turns(sides, turns, clock)
