"""Which checkpoint a run goes on from: a file, or the newest of a run's folder."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from training import distributed
from training.checkpoint import Source, load_checkpoint
from training.find_run import checkpoints_in
from training.training_state import processes_of


def source_to_resume(
    path: str, load: Callable[[str | Path], dict[str, Any]] = load_checkpoint
) -> Source:
    """The checkpoint that ``--resume`` names: a file, or the newest whole one of a folder.

    Args:
        load: reads a file.

    Raises:
        UserError: it is missing or damaged, or the folder has none that is whole.
    """
    return _newest_checkpoint(Path(path)) if Path(path).is_dir() else Source(path, load(path))


def _newest_checkpoint(folder: Path) -> Source:
    """The newest whole checkpoint of a run.

    Raises:
        UserError: it has none.
    """
    whole = _whole_checkpoints(folder)
    newest = next(whole, None)
    if newest is None:
        raise UserError(
            f"{folder} has no whole checkpoint of a run: give a checkpoint file, or start the run "
            "again with --resume auto"
        )
    if "position" in newest.checkpoint and (last := next(whole, None)):
        # A run that was killed at the end of an epoch leaves one inside that epoch.
        newest = max(last, newest, key=lambda source: source.checkpoint["step"])
    print(f"resuming {newest.path}")
    return newest


def _whole_checkpoints(folder: Path) -> Iterator[Source]:
    """The checkpoints of a run, those of later steps first. Damaged ones are named and passed over,
    as are those inside an epoch that another number of processes saved."""
    for path in checkpoints_in(folder):
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            print(f"warning: passed over: {error}", file=sys.stderr)
            continue
        count = processes_of(checkpoint)
        if count in (None, distributed.world_size()):
            yield Source(str(path), checkpoint)
        else:
            print(
                f"warning: passed over: {path} was saved by {count} processes, and only as many "
                "can go on inside its epoch",
                file=sys.stderr,
            )
