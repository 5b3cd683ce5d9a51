"""The script as its users call it, on a slice of the bundled data with made noise."""

import json

import pytest
import torch

import main_graph
import opt
from common.errors import UserError
from common.skeleton import H36M_17
from data.datasets import HDM05
from data.pose_dataset import load_pose_datasets
from main_graph import build_training, main
from models.build import build_model
from models.costs import count_parameters
from models.pose_refine import PoseRefine
from tests.conftest import ROOT, SLICE, as_published
from training import settings
from training.checkpoint import load_checkpoint
from training.lifter import build_lifter
from training.schedule import step_rate

NOISY = [*SLICE, "--keypoints", "noisy"]


@pytest.fixture
def graph(call, tmp_path):
    def run(*flags):
        status, out, err = call(main, *NOISY, "-c", tmp_path / "runs", *flags)
        assert (status, err) == (0, ""), err
        return out

    return run


@pytest.fixture
def trained(graph, tmp_path):
    """A folder with the best weights of a short training of the network."""
    folder = tmp_path / "ckpt"
    graph("--pro_train", 1, "--save_model", 1, "--save_dir", folder, "--nepoch", 2)
    return folder


def figures(path) -> dict:
    return json.loads(path.read_text())["results"]


def lifter_of(*flags):
    args = opt.parse_graph([*NOISY, *flags])
    return args, build_lifter(args, "main_graph", None, bool(args.post_refine))


def test_published_defaults():
    args = opt.parse_graph([])
    assert (args.dataset, args.keypoints, args.joints) == ("h36m", "cpn_ft_h36m_dbb", 17)
    assert (args.hid_dim, args.num_layers, args.dropout, args.non_local) == (384, 4, 0.2, True)
    assert (args.batch_size, args.epochs, args.lr, args.weight_l1) == (256, 30, 5e-3, 0.01)
    assert (args.lr_decay, args.large_decay_epoch) == (0.9, 4)
    assert args.data_augmentation and args.flip_test and args.pro_train == 0
    assert opt.parse_graph(["-k", "sh_ft_h36m"]).joints == 16
    model = build_model(settings.model_arguments(args, "main_graph"))
    assert count_parameters(model) == 2_731_840
    assert model.gconv_input[0].gconv.M.min() < 0  # Xavier, not ones
    assert isinstance(model.gconv_layers[0].gconv1.dropout, torch.nn.Dropout)


def test_optimiser_and_rate_are_the_published_ones():
    args, lifter = lifter_of()
    training = build_training(args, lifter, epoch_steps=1)
    assert training.optimizer.defaults["amsgrad"] and training.max_norm is None
    rate = step_rate(5e-3, 0.9, 4)
    rates = [rate(1, epoch) for epoch in (1, 4, 5, 8, 9)]
    assert rates == [5e-3, 5e-3, 5e-3 * 0.9, 5e-3 * 0.9, 5e-3 * 0.9**2]


def test_published_commands_work_as_typed_one_after_the_other(graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph("--pro_train", "1", "--save_model", "1", "--save_dir", "./ckpt", "--nepoch", "1")
    assert "Mean of actions" in graph()  # without flags it tests what the first command trained
    graph(
        "--post_refine", "--module_gcn_reload", "1", "--pro_train", "1", "--previous_dir",
        "./ckpt", "--save_model", "1", "--save_dir", "./ckpt/best_model", "--nepoch", "1",
    )  # fmt: skip
    out = graph("--post_refine", "--module_gcn_reload", "1", "--previous_dir", "./ckpt/best_model",
                "--save_dir", "./ckpt_best_model", "--post_refine_reload", "1", "--nepoch", "2",
                "--show_protocol2")  # fmt: skip
    assert "refinement uses ground-truth root depth" in out
    assert "xyz" in out and "post" in out


def test_best_weights_are_saved_under_published_names(trained):
    (path,) = trained.iterdir()  # the best replaces the one before
    epoch, _, kind, error = path.stem.removeprefix("model_module_gcn_").split("_")
    (log,) = (trained.parent / "runs").rglob("results.json")
    best = figures(log)["best"]
    assert int(epoch) == best["epoch"] and kind == "xyz"
    assert int(error) == int(100 * best["mpjpe_mm"])
    state = torch.load(path, weights_only=True)
    assert "gconv_input.0.gconv.W" in state and "non_local.theta.weight" in state


def test_every_form_of_checkpoint_gives_the_same_figures(graph, trained, tmp_path):
    (run,) = (tmp_path / "runs").iterdir()
    (model,) = trained.iterdir()
    expected = figures(run / "results.json")["best"]
    for path in (model, trained, run / "ckpt_best.pth.tar"):
        out = graph("--eva", path, "--results", tmp_path / "r.json")
        found = figures(tmp_path / "r.json")["xyz"]
        for metric in ("mpjpe_mm", "p_mpjpe_mm"):
            assert abs(found[metric] - expected[metric]) < 1e-4
        assert "root depth" not in out
        assert found["epoch"] == expected["epoch"] and "on the test subjects" in out


@pytest.fixture
def refined(graph, trained, tmp_path):
    folder = tmp_path / "refined"
    graph("--post_refine", "--module_gcn_reload", 1, "--pro_train", 1, "--previous_dir", trained,
          "--save_model", 1, "--save_dir", folder, "--nepoch", 2, "--name", "second")  # fmt: skip
    return folder


def test_refinement_is_trained_from_the_network_and_tested_with_either_depth(
    graph, refined, tmp_path
):
    names = sorted(path.name.split("_eva_")[0][:17] for path in refined.iterdir())
    assert names == ["model_module_gcn_", "model_post_refine"]
    found = {}
    for depth, said in (("gt", "ground-truth root depth"), ("estimate", "estimated from the pred")):
        flags = ("--root_depth", depth, "--results", tmp_path / "r.json")
        out = graph("--eva", refined, *flags)
        assert said in out
        found[depth] = figures(tmp_path / "r.json")
        assert said in json.loads((tmp_path / "r.json").read_text())["root_depth"]
    second = figures(tmp_path / "runs" / "second" / "results.json")["best"]
    assert abs(found["gt"]["post"]["mpjpe_mm"] - second["mpjpe_mm"]) < 1e-4
    assert found["gt"]["xyz"] == found["estimate"]["xyz"]
    assert found["gt"]["post"]["mpjpe_mm"] != found["estimate"]["post"]["mpjpe_mm"]
    assert "root depth" not in graph("--eva", refined, "--no-post_refine")
    out = graph("--eva", refined, "--show_root", "--results", tmp_path / "r.json")
    errors = json.loads((tmp_path / "r.json").read_text())["root_position_error_mm"]
    assert f"distortion removed: {errors['distortion_removed']['distance']:.1f}" in out
    assert errors["distortion_removed"]["z"] <= errors["distortion_removed"]["distance"]


def test_resuming_refinement_gives_what_one_run_gives(graph, trained, call, tmp_path):
    common = ("--post_refine", "--module_gcn_reload", 1, "--pro_train", 1, "--previous_dir",
              trained, "--save_model", 1)  # fmt: skip
    graph(*common, "--nepoch", 2, "--name", "whole")
    graph(*common, "--nepoch", 1, "--name", "part")
    last = tmp_path / "runs" / "part" / "ckpt_last.pth.tar"
    status, _, err = call(main, "--resume", last, "--nepoch", 2, "--device", "cpu")
    assert (status, err) == (0, "")
    a, b = (load_checkpoint(tmp_path / "runs" / n / last.name) for n in ("whole", "part"))
    for key in ("state_dict", "post_refine"):
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
    names = [
        sorted(p.name for p in (tmp_path / "runs" / n).glob("model_*.pth"))
        for n in ("whole", "part")
    ]
    assert names[0] == names[1] and len(names[0]) == 2


def test_a_resumed_file_without_a_best_gets_published_names_too(graph, call, tmp_path):
    graph("--pro_train", 1, "-e", 1, "--name", "first")
    last = tmp_path / "runs" / "first" / "ckpt_last.pth.tar"
    path = as_published(tmp_path / "published.pth.tar", last, 50.0)
    out = graph("--resume", path, "-e", 2, "--lr", 5, "--save_model", 1, "--name", "second")
    assert "the file says 50.0000" in out
    folder = tmp_path / "runs" / "second"
    best = figures(folder / "results.json")["best"]
    (model,) = folder.glob("model_module_gcn_*.pth")
    assert model.name == f"model_module_gcn_1_eva_xyz_{round(100 * best['mpjpe_mm'])}.pth"
    weights, expected = load_checkpoint(model), load_checkpoint(last)
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(weights["state_dict"][name], tensor), name


def test_flags_without_effect_are_named_once(call, trained):
    status, _, err = call(main, *NOISY, "--eva", trained, "--workers", 8, "--gpu", "0,1")
    assert status == 0 and err.count("\n") == 1
    assert "--workers" in err and "--gpu" in err and "warning" in err


@pytest.fixture
def refused(call, tmp_path):
    def run(*flags):
        before = sorted(path.name for path in tmp_path.rglob("*"))
        status, _, err = call(main, *NOISY, "-c", tmp_path / "none", *flags)
        assert status == 2 and err.count("\n") == 1 and err.startswith("error: ")
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        return err

    return run


def test_wrong_weights(refused, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "ckpt")
    assert "ckpt/module_256 is not there" in refused()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no model_module_gcn_" in refused("--eva", empty)
    assert "train the refinement" in refused("--eva", trained, "--post_refine")
    (model,) = trained.iterdir()
    assert "no refinement" in refused("--eva", model, "--post_refine")
    assert "hid_dim 16, not 384" in refused("--eva", trained, "-z", "384")
    # what was typed and differs is named with its remedy, and nothing else
    *_, remedy = refused("--eva", trained, "-j", "16").partition(" has ")
    assert remedy == "joints 17, not 16 as the flags or their defaults say; give --joints 17\n"
    second = trained / "model_module_gcn_9_eva_xyz_1.pth"
    second.write_bytes(model.read_bytes())
    assert "choose one with --module_gcn_model" in refused("--eva", trained)
    other = trained / "model_post_refine_9_eva_xyz_1.pth"
    torch.save(PoseRefine(16).state_dict(), other)
    assert "does not fit" in refused("--eva", trained)
    other.write_bytes(b"damaged")
    assert "not a checkpoint" in refused("--eva", trained)


def test_wrong_flags(refused):
    assert "--save_out_type post needs" in refused("--pro_train", 1, "--save_out_type", "post")
    assert "--module_gcn_reload 1" in refused("--pro_train", 1, "--post_refine_reload", 1)
    assert "data_2d_hdm05_cpn.npz is not there" in refused("--pro_train", 1, "-k", "cpn")


def test_training_refuses_flags_of_testing_and_of_a_refinement_it_has_not():
    for flags in (["--evaluate", "x"], ["--sym_signed"], ["--root_depth", "estimate"]):
        with pytest.raises(UserError, match=flags[0]):
            opt.parse_graph(["--pro_train", "1", *flags])
        opt.parse_graph(flags)
    opt.parse_graph(["--pro_train", "1", "--post_refine", "--root_depth", "estimate"])


def limbs(pose, side):
    """(B, 6) lengths of one side's hip, thigh, shank, shoulder, upper arm, forearm."""
    names = H36M_17.names
    chains = (("Hip", "Hip"), ("Hip", "Knee"), ("Knee", "Foot"), ("Thorax", "Shoulder"),
              ("Shoulder", "Elbow"), ("Elbow", "Wrist"))  # fmt: skip
    lengths = []
    for number, (start, end) in enumerate(chains):
        start = start if number in (0, 3) else side + start
        a, b = pose[:, names.index(start)], pose[:, names.index(side + end)]
        lengths.append((a - b).square().sum(-1).sqrt())
    return torch.stack(lengths, dim=1)


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("penalty", [0, 1])
@pytest.mark.parametrize("signed", [False, True])
def test_the_loss_of_detected_2d_is_the_published_one(refine, penalty, signed):
    flags = ["--sym_penalty", str(penalty)]
    flags += ["--post_refine"] if refine else []
    flags += ["--sym_signed"] if signed and (refine or penalty) else []
    args = opt.parse_graph([*NOISY, "--pro_train", "1", *flags])
    lifter = build_lifter(args, "main_graph", None, refine)
    loss = main_graph.loss_of(args, lifter)
    (data,) = load_pose_datasets(
        HDM05, ROOT / "dataset", [["mm"]], H36M_17, "noisy", ["throwBasketball"], 60
    )
    batch = data.batch(torch.arange(len(data)))
    for network in lifter.networks().values():
        network.eval()

    def symmetry(pose):
        difference = limbs(pose, "L") - limbs(pose, "R")
        return sum((difference if args.sym_signed else difference.abs()).mean(dim=0))

    pose, target = lifter.network(batch.inputs_2d), batch.targets_3d
    distance = (pose - target).square().sum(-1).sqrt().mean()
    expected = 0.99 * distance + 0.01 * (pose - target).abs().mean()
    if penalty:
        expected = expected + 0.01 * symmetry(pose)
    if refine:
        refined = lifter.refine(pose, batch)
        expected = expected + (refined - target).square().sum(-1).sqrt().mean()
        expected = expected + 0.01 * symmetry(refined)
    assert torch.allclose(loss(batch), expected, atol=1e-6)
