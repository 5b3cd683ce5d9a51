"""The flags that --recipe sets, in both scripts, and runs with them."""

import json

import pytest
import torch
from torch.nn import functional as F

import main_gcn
import main_graph
import opt
from common.errors import UserError
from common.skeleton import H36M_16
from data.datasets import H36M
from data.pose_dataset import load_pose_datasets
from models.build import build_model
from tests.conftest import SLICE
from training import settings
from training.checkpoint import load_checkpoint
from training.engine import Position, train_one_epoch
from training.lifter import build_lifter
from training.load_data import training_loader

STRONG = [*SLICE, "--recipe", "strong", "--warmup", "1", "--ema", "0.9"]


@pytest.fixture
def gcn(call, tmp_path):
    def run(*flags):
        status, out, err = call(main_gcn.main, *flags, "--checkpoint", tmp_path)
        assert (status, err) == (0, "")
        return out

    return run


@pytest.mark.parametrize("parse", [opt.parse_gcn, opt.parse_graph])
def test_the_recipe_sets_its_flags_and_what_is_typed_wins(parse):
    usual = vars(parse([]))
    for recipe, settings_of_recipe in opt.RECIPES.items():
        found = vars(parse(["--recipe", recipe]))
        for name, value in settings_of_recipe.items():
            assert found[name] == value
        for name, value in usual.items():
            assert name in {*settings_of_recipe, "recipe"} or found[name] == value
    typed = parse(["--recipe", "strong", "--lr", "0.1", "--no-root_view", "--epochs", "9"])
    assert (typed.lr, typed.root_view, typed.epochs, typed.camera_rays) == (0.1, False, 9, True)


@pytest.mark.parametrize("parse", [opt.parse_gcn, opt.parse_graph])
def test_flags_that_would_do_nothing_are_refused(parse):
    for flags, needed in ((["--tilt", "5"], "--augment"), (["--weight_decay", "0"], "adamw")):
        with pytest.raises(UserError, match=needed):
            parse(flags)
        parse([*flags, "--augment", "--optimizer", "adamw"])
        parse([*flags, "--recipe", "strong"])
    with pytest.raises(UserError, match="--turn goes with --augment"):
        parse(["--recipe", "strong", "--no-augment", "--turn", "0.1"])
    with pytest.raises(UserError, match="--keep_ground goes with --augment"):
        parse(["--keep_ground"])


@pytest.mark.parametrize("parse", [opt.parse_gcn, opt.parse_graph])
def test_the_flag_of_the_floor_reaches_the_batches(parse, h36m_folder):
    (dataset,) = load_pose_datasets(H36M, h36m_folder, [["S9", "S11"]], H36M_16)
    for flags in ((), ("--keep_ground",)):
        args = parse(["--augment", *flags])
        assert training_loader(args, dataset).augmentation.keep_ground is bool(flags)


def test_a_strong_run_resumes_as_if_it_had_not_stopped(gcn, call, tmp_path):
    gcn(*STRONG, "--epochs", 2, "--name", "whole", "--schedule", "exponential")
    gcn(*STRONG, "--epochs", 1, "--name", "part", "--schedule", "exponential")
    last = tmp_path / "part" / "ckpt_last.pth.tar"
    gcn("--resume", last, "--epochs", 2)
    a, b = (load_checkpoint(tmp_path / name / last.name) for name in ("whole", "part"))
    for run in (a, b):
        run["trained"] = run["trained"]["state_dict"]
    for key in ("state_dict", "trained"):
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
    assert not torch.equal(a["state_dict"]["gconv_output.W"], a["trained"]["gconv_output.W"])


def test_a_checkpoint_is_never_given_the_other_input(gcn, call, tmp_path):
    gcn(*STRONG, "--epochs", 1, "--name", "strong")
    gcn(*SLICE, "--epochs", 1, "--name", "screen")
    strong, screen = (tmp_path / name / "ckpt_last.pth.tar" for name in ("strong", "screen"))
    status, _, err = call(main_gcn.main, *SLICE, "--evaluate", strong, "--no-camera_rays")
    assert status == 2 and "give --camera_rays" in err
    status, _, err = call(main_gcn.main, *SLICE, "--evaluate", screen, "--camera_rays")
    assert status == 2 and "--no-camera_rays" in err
    results = tmp_path / "r.json"
    flags = ("--evaluate", strong, "--results", results)
    out = gcn(*SLICE, *flags)
    assert "made with the cameras' intrinsics" in out and "intrinsics" not in gcn(
        *SLICE, "--evaluate", screen
    )
    found = json.loads(results.read_text())
    assert "intrinsics" in found["intrinsics"]
    assert "by a factor of 1.2" in gcn(*SLICE, *flags, "--focal_scale", "1.2")
    changed = json.loads(results.read_text())
    assert "factor of 1.2" in changed["focal_scale"]
    figures = [r["results"]["evaluated"]["mpjpe_mm"] for r in (found, changed)]
    assert figures[0] != figures[1]
    # tested as it was in training, mirrored twins and all
    trained = json.loads((tmp_path / "strong" / "results.json").read_text())["results"]["last"]
    assert figures[0] == pytest.approx(trained["mpjpe_mm"], abs=1e-3) and found["flip_test"]
    status, _, err = call(main_gcn.main, *SLICE, "--evaluate", screen, "--focal_scale", 1.2)
    assert status == 2 and "leave it out" in err


def test_what_a_run_would_lose_or_mislabel_is_refused(gcn, call, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text('["mine"]')
    status, _, err = call(main_gcn.main, *SLICE, "--epochs", 1, "--results", mine)
    assert status == 2 and "another name" in err and mine.read_text() == '["mine"]'
    gcn(*SLICE, "--epochs", 1, "--name", "plain", "--results", tmp_path / "r.json")
    last = tmp_path / "plain" / "ckpt_last.pth.tar"
    gcn(*SLICE, "--evaluate", last, "--results", tmp_path / "r.json")  # results replace results
    status, _, err = call(main_gcn.main, "--resume", last, "--recipe", "strong", "--epochs", 2)
    assert status == 2 and "--recipe" in err
    status, _, err = call(main_gcn.main, *SLICE, "--recipe", "strong")
    assert status == 2 and "--warmup 1000 does not end" in err
    status, _, err = call(main_gcn.main, *SLICE, "--focal_scale", 1.2)
    assert status == 2 and "--evaluate" in err
    status, _, err = call(main_gcn.main, *SLICE, "--dataset_dir", tmp_path / "no")
    assert status == 2 and "--dataset_dir" in err
    status, _, err = call(main_gcn.main, *SLICE, "--epoch", 1)
    assert status == 2 and "--epoch" in err


def test_published_files_of_a_strong_network_say_what_it_is_given(call, tmp_path):
    flags = [*SLICE, "--keypoints", "noisy", "--checkpoint", tmp_path / "runs"]
    status, _, err = call(
        main_graph.main, *flags, "--recipe", "strong", "--warmup", 0, "--pro_train", 1,
        "--nepoch", 1, "--save_model", 1, "--save_dir", tmp_path / "ckpt", "--post_refine",
    )  # fmt: skip
    assert (status, err) == (0, "")
    status, out, err = call(main_graph.main, *flags, "--eva", tmp_path / "ckpt")
    assert (status, err) == (0, "") and "post" in out and "intrinsics" in out
    last = next((tmp_path / "runs").glob("*/ckpt_last.pth.tar"))
    of_run = call(main_graph.main, *flags, "--eva", last)[1]
    figures = [line for line in out.splitlines() if line.startswith("Mean of actions")]
    assert len(figures) == 1 and figures[0] in of_run
    status, _, err = call(
        main_graph.main, *flags, "--eva", tmp_path / "ckpt", "--no-camera_rays", "--no-root_view"
    )
    assert status == 2 and "--camera_rays --root_view" in err


def test_with_all_parts_off_the_published_loop_gives_the_same_weights(h36m_folder):
    (dataset,) = load_pose_datasets(H36M, h36m_folder, [["S9", "S11"]], H36M_16)
    args = opt.parse_gcn(["-z", "8", "-l", "1", "-b", "32", "--seed", "5"])
    arguments = settings.model_arguments(args, "main_gcn")
    torch.manual_seed(3)
    ours = build_lifter(args, "main_gcn", None)
    loader = training_loader(args, dataset)
    train_one_epoch(main_gcn.build_training(args, ours, loader.epoch_steps), loader, Position(1, 0))

    torch.manual_seed(3)
    model = build_model(arguments)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(5 * 1_000_003 + 1))
    for index in order.split(32):
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.96 ** (1 / 100_000)
        optimizer.zero_grad()
        pose, target = model(dataset.inputs_2d[index]), dataset.targets_3d[index]
        loss = 0.9 * F.mse_loss(pose, target) + 0.1 * F.l1_loss(pose, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loader.epoch_steps > 3
    found = ours.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
