"""Atomic writes: a reader sees the old file or the complete new one, never a part of it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` on success, and else removed.

    The temporary file is in the folder of ``path``; the folder is created if it does not exist. The
    name keeps the suffix of ``path``, since writers such as ``numpy.savez`` depend on it.

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
    """Refuse to overwrite output files, unless ``force`` is true.

    Raises:
        UserError: one of the paths exists, and ``force`` is false.
    """
    for path in paths:
        if path.exists() and not force:
            raise UserError(f"{path} exists: --force replaces it")
