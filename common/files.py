"""Writing files so that a reader sees the old file or the whole new one, never a part."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes the name, else it is removed.

    The temporary name keeps the suffix, since writers such as ``numpy.savez`` look at it.

    Raises:
        UserError: the file cannot be written (folder missing, no permission, disk full).
    """
    path = Path(path)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(paths: Iterable[Path], force: bool) -> None:
    """Stop before an output that is there already would be replaced unasked.

    Raises:
        UserError: one of the paths exists, and ``force`` is false.
    """
    for path in paths:
        if path.exists() and not force:
            raise UserError(f"{path} exists: --force replaces it")
