"""What a run departs from, whatever is edited in ``opt.py``; old checkpoints; the loss by flags."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch

import main_graph
import opt
from common.errors import UserError
from common.skeleton import H36M_17
from data.datasets import HDM05
from data.pose_dataset import PoseBatch, load_pose_datasets
from models.build import MODELS
from tests.conftest import ROOT, SLICE
from tools import sweep
from training import settings
from training.checkpoint import Source, load_checkpoint
from training.lifter import build_lifter
from training.published_settings import SCRIPTS, distinguishing_settings, published_settings

NOISY = [*SLICE, "--keypoints", "noisy", "--pro_train", "1"]


def edited(*changes):
    """``opt.py`` as somebody has edited it: pairs of old and new text."""
    text = (ROOT / "opt.py").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("edited", None))
    exec(compile(text, "opt.py", "exec"), vars(module))
    return module


def departures(args, script="main_gcn"):
    return settings.departures(settings.settings_of(args), script)


def test_the_tables_of_opt_start_as_published():
    for script, table in (("main_gcn", opt.GROUND_TRUTH), ("main_graph", opt.DETECTED)):
        usual = published_settings(script, "mgcn")
        assert {k: table[k] for k in usual if k not in ("amp", "tf32", "joints")} == {
            k: v for k, v in usual.items() if k not in ("amp", "tf32", "joints")
        }
        parse = {"main_gcn": opt.parse_gcn, "main_graph": opt.parse_graph}[script]
        assert table.keys() <= vars(parse([])).keys()
        for name in MODELS:
            assert departures(parse(["--model", name]), script) == {}, name


def test_an_edited_default_is_a_departure_and_not_published():
    changed = edited(('"lr": 1e-3', '"lr": 2e-3'), ('"hid_dim": 384', '"hid_dim": 64'))
    assert departures(changed.parse_gcn([])) == {"lr": 2e-3}
    assert departures(changed.parse_graph([]), "main_graph") == {"hid_dim": 64}
    assert departures(changed.parse_gcn(["--lr", "1e-3"])) == {}
    # A baseline's own settings win over the table.
    assert departures(changed.parse_gcn(["--model", "semgcn"])) == {}
    changed = edited(('"hops": 1', '"hops": 2'), ('"turn": 0.5', '"turn": 0.1'))
    assert departures(changed.parse_gcn(["--model", "martinez"])).keys() == {"turn"}
    assert departures(changed.parse_gcn([])).keys() == {"hops", "turn"}
    with pytest.raises(UserError, match=r"optimizer is 'adma' in opt\.py"):
        edited(('"optimizer": "adam"', '"optimizer": "adma"')).parse_gcn([])


def test_an_edited_default_does_not_change_resumed_and_tested_runs():
    changed = edited(
        ('"lr": 1e-3', '"lr": 2e-3'), ('"adj_symmetric": True', '"adj_symmetric": False')
    )
    before = settings.settings_of(opt.parse_gcn(["--epochs", "7"]))
    for old in (before, {"model": "mgcn", "epochs": 7, "seed": 0, "snapshot": 5}):
        model = {"joints": 16, "hid_dim": 128}
        source = Source("CKPT", {"options": old, "model": model})
        argv = ["--resume", "CKPT"]
        resumed = settings.checkpoint_settings("main_gcn", source, argv, resume=True)
        args = changed.parse_gcn(argv, defaults=resumed)
        assert (args.lr, args.adj_symmetric, args.epochs) == (1e-3, True, 7)
        argv = ["--evaluate", "CKPT"]
        for tested_source in (source, Source("CKPT", {"model": model})):  # and one of others
            tested = settings.checkpoint_settings("main_gcn", tested_source, argv, resume=False)
            assert changed.parse_gcn(argv, defaults=tested).adj_symmetric


def test_a_script_runs_with_an_edited_table(tmp_path):
    for folder in ("common", "data", "models", "training"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "main_graph.py", tmp_path)
    text = (ROOT / "opt.py").read_text()
    for old, new in (
        ('"dataset": "h36m"', '"dataset": "hdm05"'),
        ('"keypoints": "cpn_ft_h36m_dbb"', '"keypoints": "noisy"'),
        ('"downsample": 1', '"downsample": 60'),
        ('"epochs": 30', '"epochs": 1'),
        ('"hid_dim": 384', '"hid_dim": 16'),
        ('"num_layers": 4', '"num_layers": 1'),
        ('"pro_train": 0', '"pro_train": 1'),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "opt.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "main_graph.py", "--dataset_dir", ROOT / "dataset", "--name", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "checkpoint/run/results.json").read_text())
    assert results["departures"] == {
        "dataset": "hdm05", "keypoints": "noisy", "downsample": 60, "epochs": 1, "hid_dim": 16,
        "num_layers": 1,
    }  # fmt: skip
    assert "published settings, but" in done.stdout and "num_layers 1" in done.stdout


def test_a_remedy_names_a_value_that_the_script_takes():
    with pytest.raises(UserError, match="--lr_decay goes with --schedule step "):
        opt.parse_graph(["--schedule", "cosine", "--lr_decay", "0.8"])
    with pytest.raises(UserError, match="--lr_decay goes with --schedule exponential "):
        opt.parse_gcn(["--schedule", "cosine", "--lr_decay", "10"])
    with pytest.raises(UserError, match="--weight_decay goes with --optimizer adamw or sgd"):
        opt.parse_gcn(["--weight_decay", "0.3"])


# (script, flags, the run's folder with seed 1) of sweeps from before ``opt.py`` could be edited.
KEPT = (
    ("main_gcn.py", {"dataset": "hdm05", "epochs": 10}, "a349ce4200c46b49"),
    (
        "main_gcn.py",
        {"dataset": "hdm05", "epochs": 10, "recipe": "strong", "warmup": 800, "batch_size": 64},
        "55b58bdc93e34b33",
    ),
    ("main_gcn.py", {"model": "semgcn"}, "81fea36872df6b25"),
    (
        "main_gcn.py",
        {"optimizer": "adamw", "weight_decay": 0.01, "lr_gamma": 0.9},
        "5c98cfd1c34d55db",
    ),
    (
        "main_graph.py",
        {"keypoints": "noisy", "non_local": False, "hid_dim": 128, "recipe": "strong"},
        "cb9a20ae41dda21a",
    ),
)
# Of these runs another thing is trained now.
NOT_KEPT = (
    ("main_gcn.py", {"non_local": True}, "8f8ca1d074cee785"),
    ("main_graph.py", {"non_local": False, "post_refine": True}, "50c4ed12a1d0a454"),
)


def test_the_runs_of_earlier_sweeps_keep_their_folders_unless_something_else_is_trained():
    for script, flags, folder in KEPT:
        assert sweep._jobs("row", script, flags, [1])[0].id == folder
    for script, flags, folder in NOT_KEPT:
        assert sweep._jobs("row", script, flags, [1])[0].id != folder


def test_runs_of_an_edited_table_are_other_runs():
    changed = edited(('"lr": 1e-3', '"lr": 2e-3'))
    usual = distinguishing_settings("main_gcn", settings.settings_of(opt.parse_gcn([])))
    assert usual == {}
    found = distinguishing_settings("main_gcn", settings.settings_of(changed.parse_gcn([])))
    assert found == {"lr": 2e-3}
    typed = settings.settings_of(opt.parse_gcn(["--lr", "2e-3"]))
    assert distinguishing_settings("main_gcn", typed) == found
    back = settings.settings_of(changed.parse_gcn(["--lr", "1e-3"]))
    assert distinguishing_settings("main_gcn", back) == {}


def test_every_setting_is_known_to_the_frozen_tables():
    """A new flag that is not there would make every run of before another one."""
    for script in SCRIPTS:
        parse = {"main_gcn": opt.parse_gcn, "main_graph": opt.parse_graph}[script]
        flags = ["--pro_train=1", "--no-non_local"] if script == "main_graph" else []
        found = distinguishing_settings(script, settings.settings_of(parse(flags)))
        assert found == ({"non_local": False} if script == "main_graph" else {})


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
    args = opt.parse_graph([*NOISY, *flags])
    lifter = build_lifter(args, "main_graph", None, refine)
    loss = main_graph.loss_of(args, lifter)
    (data,) = load_pose_datasets(
        HDM05, ROOT / "dataset", [["mm"]], H36M_17, "noisy", ["throwBasketball"], 60
    )
    batch = PoseBatch(data, torch.arange(len(data)))
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


def test_an_old_checkpoint_resumes_with_its_old_loss(call, tmp_path):
    """There ``sym_penalty`` switched a mean over the six pairs, of the refined pose alone."""
    flags = [*NOISY, "--post_refine", "--epochs", "1", "-c", tmp_path, "--name", "run"]
    assert call(main_graph.main, *flags)[0] == 0
    path = tmp_path / "run/ckpt_last.pth.tar"
    checkpoint = load_checkpoint(path)
    options = checkpoint["options"]
    for key in ("network_symmetry", "sym_weight"):
        del options[key]
    options |= {"sym_penalty": 1, "weight_decay": 0.01}
    torch.save(checkpoint, path)
    status, out, err = call(main_graph.main, "--resume", path, "--epochs", 2, "--device", "cpu")
    assert (status, err) == (0, "")
    assert "resuming with changed settings: epochs 1 -> 2\n" in out
    resumed = load_checkpoint(path)["options"]
    assert resumed["sym_weight"] == 0.01 / 6 and resumed["network_symmetry"] == 0
    assert resumed["weight_decay"] is None and "sym_penalty" not in resumed
    without = settings.current_settings(options | {"sym_penalty": 0})
    assert without["sym_weight"] == 0.0


def test_old_settings_of_a_run_without_refinement_depart_from_nothing():
    old = settings.settings_of(opt.parse_graph([])) | {"sym_penalty": 1, "weight_decay": 0.01}
    del old["network_symmetry"], old["sym_weight"]
    assert settings.departures(old, "main_graph") == {}


def test_sgd_trains_and_resumes_bit_for_bit(call, tmp_path):
    flags = [*NOISY, "--optimizer", "SGD", "--learning_rate", "1e-3", "-c", tmp_path]
    for name, epochs in (("whole", 2), ("part", 1)):
        assert call(main_graph.main, *flags, "--name", name, "--nepoch", epochs)[0] == 0
    part = tmp_path / "part/ckpt_last.pth.tar"
    assert call(main_graph.main, "--resume", part, "--nepoch", 2, "--device", "cpu")[0] == 0
    a, b = (load_checkpoint(tmp_path / name / part.name) for name in ("whole", "part"))
    assert all(
        torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"]
    )
    group = a["optimizer"]["param_groups"][0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)
