"""The benchmark's textbook is the same method, and the benchmark runs."""

import itertools
import json
import math
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.skeleton import H36M_16, H36M_17
from data.pose_dataset import PoseLoader
from models.build import build_model
from tests.conftest import SLICE
from tools import benchmark
from tools.benchmark import (
    made_poses,
    main,
    our_training,
    plain_poses,
    time_in_turns,
    training_flop,
)
from tools.textbook import TextbookGCN, textbook_epoch, textbook_evaluate
from training.engine import Position, evaluate, train_one_epoch


def both(dim: int):
    """Our training and the textbook's network, with the same weights."""
    training = our_training(16, dim)
    theirs = TextbookGCN(H36M_16.adjacency(), dim)
    ours = training.networks["state_dict"]
    theirs.load_state_dict(ours.state_dict())
    return training, ours, theirs


def test_poses_and_seconds_to_an_error(call, tmp_path):
    flags = ["--", *SLICE, "-e", 3, "--lr", 0.01, "--batch_size", 16]
    figures = []
    for wanted in (10_000, 1):
        status, out, _ = call(main, "--to", wanted, "--json", tmp_path / "a.json", *flags)
        assert status == 0
        figures.append(json.loads((tmp_path / "a.json").read_text())["to"])
        words = "reached" if wanted > 1 else "not reached; the last epoch"
        assert f"{wanted:g} mm: {words}: {figures[-1]['mpjpe_mm']:.2f} mm after epoch" in out
    first, last = figures
    assert (first["reached"], first["epoch"]) == (True, 1)
    assert (last["reached"], last["epoch"]) == (False, 3)
    assert last["poses"] == 3 * first["poses"]
    assert last["train_seconds"] > first["train_seconds"] > 0
    assert call(main, "--turns", 1, "--", "--epochs", 3)[0] == 2


def test_predictions_are_timed_beside_the_least_that_they_could_take(call, tmp_path):
    status, out, _ = call(main, "--predict", "--turns", 1, "--json", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())["predict"]
    assert status == 0 and out.count("ratio") == len(found) == 2
    for figures in found.values():
        bare, ours, ratio = figures.values()
        assert 0 < bare < ours and ratio == pytest.approx(ours / bare)


@pytest.mark.parametrize("embedded", [False, True])
def test_the_textbook_network_is_the_same_function(embedded):
    skeleton = H36M_17 if embedded else H36M_16
    arguments = {"joints": skeleton.num_joints, "hid_dim": 8}
    ours = build_model(arguments | {"non_local": "embedded" if embedded else None})
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = TextbookGCN(skeleton.adjacency(), 8, 4, embedded)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, skeleton.num_joints, 2)
    for training in (True, False):
        found = ours.train(training)(x)
        assert torch.allclose(found, theirs.train(training)(x), atol=1e-4)


@pytest.mark.slow
def test_weights_after_200_steps_are_those_of_the_textbook_loop():
    """By Adam, in float64. The biases before a BatchNorm have gradient zero, computed as rounding
    errors; in float32 these are above Adam's epsilon, which makes steps of full size of them, by
    chance in either loop. In float64 they are far below, and all weights can be compared."""
    training, ours, theirs = both(8)
    ours.double(), theirs.double()
    data = made_poses(800, H36M_16)  # 25 steps an epoch
    data = replace(data, inputs_2d=data.inputs_2d.double(), targets_3d=data.targets_3d.double())
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    before, step = {name: value.clone() for name, value in ours.state_dict().items()}, 0
    for epoch in range(1, 9):
        loader = PoseLoader(data, 32, seed=3)
        trained = train_one_epoch(training, loader, Position(epoch, step))
        batches = ((batch.inputs_2d, batch.targets_3d) for batch in loader.shuffled_batches(epoch))
        assert math.isclose(trained.loss, textbook_epoch(theirs, optimizer, batches), rel_tol=1e-4)
        step = trained.step
    assert step == 200
    for name, tensor in theirs.state_dict().items():
        found = ours.state_dict()[name]
        assert torch.allclose(found, tensor, atol=1e-4, rtol=0), name
        moved = (found - before[name]).abs().max() > 1e-2
        assert moved or name.endswith("gconv.bias"), name


def test_evaluation_gives_the_textbook_figures():
    training, _, theirs = both(8)
    data = made_poses(150, H36M_16)
    summary = evaluate(plain_poses(training), PoseLoader(data, 64))
    table = textbook_evaluate(theirs, data, 64)
    for action, row in zip(data.actions, table, strict=True):
        found = summary["per_action"][action]
        assert abs(found["mpjpe_mm"] - row[0]) < 1e-2
        assert abs(found["p_mpjpe_mm"] - row[1]) < 1e-2


def test_flop_of_the_published_size():
    assert training_flop(16, 128) / 1e6 == pytest.approx(26.9, abs=0.1)


@pytest.fixture
def a_second_a_call(monkeypatch):
    """Whatever is measured takes a second by the benchmark's clock."""
    monkeypatch.setattr(benchmark, "_clock", lambda args: itertools.count().__next__)


def test_a_function_takes_the_median_of_its_turns_and_the_first_call_does_not_count():
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    def taking(*seconds: float):
        given = iter(seconds)

        def side() -> None:
            nonlocal now
            now += next(given)

        return side

    seconds, rate = time_in_turns([taking(100, 3, 1, 2), taking(0, 7, 9, 8)], 3, clock)
    assert seconds == [2.5, 8.5]  # and half a second to read the clock
    assert rate == pytest.approx(2 * 1024**3 / 0.5 / 1e9)


def test_the_benchmark_runs_and_writes_its_figures(call, tmp_path, monkeypatch, a_second_a_call):
    in_process = benchmark._in_process

    def one_here(side: str, folder: str) -> dict[str, float]:
        if side == "ours":
            return in_process(side, folder)
        return benchmark._load_and_train(side, Path(folder))

    monkeypatch.setattr(benchmark, "_in_process", one_here)
    begin, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    status, out, err = call(
        main, "-z", 4, "--turns", 1, "--poses", 16, "--test_poses", 30, "--batch_sizes", 8,
        "--memory", 500, "--json", tmp_path / "figures.json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    elapsed = time.perf_counter() - begin
    assert all(name in out for name in figures)
    loading, memory = figures.pop("seconds to load, 500 frames"), figures.pop("peak MB, 500 frames")
    assert min(loading.values()) > 0 and sum(loading.values()) < elapsed
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert peak <= memory["textbook"] <= after
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    assert 20 < memory["ours"] <= child  # torch alone takes more than 20 MB
    # a turn of so many poses takes a second
    rates = {"training, batch 8": 16, "testing": 30, "loading, batch 64": 16}
    assert figures == {name: {"textbook": n, "ours": n} for name, n in rates.items()}


def test_scaling_has_a_line_for_each_value_and_counts_its_products(
    call, tmp_path, monkeypatch, a_second_a_call
):
    setting = {"poses": 24, "channels": 4, "layers": 1, "joints": 16, "batch": 8}
    scales = {"channels": (4, 6), "layers": (1, 2), "joints": (16, 17), "batch": (4, 32)}
    monkeypatch.setattr(benchmark, "_PUBLISHED", setting)
    monkeypatch.setattr(benchmark, "_SCALES", scales)
    file = tmp_path / "scaling.json"
    arguments = ("--scaling", "--turns", 1, "--poses", 16, "--batch_sizes", 8, "--json", file)
    status, out, err = call(main, *arguments)
    assert (status, err) == (0, "")
    rows = json.loads(file.read_text())["scaling"]
    assert list(rows) == [f"{what} {value}" for what in scales for value in scales[what]]
    for name, row in rows.items():
        # whole batches of 8, 4 or 32 that make 16 poses, or one
        assert row["poses_per_s"] == (32 if name == "batch 32" else 16) and name in out
    assert rows["channels 6"]["mflop_a_pose"] == training_flop(16, 6, 1) / 1e6
    assert rows["layers 2"]["mflop_a_pose"] == training_flop(16, 4, 2) / 1e6


def test_the_recipe_has_a_line_for_each_part_and_its_time(
    call, tmp_path, monkeypatch, a_second_a_call
):
    small = {name: [*flags, "-z", "4", "-l", "1"] for name, flags in benchmark._RECIPES.items()}
    monkeypatch.setattr(benchmark, "_RECIPES", small)
    file = tmp_path / "recipe.json"
    status, out, err = call(main, "--recipe", "--turns", 1, "--poses", 300, "--json", file)
    assert (status, err) == (0, "")
    rates = json.loads(file.read_text())["recipe"]
    assert rates == dict.fromkeys(small, 300) and all(name in out for name in rates)
    assert f"4,679,256 poses, {3 * 1_559_752 / 300 / 60:.0f} minutes" in out


def test_a_stream_of_steps_is_the_epochs_one_after_another():
    data = made_poses(10, H36M_16)
    stream = benchmark._Stream(data, 4, steps=2)
    found = [batch.index.tolist() for _ in range(3) for batch in stream.shuffled_batches(1)]
    loader = PoseLoader(data, 4)
    epochs = [batch.index.tolist() for epoch in (1, 2) for batch in loader.shuffled_batches(epoch)]
    assert found == epochs


def test_wrong_sizes_are_named(call):
    status, _, err = call(main, "--poses", 8, "--batch_sizes", 64)
    assert status == 2 and "--poses" in err
