"""Files of others and of earlier versions through the scripts: tested, resumed, predicted from."""

import collections
import json
import re

import numpy as np
import pytest
import torch

import main_gcn
import main_graph
import predict
from common.errors import UserError
from models.build import build_model
from models.pose_refine import PoseRefine
from tests import old_checkpoints as old
from tests.conftest import SLICE, randomise
from training.checkpoint import load_checkpoint
from training.published_files import load_model_folder

DATA = [*SLICE[: SLICE.index("-z")], "--device", "cpu"]
SMALL = ["-z", "8", "-l", "1"]
NETWORKS = {
    "semgcn": {"name": "semgcn", "non_local": "grouped"},
    "mgcn": {"name": "mgcn", "non_local": "grouped"},
    "linear": {"name": "martinez", "predict_root": False},
}


def network(**arguments):
    return randomise(build_model({"joints": 16, "hid_dim": 8, "num_layers": 1} | arguments))


def write(path, content):
    path.write_bytes(old.python2_file(content))
    return path


def nonlocal_names(weights, prefix="module."):
    return collections.OrderedDict(
        (prefix + name.replace(".non_local.", ".nonlocal."), t) for name, t in weights.items()
    )


def mpjpe(call, tmp_path, main, *flags) -> float:
    """Of a test that needs no word on the network."""
    results = tmp_path / "r.json"
    status, _, err = call(main, *DATA, *flags, "--results", results)
    assert (status, err) == (0, ""), err
    (result,) = json.loads(results.read_text())["results"].values()
    return result["mpjpe_mm"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_file_of_others_is_tested_without_a_word_on_its_network(call, tmp_path, kind):
    model = network(**NETWORKS[kind])
    weights = nonlocal_names(model.state_dict())
    ours = {"state_dict": model.state_dict(), "model": {"joints": 16, "hid_dim": 8,
            "num_layers": 1, "in_dim": 2, "out_dim": 3, **NETWORKS[kind]}}  # fmt: skip
    torch.save(ours, tmp_path / "ours.pth")
    bare = write(tmp_path / "bare.pth", weights)
    dressed = {"epoch": 3, "lr": 1e-3, "step": 9, "error": np.float64(50), "state_dict": weights}
    write(tmp_path / "dressed.pth.tar", dressed)
    expected = mpjpe(call, tmp_path, main_gcn.main, "--evaluate", tmp_path / "ours.pth")
    for path in (bare, tmp_path / "dressed.pth.tar"):
        assert mpjpe(call, tmp_path, main_gcn.main, "--evaluate", path) == expected
    if kind == "linear":  # the other script tests all but the other kind of block
        flags = ("-k", "gt", "--no-flip_test", "--eva", bare)
        found = mpjpe(call, tmp_path, main_graph.main, *flags)
        assert found == pytest.approx(expected, abs=1e-3)


def test_predictions_from_a_file_of_others_are_those_of_its_network(call, tmp_path):
    for kind, arguments in NETWORKS.items():
        model = network(**arguments).eval()
        path = write(tmp_path / f"{kind}.pth", nonlocal_names(model.state_dict()))
        pixels = torch.rand(5, 16, 2) * 1000
        np.save(tmp_path / "k.npy", pixels.numpy())
        flags = ["--width", 1000, "--height", 1000, "--format", "h36m16", "--force"]
        status, _, err = call(predict.main, tmp_path / "k.npy", "--weights", path, *flags)
        assert (status, err) == (0, "")
        pose = model(pixels / 500 - 1).detach()
        found = torch.from_numpy(np.load(tmp_path / "k_3d.npz")["poses_3d"])
        assert (found - (pose - pose[:, :1])).norm() < 1e-5 * pose.norm()


def test_what_is_typed_and_differs_is_refused(call, tmp_path):
    semgcn = write(tmp_path / "a.pth", network(name="semgcn", hid_dim=64).state_dict())

    def refused(*flags):
        status, _, err = call(main_gcn.main, *DATA, "--evaluate", semgcn, *flags)
        assert status == 2 and err.count("\n") == 1
        return err

    # Typed, though they are the defaults of this script or of the model.
    assert "give --model semgcn" in refused("--model", "mgcn")
    assert "hid_dim 64, not 128" in refused("-z", "128")
    assert "num_layers 1, not 4" in refused("--num_layers", "4")
    assert "give --model semgcn" in refused("--model", "martinez")
    assert "joints 16, not 17" in refused("--joints", "17")
    assert "give --no-non_local" in refused("--non_local")
    grouped = write(tmp_path / "a.pth", network(non_local="grouped").state_dict())
    assert "give --non_local" in refused("--no-non_local")
    assert "give --model mgcn" in refused("--model", "martinez")
    assert call(main_gcn.main, *DATA, "--evaluate", grouped, "-z", "8", "--model", "mgcn")[0] == 0


@pytest.mark.parametrize("how", ["--evaluate", "--resume"])
def test_non_local_blocks_of_the_other_script_are_named_with_it(call, tmp_path, how):
    files = {"grouped": {"joints": 16}, "embedded": {"joints": 17}}
    for kind, arguments in files.items():
        weights = network(non_local=kind, **arguments).state_dict()
        write(tmp_path / kind, {"epoch": 1, "step": 1, "optimizer": {}, "state_dict": weights})
    for main, kind, script in (
        (main_gcn.main, "embedded", "main_graph.py"),
        (main_graph.main, "grouped", "main_gcn.py"),
    ):
        status, _, err = call(main, *DATA, how, tmp_path / kind)
        assert status == 2 and err.count("\n") == 1 and f"those of {script}" in err


def test_published_folders_bring_their_network(call, tmp_path):
    folder = tmp_path / "ckpt"
    folder.mkdir()
    model = network(joints=17, non_local=None)
    write(folder / "model_module_gcn_7_eva_post_4939.pth", model.state_dict())
    refinement = PoseRefine(17).state_dict()
    module = collections.OrderedDict((f"module.{name}", t) for name, t in refinement.items())
    write(folder / "model_post_refine_7_eva_post_4939.pth", module)
    status, out, err = call(main_graph.main, *DATA, "-k", "noisy", "--eva", folder)
    assert (status, err) == (0, "") and "Epoch 7" in out and "post" in out
    assert load_model_folder(folder, None)["post_refine"].keys() == refinement.keys()
    file = folder / "model_module_gcn_7_eva_post_4939.pth"
    assert call(main_graph.main, *DATA, "-k", "noisy", "--eva", file)[0] == 0
    status, _, err = call(main_graph.main, *DATA, "-k", "noisy", "--eva", folder, "--non_local")
    assert status == 2 and "give --no-non_local" in err


def test_a_network_that_cannot_be_is_refused_in_one_line(call, tmp_path):
    weights = network().state_dict()
    said = {"joints": 16, "in_dim": 2, "out_dim": 3, "num_layers": 1, "name": "mgcn"}
    for model in (
        said | {"hid_dim": 0},
        said | {"hid_dim": "x"},
        said | {"joints": 25, "hid_dim": 8},
        said | {"name": "other", "hid_dim": 8},
        said | {"name": ["mgcn"], "hid_dim": 8},
    ):
        torch.save({"state_dict": weights, "model": model}, tmp_path / "a.pth")
        status, _, err = call(main_gcn.main, *DATA, "--evaluate", tmp_path / "a.pth")
        assert status == 2 and err.count("\n") == 1, model
    # Names of a network with many channels and hardly any weights: nothing so large is built.
    wide = network(hid_dim=8).state_dict()
    wide["gconv_input.0.gconv.W"] = torch.zeros(2, 2, 40_000)
    torch.save(wide, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no Modulated GCN"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.fixture
def train(call, tmp_path):
    def run(name, *flags, main=main_gcn.main):
        status, _, err = call(main, *DATA, *SMALL, "-c", tmp_path, "--name", name, *flags)
        assert (status, err) == (0, ""), err
        return tmp_path / name / "ckpt_last.pth.tar"

    return run


def assert_same_state(a, b) -> None:
    """Weights, averages and the optimiser's state, bit for bit."""
    a, b = load_checkpoint(a), load_checkpoint(b)
    assert a["step"] == b["step"] and a["lr"] == b["lr"] and ("trained" in a) == ("trained" in b)
    weights = [[c["state_dict"], *c.get("trained", {}).values()] for c in (a, b)]
    for ours, theirs in zip(*weights, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    states = [c["optimizer"]["state"] for c in (a, b)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert all(torch.equal(t, states[1][number][key]) for key, t in state.items())


def in_old_shapes(checkpoint):
    """As this program wrote it before the grouped blocks had convolutions over one dimension."""
    number = 0

    def widened(name, tensor):
        convolution = ".non_local." in name and name.endswith("weight") and tensor.dim() == 3
        return tensor.unsqueeze(-1) if convolution else tensor

    parts = [checkpoint["state_dict"], *checkpoint.get("trained", {}).values()]
    for weights in parts:
        weights.update({name: widened(name, tensor) for name, tensor in weights.items()})
    parameters = [n for n in checkpoint["state_dict"] if not re.search("running_|batches_", n)]
    for number, state in checkpoint["optimizer"]["state"].items():
        name = parameters[number]
        state.update({k: widened(name, t) for k, t in state.items() if k != "step"})
    shapes = {t.dim() for s in checkpoint["optimizer"]["state"].values() for t in s.values()}
    assert 4 in shapes and checkpoint["state_dict"]["gconv_input.1.non_local.W.0.weight"].dim() == 4
    return checkpoint


@pytest.mark.parametrize(("averaged", "zipped"), [(False, True), (True, False)])
def test_an_old_non_local_run_resumes_as_if_it_had_not_stopped(train, call, averaged, zipped):
    flags = ["--non_local", "--dropout", "0.1", *(["--ema", "0.9"] if averaged else [])]
    whole = train("whole", "-e", 2, *flags)
    last = train("part", "-e", 1, *flags)
    content = in_old_shapes(torch.load(last, weights_only=True))
    torch.save(content, last, _use_new_zipfile_serialization=zipped)
    assert call(main_gcn.main, *DATA, "--evaluate", last)[0] == 0
    status, _, err = call(main_gcn.main, "--resume", last, "--device", "cpu", "-e", 2)
    assert (status, err) == (0, "")
    assert_same_state(whole, last)


def as_published(checkpoint, shuffled=False):
    """The six keys of a published checkpoint, as an old torch on a GPU has them: a step is a
    number, a parameter has its address for a name, and a group fewer options.

    Args:
        shuffled: the network defines its layers in another order, which the optimiser's follows.
    """
    weights = checkpoint["state_dict"]
    parameters = [n for n in weights if not re.search("running_|batches_", n)]
    order = sorted(weights, key=lambda n: n[::-1]) if shuffled else [*weights]
    address = {name: 140_512_345_678_000 + 72 * i for i, name in enumerate(parameters)}
    saved = checkpoint["optimizer"]
    state = {
        address[parameters[i]]: s | {"step": int(s["step"])} for i, s in saved["state"].items()
    }
    options = {k: saved["param_groups"][0][k] for k in ("lr", "betas", "eps", "weight_decay")}
    group = options | {"amsgrad": False, "params": [address[n] for n in order if n in address]}
    return {
        "epoch": checkpoint["epoch"], "lr": checkpoint["lr"], "step": checkpoint["step"],
        "error": np.float64(checkpoint["error"]),
        "state_dict": collections.OrderedDict((name, weights[name]) for name in order),
        "optimizer": {"state": state, "param_groups": [group]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "shuffled"),
    [((), False), (("--non_local",), False), (("--non_local",), True),
     (("--model", "semgcn", "--non_local"), True)],
)  # fmt: skip
def test_a_published_checkpoint_resumes_as_if_it_had_not_stopped(
    train, call, tmp_path, flags, shuffled
):
    whole = train("whole", "-e", 2, *flags)
    part = train("part", "-e", 1, *flags)
    published = as_published(torch.load(part, weights_only=True), shuffled)
    path = write(tmp_path / "ckpt.pth.tar", published)
    assert call(main_gcn.main, *DATA, "--evaluate", path)[0] == 0
    # The network's flags are read off; of the others the published ones are the defaults.
    resume = ["--resume", path, "-e", 2, "-c", tmp_path, "--name", "resumed"]
    status, _, err = call(main_gcn.main, *DATA, *resume)
    assert (status, err) == (0, "")
    assert_same_state(whole, tmp_path / "resumed" / "ckpt_last.pth.tar")


def test_a_network_without_its_root_goes_on_without_it(train, call, tmp_path):
    arguments = {"name": "martinez", "joints": 16, "hid_dim": 8, "num_layers": 1}
    model = build_model(arguments | {"predict_root": False})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    content = {"epoch": 1, "step": 5, "state_dict": model.state_dict(),
               "optimizer": optimizer.state_dict()}  # fmt: skip
    path = write(tmp_path / "ckpt_linear.pth.tar", content)
    resume = ["--resume", path, "-e", 2, "-c", tmp_path, "--name", "resumed"]
    assert call(main_gcn.main, *DATA, *resume)[0] == 0
    last = tmp_path / "resumed" / "ckpt_last.pth.tar"
    found = load_checkpoint(last)
    assert found["model"]["predict_root"] is False and len(found["state_dict"]["w2.bias"]) == 45
    assert found["options"]["model"] == "martinez"
    assert mpjpe(call, tmp_path, main_gcn.main, "--evaluate", last) == pytest.approx(
        found["last"]["mpjpe_mm"], abs=1e-3
    )
    assert call(main_gcn.main, "--resume", last, "-e", 3, "--device", "cpu")[0] == 0
    typed = train("typed", "-e", 1, "--model", "martinez")
    assert len(load_checkpoint(typed)["state_dict"]["w2.bias"]) == 48


def test_a_run_with_rounded_names_replaces_them_when_it_is_resumed(train, call, tmp_path):
    flags = ["--keypoints", "noisy", "--pro_train", 1, "--save_model", 1, "--lr", "1e-3"]
    last = train("run", "-e", 1, *flags, main=main_graph.main)
    (path,) = last.parent.glob("model_*.pth")
    best = load_checkpoint(last)["best"]
    rounded = path.with_name(f"model_module_gcn_1_eva_xyz_{round(100 * best['mpjpe_mm'])}.pth")
    path.rename(rounded)
    assert call(main_graph.main, *DATA, "-k", "noisy", "--eva", rounded)[0] == 0
    assert call(main_graph.main, "--resume", last, "-e", 3, "--device", "cpu")[0] == 0
    best = load_checkpoint(last)["best"]
    assert best["epoch"] > 1
    (path,) = last.parent.glob("model_*.pth")
    expected = f"model_module_gcn_{best['epoch']}_eva_xyz_{int(100 * best['mpjpe_mm'])}.pth"
    assert path.name == expected
