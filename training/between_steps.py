"""Between two steps of a training: a save every few minutes, and a stop that loses nothing."""

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from common.errors import SignalledError, UserError
from training import distributed
from training.engine import NotFiniteError, Position, Training
from training.not_finite import report_not_finite
from training.run_folder import RunFolder
from training.training_state import training_state

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Several processes compare what they have to do after every so many steps: it costs a message.
_COMPARE_EVERY = 10
_NOTHING, _SAVE = 0, 1  # what there is to do; larger numbers are signals


class BetweenSteps:
    """Saves a training every few minutes, and stops it after a signal.

    Used as a context around the epochs. SIGINT (Ctrl-C) and SIGTERM let the current step end; then
    the training is saved, and :class:`SignalledError` ends the script with the command that goes
    on. A second signal ends the process at once. Of several processes, all stop after the same
    step, which is one of every ten. They finish a test before they stop.
    """

    def __init__(
        self,
        run: RunFolder,
        training: Training,
        minutes: float,
        command: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            minutes: between two saves inside an epoch; 0 saves only after a signal.
            command: the script and its flags but for --resume, to say how the run goes on.
            clock: gives the time in seconds.
        """
        self._run, self._training, self._command = run, training, command
        self._seconds, self._clock = 60 * minutes, clock
        self._saved_at = clock()
        self._signal = 0
        self._at: Position | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "BetweenSteps":
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) != signal.SIG_IGN:
                    self._handlers[signum] = signal.signal(signum, self._note_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore_handlers()
        if isinstance(error, NotFiniteError):
            raise UserError(report_not_finite(error, self._run, self._training)) from error

    def after_step(self, at: Position) -> None:
        """Save or stop, if it is time.

        Raises:
            SignalledError: the process was asked to end, and the training is saved.
        """
        self._at = at
        if distributed.world_size() > 1 and at.batches % _COMPARE_EVERY:
            return
        self._act(distributed.greatest(self._to_do()))

    def in_test(self) -> None:
        """Stop inside a test, where this is the only process. The network is as at the test's
        start, so the test is made again when the run goes on.

        Raises:
            SignalledError: as :meth:`after_step`.
        """
        if self._signal and distributed.world_size() == 1:
            self._act(self._signal)

    def after_epoch(self) -> None:
        """Stop after an epoch that is recorded.

        Raises:
            SignalledError: the process was asked to end.
        """
        self._saved_at = self._clock()
        if signum := distributed.greatest(self._signal):
            self._stop(signum)

    def _to_do(self) -> int:
        if self._signal:
            return self._signal
        is_due = self._seconds and self._clock() - self._saved_at >= self._seconds
        return _SAVE if is_due and distributed.is_main() else _NOTHING

    def _act(self, to_do: int) -> None:
        if to_do == _NOTHING:
            return
        self._run.save_step(self._at, training_state(self._training, self._at))
        self._saved_at = self._clock()
        if to_do != _SAVE:
            distributed.greatest(0)  # no process ends before the main one has saved
            self._stop(to_do)

    def _stop(self, signum: int) -> None:
        count = distributed.world_size()
        start = ["python"] if count == 1 else ["torchrun", f"--nproc_per_node={count}"]
        folder = self._run.folder
        if files := self._run.files:
            folder = files.resumable_folder
            if folder == self._run.folder:
                files.check_saved()
        command = shlex.join([*start, *self._command, "--resume", str(folder.absolute())])
        raise SignalledError(signum, f"stopped and saved; to go on: {command}")

    def _note_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum
        self._restore_handlers()
        if distributed.is_main():  # print could meet a print that the signal interrupted
            os.write(2, b"\nstopping after this step; a second signal stops at once\n")

    def _restore_handlers(self) -> None:
        while self._handlers:
            signum, handler = self._handlers.popitem()
            signal.signal(signum, handler)
