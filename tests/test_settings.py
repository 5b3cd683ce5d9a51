"""What a run departs from, whatever is edited in ``opt.py``; the settings of old checkpoints."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import main_gcn
import main_graph
import opt
from common.errors import UserError
from models.build import MODELS
from tests.conftest import ROOT, SLICE, edited_opt
from training import settings
from training.checkpoint import Source, load_checkpoint
from training.published_settings import published_settings

NOISY = [*SLICE, "--keypoints", "noisy", "--pro_train", "1"]


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
    changed = edited_opt(('"lr": 1e-3', '"lr": 2e-3'), ('"hid_dim": 384', '"hid_dim": 64'))
    assert departures(changed.parse_gcn([])) == {"lr": 2e-3}
    assert departures(changed.parse_graph([]), "main_graph") == {"hid_dim": 64}
    assert departures(changed.parse_gcn(["--lr", "1e-3"])) == {}
    # A baseline's own settings win over the table.
    assert departures(changed.parse_gcn(["--model", "semgcn"])) == {}
    changed = edited_opt(('"hops": 1', '"hops": 2'), ('"turn": 0.5', '"turn": 0.1'))
    assert departures(changed.parse_gcn(["--model", "martinez"])).keys() == {"turn"}
    assert departures(changed.parse_gcn([])).keys() == {"hops", "turn"}
    with pytest.raises(UserError, match=r"opt\.py: optimizer is 'adma', not one of adam"):
        edited_opt(('"optimizer": "adam"', '"optimizer": "adma"')).parse_gcn([])


def test_an_edited_default_does_not_change_resumed_and_tested_runs():
    changed = edited_opt(
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


def test_as_published_nothing_departs():
    for script, parse in (("main_gcn", opt.parse_gcn), ("main_graph", opt.parse_graph)):
        for name in MODELS:
            args = parse(["--model", name])
            assert settings.departures(settings.settings_of(args), script) == {}, name
    assert settings.departures(None, "main_gcn") is None


def test_a_run_is_resumed_by_its_own_script_with_actions_of_its_own_data(call, tmp_path):
    flags = [*SLICE, "--epochs", "1", "-c", tmp_path, "--name", "run"]
    assert call(main_gcn.main, *flags)[0] == 0
    last = tmp_path / "run/ckpt_last.pth.tar"
    status, _, err = call(main_graph.main, "--resume", last, "--epochs", 2)
    assert status == 2 and "is of a run of main_gcn.py: resume it with that script" in err
    resume = ["--resume", last, "--epochs", 2, "--device", "cpu", "-c", tmp_path]
    assert call(main_gcn.main, *resume, "--actions", "throwBasketball")[0] == 0
    # On other data its earlier errors do not compare: a folder of its own, tested anew.
    status, out, err = call(
        main_gcn.main, *resume[:3], 3, *resume[4:], "--actions", "throwBasketball,squat",
        "--name", "other",
    )  # fmt: skip
    assert (status, err) == (0, "") and "tested before it goes on" in out
    first, second = (load_checkpoint(tmp_path / n / last.name) for n in ("run", "other"))
    assert first["epoch"] == 2 and second["epoch"] == 3
    assert [row["epoch"] for row in second["history"]] == [3]
