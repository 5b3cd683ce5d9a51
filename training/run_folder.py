"""A run's folder: options, log, checkpoints, and the state that lets it be resumed.

options.json          the flags
log.csv               a row an epoch
ckpt_last.pth.tar     after the newest epoch; resume from it
ckpt_best.pth.tar     the lowest MPJPE on the test subjects so far
ckpt_epoch_025.pth.tar  every --snapshot epochs
results.json, curves.png, poses.png   written at the end
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import atomic_write
from training import distributed
from training.checkpoint import Source, load_checkpoint, save_checkpoint
from training.engine import TrainedEpoch, Training
from training.run_flags import warn_of_unused_place
from training.settings import current_settings, settings_of
from training.training_state import restore_training_state

ROOT = Path(__file__).resolve().parents[1]
LAST, BEST, RESULTS = "ckpt_last.pth.tar", "ckpt_best.pth.tar", "results.json"
CHOSEN_BY = {
    LAST: "last epoch (no choice on test subjects)",
    BEST: "lowest MPJPE on the test subjects",
}
# Settings of the data that are tested on.
_DATA = ("dataset", "keypoints", "actions", "joints", "downsample")
_SNAPSHOT = "fixed epoch (no choice on test subjects)"


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _make_folder(parent: Path, name: str | None) -> Path:
    """A new folder of this name, or of the time: runs that start in one second get numbers."""
    now = time.strftime("%Y-%m-%dT%H-%M-%S")
    for stem in [name] if name else [now, *(f"{now}_{number}" for number in range(2, 100))]:
        folder = parent / stem
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make {folder}: {error.strerror}") from error
    raise UserError(f"{folder} exists: give another --name")


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
    """

    model: dict[str, Any]
    dataset: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(
        cls, args: argparse.Namespace, model: dict[str, Any], subjects: Sequence[str]
    ) -> "RunDescription":
        """
        Args:
            model: the arguments of the network.
            subjects: trained on.
        """
        data = {"name": args.dataset, "keypoints": args.keypoints, "train_subjects": list(subjects)}
        return cls(model, data, settings_of(args))


class RunFolder:
    """The records of one training run. Of several processes, only the main one writes.

    Attributes:
        folder: where it writes.
        description: what every checkpoint says of itself: model, dataset, options.
        history: the rows of the log so far.
        last, best: {"epoch": n, "chosen_by": text} and the summary of that epoch's test.
        untested: the file that was resumed, where it does not say what its best is: its weights,
            once they are tested, are the best so far (``start_from_file``).
    """

    def __init__(self, folder: Path, description: RunDescription, snapshot: int) -> None:
        self.folder = folder
        self.description = description
        self.snapshot = snapshot
        self.history: list[dict[str, Any]] = []
        self.last: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
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
        parent = Path(args.checkpoint) if args.checkpoint else ROOT / "checkpoint"
        if source is None:
            return cls.create(parent, args.name, description, args.snapshot)
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
        run = cls._existing(path, checkpoint, description, args.snapshot) if same_data else None
        if run:
            warn_of_unused_place(args, run.folder)
        run = run or cls.create(parent, args.name, description, args.snapshot)
        if same_data:
            run.history = list(checkpoint.get("history", []))
            run.last, run.best = checkpoint.get("last"), checkpoint.get("best")
        run._start = (checkpoint["epoch"], checkpoint["step"])
        if run.best is None:
            run.untested = ResumedFile.of(path, checkpoint)
        return run

    @classmethod
    def create(
        cls, parent: Path, name: str | None, description: RunDescription, snapshot: int
    ) -> "RunFolder":
        """Make a new folder; its name is the time unless one is given.

        Raises:
            UserError: the folder exists or cannot be made.
        """
        if not distributed.is_main():
            return cls(parent, description, snapshot)
        run = cls(_make_folder(parent, name), description, snapshot)
        write_json(run.folder / "options.json", description.options)
        return run

    @classmethod
    def _existing(
        cls, path: Path, checkpoint: dict[str, Any], description: RunDescription, snapshot: int
    ) -> "RunFolder | None":
        """The folder of a run in which a checkpoint lies; None where it lies elsewhere.

        Raises:
            UserError: the folder holds later epochs, which would be lost.
        """
        folder = path.parent
        if "history" not in checkpoint or not (folder / "options.json").is_file():
            return None
        newest = folder / LAST
        epoch = load_checkpoint(newest)["epoch"] if newest.is_file() else 0
        if epoch > checkpoint["epoch"]:
            raise UserError(
                f"{path} is of epoch {checkpoint['epoch']} and its folder has gone on to "
                f"{epoch}: resume {newest}, or copy the file elsewhere to start from it"
            )
        return cls(folder, description, snapshot)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.history[-1]["epoch"] if self.history else self._start[0]

    @property
    def step(self) -> int:
        """Steps done."""
        return self.history[-1]["step"] if self.history else self._start[1]

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / LAST

    @contextmanager
    def say_how_to_resume(self) -> Iterator[None]:
        """After Ctrl-C, print the flag that goes on from the last whole epoch."""
        try:
            yield
        except KeyboardInterrupt:
            if self.history:
                print(f"\nstopped; to go on: --resume {self.last_checkpoint}")
            else:
                print(f"\nstopped before the first epoch ended: {self.folder} has no checkpoint")
            raise

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
        if distributed.is_main():
            row = {"epoch": self.epoch, "step": self.step, "lr": lr, **summary}
            state = self._state(row, training_state)
            save_checkpoint(self.folder / BEST, state | {"chosen_by": chosen_by})

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
        self.history.append(row)
        self.last = {"epoch": row["epoch"], "chosen_by": CHOSEN_BY[LAST], **summary}
        is_best = self.best is None or summary["mpjpe_mm"] < self.best["mpjpe_mm"]
        if is_best:
            self.best = {"epoch": row["epoch"], "chosen_by": CHOSEN_BY[BEST], **summary}
        if distributed.is_main():
            self._save(row, is_best, training_state)
        return is_best

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

    def _save(self, row: dict[str, Any], is_best: bool, training_state: dict[str, Any]) -> None:
        state = self._state(row, training_state)
        if is_best:
            save_checkpoint(self.folder / BEST, state | {"chosen_by": CHOSEN_BY[BEST]})
        if self.snapshot and row["epoch"] % self.snapshot == 0:
            path = self.folder / f"ckpt_epoch_{row['epoch']:03d}.pth.tar"
            save_checkpoint(path, state | {"chosen_by": _SNAPSHOT})
        save_checkpoint(self.folder / LAST, state | {"chosen_by": CHOSEN_BY[LAST]})
        self._write_log()

    def _write_log(self) -> None:
        with (
            atomic_write(self.folder / "log.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, fieldnames=list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)


def _lacks_report(folder: Path, checkpoint: dict[str, Any]) -> bool:
    """Whether a run was cut off between its last epoch and its results."""
    is_run = bool(checkpoint.get("history")) and (folder / "options.json").is_file()
    return is_run and not (folder / RESULTS).exists()


def _say_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [
        f"{key} {before[key]} -> {now[key]}" for key in before if before[key] != now.get(key)
    ]
    if changes:
        print(f"resuming with changed settings: {', '.join(changes)}")
