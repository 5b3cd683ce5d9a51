"""Every model and every choice trains through the scripts, on a slice of the bundled data."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

import main_gcn
import main_graph
import opt
from models.build import MODELS
from tests.conftest import ROOT
from training.checkpoint import load_checkpoint

SMALL = ["--dataset", "hdm05", "--actions", "sneak", "--downsample", "25", "-z", "8", "-l", "1",
         "--device", "cpu"]  # fmt: skip
SHORT = [*SMALL, "-e", "1"]


@pytest.fixture
def train(call, tmp_path):
    """A short run: its results, its checkpoint's path and its output."""

    def run(*flags, main=main_gcn.main):
        name = str(len(list(tmp_path.iterdir())))
        status, out, err = call(main, *SHORT, "-c", tmp_path, "--name", name, *flags)
        assert (status, err) == (0, ""), err
        results = json.loads((tmp_path / name / "results.json").read_text())
        return results, tmp_path / name / "ckpt_last.pth.tar", out

    return run


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_its_checkpoint_is_tested(train, call, tmp_path, name):
    results, path, out = train("--model", name)
    assert results["model"]["name"] == name and f"\n{name}: " in out
    assert f"{results['parameters']:,} parameters" in out
    assert f"{results['multiply_adds_a_pose']:,} multiply-adds a pose" in out
    settings = load_checkpoint(path)["options"]
    ours = {"dataset": "hdm05", "actions": ["sneak"], "downsample": 25, "hid_dim": 8,
            "num_layers": 1, "epochs": 1}  # fmt: skip
    assert results["departures"] == ours and settings["model"] == name
    flags = [*SMALL, "--model", name, "--evaluate", path, "--results", tmp_path / "r.json"]
    assert call(main_gcn.main, *flags)[0] == 0
    again = json.loads((tmp_path / "r.json").read_text())
    assert again["departures"] == ours
    expected = results["results"]["last"]["mpjpe_mm"]
    assert abs(again["results"]["evaluated"]["mpjpe_mm"] - expected) < 1e-3


CHOICES = [
    ["--no-weight_modulation"],
    *[["--adj_modulation", choice] for choice in ("none", "mul", "lowrank", "full")],
    ["--adj_modulation", "lowrank", "--rank", "2"],
    ["--no-adj_symmetric", "--joints", "17"],
    ["--no-decouple_self", "--non_local"],
    ["--hops", "3", "--dropout", "0.1"],
    ["--modulation_init", "xavier"],
    ["--adj_l1", "0.001"],
    *[["--loss", loss, "--weight_L1_norm", "0.2"] for loss in ("mpjpe", "l1", "smooth_l1")],
    *[["--norm_layer", norm] for norm in ("layer", "group")],
]


def as_typed(key, value) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    return [f"--{key}", str(value)]


@pytest.mark.parametrize("flags", CHOICES, ids=" ".join)
def test_every_choice_trains_and_is_named(train, call, flags):
    results, path, out = train(*flags)
    departures = results["departures"]
    given = {"weight_l1" if f == "--weight_L1_norm" else f.removeprefix("--").removeprefix("no-")
             for f in flags if f.startswith("--")}  # fmt: skip
    assert given <= departures.keys()
    assert all(f"{key} {departures[key]}" in out for key in given)
    assert call(main_gcn.main, *SMALL, "--evaluate", path)[0] == 0  # it brings its flags with it
    of_network = given & results["model"].keys() - {"dropout", "modulation_init"}
    if of_network:  # a file that has no flags says it by its network; others typed are refused
        saved = torch.load(path, weights_only=True)
        bare = path.with_name("bare.pth.tar")
        torch.save({key: saved[key] for key in ("state_dict", "model")}, bare)
        assert call(main_gcn.main, *SMALL, "--evaluate", bare)[0] == 0
        usual = vars(opt.parse_gcn([]))
        typed = [flag for key in of_network for flag in as_typed(key, usual[key])]
        status, _, err = call(main_gcn.main, *SMALL, *typed, "--evaluate", bare)
        assert status == 2 and err.count("\n") == 1
        assert all(f"--{key}" in err or f"--no-{key}" in err for key in of_network)
        remedy = re.search("; give (.*)", err)[1].split()
        assert call(main_gcn.main, *SMALL, *typed, *remedy, "--evaluate", bare)[0] == 0


def test_detected_2d_knows_them_too(train, call, tmp_path):
    """With weights under published names: what these do not tell lies beside them."""
    detected = ["--keypoints", "noisy", "--pro_train", "1", "--save_model", "1"]
    for name, flags in (
        ("semgcn", ["--model", "semgcn"]),
        ("mul", ["--adj_modulation", "mul", "--adj_l1", "0.001"]),
        ("paper", []),
    ):
        folder = tmp_path / f"saved_{name}"
        train(*detected, "--save_dir", folder, *flags, main=main_graph.main)
        (file,) = folder.iterdir()
        bare = "state_dict" not in torch.load(file, weights_only=True)
        assert bare == (name != "mul")
        evaluate = [*SMALL, "--keypoints", "noisy", "--evaluate", folder]
        assert call(main_graph.main, *evaluate, *flags)[0] == 0
        assert call(main_graph.main, *evaluate)[0] == 0
        status, _, err = call(main_graph.main, *evaluate, "--model", "mgcn")
        assert status == (2 if name == "semgcn" else 0)
        assert ("--model semgcn" in err) == (name == "semgcn")


def test_sparsity_makes_adjacencies_smaller(train):
    def size(path):
        weights = load_checkpoint(path)["state_dict"]
        return sum(t.abs().sum().item() for n, t in weights.items() if n.endswith("adj2"))

    (_, free, _), (_, sparse, _) = train("-e", "2"), train("-e", "2", "--adj_l1", "1")
    assert size(sparse) < 0.5 * size(free)


def test_choices_that_mean_nothing_are_refused(call, tmp_path):
    def refused(*flags):
        status, _, err = call(main_gcn.main, *SHORT, "-c", tmp_path, *flags)
        assert status == 2 and err.count("\n") == 1 and not list(tmp_path.iterdir())
        return err

    assert "--hops is no choice of --model semgcn" in refused("--model", "semgcn", "--hops", 2)
    assert "--non_local is no choice" in refused("--model", "martinez", "--non_local")
    assert "--adj_modulation lowrank" in refused("--rank", 2)
    xavier = ("--modulation_init", "xavier")
    assert "leave one of them out" in refused("--no-weight_modulation", *xavier)
    assert "learned adjacency" in refused("--adj_l1", 1, "--adj_modulation", "none")
    assert "learned adjacency" in refused("--adj_l1", 1, "--model", "gcn")
    assert "--max_weight_norm" in refused("--max_weight_norm", 1)
    assert "--model" in refused("--model", "transformer")
    assert "add" in refused("--adj_modulation", "sum")


@pytest.mark.slow
def test_the_worked_example_of_the_docs(tmp_path):
    """One file and one line, in a copy of the program; then its command, made short."""
    page = (ROOT / "docs/extending.md").read_text()
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = re.search(r"`(models/\w+\.py)`:", page)[1]
    command = re.search(r"```bash\n(.*)\n```", page)[1].split()
    for folder in ("common", "data", "models", "training"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for script in ("opt.py", "main_gcn.py"):
        shutil.copy(ROOT / script, tmp_path)
    (tmp_path / path).write_text(file)
    build = tmp_path / "models/build.py"
    build.write_text(build.read_text().replace("MODELS = {\n", f"MODELS = {{\n{line}"))
    assert line.count("\n") == 1 and line in build.read_text()
    assert command[:2] == ["python", "main_gcn.py"]
    flags = ["--dataset_dir", ROOT / "dataset", *SHORT[2:], "--name", "run"]
    done = subprocess.run(
        [sys.executable, *command[1:], *flags], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "checkpoint/run/results.json").read_text())
    assert results["model"]["name"] == "max" and results["results"]["last"]["epoch"] == 1
    options = json.loads((tmp_path / "checkpoint/run/options.json").read_text())
    assert (options["loss"], options["weight_l1"], options["lr"]) == ("mpjpe", 0.0, 1e-3)
