"""Made poses, and a way to call a script as the shell would."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.camera import image_coordinates, project, world_to_camera
from common.errors import run_script
from common.skeleton import H36M_16, H36M_17, Skeleton
from data.cameras import h36m_cameras
from data.datasets import H36M
from data.npz_io import save_object_arrays
from data.pose_dataset import PoseDataset, load_pose_datasets
from tools.made_bodies import made_motion
from training import report
from training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
# A slice of the bundled data that trains in seconds.
SLICE = ["--dataset", "hdm05", "--actions", "throwBasketball", "--downsample", "12", "-z", "16",
         "-l", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Networks as small as those of the tests are slower with more; also in other processes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(7)


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a short training: only tests marked ``pictures`` draw. The others
    leave empty files, since a run without them is not at its end."""
    if not request.node.get_closest_marker("pictures"):
        for picture in ("save_curves", "_draw_poses"):
            monkeypatch.setattr(report, picture, lambda path, *args: path.touch())


class Clock:
    """Moves on by ``step`` seconds whenever it is read; tests move it too."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def randomise(module: nn.Module) -> nn.Module:
    """Move every parameter and statistic off its initial value, so that all of them show."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point() and name.split(".")[-1] != "adj":
                tensor.add_(0.2 * torch.rand_like(tensor) + 0.05)
    return module


def make_h36m(
    folder: Path,
    sequences: Sequence[str] = ("Sitting", "Sitting 1", "SittingDown", "SittingDown 1"),
    subjects: Sequence[str] = H36M.subjects_train + H36M.subjects_test,
    frames: int = 6,
) -> dict[str, dict[str, np.ndarray]]:
    """Write a small ``data_3d_h36m.npz`` of made people; gives back what it holds."""
    rng = np.random.default_rng(0)
    positions = {s: {name: made_motion(rng, frames) for name in sequences} for s in subjects}
    folder.mkdir(parents=True, exist_ok=True)
    save_object_arrays(folder / "data_3d_h36m.npz", positions_3d=positions)
    return positions


def load_h36m(
    folder: Path,
    skeleton: Skeleton = H36M_16,
    splits: Sequence[Sequence[str]] = (H36M.subjects_test,),
    **options: Any,
) -> list[PoseDataset]:
    """The splits of made people that :func:`make_h36m` wrote, a data set each."""
    return load_pose_datasets(H36M, folder, splits, skeleton, **options)


def views_of(motion: np.ndarray, subject: str) -> list[np.ndarray]:
    """(T, J, 3) world metres -> what each camera sees, (T, J, 2) float32 pixels."""
    points, views = torch.from_numpy(motion).double(), []
    for camera in h36m_cameras(subject):
        screen = project(
            world_to_camera(points, camera.rotation, camera.translation), camera.intrinsics
        )
        views.append(image_coordinates(screen, camera.width, camera.height).float().numpy())
    return views


def write_2d(
    folder: Path,
    positions: dict[str, dict[str, np.ndarray]],
    name: str = "gt",
    change: Callable[[dict[str, dict[str, list[np.ndarray]]]], None] | None = None,
    skeleton: Skeleton = H36M_17,
    **arrays: Any,
) -> None:
    """2D joints in pixels, projected from the poses; ``change`` edits them, and ``arrays`` go into
    the file beside them."""
    keypoints = {
        subject: {
            sequence: views_of(motion[:, list(skeleton.stored)], subject)
            for sequence, motion in sequences.items()
        }
        for subject, sequences in positions.items()
    }
    if change:
        change(keypoints)
    save_object_arrays(folder / f"data_2d_h36m_{name}.npz", positions_2d=keypoints, **arrays)


@pytest.fixture
def h36m_folder(tmp_path: Path) -> Path:
    make_h36m(tmp_path / "dataset")
    return tmp_path / "dataset"


def edited_opt(*changes: tuple[str, str]) -> ModuleType:
    """``opt.py`` as somebody has edited it: pairs of old and new text."""
    text = (ROOT / "opt.py").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("edited", None))
    exec(compile(text, "opt.py", "exec"), vars(module))
    return module


def as_published(path: Path, checkpoint: Path, error: float) -> Path:
    """Write what the published code would have saved: its keys only, the error as numpy's."""
    state = load_checkpoint(checkpoint)
    keys = ("epoch", "lr", "step", "state_dict", "optimizer")
    torch.save({key: state[key] for key in keys} | {"error": np.float64(error)}, path)
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Call a script's main with flags: (exit status, stdout, stderr)."""

    def run(main: Callable[[Sequence[str]], None], *flags: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            run_script(lambda: main([str(flag) for flag in flags]))
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
