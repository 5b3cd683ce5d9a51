"""A run's folder: options, log, checkpoints, and the state that lets it be resumed.

options.json          the flags
log.csv               a row an epoch
ckpt_last.pth.tar     after the newest epoch; resume from it
ckpt_best.pth.tar     the lowest MPJPE on the test subjects so far
ckpt_epoch_025.pth.tar  every --snapshot epochs
results.json, curves.png, poses.png   written at the end
"""

import csv
import json
import math
import time
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from common import distributed
from common.checkpoint import load_checkpoint, save_checkpoint
from common.errors import UserError
from common.files import atomic_write

LAST, BEST, RESULTS = "ckpt_last.pth.tar", "ckpt_best.pth.tar", "results.json"
CHOSEN_BY = {
    LAST: "last epoch (no choice on test subjects)",
    BEST: "lowest MPJPE on the test subjects",
}
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


class Run:
    """The records of one training run. Of several processes, only the main one writes.

    Attributes:
        folder: where it writes.
        description: what every checkpoint says of itself: model, dataset, options.
        history: the rows of the log so far.
        last, best: {"epoch": n, "chosen_by": text} and the summary of that epoch's test.
        untested: the file that was resumed, where it does not say what its best is: its weights,
            once they are tested, are the best so far (``start_from_file``).
    """

    def __init__(self, folder: Path, description: dict[str, Any], snapshot: int) -> None:
        self.folder = folder
        self.description = description
        self.snapshot = snapshot
        self.history: list[dict[str, Any]] = []
        self.last: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.untested: ResumedFile | None = None
        self._start = (0, 0)

    @classmethod
    def create(
        cls, parent: Path, name: str | None, description: dict[str, Any], snapshot: int
    ) -> "Run":
        """Make a new folder; its name is the time unless one is given.

        Raises:
            UserError: the folder exists or cannot be made.
        """
        if not distributed.is_main():
            return cls(parent, description, snapshot)
        run = cls(_make_folder(parent, name), description, snapshot)
        write_json(run.folder / "options.json", description["options"])
        return run

    @classmethod
    def resume(
        cls,
        path: Path,
        checkpoint: dict[str, Any],
        parent: Path,
        name: str | None,
        description: dict[str, Any],
        snapshot: int,
    ) -> "Run":
        """Go on in the checkpoint's own folder, or in a new one if it does not lie in a run's.

        Raises:
            UserError: the folder holds later epochs, which would be lost.
        """
        folder = path.parent
        if "history" not in checkpoint or not (folder / "options.json").is_file():
            run = cls.create(parent, name, description, snapshot)
        else:
            newest = folder / LAST
            epoch = load_checkpoint(newest)["epoch"] if newest.is_file() else 0
            if epoch > checkpoint["epoch"]:
                raise UserError(
                    f"{path} is of epoch {checkpoint['epoch']} and its folder has gone on to "
                    f"{epoch}: resume {newest}, or copy the file elsewhere to start from it"
                )
            run = cls(folder, description, snapshot)
        run.history = list(checkpoint.get("history", []))
        run.last, run.best = checkpoint.get("last"), checkpoint.get("best")
        run._start = (checkpoint["epoch"], checkpoint["step"])
        if run.best is None:
            run.untested = ResumedFile.of(path, checkpoint)
        return run

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
        self, row: dict[str, Any], summary: dict[str, Any], training_state: dict[str, Any]
    ) -> bool:
        """Record an epoch: the log, the checkpoints that it earns. True if it is the best yet."""
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
            **self.description,
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
