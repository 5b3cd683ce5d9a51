"""A step whose loss or gradient is not finite can be made again, or is skipped."""

import csv
import math

import pytest
import torch
from torch import Tensor

import main_gcn
import main_graph
import opt
from common.person import Known, PersonStatistics
from tests.conftest import SLICE
from training.checkpoint import load_checkpoint, load_plain
from training.find_run import LAST
from training.lifter import build_lifter

FLAGS = [
    *SLICE,
    "--batch_size",
    "32",
    "-e",
    "2",
    "--dropout",
    "0.2",
    "--augment",
]  # 10 steps an epoch


@pytest.fixture
def spoil(monkeypatch):
    """Multiply the loss of a step, counted from 1, by a factor."""

    def patch(script, step, factor=math.nan):
        loss_of, seen = script.loss_of, [0]

        def spoilt_loss_of(*arguments):
            loss = loss_of(*arguments)

            def spoilt(batch):
                seen[0] += 1
                return loss(batch) * (factor if seen[0] == step else 1.0)

            return spoilt

        monkeypatch.setattr(script, "loss_of", spoilt_loss_of)

    return patch


def test_the_step_is_named_and_saved_so_that_it_can_be_made_again(call, spoil, tmp_path):
    spoil(main_gcn, step=12, factor=1e39)  # the loss itself is an infinite float32
    flags = [*FLAGS, "--tell_body"]
    status, _, err = call(main_gcn.main, *flags, "-c", tmp_path, "--name", "run")
    path = tmp_path / "run" / "not_finite_step_12.pth.tar"
    assert status == 2
    assert err.startswith(
        "error: the loss of step 12 (batch 2 of epoch 2) is inf and the norm of its gradient "
    )
    assert f"{path} holds its batch, weights and random state; --resume {path.parent / LAST}" in err
    assert err.endswith("most likely: the learning rate is too high, lower --lr (now 0.001)\n")

    found = load_checkpoint(path)
    before = found["before_step"]
    counts = {int(t) for n, t in found["state_dict"].items() if "num_batches" in n}
    assert counts == {11}  # the statistics are those before the step, too
    args = opt.parse_gcn(flags)
    lifter = build_lifter(args, "main_gcn", None)
    lifter.persons = PersonStatistics.of(found["persons"])
    lifter.network.load_state_dict(found["state_dict"])
    known = Known(**before["batch"]["known"])
    assert known.size.shape == (32,) and known.up is None
    batch = type("Batch", (), before["batch"] | {"known": known})
    assert before["batch"]["flipped"].dtype == torch.bool and len(before["batch"]["index"]) == 32

    def loss() -> Tensor:
        lifter.network.train()
        torch.set_rng_state(before["random_state"])
        return main_gcn.loss_of(args, lifter)(batch)

    # The loss before it was spoilt in this test, which counts on: its step 12 is over.
    assert loss().item() == loss().item() > torch.finfo(torch.float32).max / 1e39


def test_nothing_is_promised_where_nothing_was_saved(call, spoil, tmp_path):
    spoil(main_graph, step=2)
    flags = [*SLICE, "-k", "gt", "-j", "16", "--pro_train", "1", "--batch_size", "32"]
    flags += ["--max_norm", "0", "--amp", "-c", tmp_path, "--name", "run"]
    status, _, err = call(main_graph.main, *flags)
    assert status == 2 and "--resume" not in err and "batch 2 of epoch 1" in err
    assert "add --max_norm 1; or bfloat16 is not exact enough, leave out --amp" in err


def test_poses_that_are_not_finite_are_named_as_the_cause(call, monkeypatch, tmp_path):
    make = main_gcn.training_loader

    def with_a_hole(args, dataset, *more):
        dataset.targets_3d[7, 3] = math.nan
        return make(args, dataset, *more)

    monkeypatch.setattr(main_gcn, "training_loader", with_a_hole)
    status, _, err = call(main_gcn.main, *FLAGS, "-c", tmp_path, "--name", "run")
    assert status == 2 and err.endswith(
        "most likely: the poses of this batch are not finite (--augment, --dataset)\n"
    )


def test_skipped_steps_change_nothing_and_are_counted(call, spoil, monkeypatch, tmp_path):
    spoil(main_gcn, step=12)
    networks = []
    build = main_gcn.build_training

    def kept(*arguments):
        training = build(*arguments)
        networks.append(training.networks["state_dict"])
        step = training.optimizer.step

        def counted(*a, **k):
            steps.append({n: t.clone() for n, t in networks[0].state_dict().items()})
            return step(*a, **k)

        training.optimizer.step = counted
        return training

    steps = []
    monkeypatch.setattr(main_gcn, "build_training", kept)
    flags = [*FLAGS, "-c", tmp_path, "--name", "run", "--on_nan", "skip", "--ema", "0.9"]
    status, out, _ = call(main_gcn.main, *flags)
    assert status == 0 and len(steps) == 19  # of 20
    assert "1 step skipped" in out
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["skipped_steps"] for row in rows] == ["0", "1"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    trained = load_plain(tmp_path / "run" / LAST)["trained"]["state_dict"]
    # Each of 19 steps has passed the statistics on once; the skipped one left none of its own.
    assert {int(t) for n, t in trained.items() if "num_batches" in n} == {19}
    assert all(t.isfinite().all() for t in trained.values())


def test_an_epoch_of_skipped_steps_only_is_an_error(call, monkeypatch, tmp_path):
    monkeypatch.setattr(main_gcn, "loss_of", lambda args, lifter: lambda batch: _nan(lifter))
    flags = [*FLAGS, "-c", tmp_path, "--name", "run", "--on_nan", "skip"]
    status, _, err = call(main_gcn.main, *flags)
    assert status == 2 and err.startswith("error: every step of epoch 1 was skipped")


def _nan(lifter) -> Tensor:
    return next(lifter.network.parameters()).sum() * math.nan


def test_skipping_goes_on_only_where_asked(call, spoil, tmp_path):
    spoil(main_gcn, step=3, factor=-math.inf)
    assert call(main_gcn.main, *FLAGS, "-c", tmp_path, "--name", "run")[0] == 2
