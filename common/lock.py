"""One process at a time uses a folder: a lock that the system drops when its process ends."""

import os
import socket
import sys
import time
from io import FileIO
from pathlib import Path

from common.errors import UserError
from common.files import os_errors_as_user_errors

LOCK = ".lock"
_FAR = 1 << 30  # the byte that Windows locks: others could not read one of the content


class InUseError(UserError):
    """Another process has locked a folder.

    Attributes:
        holder: which one, as its lock file says.
    """

    def __init__(self, folder: Path, who: str, holder: str) -> None:
        super().__init__(f"{who} runs in {folder} ({holder}): wait until it ends")
        self.holder = holder


class FolderLock:
    """The file ``.lock`` of a folder, locked. It says which process on which host has locked it,
    since when. It stays when the lock is released: removing it would race with the next process.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: Path, who: str = "another run") -> None:
        """
        Args:
            who: has the lock, if it is not free, for the message.

        Raises:
            InUseError: another process has it.
            UserError: the lock file cannot be made.
        """
        self.path = folder / LOCK
        self._file = _open_locked(self.path, who)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._owner = f"process {os.getpid()} on {socket.gethostname()}, since {now}"
        with os_errors_as_user_errors(f"lock {folder}"):
            self._file.truncate(0)
            self._file.write(self._owner.encode())

    def is_taken(self) -> bool:
        """Whether another process has the lock: the folder was removed and is another one now."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace") != self._owner
        except OSError:
            return False

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(folder: Path) -> str | None:
    """Which process has locked a folder; None if none has, or there is no such folder.

    Raises:
        UserError: the lock file cannot be opened.
    """
    if not (folder / LOCK).exists():
        return None
    try:
        _open_locked(folder / LOCK, "another run").close()
    except InUseError as error:
        return error.holder
    return None


def _open_locked(path: Path, who: str) -> FileIO:
    """Open and lock a lock file; a file system without locks is warned of and left unlocked."""
    with os_errors_as_user_errors(f"lock {path.parent}"):
        file = path.open("a+b", buffering=0)
    try:
        _lock(file)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        found = " ".join(file.read(200).decode(errors="replace").split()) or "a process"
        file.close()
        raise InUseError(path.parent, who, found) from error
    except OSError as error:
        reason = error.strerror or error
        print(f"warning: {path.parent} cannot be locked ({reason}): use it once", file=sys.stderr)
    return file


def _lock(file: FileIO) -> None:
    """Lock a file against other processes, or raise at once where it is locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
