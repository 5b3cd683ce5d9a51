"""A script of the project in a process of its own that gets a signal, or kills itself.

    python -m tests.faults.child SCRIPT FLAGS       with the environment variable FAULT, one of

    kill time S      SIGKILL S seconds after the training has begun
    kill event N     SIGKILL at the N-th file that the training opens to write, renames or removes
    kill half N      SIGKILL when half of its N-th file is written
    term step N      SIGTERM in the loss of its N-th step
    full N           no file can be written after N bytes in all

In a job of several processes only the one of rank FAULT_RANK has the fault. The time of each step
is appended to the file STEPS.
"""

import errno
import importlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from common.errors import run_script
from training import between_steps, distributed, report

_EVENTS = ("open", "os.rename", "os.remove")


def main() -> None:
    script, *flags = sys.argv[1:]
    # Drawing takes most of the time.
    report.save_curves = report._draw_poses = lambda path, *args: path.touch()
    torch.set_num_threads(1)
    module = importlib.import_module(script.removesuffix(".py"))
    fault = os.environ.get("FAULT", "")
    if os.environ.get("RANK", "0") != os.environ.get("FAULT_RANK", "0"):
        fault = ""
    module.build_training = partial(_with_fault, module, module.build_training, fault)
    if path := os.environ.get("STEPS"):
        _log_steps(path)
    run_script(distributed.as_process_of_job(lambda: module.main(flags)))


def _with_fault(module: ModuleType, build: Callable, fault: str, *arguments: Any) -> Any:
    """Build the training; the fault counts from here."""
    *what, moment = fault.split() or [""]
    match what:
        case ["kill", "time"]:
            timer = threading.Timer(float(moment), _die)
            timer.daemon = True
            timer.start()
        case ["kill", "event"]:
            sys.addaudithook(partial(_die_at_event, itertools.count(1), int(moment)))
        case ["kill", "half"]:
            _die_in_write(int(moment))
        case ["full"]:
            _fill_disk(int(moment))
        case ["term", "step"]:
            module.loss_of = partial(_signalled, module.loss_of, int(moment))
    return build(*arguments)


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_event(count: itertools.count, number: int, event: str, arguments: tuple) -> None:
    if event not in _EVENTS:
        return
    mode = arguments[1] if event == "open" else "w"
    if isinstance(mode, str) and set(mode) & set("wax+") and next(count) == number:
        _die()


def _die_in_write(number: int) -> None:
    write, count = Path.write_bytes, itertools.count(1)

    def write_half_at_last(path: Path, content: bytes) -> int:
        if next(count) == number:
            write(path, content[: len(content) // 2])
            _die()
        return write(path, content)

    Path.write_bytes = write_half_at_last


def _fill_disk(free: int) -> None:
    write, left = Path.write_bytes, [free]

    def write_what_fits(path: Path, content: bytes) -> int:
        fits = content[: max(left[0], 0)]
        left[0] -= len(content)
        write(path, fits)
        if len(fits) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return len(content)

    Path.write_bytes = write_what_fits


def _signalled(loss_of: Callable, step: int, *arguments: Any) -> Callable:
    loss, steps = loss_of(*arguments), itertools.count(1)

    def signalled(batch: Any) -> torch.Tensor:
        if next(steps) == step:
            signal.raise_signal(signal.SIGTERM)
        return loss(batch)

    return signalled


def _log_steps(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    after_step = between_steps.BetweenSteps.after_step

    def logged(self: Any, at: Any) -> None:
        os.write(file, f"{at.step} {time.time()}\n".encode())
        after_step(self, at)

    between_steps.BetweenSteps.after_step = logged


if __name__ == "__main__":
    main()
