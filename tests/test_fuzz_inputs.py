"""Damaged and hostile files: each is read or refused by an error of ours."""

import pickle
import subprocess
import sys
from collections import Counter

import pytest

from data.npz_io import load_object_array
from tests.conftest import ROOT
from tests.fuzz_inputs import COUNTS, attempt, cases, npz_of, reader, seeds
from tests.old_checkpoints import doubling, hostile_pickles

FEW = 120  # of each kind; ``make fuzz`` reads thousands


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[int, int]]:
    """How many files of each kind were read and refused, in a process of their own, so that a crash
    or a hang of a library in C is seen and its file known."""
    pytest.importorskip("h5py")
    command = [sys.executable, "-m", "tests.fuzz_inputs", "--count", str(FEW)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    return {kind: (int(read), int(refused)) for kind, read, refused in rows}


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_are_read_or_refused(outcomes, kind):
    read, refused = outcomes[kind]
    assert read + refused == FEW
    assert refused > FEW / 10, "the damage does not reach the reader"


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
