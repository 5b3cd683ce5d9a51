"""Files are written whole or not at all, and no file is replaced unasked.

A file is first written under a temporary name, ``.PID.partial.NAME``, and then renamed: a reader
sees the old file or the complete new one, also after the machine lost its power.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError

_PARTIAL = re.compile(r"\.(\d+)\.partial\..+")


@contextmanager
def os_errors_as_user_errors(what: str) -> Iterator[None]:
    """Raise an ``OSError`` as the :class:`UserError` "cannot <what>: <reason>"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {what}: {error.strerror or error}") from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` on success, and else removed.

    The temporary file is in the folder of ``path``; the folder is created if it does not exist. The
    name keeps the suffix of ``path``, since some writers choose the format by it.

    Raises:
        UserError: the file cannot be written (folder missing, no permission, disk full).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        with os_errors_as_user_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("r+b") as file:  # a rename may reach the disk before the content
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):  # it would hide the first error
            partial.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Have the names of a folder written to the disk, where the system can do that."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def check_writable(folder: Path) -> None:
    """Try to write in a folder, or in its nearest parent if it does not exist. Nothing is left.

    Raises:
        UserError: no file can be written there.
    """
    with os_errors_as_user_errors(f"write in {folder}"):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))


def is_partial(name: str) -> bool:
    """Whether a file of this name is one that ``atomic_write`` had not finished."""
    return _PARTIAL.fullmatch(name) is not None


def clear_partials(folder: Path) -> None:
    """Remove the temporary files that dead processes left in a folder."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _PARTIAL.fullmatch(path.name)
            if match and not _is_other_process(int(match[1])):
                with suppress(OSError):  # Windows does not remove a file that is open
                    path.unlink()


def _is_other_process(pid: int) -> bool:
    """Whether a process of this number runs and is not this one. On Windows nobody is asked:
    a signal of 0 would not be a question there."""
    if pid == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def refuse_existing(
    outputs: Iterable[Path], force: bool, inputs: Sequence[str | Path] = ()
) -> None:
    """Refuse to overwrite files, unless ``force`` is true; an input is never overwritten.

    Args:
        inputs: what the call reads.

    Raises:
        UserError: an output is an input or another output, or exists and ``force`` is false.
    """
    taken = [Path(path) for path in inputs]
    for path in outputs:
        if any(_is_same(path, other) for other in taken):
            raise UserError(f"{path} is an input of this call, or named twice: give another output")
        if path.exists() and not force:
            raise UserError(f"{path} exists: --force replaces it")
        taken.append(path)


def _is_same(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, through links too."""
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
