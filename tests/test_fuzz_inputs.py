"""Damaged and hostile files: each is read or refused by an error of ours."""

import pickle
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.fuzz_inputs import attempt
from tests.fuzz_readers import READERS
from tests.old_checkpoints import hostile_pickles

FEW = 15  # of each reader; ``make fuzz`` tries thousands
# Every whole file of these is read, as are the harmless ones of npz and checkpoints.
HOSTILE = {"npz", "npz-pickle", "npz-download", "checkpoint-pickle", "checkpoint-legacy"}


@pytest.fixture(scope="module")
def campaign() -> subprocess.CompletedProcess:
    """A few files of each reader, in a process of their own, so that a crash or a hang of a library
    in C is seen and its file known."""
    for package in ("h5py", "cdflib", "scipy"):
        pytest.importorskip(package)
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is measured as Linux counts it")
    command = [sys.executable, "-m", "tests.fuzz_inputs", "--alone", "--count", str(FEW)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)


def test_every_damaged_file_is_read_or_refused(campaign):
    last = campaign.stderr.strip().splitlines()[-1]
    assert campaign.returncode == 0, f"{campaign.stdout[-2000:]}, at {last}"
    rows = [line.split() for line in campaign.stdout.splitlines()]
    assert {kind: int(read) + int(refused) for kind, read, refused in rows} == dict.fromkeys(
        READERS, FEW
    )


def test_the_damage_reaches_the_readers(campaign):
    rows = [line.split() for line in campaign.stdout.splitlines()]
    refused = {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[0] in READERS}
    refused.pop("results-json")  # a damaged file counts as a run that has not ended
    assert min(refused.values()) > 0


@pytest.mark.parametrize("kind", READERS)
def test_whole_files_are_read_and_hostile_ones_refused(kind, tmp_path):
    """The damage starts from files that are fine, or refused for what they do."""
    for package in ("h5py", "cdflib", "scipy"):
        pytest.importorskip(package)
    made, reader, outcomes = tmp_path / "made", READERS[kind], []
    made.mkdir()
    for number, content in enumerate(reader.seeds(made)):
        path = tmp_path / str(number) / "input"
        path.parent.mkdir()
        path.write_bytes(reader.wrap(content))
        outcomes.append(attempt(reader.read, path))
    assert "read" in outcomes
    if kind in HOSTILE:
        assert outcomes.count("refused") == len(hostile_pickles(tmp_path))
    assert not (made / "canary").exists()


def test_the_canary_would_be_seen(tmp_path):
    """The first pickles do run when they are opened without care."""
    for number in range(8):
        canary = tmp_path / str(number)
        pickle.loads(hostile_pickles(canary)[number])
        assert canary.is_dir()
