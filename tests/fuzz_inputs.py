"""Damaged and hostile files, the same ones for the same number: each has to be read or refused by
an error of ours.

``make fuzz`` reads all of COUNTS, in minutes; tests/test_fuzz_inputs.py reads a few. Other files of
a kind, from the root of the repository:

    python -m tests.fuzz_inputs h5 --first 200000 --count 1000
"""

import argparse
import io
import pickle
import random
import re
import sys
import tempfile
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from data.archive import read_h5, read_members
from data.npz_io import load_object_array, save_object_arrays
from tests import h36m_miniature as mini
from tests.old_checkpoints import hostile_pickles, legacy_file, python2_file
from training.checkpoint import load_plain

COUNTS = {"npz": 34_000, "zip": 22_000, "tgz": 10_000, "h5": 34_000, "legacy": 10_000}
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
    import h5py

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


def run_cases(kind: str, first: int, count: int) -> Counter[str]:
    """Read damaged files; gives how many were "read" and "refused". The number of the file at hand
    is on stderr where it ends badly."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder, path = Path(scratch, "made"), Path(scratch, "input")
        folder.mkdir()
        for number, content in cases(kind, first, count, folder):
            print(f"{kind} {number}", file=sys.stderr)
            path.write_bytes(content)
            begin = time.monotonic()
            outcomes[attempt(reader(kind, path))] += 1
            seconds = time.monotonic() - begin
            assert seconds < SECONDS_A_FILE, f"file {number} took {seconds:.0f} s"
            assert not (folder / "canary").exists(), f"file {number} was executed"
        assert sorted(Path(scratch).iterdir()) == [path, folder]
    return outcomes


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each kind: its name, how many were read, how many refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_inputs", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(COUNTS)}")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, help="of each kind (default: as in COUNTS)")
    args = parser.parse_args(argv)
    for kind in args.kinds or COUNTS:
        outcomes = run_cases(kind, args.first, args.count or COUNTS[kind])
        print(kind, outcomes["read"], outcomes["refused"], flush=True)


if __name__ == "__main__":
    main()
