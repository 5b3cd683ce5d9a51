"""A training that is stopped between two steps, or saved there, goes on exactly."""

import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import main_gcn
import main_graph
from common.errors import SignalledError
from tests.conftest import ROOT, SLICE, Clock
from tests.two_processes import run_two, words_of_ours
from training import between_steps
from training.checkpoint import load_checkpoint
from training.find_run import BEST, LAST, STEP

FLAGS = [*SLICE, "--batch_size", "32", "-e", "3"]  # 10 steps an epoch
CASES = {
    "published": (main_gcn, ["--dropout", "0.2"]),
    "strong": (main_gcn, ["--augment", "--ema", "0.9", "--schedule", "cosine", "--flip_test"]),
    "refinement": (main_graph, ["-k", "gt", "-j", "16", "--pro_train", "1", "--post_refine"]),
}


@pytest.fixture
def stopping(monkeypatch):
    """Run a script that gets a signal at a step, counted from 1, or in a test."""

    def run(script, flags, step=None, test=None, signum=signal.SIGTERM):
        steps, tests = [0], [0]
        loss_of, evaluate = script.loss_of, script.evaluate

        def counted_loss_of(*arguments):
            loss = loss_of(*arguments)

            def counted(batch):
                steps[0] += 1
                if steps[0] == step:
                    signal.raise_signal(signum)
                return loss(batch)

            return counted

        def counted_evaluate(*arguments):
            tests[0] += 1
            if tests[0] == test:
                signal.raise_signal(signum)
            return evaluate(*arguments)

        with monkeypatch.context() as patched, _listening(signum):
            patched.setattr(script, "loss_of", counted_loss_of)
            patched.setattr(script, "evaluate", counted_evaluate)
            with pytest.raises(SignalledError) as stopped:
                script.main(flags)
        assert stopped.value.signum == signum
        return str(stopped.value)

    return run


@contextmanager
def _listening(signum):
    """Where the tests run in the background, Ctrl-C is ignored, and the script follows that."""
    before = signal.signal(signum, signal.default_int_handler)
    yield
    signal.signal(signum, before)


def assert_same_run(found: Path, wanted: Path) -> None:
    """The same weights, optimiser, averages and log."""
    a, b = (torch.load(folder / LAST, weights_only=True) for folder in (found, wanted))
    keys = ("loss", "lr", "step", "mpjpe_mm", "p_mpjpe_mm")
    for x, y in zip(a["history"], b["history"], strict=True):
        assert {k: x[k] for k in keys} == {k: y[k] for k in keys}
    for key in ("state_dict", "post_refine", "trained", "optimizer"):
        assert (key in a) == (key in b)
        torch.testing.assert_close(a.get(key), b.get(key), rtol=0, atol=0)
    assert not (found / STEP).exists()


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("published", {"step": 4}),
        ("strong", {"step": 10}),  # the last one of an epoch
        ("strong", {"step": 13}),
        ("strong", {"test": 2}),
        ("refinement", {"step": 13}),
        ("refinement", {"test": 1}),
    ],
)
def test_a_run_that_was_stopped_goes_on_exactly(stopping, tmp_path, name, when):
    script, flags = CASES[name]
    flags = [*FLAGS, *flags, "-c", str(tmp_path)]
    script.main([*flags, "--name", "whole"])
    said = stopping(script, [*flags, "--name", "stopped"], **when)
    folder = tmp_path / "stopped"
    assert said.endswith(f"python {script.SCRIPT}.py --device cpu --resume {folder}")
    script.main(["--resume", str(folder), "-c", str(tmp_path)])
    assert_same_run(folder, tmp_path / "whole")


def test_saves_every_few_minutes_change_nothing_and_can_be_resumed(tmp_path, monkeypatch, call):
    flags = [*FLAGS, "-c", str(tmp_path), "--augment", "--ema", "0.9"]
    main_gcn.main([*flags, "--name", "whole"])
    saved = []
    save_step = between_steps.RunFolder.save_step

    def keep_a_copy(run, at, state):
        save_step(run, at, state)
        saved.append((at.epoch, at.batches))
        if len(saved) == 7:
            (tmp_path / "copy").write_bytes((run.folder / STEP).read_bytes())

    monkeypatch.setattr(between_steps.RunFolder, "save_step", keep_a_copy)
    init = between_steps.BetweenSteps.__init__
    monkeypatch.setattr(
        between_steps.BetweenSteps, "__init__", lambda *a: init(*a, clock=Clock(step=40.0))
    )
    main_gcn.main([*flags, "--name", "saving", "--save_every", "2"])
    assert len(saved) == 3 * 3 and len(set(saved)) == 9  # of 10 steps of 40 s, each third
    assert_same_run(tmp_path / "saving", tmp_path / "whole")

    # As if the process had been killed after the seventh save, in the third epoch.
    folder = tmp_path / "saving"
    last = torch.load(folder / "ckpt_best.pth.tar", weights_only=True)
    (folder / STEP).write_bytes((tmp_path / "copy").read_bytes())
    (folder / LAST).unlink()
    assert load_checkpoint(folder / STEP)["epoch"] == 2 and last["epoch"] <= 3
    assert call(main_gcn.main, "--resume", folder)[0] == 0
    assert_same_run(folder, tmp_path / "whole")


def test_a_second_signal_stops_at_once(tmp_path):
    script = (
        "import signal, main_gcn\n"
        "loss_of = main_gcn.loss_of\n"
        "def twice(*a):\n"
        "    def loss(batch):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    return loss\n"
        "main_gcn.loss_of = twice\n"
        f"main_gcn.main({[*FLAGS, '-c', str(tmp_path), '--name', 'run']})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert ended.stderr == "\nstopping after this step; a second signal stops at once\n"
    assert not (tmp_path / "run" / STEP).exists()


def test_the_exit_status_tells_the_signal(call, stopping, tmp_path):
    for signum, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):

        def stopped(flags, signum=signum):
            raise SignalledError(signum, stopping(main_gcn, flags, step=2, signum=signum))

        found, _, err = call(stopped, *FLAGS, "-c", tmp_path, "--name", f"run{signum}")
        assert found == status and "stopped and saved; to go on: python main_gcn.py" in err


def test_the_command_that_goes_on_repeats_the_flags_of_the_call(stopping, tmp_path):
    call_flags = ["--results", str(tmp_path / "it is.json"), "--on_nan", "skip"]
    said = stopping(main_gcn, [*FLAGS, *call_flags, "-c", str(tmp_path), "--name", "run"], step=2)
    words = shlex.split(said.partition("to go on: ")[2])
    device = ["--device", "cpu"]
    assert words == ["python", "main_gcn.py", *device, *call_flags, "--resume", f"{tmp_path}/run"]


@pytest.mark.parametrize(
    "flags", [["--batch_size", "16"], ["--seed", "3"], ["--augment"]], ids=lambda f: f[0]
)
def test_inside_an_epoch_the_batches_stay_as_they_were(call, stopping, tmp_path, flags):
    stopping(main_gcn, [*FLAGS, "-c", str(tmp_path), "--name", "run"], step=13)
    status, _, err = call(main_gcn.main, "--resume", tmp_path / "run", *flags)
    assert status == 2 and f"change with {flags[0]}: resume" in err and LAST in err
    assert call(main_gcn.main, "--resume", tmp_path / "run" / LAST, *flags)[0] == 0


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_exactly(call, tmp_path):
    flags = [*SLICE, "-c", tmp_path, "--batch_size", "16", "-e", "2", "--dropout", "0.2"]
    whole = run_two("main_gcn.py", *flags, "--name", "whole")
    assert [status for status, *_ in whole] == [0, 0], whole
    stopped = run_two("main_gcn.py", *flags, "--name", "stopped", fault="term step 3", rank=1)
    assert [status for status, *_ in stopped] == [143, 143], stopped
    folder = tmp_path / "stopped"
    said = [line for *_, err in stopped for line in err.splitlines() if "to go on" in line]
    assert said == [
        "stopped and saved; to go on: torchrun --nproc_per_node=2 main_gcn.py --device cpu "
        f"--resume {folder}"
    ]
    assert load_checkpoint(folder / STEP)["position"]["batches"] == 10
    status, _, err = call(main_gcn.main, "--resume", folder)
    assert status == 2 and "saved by 2 processes" in err  # and there is no whole epoch yet
    resumed = run_two("main_gcn.py", "--resume", folder)
    assert [status for status, *_ in resumed] == [0, 0], resumed
    assert not any(words_of_ours(err) for *_, err in resumed)
    assert_same_run(folder, tmp_path / "whole")
    assert (folder / BEST).is_file()
