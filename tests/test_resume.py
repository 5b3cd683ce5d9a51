"""Which checkpoint ``--resume`` takes: a file, the newest whole one of a folder, or auto."""

import os
import shutil

import pytest
import torch

import main_gcn
import main_graph
from common.errors import UserError
from tests.conftest import SLICE
from training.checkpoint import load_checkpoint
from training.find_run import BEST, LAST, STEP, find_run
from training.resume import source_to_resume

FLAGS = [*SLICE, "--batch_size", "128", "-e", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    main_gcn.main([*FLAGS, "-c", str(folder), "--name", "run", "--snapshot", "1"])
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\0" * (len(content) - len(content) // 2)
    path.write_bytes(content)


def test_a_folder_stands_for_its_newest_whole_checkpoint(run, capsys):
    assert source_to_resume(str(run)).path == str(run / LAST)
    damage(run / LAST)
    assert source_to_resume(str(run)).path == str(run / "ckpt_epoch_002.pth.tar")
    assert f"warning: passed over: {run / LAST} is not a checkpoint" in capsys.readouterr().err
    damage(run / "ckpt_epoch_002.pth.tar")
    assert source_to_resume(str(run)).path == str(run / "ckpt_epoch_001.pth.tar")
    for path in run.glob("*.pth.tar"):
        damage(path)
    with pytest.raises(UserError, match="no whole checkpoint of a run"):
        source_to_resume(str(run))


def test_a_run_goes_on_from_what_is_whole(run, finished, call):
    """An epoch whose checkpoint is damaged is trained again, to the same end."""
    for name in (LAST, BEST, "ckpt_epoch_002.pth.tar"):
        damage(run / name)
    status, _, err = call(main_gcn.main, "--resume", run)
    assert status == 0 and all(line.startswith("warning: passed over") for line in err.splitlines())
    a, b = (load_checkpoint(folder / LAST)["state_dict"] for folder in (run, finished))
    assert all((a[name] == b[name]).all() for name in b)


def test_a_checkpoint_inside_an_epoch_that_is_over_is_passed_over(run):
    """What a run leaves that was killed between its last save and the removal of that one."""
    state = load_checkpoint(run / LAST)
    position = {
        "epoch": 2, "batches": 1, "poses": 1, "seconds": 1.0, "skipped": 0, "cuda": [],
        "loss": [torch.zeros(())], "cpu": [torch.get_rng_state()],
    }  # fmt: skip
    inside = {**state, "epoch": 1, "history": state["history"][:1]}
    for step, expected in ((state["step"], LAST), (state["step"] + 1, STEP)):
        torch.save({**inside, "step": step, "position": position | {"step": step}}, run / STEP)
        assert source_to_resume(str(run)).path == str(run / expected)


def test_auto_takes_the_named_or_the_newest_run_of_the_script(run, tmp_path):
    for number, name in enumerate(("older", "newest"), 1):
        shutil.copytree(run, tmp_path / name)
        for path in (tmp_path / name).iterdir():
            os.utime(path, (2e9 + number, 2e9 + number))
    (tmp_path / "newest" / "options.json").write_text("{")  # nobody's
    assert find_run(tmp_path, None, "main_gcn") == tmp_path / "older"
    assert find_run(tmp_path, "run", "main_gcn") == run
    assert find_run(tmp_path, None, "main_graph") is None
    assert find_run(tmp_path, "other", "main_gcn") is None
    assert find_run(tmp_path / "nowhere", None, "main_gcn") is None


def test_auto_starts_anew_and_then_goes_on(call, tmp_path):
    flags = [*FLAGS, "-c", tmp_path, "--name", "run", "--resume", "auto"]
    status, out, err = call(main_gcn.main, *flags, "-e", 1)
    assert (status, err) == (0, "") and "there is no run, so this is a new one" in out
    status, out, err = call(main_gcn.main, *flags, "-e", 2)
    assert (status, err) == (0, "") and f"resuming {tmp_path / 'run' / LAST}" in out
    assert load_checkpoint(tmp_path / "run" / LAST)["epoch"] == 2
    graph = ["-k", "gt", "-j", 16, "--pro_train", 1, "-e", 1]
    status, out, _ = call(main_graph.main, *SLICE, *graph, "-c", tmp_path, "--resume", "auto")
    assert status == 0 and "so this is a new one" in out


def test_auto_takes_the_folder_of_a_run_that_had_no_checkpoint_yet(call, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "options.json").write_text("{}")
    (folder / ".4194305.partial.ckpt_step.pth.tar").write_bytes(b"half")
    for name in ("log.csv", "curves.png", "poses.png"):  # small enough for a disk that was full
        (folder / name).write_bytes(b"")
    flags = [*FLAGS, "-c", tmp_path, "--name", "run", "-e", 1]
    assert call(main_gcn.main, *flags)[0] == 2  # without auto a folder is not taken
    for name in ("notes.txt", "results.json"):
        (folder / name).write_text("{}")
        status, _, err = call(main_gcn.main, *flags, "--resume", "auto")
        assert status == 2 and f"{folder} has files but no checkpoint to go on from" in err
        (folder / name).unlink()
    assert call(main_gcn.main, *flags, "--resume", "auto")[0] == 0
    assert not list(folder.glob(".*partial*")) and (folder / LAST).is_file()


def test_a_run_that_was_killed_at_its_end_leaves_no_step(run, call):
    """It had saved its last epoch, and not yet removed the checkpoint inside it."""
    (run / STEP).write_bytes((run / LAST).read_bytes())
    (run / "results.json").unlink()
    assert call(main_gcn.main, "--resume", run / LAST)[0] == 0
    assert not (run / STEP).exists() and (run / "results.json").exists()
