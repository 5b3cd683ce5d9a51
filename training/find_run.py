"""The files of a run's folder, and how a run is found."""

import json
from collections.abc import Iterator
from pathlib import Path

from common.files import is_partial
from common.lock import LOCK
from training.published_settings import script_of

ROOT = Path(__file__).resolve().parents[1]
LAST, BEST, RESULTS = "ckpt_last.pth.tar", "ckpt_best.pth.tar", "results.json"
STEP = "ckpt_step.pth.tar"
NOT_FINITE = "not_finite_step_"  # a step that could not be taken
OPTIONS, LOG = "options.json", "log.csv"
PICTURES = CURVES, POSES = "curves.png", "poses.png"
POSES_BY_ERROR = "poses_by_error.png"  # only with --draw
NO_RUN = ""  # what "--resume auto" stands for where there is no run


def runs_folder(checkpoint: str | None) -> Path:
    """The folder of run folders: that of --checkpoint, or checkpoint/ beside the scripts."""
    return Path(checkpoint) if checkpoint else ROOT / "checkpoint"


def checkpoints_in(folder: Path) -> Iterator[Path]:
    """The checkpoints of a run that are there, those of later steps first."""
    snapshots = sorted(folder.glob("ckpt_epoch_*.pth.tar"), reverse=True)
    for path in [folder / STEP, folder / LAST, *snapshots, folder / BEST]:
        if path.is_file():
            yield path


def find_run(parent: Path, name: str | None, script: str) -> Path | None:
    """The folder ``name``, or without a name that of the newest run of a script; None if there is
    none with a checkpoint.

    Args:
        parent: the folder of run folders.
        script: "main_gcn" or "main_graph".
    """
    if name:
        return parent / name if any(checkpoints_in(parent / name)) else None
    ages = {
        folder: max(path.stat().st_mtime for path in checkpoints_in(folder))
        for folder in parent.glob("*/")
        if any(checkpoints_in(folder)) and _is_of(folder, script)
    }
    return max(ages, key=ages.get, default=None)


def is_empty_run(folder: Path) -> bool:
    """Whether a folder has nothing but what a run leaves that could save no checkpoint: one that
    ended early, or whose disk was full. With results it is not empty."""
    left = {OPTIONS, LOCK, LOG, *PICTURES, POSES_BY_ERROR}
    names = {path.name for path in folder.iterdir()}
    return all(name in left or is_partial(name) or name.startswith(NOT_FINITE) for name in names)


def _is_of(folder: Path, script: str) -> bool:
    try:
        options = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(options, dict) and script_of(options) == script
