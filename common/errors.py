"""Errors of bad input: one line on stderr that names the thing and the remedy, exit status 2."""

import errno
import sys
from collections.abc import Callable

# A disk that takes no more, also where only the printed lines go to it.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class UserError(Exception):
    """Bad input, such as a file or a flag. The message names the thing and the remedy."""


class SignalledError(Exception):
    """A signal asked the process to end, and it has saved what it had to.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``, and end the process if it fails in an expected way.

    A :class:`UserError` is printed as one line on stderr, exit status 2. Ctrl-C ends with status
    130, :class:`SignalledError` with 128 plus the number, and a closed output pipe with status 1.
    An error of the system about a file is one line too, exit status 2. Other exceptions propagate.
    """
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()  # else its errors would come when nobody handles them
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except SignalledError as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signum)
    except BrokenPipeError:  # the reader of the output has ended, as head does
        sys.stdout = None  # else the interpreter would try to write the rest of the output
        sys.exit(1)
    except OSError as error:
        if error.errno in _FULL:
            sys.stdout = None
            where = f"cannot write {error.filename or 'the output'}"
        elif error.filename is not None:
            where = f"cannot use {str(error.filename)[:200]}"
        else:
            raise
        print(f"error: {where}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        sys.exit(130)
