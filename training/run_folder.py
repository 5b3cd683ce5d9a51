"""A run's folder: options, log, checkpoints, and the state that lets it be resumed.

options.json          the flags
.lock                 which process uses the folder
log.csv               a row an epoch
ckpt_last.pth.tar     after the newest epoch; resume from it
ckpt_step.pth.tar     inside the current epoch, every --save_every minutes; removed at its end
ckpt_best.pth.tar     the lowest MPJPE on the test subjects so far
ckpt_epoch_025.pth.tar  every --snapshot epochs
results.json, curves.png, poses.png   written at the end
"""

import argparse
import csv
import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.lock import InUseError, holder
from common.own_json import write_json
from common.person import PersonStatistics
from training import distributed
from training.checkpoint import Source, load_checkpoint, to_bytes
from training.engine import Position, TrainedEpoch, Training
from training.find_run import (
    BEST,
    LAST,
    LOG,
    NO_RUN,
    OPTIONS,
    PICTURES,
    RESULTS,
    STEP,
    is_empty_run,
    runs_folder,
)
from training.run_files import RunFiles, make_folder
from training.run_flags import warn_of_unused_place
from training.settings import current_settings, settings_of
from training.training_state import (
    position_of,
    processes_of,
    restore_training_state,
)

CHOSEN_BY = {
    LAST: "last epoch (no choice on test subjects)",
    BEST: "lowest MPJPE on the test subjects",
}
# Settings of the data that are tested on.
_DATA = ("dataset", "keypoints", "actions", "joints", "downsample")
# Settings that say which batches an epoch has.
_BATCHES = ("batch_size", "epoch_poses", "seed", "augment", "data_augmentation")
_SNAPSHOT = "fixed epoch (no choice on test subjects)"


def _make_folder(parent: Path, name: str | None, starts_again: bool) -> Path:
    """A new folder of this name, or of the time: runs that start in one second get numbers.

    Args:
        starts_again: take the folder of a run that saved no checkpoint.

    Raises:
        UserError: the folder is taken or cannot be made.
    """
    now = time.strftime("%Y-%m-%dT%H-%M-%S")
    if name and (found := holder(parent / name)):
        raise InUseError(parent / name, "another run", found)
    if starts_again and name and (parent / name).is_dir():
        if not is_empty_run(parent / name):
            raise UserError(
                f"{parent / name} has files but no checkpoint to go on from: move it away, or give "
                "another --name"
            )
        return parent / name
    return make_folder(parent, [name] if name else [now, *(f"{now}_{n}" for n in range(2, 100))])


@dataclass(frozen=True)
class ResumedFile:
    """A checkpoint that does not say what its best is, as a published one.

    Attributes:
        name: of the file.
        error: what the file gives as its error, measured by whoever wrote it; None if nothing.
    """

    name: str
    error: float | None

    @classmethod
    def of(cls, path: Path, checkpoint: dict[str, Any]) -> "ResumedFile":
        error = checkpoint.get("error")
        is_figure = isinstance(error, Real) and math.isfinite(error)  # numpy's numbers are Real
        return cls(path.name, float(error) if is_figure else None)


@dataclass(frozen=True)
class RunDescription:
    """What every checkpoint of a run says of itself.

    Attributes:
        model: the arguments of the network.
        dataset: name, keypoints and training subjects of the data.
        options: the settings, see ``training.settings.settings_of``.
        persons: statistics of the training persons, ``PersonStatistics.plain``.
    """

    model: dict[str, Any]
    dataset: dict[str, Any]
    options: dict[str, Any]
    persons: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        args: argparse.Namespace,
        model: dict[str, Any],
        subjects: Sequence[str],
        persons: PersonStatistics,
    ) -> "RunDescription":
        """
        Args:
            model: the arguments of the network.
            subjects: trained on.
            persons: statistics of them.
        """
        data = {"name": args.dataset, "keypoints": args.keypoints, "train_subjects": list(subjects)}
        return cls(model, data, settings_of(args), persons.plain())


class RunFolder:
    """The records of one training run. Of several processes, only the main one writes.

    At the end of a ``with`` block its folder is free for other processes.

    Attributes:
        folder: where it writes.
        files: writes them; None in a process that is not the main one.
        description: what every checkpoint says of itself: model, dataset, options.
        history: the rows of the log so far.
        last, best: {"epoch": n, "chosen_by": text} and the summary of that epoch's test.
        position: where to begin inside the first epoch of this call; None at the start of one.
        untested: the file that was resumed, where it does not say what its best is: its weights,
            once they are tested, are the best so far (``start_from_file``).
    """

    def __init__(
        self,
        folder: Path,
        description: RunDescription,
        snapshot: int,
        fallback: str | None = None,
    ) -> None:
        self.folder = folder
        self.files: RunFiles | None = None
        if distributed.is_main():
            self.files = RunFiles(folder, Path(fallback) if fallback else None)
        self.description = description
        self.snapshot = snapshot
        self.history: list[dict[str, Any]] = []
        self.last: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.position: Position | None = None
        self.untested: ResumedFile | None = None
        self._start = (0, 0)

    @classmethod
    def open(
        cls,
        args: argparse.Namespace,
        description: RunDescription,
        training: Training,
        source: Source | None,
    ) -> "RunFolder":
        """A new folder, or that of the checkpoint to resume, whose state the training takes over.

        On other data than the checkpoint's a run gets a new folder and a new log: the errors of
        its earlier epochs do not compare.

        Args:
            source: the checkpoint to resume; None starts a new run.

        Raises:
            UserError: the folder cannot be made, or the checkpoint cannot be resumed.
        """
        parent, settings = runs_folder(args.checkpoint), (args.snapshot, args.fallback_dir)
        if source is None:
            again = args.resume == NO_RUN
            return cls.create(parent, args.name, description, *settings, starts_again=again)
        path, checkpoint = Path(source.path), source.checkpoint
        left = args.epochs - checkpoint.get("epoch", 0)
        if left < 0 or (left == 0 and not _lacks_report(path.parent, checkpoint)):
            raise UserError(
                f"{path} is at epoch {checkpoint['epoch']}: give --epochs a larger number"
            )
        restore_training_state(training, source.path, checkpoint)
        before = current_settings(checkpoint.get("options", {}))
        _say_changes(before, description.options)
        same_data = all(
            before.get(key) == description.options[key] for key in _DATA if key in before
        )
        run = cls._existing(path, checkpoint, description, *settings) if same_data else None
        if run:
            warn_of_unused_place(args, run.folder)
        run = run or cls.create(parent, args.name, description, *settings)
        if same_data:
            _check_position(path, checkpoint, before, description.options)
            run.position = position_of(checkpoint)
            run.history = list(checkpoint.get("history", []))
            run.last, run.best = checkpoint.get("last"), checkpoint.get("best")
            if run.history:  # its last row may be missing in the file
                run.save({LOG: run._log()})
        run._start = (checkpoint["epoch"], checkpoint["step"])
        if run.best is None and run.position is None:
            run.untested = ResumedFile.of(path, checkpoint)
        return run

    @classmethod
    def create(
        cls,
        parent: Path,
        name: str | None,
        description: RunDescription,
        snapshot: int,
        fallback: str | None = None,
        starts_again: bool = False,
    ) -> "RunFolder":
        """Make a new folder; its name is the time unless one is given.

        Args:
            starts_again: take the folder of a run that ended before its first checkpoint.

        Raises:
            UserError: the folder exists or cannot be made.
        """
        if not distributed.is_main():
            return cls(parent, description, snapshot)
        run = cls(_make_folder(parent, name, starts_again), description, snapshot, fallback)
        write_json(run.folder / OPTIONS, description.options)
        return run

    @classmethod
    def _existing(
        cls,
        path: Path,
        checkpoint: dict[str, Any],
        description: RunDescription,
        snapshot: int,
        fallback: str | None,
    ) -> "RunFolder | None":
        """The folder of a run in which a checkpoint lies; None where it lies elsewhere.

        Raises:
            UserError: the folder holds later epochs, which would be lost, or is in use.
        """
        folder = path.parent
        if "history" not in checkpoint or not (folder / OPTIONS).is_file():
            return None
        run = cls(folder, description, snapshot, fallback)
        newest = folder / LAST
        if path == newest:
            return run
        try:
            epoch = load_checkpoint(newest).get("epoch", 0)
        except UserError:  # missing or damaged: nothing would be lost
            epoch = 0
        if epoch > checkpoint["epoch"]:
            raise UserError(
                f"{path} is of epoch {checkpoint['epoch']} and its folder has gone on to "
                f"{epoch}: resume {newest}, or copy the file elsewhere to start from it"
            )
        return run

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.history[-1]["epoch"] if self.history else self._start[0]

    @property
    def step(self) -> int:
        """Steps done."""
        return self.history[-1]["step"] if self.history else self._start[1]

    def __enter__(self) -> "RunFolder":
        return self

    def start_of(self, epoch: int) -> Position:
        """Where the training of an epoch begins: inside it, where the run was stopped there."""
        if self.position and self.position.epoch == epoch:
            return self.position
        return Position(epoch, self.step)

    def __exit__(self, *_: object) -> None:
        if self.files:
            self.files.release()

    def describe_persons(self, persons: PersonStatistics) -> None:
        """Let the checkpoints that follow hold other statistics of the training persons."""
        self.description = replace(self.description, persons=persons.plain())

    def save(self, files: dict[str, bytes]) -> None:
        """Write files to the run's folder, see ``RunFiles.save``. After the last epoch the report
        says what could not be written; before, a warning does."""
        self.save_at({self.folder / name: content for name, content in files.items()})

    def save_at(self, files: dict[Path, bytes]) -> None:
        """As ``save``, of files that may lie elsewhere."""
        if self.files:
            is_over = self.epoch >= self.description.options.get("epochs", math.inf)
            self.files.save(files, warn=not is_over)

    def seconds(self) -> float:
        """Time spent on training and testing, all epochs together."""
        return sum(row["train_seconds"] + row["test_seconds"] for row in self.history)

    def start_from_file(
        self, lr: float, summary: dict[str, Any], training_state: dict[str, Any]
    ) -> None:
        """Take the weights that were resumed, tested before any epoch, for the best so far."""
        chosen_by = f"{self.untested.name} as it was resumed, tested before any further epoch"
        self.best = {"epoch": self.epoch, "chosen_by": chosen_by, **summary}
        self.untested = None
        if self.files:
            row = {"epoch": self.epoch, "step": self.step, "lr": lr, **summary}
            state = self._state(row, training_state)
            self.save({BEST: to_bytes(state | {"chosen_by": chosen_by})})

    def finish_epoch(
        self, trained: TrainedEpoch, summary: dict[str, Any], training_state: dict[str, Any]
    ) -> bool:
        """Record an epoch that was trained and tested: a row of the log, and its checkpoints.

        Returns:
            Whether it is the best so far.
        """
        row = {
            "epoch": trained.number,
            "step": trained.step,
            "lr": trained.lr,
            "loss": trained.loss,
            "mpjpe_mm": summary["mpjpe_mm"],
            "p_mpjpe_mm": summary["p_mpjpe_mm"],
            "train_seconds": trained.seconds,
            "test_seconds": time.perf_counter() - trained.ended,
        }
        if trained.skipped:
            row["skipped_steps"] = trained.skipped
        self.history.append(row)
        self.last = {"epoch": row["epoch"], "chosen_by": CHOSEN_BY[LAST], **summary}
        is_best = self.best is None or summary["mpjpe_mm"] < self.best["mpjpe_mm"]
        if is_best:
            self.best = {"epoch": row["epoch"], "chosen_by": CHOSEN_BY[BEST], **summary}
        if self.files:
            self.save(self._files_of_epoch(row, is_best, training_state))
            self.discard_step()
        return is_best

    def discard_step(self) -> None:
        """Remove the checkpoint inside an epoch that is over."""
        if self.files and self.files.is_saved(self.folder / LAST):
            self.files.remove(self.folder / STEP)

    def save_step(self, at: Position, training_state: dict[str, Any]) -> None:
        """Save a checkpoint inside an epoch.

        Args:
            training_state: with the position.
        """
        if not self.files:
            return
        chosen_by = f"batch {at.batches} of epoch {at.epoch} (no choice on test subjects)"
        row = {"epoch": self.epoch, "step": at.step, "lr": None, "mpjpe_mm": None}
        state = self._state(row, training_state)
        self.save({STEP: to_bytes(state | {"chosen_by": chosen_by})})

    def _state(self, row: dict[str, Any], training_state: dict[str, Any]) -> dict[str, Any]:
        """What every checkpoint holds, but for why it was chosen."""
        return {
            "epoch": row["epoch"],
            "step": row["step"],
            "lr": row["lr"],
            "error": row["mpjpe_mm"],
            **vars(self.description),
            **training_state,
            "history": self.history,
            "last": self.last,
            "best": self.best,
        }

    def _files_of_epoch(
        self, row: dict[str, Any], is_best: bool, training_state: dict[str, Any]
    ) -> dict[str, bytes]:
        """The log and the checkpoints of an epoch, in the order in which they are written."""
        state, files = self._state(row, training_state), {}
        if is_best:
            files[BEST] = to_bytes(state | {"chosen_by": CHOSEN_BY[BEST]})
        if self.snapshot and row["epoch"] % self.snapshot == 0:
            name = f"ckpt_epoch_{row['epoch']:03d}.pth.tar"
            files[name] = to_bytes(state | {"chosen_by": _SNAPSHOT})
        files[LAST] = to_bytes(state | {"chosen_by": CHOSEN_BY[LAST]})
        files[LOG] = self._log()
        return files

    def _log(self) -> bytes:
        stream = io.StringIO(newline="")
        columns = dict.fromkeys(name for row in self.history for name in row)
        writer = csv.DictWriter(stream, fieldnames=[*columns], restval=0)
        writer.writeheader()
        writer.writerows(self.history)
        return stream.getvalue().encode()


def _check_position(
    path: Path, checkpoint: dict[str, Any], before: dict[str, Any], now: dict[str, Any]
) -> None:
    """Refuse to go on inside an epoch whose batches would be others.

    Raises:
        UserError: the number of processes or a setting of the batches has changed.
    """
    if (count := processes_of(checkpoint)) is None:
        return
    changed = [f"--{key}" for key in _BATCHES if before.get(key) != now.get(key)]
    if count != distributed.world_size():
        changed.append(f"the number of processes ({count} before)")
    if changed:
        last = path.with_name(LAST)
        remedy = f"resume {last}, the last whole epoch" if last.is_file() else "start a new run"
        raise UserError(
            f"{path} is inside an epoch, whose batches change with {' and '.join(changed)}: "
            f"{remedy}, or leave them as they were"
        )


def _lacks_report(folder: Path, checkpoint: dict[str, Any]) -> bool:
    """Whether a run was cut off between its last epoch and the end of its report. The results may
    be those of an earlier end, before the run went on."""
    if not checkpoint.get("history") or not (folder / OPTIONS).is_file():
        return False
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["results"]
        reported = results["last"]["epoch"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return True
    there = all((folder / name).exists() for name in (LOG, *PICTURES))
    return not there or reported != checkpoint["epoch"]


def _say_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [
        f"{key} {before[key]} -> {now[key]}" for key in before if before[key] != now.get(key)
    ]
    if changes:
        print(f"resuming with changed settings: {', '.join(changes)}")
