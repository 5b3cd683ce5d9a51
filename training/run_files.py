"""Writing the files of a run. Where that fails, the training goes on and they are tried again."""

import sys
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from common.files import clear_partials, os_errors_as_user_errors, write_bytes
from common.lock import FolderLock
from training.find_run import BEST, LAST, LOG, OPTIONS, STEP

# What a copy of a run needs to be resumed and tested.
_COPIED = (OPTIONS, LOG, LAST, BEST, STEP)


def make_folder(parent: Path, stems: list[str]) -> Path:
    """Make a folder of the first of these names that is free.

    Raises:
        UserError: there is none, or it cannot be made.
    """
    for stem in stems:
        folder = parent / stem
        with os_errors_as_user_errors(f"make {folder}"), suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise UserError(f"{folder} exists: give another --name, or --resume auto to go on with it")


class RunFiles:
    """Writes to the folder of a run, which it has locked, and elsewhere what belongs to the run.

    Attributes:
        folder: of the run.
        fallback: where copies go while the run's folder cannot be written; None keeps none.
    """

    def __init__(self, folder: Path, fallback: Path | None = None) -> None:
        """
        Raises:
            UserError: another process uses the folder, or it cannot be written.
        """
        self.folder, self.fallback = folder, fallback
        self._lock = FolderLock(folder)
        clear_partials(folder)
        self._unsaved: dict[Path, bytes] = {}
        self._failure: UserError | None = None
        self._copy: RunFiles | None = None  # made at the first failure
        self._copied = False

    @property
    def resumable_folder(self) -> Path:
        """The run's folder, or that of its copy, where only that has the newest checkpoint."""
        unsaved = any(self.folder / name in self._unsaved for name in (STEP, LAST))
        return self._copy.folder if unsaved and self._copied else self.folder

    def save(self, files: dict[Path, bytes], warn: bool = True) -> None:
        """Write files, and those that could not be written before. Where that fails, they are kept
        for the next call, a warning says why, and copies of the run go to the fallback folder.

        Args:
            warn: False leaves it to ``check_saved`` to say so.

        Raises:
            UserError: the run's folder was removed, or replaced by another.
        """
        self._unsaved |= files
        gone = self._is_gone()
        if gone:
            self._failure = UserError(f"{self.folder} was removed while its run was going on")
        else:
            self._failure = self._write_unsaved()
        if self._failure is None:
            return
        copied = self._write_copies(files)
        if gone:
            raise UserError(f"{self._failure}{copied or ': start it again'}")
        if warn:
            print(
                f"warning: {self._failure}; the next save tries it again{copied}", file=sys.stderr
            )

    def _is_gone(self) -> bool:
        """Whether the folder is not this run's any more. One that cannot be read may come back."""
        try:
            (self.folder / OPTIONS).stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return self._lock.is_taken()

    def _write_unsaved(self) -> UserError | None:
        """Write what was not, and give the first failure."""
        first = None
        for path, content in [*self._unsaved.items()]:
            try:
                write_bytes(path, content)
                del self._unsaved[path]
            except UserError as error:
                first = first or error
        return first

    def _write_copies(self, files: dict[Path, bytes]) -> str:
        """Write these files, those unsaved and what resuming needs to the fallback folder; gives
        the end of a message on that."""
        if self.fallback is None:
            return ""
        copies = {path.name: content for path, content in (files | self._unsaved).items()}
        for name in _COPIED:
            with suppress(OSError):
                if name not in copies:
                    copies[name] = (self.folder / name).read_bytes()
        try:
            if self._copy is None:
                stem = self.folder.name
                stems = [stem, *(f"{stem}_{number}" for number in range(2, 100))]
                self._copy = RunFiles(make_folder(self.fallback, stems))
            for name, content in copies.items():
                write_bytes(self._copy.folder / name, content)
        except UserError as error:
            self._copied = False
            return f"; nor is there a copy: {error}"
        self._copied = True
        return f"; a copy of the run is in {self._copy.folder}"

    def is_saved(self, path: Path) -> bool:
        return path not in self._unsaved and path.exists()

    def remove(self, path: Path) -> None:
        """Remove a file that another has replaced, and its copy."""
        self._unsaved.pop(path, None)
        copies = [self._copy.folder / path.name] if self._copy else []
        for old in (path, *copies):
            with suppress(OSError):
                old.unlink(missing_ok=True)

    def check_saved(self) -> None:
        """
        Raises:
            UserError: some files are not written.
        """
        if self._unsaved:
            names = ", ".join(path.name for path in self._unsaved)
            where = f"; a copy of the run is in {self._copy.folder}" if self._copied else ""
            raise UserError(f"{self._failure}; not saved at the end of the run: {names}{where}")

    def release(self) -> None:
        """Unlock the folders."""
        self._lock.release()
        if self._copy:
            self._copy.release()
