"""Atomic writes, partial files, and what is never replaced."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import predict
from common.errors import UserError
from common.files import atomic_write, check_writable, clear_partials, refuse_existing, write_bytes
from data.npz_io import save_object_arrays
from models.build import build_model
from training.checkpoint import save_checkpoint


@pytest.fixture
def full_disk():
    """No file grows beyond 8 KiB: writing more fails with "File too large"."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(path, bytes(9000)),
        lambda path: save_checkpoint(path, {"x": torch.zeros(9000)}),
        lambda path: save_object_arrays(path, x=np.random.default_rng(0).normal(size=9000)),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(full_disk, tmp_path, write):
    path = tmp_path / "file.npz"
    path.write_text("old")
    with pytest.raises(UserError, match=f"cannot write {path}: File too large"):
        write(path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.npz"]


def test_a_file_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("flushed"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda *a: (done.append("renamed"), replace(*a)))
    write_bytes(tmp_path / "a", b"new")
    assert done == ["flushed", "renamed", "flushed"]  # the last is the folder


def test_cleaning_up_does_not_hide_the_first_error(tmp_path, monkeypatch):
    def unlink(*args, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(UserError, match="No space left"), atomic_write(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_a_full_disk_under_the_printed_lines_is_one_line(call, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # the script leaves it closed

    def main(argv):
        raise OSError(28, "No space left on device")

    status, _, err = call(main)
    assert (status, err) == (2, "error: cannot write the output: No space left on device\n")


def test_a_folder_is_not_written_as_a_file(tmp_path):
    for path in (tmp_path, "/", "."):
        with pytest.raises(UserError, match="is a folder"), atomic_write(path):
            pass


def test_only_the_partial_files_of_dead_processes_are_cleared(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = f".{os.getppid()}.partial.x"
    for name in (f".{dead.pid}.partial.a", f".{os.getpid()}.partial.b", alive,
                 f".{10**30}.partial.c", "x.partial.y", "mine"):  # fmt: skip
        (tmp_path / name).touch()
    clear_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive, "x.partial.y", "mine"}


def test_whether_a_folder_can_be_written_is_tried_without_a_trace(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory"):
        check_writable(tmp_path / "file" / "b")


def test_an_input_is_no_output_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "in"
    source.touch()
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    for output in (source, Path("in"), Path("x/../in"), Path("soft"), Path("hard")):
        with pytest.raises(UserError, match="input of this call"):
            refuse_existing([output], True, [source])
    with pytest.raises(UserError, match="named twice"):
        refuse_existing([Path("new"), tmp_path / "new"], True)
    refuse_existing([Path("new"), Path("other")], False, [source])


@pytest.fixture
def lift(call, tmp_path):
    arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1}
    torch.save({"state_dict": build_model(arguments).state_dict()}, tmp_path / "c.pth")
    np.save(tmp_path / "k.npy", 10 + np.arange(64.0).reshape(2, 16, 2))
    size = ("--size", 100, 100, "--format", "h36m16", "--weights", tmp_path / "c.pth")
    return lambda *flags: call(predict.main, tmp_path / "k.npy", *size, "--force", *flags)


def test_predictions_replace_neither_keypoints_nor_weights(lift, tmp_path):
    (tmp_path / "k.npz").symlink_to(tmp_path / "k.npy")
    (tmp_path / "c.npz").hardlink_to(tmp_path / "c.pth")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for flags in (
        ("-o", tmp_path / "k.npz"),
        ("-o", tmp_path / "c.npz"),
        ("-o", tmp_path / "new.npz", "--picture", tmp_path / "new.npz"),
    ):
        status, _, err = lift(*flags)
        assert status == 2 and err.count("\n") == 1 and err.startswith("error: "), flags
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_predictions_without_a_suffix_go_where_numpy_puts_them(lift, tmp_path):
    status, out, err = lift("-o", tmp_path / "poses")
    assert (status, err) == (0, "") and f"{tmp_path / 'poses.npz'}:" in out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"c.pth", "k.npy", "poses.npz"}
    (tmp_path / "file").touch()
    status, _, err = lift("-o", tmp_path / "file" / "poses.npz")
    assert status == 2 and "Not a directory" in err and err.count("\n") == 1
