"""Imported by each script before any package: from then on, what ends its imports is one line.

``common.errors.run_script`` does the same for the script's ``main``, which follows the imports.
"""

import sys
from types import TracebackType

_PACKAGES = ("torch", "numpy", "matplotlib", "tqdm")  # of requirements.txt
_before = sys.excepthook


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a line for Ctrl-C, status 130, and for a package that is missing, status 2."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped by the user", file=sys.stderr)
        sys.exit(130)
    if issubclass(kind, ModuleNotFoundError) and error.name in _PACKAGES:
        print(f"error: {error.name} is missing: pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)
    _before(kind, error, trace)


sys.excepthook = _one_line

import numpy  # noqa: E402, F401  before torch, which prints a warning where numpy is missing
