"""Made poses, and a way to call a script as the shell would."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import load_checkpoint
from common.errors import run_script
from data.datasets import H36M
from data.npz_io import save_object_arrays

ROOT = Path(__file__).resolve().parents[1]
# A slice of the bundled data that trains in seconds.
SLICE = ["--dataset", "hdm05", "--actions", "throwBasketball", "--downsample", "12", "-z", "16",
         "-l", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(7)


def random_motion(rng: np.random.Generator, frames: int, stored: int = 32) -> np.ndarray:
    """(T, stored, 3) world metres near the middle of Human3.6M's room, joints well apart."""
    return rng.normal((0.0, 0.0, 1.0), 0.3, (frames, stored, 3)).astype(np.float32)


def make_h36m(
    folder: Path,
    sequences: Sequence[str] = ("Sitting", "Sitting 1", "SittingDown", "SittingDown 1"),
    subjects: Sequence[str] = H36M.subjects_train + H36M.subjects_test,
    frames: int = 6,
) -> dict[str, dict[str, np.ndarray]]:
    """Write a small ``data_3d_h36m.npz`` of random poses; gives back what it holds."""
    rng = np.random.default_rng(0)
    positions = {s: {name: random_motion(rng, frames) for name in sequences} for s in subjects}
    folder.mkdir(parents=True, exist_ok=True)
    save_object_arrays(folder / "data_3d_h36m.npz", positions_3d=positions)
    return positions


@pytest.fixture
def h36m_folder(tmp_path: Path) -> Path:
    make_h36m(tmp_path / "dataset")
    return tmp_path / "dataset"


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
