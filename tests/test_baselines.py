"""The baselines against transcriptions in numpy, their sizes, names and checkpoints."""

import ast

import numpy as np
import pytest
import torch

import main_gcn
from common.errors import UserError
from common.skeleton import H36M_16, H36M_17, SKELETONS
from models.build import MODELS, build_model, default_arguments
from models.costs import count_parameters
from models.gcn import GraphConv
from models.semgcn import SemGraphConv
from models.unshared import UnsharedGraphConv
from tests.conftest import ROOT, SLICE, randomise
from training.checkpoint import check_model, load_checkpoint, load_weights

GRAPH_NETWORKS = ("mgcn", "semgcn", "gcn", "unshared")


def whole(name: str, **changes) -> dict:
    return {"name": name, "joints": 16, **default_arguments(name), **changes}


def small(name: str, **changes) -> dict:
    return whole(name, **{"hid_dim": 8, "num_layers": 2, **changes})


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {n: t.detach().double().numpy() for n, t in module.state_dict().items()}


def neighbours_of(skeleton) -> list[list[int]]:
    """For each joint the joints a bone away."""
    near = [[] for _ in skeleton.names]
    for joint, parent in skeleton.bones():
        near[joint].append(parent)
        near[parent].append(joint)
    return near


@pytest.mark.parametrize(
    ("name", "changes", "count", "published"),
    [
        ("mgcn", {}, 287_923, "0.29M"),
        ("semgcn", {}, 267_343, "0.27M"),
        ("semgcn", {"non_local": "grouped"}, 434_703, "0.43M"),
        ("gcn", {}, 135_171, "0.14M"),
        ("unshared", {}, 4_218_243, "4.22M"),
        ("martinez", {}, 4_291_632, "4.29M"),
        # 34 x 1024 + 8 x 1024^2 + 1024 x 51 + 51 and nine batch normalisations of 2 x 1024
        ("vp3d", {"joints": 17}, 8_494_131, "8.49M"),
    ],
)
def test_parameters_are_the_published_ones(name, changes, count, published):
    found = count_parameters(build_model(whole(name, **changes)))
    assert found == count and f"{found / 1e6:.2f}M" == published


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_semantic_layer_agrees_with_its_formula(skeleton):
    layer = randomise(SemGraphConv(3, 5, skeleton.adjacency()))
    x, w, near = torch.randn(2, skeleton.num_joints, 3), arrays(layer), neighbours_of(skeleton)
    given = iter(w["e"][0])  # row by row, in the order of columns
    rows = []
    for joint, others in enumerate(near):
        exponentials = {j: np.exp(next(given)) for j in sorted([joint, *others])}
        rows.append({j: value / sum(exponentials.values()) for j, value in exponentials.items()})
    assert next(given, None) is None
    for pose, found in zip(x.double().numpy(), layer(x).detach().numpy(), strict=True):
        for joint, row in enumerate(rows):
            expected = w["bias"] + sum(
                share * pose[j] @ w["W"][0 if j == joint else 1] for j, share in row.items()
            )
            assert np.allclose(found[joint], expected, atol=1e-5)


def test_shared_and_unshared_layers_agree_with_their_formulas():
    shared = randomise(GraphConv(3, 5, H36M_16.adjacency()))
    unshared = randomise(UnsharedGraphConv(3, 5, H36M_16.adjacency()))
    x, near = torch.randn(2, 16, 3), neighbours_of(H36M_16)
    w, u = arrays(shared), arrays(unshared)
    found = shared(x).detach().numpy(), unshared(x).detach().numpy()
    for b, pose in enumerate(x.double().numpy()):
        for i, others in enumerate(near):
            share = 1 / (1 + len(others))
            mean = share * sum(pose[j] for j in [i, *others])
            assert np.allclose(found[0][b, i], mean @ w["W"] + w["bias"], atol=1e-5)
            sent = pose[i] @ u["W"][0, i] + sum(pose[j] @ u["W"][1, j] for j in others)
            assert np.allclose(found[1][b, i], share * sent + u["bias"], atol=1e-5)


def test_layers_become_one_another():
    adj, x = H36M_17.adjacency(), torch.randn(3, 17, 4)
    shared, semantic = GraphConv(4, 6, adj), SemGraphConv(4, 6, adj)
    unshared = UnsharedGraphConv(4, 6, adj)
    with torch.no_grad():
        for layer in (semantic, unshared):
            layer.W.copy_(shared.W.expand_as(layer.W))
            layer.bias.copy_(shared.bias)
    assert torch.allclose(unshared(x), shared(x), atol=1e-5)
    # Equal edge weights make the softmax of a row its mean.
    assert torch.allclose(semantic(x), shared(x), atol=1e-5)


def batch_norm(x: np.ndarray, w: dict, name: str) -> np.ndarray:
    scaled = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def test_martinez_agrees_with_a_transcription():
    model = randomise(build_model(small("martinez"))).eval()
    w, x = arrays(model), torch.randn(3, 16, 2)

    def layer(y, linear, norm):
        y = y @ w[f"{linear}.weight"].T + w[f"{linear}.bias"]
        return np.maximum(batch_norm(y, w, norm), 0)

    y = layer(x.double().numpy().reshape(3, 32), "w1", "batch_norm1")
    for i in range(2):
        stage = f"linear_stages.{i}"
        inner = layer(y, f"{stage}.w1", f"{stage}.batch_norm1")
        y = y + layer(inner, f"{stage}.w2", f"{stage}.batch_norm2")
    expected = (y @ w["w2.weight"].T + w["w2.bias"]).reshape(3, 16, 3)
    assert np.allclose(model(x).detach().numpy(), expected, atol=1e-4)


def test_vp3d_agrees_with_a_transcription():
    model = randomise(build_model(small("vp3d", joints=17))).eval()
    w, x = arrays(model), torch.randn(3, 17, 2)

    def layer(y, conv, norm):
        return np.maximum(batch_norm(y @ w[f"{conv}.weight"][:, :, 0].T, w, norm), 0)

    y = layer(x.double().numpy().reshape(3, 34), "expand_conv", "expand_bn")
    for i in (0, 2):
        inner = layer(y, f"layers_conv.{i}", f"layers_bn.{i}")
        y = y + layer(inner, f"layers_conv.{i + 1}", f"layers_bn.{i + 1}")
    expected = (y @ w["shrink.weight"][:, :, 0].T + w["shrink.bias"]).reshape(3, 17, 3)
    assert np.allclose(model(x).detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one_works(name, training):
    model = build_model(small(name)).train(training)
    assert model(torch.randn(1, 16, 2)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_bare_state_dict_tells_its_model(tmp_path, name):
    changes = [{}]
    if name in GRAPH_NETWORKS:
        changes += [{"non_local": "grouped"}, {"non_local": "embedded", "num_layers": 1}]
    for change in changes:
        arguments = small(name, **change)
        torch.save(build_model(arguments).state_dict(), tmp_path / "a.pth")
        found = load_checkpoint(tmp_path / "a.pth")
        check_model("a.pth", found["model"], arguments)
        assert found["model"]["name"] == name
        # The vanilla network's weights do not depend on the joints.
        assert found["model"].get("joints") == (None if name == "gcn" else 16)
        load_weights("a.pth", build_model(arguments), found["state_dict"])


def test_published_names_of_semgcn_load(tmp_path):
    """With ``nonlocal``, as its own files have it."""
    model = build_model(small("semgcn", non_local="grouped", num_layers=4))
    state = model.state_dict()
    stages = ["gconv_input.1", *(f"gconv_layers.{i}" for i in (1, 3, 5, 7))]
    blocks = [f"gconv_layers.{i}.gconv{k}" for i in (0, 2, 4, 6) for k in (1, 2)]
    layers = ["gconv_output", *(f"{b}.gconv" for b in ("gconv_input.0", *blocks))]
    expected = {f"{layer}.{p}" for layer in layers for p in ("W", "e", "bias")}
    assert expected == {n for n in state if n.split(".")[-1] in ("W", "e") or ".gconv.bias" in n
                        or n == "gconv_output.bias"}  # fmt: skip
    assert {n.split(".non_local.")[0] for n in state if ".non_local." in n} == set(stages)
    assert state["gconv_input.0.gconv.e"].shape == (1, 46)

    published = {n.replace(".non_local.", ".nonlocal."): t for n, t in state.items()}
    torch.save({"epoch": 30, "state_dict": published}, tmp_path / "semgcn.pth.tar")
    found = load_checkpoint(tmp_path / "semgcn.pth.tar")
    assert found["model"]["name"] == "semgcn" and found["model"]["non_local"] == "grouped"
    fresh = build_model(small("semgcn", non_local="grouped", num_layers=4))
    load_weights("semgcn.pth.tar", fresh, found["state_dict"])
    x = torch.randn(2, 16, 2)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_another_model_is_named_with_its_flag(call, tmp_path):
    torch.save({"state_dict": build_model(whole("semgcn")).state_dict()}, tmp_path / "a.pth")
    flags = [*SLICE, "--model", "mgcn", "--evaluate", tmp_path / "a.pth"]
    status, _, err = call(main_gcn.main, *flags)
    assert status == 2 and err.count("\n") == 1
    assert "model semgcn, not mgcn" in err and "give --model semgcn" in err
    named = {"name": "other", "joints": 16}
    with pytest.raises(UserError, match="this program has mgcn, semgcn"):
        check_model("a.pth", named, whole("mgcn"))
    # Ours from before models had names.
    unnamed = {key: value for key, value in whole("mgcn").items() if key != "name"}
    check_model("a.pth", unnamed, whole("mgcn"))


def test_baselines_do_not_import_the_method():
    for name in set(MODELS) - {"mgcn"}:
        path = ROOT / "models" / f"{MODELS[name].split('.')[0]}.py"
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert "torch" in imported
        assert not any(module.startswith("models.modulated") for module in imported), name


def test_every_model_takes_both_skeletons():
    assert set(SKELETONS) == {16, 17}
    for name in MODELS:
        for joints in SKELETONS:
            assert build_model(small(name, joints=joints))(torch.zeros(2, joints, 2)).shape == (
                2, joints, 3,
            )  # fmt: skip
