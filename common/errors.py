"""How the program speaks of bad input: one line that names the thing and the remedy, status 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input from outside (a file, a flag). The message names the thing and the remedy."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; a :class:`UserError` becomes one line on stderr and status 2."""
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who read the output has gone, as head does
        sys.stdout = None  # else the interpreter would try to write what is left
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        sys.exit(130)
