"""Locks of folders: who has one, and when it ends."""

import ast
import os
import subprocess
import sys
import types

import pytest

from common import lock
from common.lock import FolderLock, InUseError, holder
from tests.conftest import ROOT


def test_the_second_is_told_who_has_the_folder(tmp_path):
    assert holder(tmp_path) is None and holder(tmp_path / "none") is None
    with FolderLock(tmp_path) as first:
        with pytest.raises(InUseError, match=f"another sweep runs in {tmp_path}") as error:
            FolderLock(tmp_path, "another sweep")
        assert f"process {os.getpid()} on " in str(error.value) and ", since 20" in str(error.value)
        assert holder(tmp_path).startswith(f"process {os.getpid()} on ")
        assert not first.is_taken()
        (tmp_path / ".lock").write_text("process 1 on another")
        assert first.is_taken()
    assert holder(tmp_path) is None
    FolderLock(tmp_path).release()


def test_a_killed_process_holds_nothing(tmp_path):
    program = f"""
from pathlib import Path
from common.lock import FolderLock
lock = FolderLock(Path({str(tmp_path)!r}))
print("locked", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"locked\n"
    assert f"process {process.pid} " in holder(tmp_path)
    process.kill()
    process.communicate()
    FolderLock(tmp_path).release()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def unsupported(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "_lock", unsupported)
    FolderLock(tmp_path).release()
    assert "cannot be locked (Operation not supported)" in capsys.readouterr().err


def test_windows_locks_a_byte_beyond_what_others_read(tmp_path, monkeypatch):
    locked = []

    def locking(number, mode, count):
        locked.append((os.lseek(number, 0, os.SEEK_CUR), mode, count))
        if len(locked) > 1:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    with FolderLock(tmp_path), pytest.raises(InUseError, match=f"process {os.getpid()} on "):
        FolderLock(tmp_path)
    assert locked == [(1 << 30, 2, 1)] * 2


def test_nothing_imports_at_its_start_what_windows_lacks():
    for path in (p for room in ("", "common", "data", "models", "training", "tools")
                 for p in (ROOT / room).glob("*.py")):  # fmt: skip
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"fcntl", "msvcrt"}, path
