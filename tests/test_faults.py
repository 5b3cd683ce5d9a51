"""Short forms of the campaigns of ``tests/faults`` (``make faults``)."""

import random
import shutil

import pytest

import main_gcn
from tests.conftest import SLICE
from tests.faults.campaign import differences, disk_filled, killed, undisturbed
from tests.faults.damage import damage_files


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(runs):
    """The undisturbed run of each case that is tried here."""
    return undisturbed(runs, ["running average"])


def test_killed_runs_go_on_to_the_same_weights(runs, whole):
    outcome = killed("running average", 2, runs, whole["running average"], seed=3)
    assert outcome.kills == 2 and not outcome.wrong


@pytest.mark.slow
def test_runs_whose_disk_was_full_go_on_to_the_same_weights(runs, whole):
    outcome = disk_filled("running average", 1, runs, whole["running average"], seed=1)
    assert outcome.counts["status 2"] == 1 and not outcome.wrong


def test_damaged_files_are_passed_over_or_refused(tmp_path):
    main_gcn.main([*SLICE, "--batch_size", "128", "-e", "3", "-c", str(tmp_path), "--name", "run"])
    found = damage_files(main_gcn.main, tmp_path / "run", tmp_path, 12, random.Random(2))
    assert not found["wrong"] and found["counts"]["resume: as undamaged"] > 0


def test_the_comparison_sees_a_difference(whole, tmp_path):
    """Else the campaigns could not fail."""
    copy = shutil.copytree(whole["running average"], tmp_path / "copy")
    assert not differences(copy, whole["running average"])
    (copy / ".1.partial.x").touch()
    assert differences(copy, whole["running average"]) == [".1.partial.x is left"]
    main_gcn.main([*SLICE, "--batch_size", "32", "-e", "3", "-c", str(tmp_path), "--name", "plain"])
    assert any("state_dict" in what for what in differences(tmp_path / "plain", copy))
