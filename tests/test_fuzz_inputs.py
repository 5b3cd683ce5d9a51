"""Damaged and hostile files: each is read or refused by an error of ours.

The readers run in a process of their own, so that a crash or a hang of a library in C is seen and
its file known. By hand, for more of them, in the root of the repository:

    PYTHONPATH=. python tests/test_fuzz_inputs.py h5 0 100000
"""

import io
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import h36m_miniature as mini
import numpy as np
import pytest
import torch
from old_checkpoints import doubling, hostile_pickles, legacy_file, python2_file

from common.errors import UserError
from data.archive import read_h5, read_members
from data.npz_io import load_object_array, save_object_arrays
from training.checkpoint import load_plain

ROOT = Path(__file__).resolve().parents[1]
CASES = {"npz": 3400, "zip": 2200, "tgz": 1000, "h5": 3400, "legacy": 1000}
SECONDS_A_FILE = 60
ANY_H5 = re.compile(r"\.h5$")
VALUES = np.arange(2 * 96, dtype=np.float32).reshape(2, 96)


def harmless_pickles() -> list[bytes]:
    """What a file of poses holds, as several versions of Python write it."""
    content = {"S1": {"Eating 1": [VALUES, VALUES.T], "n": (1, 2.5, None, "x", np.float32(1))}}
    boxed = np.empty((), dtype=object)
    boxed[()] = content
    return [pickle.dumps(boxed, protocol) for protocol in (2, 4)]


def npz_of(content: bytes) -> bytes:
    """An npz file whose object array is the given pickle."""
    header = io.BytesIO()
    about = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(header, about)
    return zip_of("positions_3d.npy", header.getvalue() + content)


def zip_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


def seeds(kind: str, folder: Path) -> list[bytes]:
    """Tiny files of a kind, whole, in several layouts."""
    h5 = [mini.archive_h5(VALUES), mini.mat_v73(VALUES), h5_compressed(VALUES)]
    if kind == "h5":
        return h5
    if kind == "npz":
        path = folder / "whole.npz"
        save_object_arrays(path, positions_3d={"S1": {"Eating 1": VALUES}}, metadata=[1])
        programs = harmless_pickles() + hostile_pickles(folder / "canary")
        return [path.read_bytes(), *map(npz_of, programs)]
    if kind == "legacy":
        programs = hostile_pickles(folder / "canary")
        return [*legacy_checkpoints(), *(legacy_file(program) for program in programs)]
    write = mini.write_zip if kind == "zip" else mini.write_tgz
    files = [(f"S{n}/MyPoses/3D_positions/Eating 1.h5", content) for n, content in enumerate(h5)]
    return [write(folder / "whole", files[:n]).read_bytes() for n in (1, 3)]


def legacy_checkpoints() -> list[bytes]:
    """Checkpoints of before torch 1.6: by Python 3, by Python 2, and a bare state dict."""
    weights = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.arange(4)[1:])
    content = {"epoch": 1, "error": np.float64(2), "state_dict": weights, "id": 2**40}
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, item in zip(buffers, (content, weights), strict=True):
        torch.save(item, buffer, _use_new_zipfile_serialization=False)
    return [buffers[0].getvalue(), python2_file(content), buffers[1].getvalue()]


def h5_compressed(values: np.ndarray) -> bytes:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        options = {"chunks": (32, 2), "compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("3D_positions", data=values.T, **options)
    return buffer.getvalue()


def damage(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Bytes overwritten, the end or a piece cut away, or a piece of another file put in."""
    spoilt = bytearray(content)
    kind = rng.choice([0, 0, 0, 1, 2, 3])
    at = rng.randrange(len(spoilt))
    if kind == 0:
        for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
            spoilt[rng.randrange(len(spoilt))] = rng.choice([0, 255, rng.randrange(256)])
    elif kind == 1:
        del spoilt[at:]
    elif kind == 2:
        del spoilt[at : at + rng.randrange(1, 64)]
    else:
        other = rng.choice(others)
        begin = rng.randrange(len(other))
        piece = other[begin : begin + rng.randrange(1, 256)]
        spoilt[at : at + rng.choice([0, len(piece)])] = piece
    return bytes(spoilt)


def cases(kind: str, seed: int, count: int, folder: Path) -> Iterator[tuple[int, bytes]]:
    """``count`` damaged files, the same ones for the same seed.

    Half of the zip and npz files are damaged within and have right checksums, at which damage
    would stop otherwise.
    """
    whole, inner = seeds(kind, folder), seeds("h5", folder)
    programs = harmless_pickles() * 5 + hostile_pickles(folder / "canary")
    for number in range(seed, seed + count):
        rng = random.Random(number)
        within = rng.random() < 0.5
        if kind == "zip" and within:
            spoilt = damage(rng.choice(inner), inner, rng)
            yield number, zip_of("S1/MyPoses/3D_positions/Eating 1.h5", spoilt)
        elif kind == "npz" and within:
            yield number, npz_of(damage(rng.choice(programs), programs, rng))
        else:
            yield number, damage(rng.choice(whole), whole, rng)


def reader(kind: str, path: Path) -> Callable[[], object]:
    if kind == "npz":
        return lambda: load_object_array(path, "positions_3d")
    if kind == "h5":
        return lambda: read_pose_h5(path.read_bytes())
    if kind == "legacy":
        return lambda: load_plain(path)
    return lambda: [read_h5(c, "3D_positions", where) for _, where, c in read_members(path, ANY_H5)]


def read_pose_h5(content: bytes) -> np.ndarray:
    """The archive's form, or MATLAB's."""
    try:
        return read_h5(content, "3D_positions", "x.h5")
    except UserError:
        return read_h5(content, "data", "x.mat")


def attempt(read: Callable[[], object]) -> str:
    """ "read", or "refused" by an error of ours; anything else is raised."""
    try:
        read()
    except UserError as error:
        assert str(error)
        return "refused"
    return "read"


def run_cases(kind: str, seed: int, count: int) -> None:
    """Read damaged files; prints how many were read and refused. The number of the file at hand is
    on stderr where it ends badly."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder, path = Path(scratch, "made"), Path(scratch, "input")
        folder.mkdir()
        for number, content in cases(kind, seed, count, folder):
            print(number, file=sys.stderr)
            path.write_bytes(content)
            begin = time.monotonic()
            outcomes[attempt(reader(kind, path))] += 1
            seconds = time.monotonic() - begin
            assert seconds < SECONDS_A_FILE, f"file {number} took {seconds:.0f} s"
            assert not (folder / "canary").exists(), f"file {number} was executed"
        assert sorted(Path(scratch).iterdir()) == [path, folder]
    print(outcomes["read"], outcomes["refused"])


@pytest.mark.parametrize("kind", CASES)
def test_damaged_files_are_read_or_refused(kind):
    pytest.importorskip("h5py")
    command = [sys.executable, __file__, kind, "0", str(CASES[kind])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = map(int, done.stdout.split())
    assert read + refused == CASES[kind]
    assert refused > CASES[kind] / 10, "the damage does not reach the reader"


def test_whole_seeds_are_read_and_hostile_ones_refused(tmp_path):
    """The damage above starts from files that are otherwise fine, or refused for what they do."""
    pytest.importorskip("h5py")
    path = tmp_path / "input"
    programs = len(hostile_pickles(tmp_path / "canary"))
    for kind, hostile in (("h5", 0), ("npz", programs), ("legacy", programs)):
        outcomes = []
        for content in seeds(kind, tmp_path):
            path.write_bytes(content)
            outcomes.append(attempt(reader(kind, path)))
        assert outcomes == ["read"] * 3 + ["refused"] * hostile
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_be_seen(tmp_path):
    """The first pickles do run when they are opened without care."""
    for number in range(8):
        canary = tmp_path / str(number)
        pickle.loads(hostile_pickles(canary)[number])
        assert canary.is_dir()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04" + doubling(b")", b"0??\x86") + b".",  # tuples
        b"\x80\x04" + doubling(b"]", b"0](??e") + b".",  # lists
        b"\x80\x04}" + doubling(b")", b"0??\x86") + b"K\x01s.",  # tuples as a key
        b"\x80\x04}(" + doubling(b")", b"0??\x86") + b"K\x01u.",
        b"\x80\x04(" + doubling(b")", b"0??\x86") + b"K\x01d.",
        b"\x80\x04\x8f(" + doubling(b")", b"0??\x86") + b"\x90.",  # in a set
        b"\x80\x04(" + doubling(b")", b"0??\x86") + b"\x91.",
        b"\x80\x04ccollections\nOrderedDict\n"
        + doubling(b")", b"0??\x86")
        + b"K\x01\x86\x85\x85R.",
    ],
)
def test_a_pickle_that_doubles_at_every_level_does_not_hang(program, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(npz_of(program))
    reading = "import sys; sys.path.insert(0, sys.argv[1])\n" + (
        "from data.npz_io import load_object_array\nload_object_array(sys.argv[2], 'positions_3d')"
    )
    command = [sys.executable, "-c", reading, str(ROOT), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "UserError" in done.stderr


def test_damaged_archives_leave_no_partial_output(tmp_path, monkeypatch):
    """Through the whole script: both files or none, and whole."""
    pytest.importorskip("h5py")
    from data import prepare_data_h36m

    path, out = tmp_path / "h36m.zip", tmp_path / "out"
    flags = ["--allow-missing", "--output_dir", str(out), "--force"]
    monkeypatch.setattr(sys, "argv", ["x", "--from-archive", str(path), *flags])
    outcomes: Counter[str] = Counter()
    for _, content in cases("zip", 50_000, 300, tmp_path):
        path.write_bytes(content)
        outcome = attempt(prepare_data_h36m.main)
        outcomes[outcome] += 1
        found = sorted(p.name for p in out.iterdir()) if out.exists() else []
        wanted = ["data_2d_h36m_gt.npz", "data_3d_h36m.npz"] if outcome == "read" else []
        assert found == wanted
        for name, key in zip(found, ("positions_2d", "positions_3d"), strict=False):
            assert "S1" in load_object_array(out / name, key)
            (out / name).unlink()
    assert min(outcomes["read"], outcomes["refused"]) > 10


if __name__ == "__main__":
    run_cases(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
