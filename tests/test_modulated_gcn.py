"""The network against transcriptions of its formulas, pose by pose and joint by joint."""

import math

import pytest
import torch
from torch import nn

from common.skeleton import H36M_16, H36M_17, SKELETONS
from models.build import build_model
from models.costs import count_parameters
from models.modulated_gcn import ModulatedGCN, ModulatedGraphConv
from models.non_local import JOINT_PAIRS, EmbeddedNonLocal, GroupedNonLocal
from tests.conftest import randomise


def transcription(x, W, M, adj, adj2, bias):
    """The layer's formula, written plainly: masks instead of diagonals, one einsum a term."""
    S = adj + adj2
    A = 0.5 * (S + S.transpose(0, 1))
    eye = torch.eye(A.shape[0], dtype=A.dtype)
    own = torch.einsum("ij,bjc->bic", A * eye, M * torch.einsum("bji,ic->bjc", x, W[0]))
    others = torch.einsum("ij,bjc->bic", A * (1 - eye), M * torch.einsum("bji,ic->bjc", x, W[1]))
    return own + others + bias


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
@pytest.mark.parametrize("layout", ["pose-major", "joint-major"])
def test_layer_agrees_with_its_formula_in_output_and_all_gradients(skeleton, layout):
    J = skeleton.num_joints
    layer = randomise(ModulatedGraphConv(5, 7, skeleton.adjacency(), "xavier"))
    x = torch.randn(J, 4, 5).transpose(0, 1) if layout == "joint-major" else torch.randn(4, J, 5)
    x.requires_grad_()
    weight = torch.randn(4, J, 7)
    names = ["W", "M", "adj2", "bias"]
    ours = layer(x)
    found = torch.autograd.grad((ours * weight).sum(), [x, *(getattr(layer, n) for n in names)])

    theirs = transcription(x, layer.W, layer.M, skeleton.adjacency(), layer.adj2, layer.bias)
    expected = torch.autograd.grad(
        (theirs * weight).sum(), [x, *(getattr(layer, n) for n in names)]
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
    for name, gradient, wanted in zip(["x", *names], found, expected, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-5, rtol=1e-5), name


def test_initial_values_have_the_published_bounds():
    layer = ModulatedGraphConv(60, 40, H36M_17.adjacency(), "xavier")
    bounds = {
        "W": 1.414 * math.sqrt(6 / (60 * 40 + 2 * 40)),
        "M": 1.414 * math.sqrt(6 / (17 + 40)),
        "bias": 1 / math.sqrt(40),
    }
    for name, bound in bounds.items():
        largest = getattr(layer, name).abs().max().item()
        assert 0.9 * bound < largest <= bound, name
    assert torch.equal(layer.adj2, torch.full((17, 17), 1e-6))
    assert torch.equal(ModulatedGraphConv(2, 4, H36M_16.adjacency()).M, torch.ones(16, 4))


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"joints": 16}, 287_923),
        ({"joints": 17, "hid_dim": 384, "non_local": "embedded"}, 2_731_840),
        ({"joints": 16, "hid_dim": 256}, 1_097_523),
    ],
)
def test_parameter_counts(arguments, count):
    assert count_parameters(build_model(arguments)) == count


def published_names(layers: int) -> set[str]:
    blocks = ["gconv_input.0"] + [
        f"gconv_layers.{i}.gconv{k}" for i in range(layers) for k in (1, 2)
    ]
    statistics = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = {f"{b}.gconv.{p}" for b in blocks for p in ("W", "M", "adj2", "bias")}
    names |= {f"{b}.bn.{p}" for b in blocks for p in statistics}
    return names | {f"gconv_output.{p}" for p in ("W", "M", "adj2", "bias")}


def test_state_dict_has_the_published_names_and_no_adjacency():
    state = build_model({"joints": 16}).state_dict()
    assert set(state) == published_names(4)
    assert state["gconv_input.0.gconv.W"].shape == (2, 2, 128)


def test_embedded_block_has_the_published_names_and_shapes():
    state = build_model({"joints": 17, "hid_dim": 8, "non_local": "embedded"}).state_dict()
    assert published_names(4) <= set(state)
    for name in ("g", "theta", "phi"):
        assert state[f"non_local.{name}.weight"].shape == (4, 8, 1, 1)
        assert state[f"non_local.{name}.bias"].shape == (4,)
    assert state["non_local.W.0.weight"].shape == (8, 4, 1, 1)
    assert state["non_local.W.1.running_mean"].shape == (8,)


def test_grouped_blocks_stand_between_the_residual_blocks():
    state = build_model({"joints": 16, "hid_dim": 8, "non_local": "grouped"}).state_dict()
    assert "gconv_layers.6.gconv2.gconv.M" in state and "gconv_layers.1.gconv1.bn.bias" not in state
    for prefix in ["gconv_input.1", *(f"gconv_layers.{i}" for i in (1, 3, 5, 7))]:
        for name, shape in {
            "g.0.weight": (4, 8, 1),
            "phi.0.bias": (4,),
            "theta.weight": (4, 8, 1),
            "concat_project.0.weight": (1, 8, 1, 1),
            "W.0.weight": (8, 4, 1),
            "W.1.weight": (8,),
        }.items():
            assert state[f"{prefix}.non_local.{name}"].shape == shape


@pytest.mark.parametrize("training", [True, False])
def test_network_agrees_with_a_transcription(training):
    model = randomise(build_model({"joints": 16, "hid_dim": 6, "num_layers": 2}))
    model.train(training)
    x = torch.randn(5, 16, 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adj = H36M_16.adjacency()

    def conv(x, prefix):
        part = {n: state[f"{prefix}.{n}"] for n in ("W", "M", "adj2", "bias")}
        return transcription(x, adj=adj, **part)

    def block(x, prefix):
        y = conv(x, f"{prefix}.gconv")
        mean, var = y.mean((0, 1)), y.var((0, 1), unbiased=False)
        if not training:
            mean, var = state[f"{prefix}.bn.running_mean"], state[f"{prefix}.bn.running_var"]
        y = (y - mean) / torch.sqrt(var + 1e-5)
        return torch.relu(y * state[f"{prefix}.bn.weight"] + state[f"{prefix}.bn.bias"])

    y = block(x, "gconv_input.0")
    for i in range(2):
        y = y + block(block(y, f"gconv_layers.{i}.gconv1"), f"gconv_layers.{i}.gconv2")
    assert torch.allclose(model(x), conv(y, "gconv_output"), atol=1e-4)


@pytest.mark.parametrize(
    ("non_local", "of_block"),
    [(None, []), ("embedded", ["g", "phi", "W.0"]), ("grouped", ["W.0"])],
)
def test_biases_that_change_nothing_in_training_are_not_trained(non_local, of_block):
    """Adam would scale the rounding of their gradient up, and running means lag behind: the
    network would be tested with another bias than its own."""
    model = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1, "non_local": non_local})
    randomise(model)  # a non-local block is the identity before
    ends = ("gconv.bias", *(f"non_local.{name}.bias" for name in of_block))
    names = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert {n for n, _ in model.named_parameters() if n.endswith(ends)} == set(names)
    assert len(names) == 3 + (2 if non_local == "grouped" else 1) * len(of_block)
    x = torch.randn(4, 16, 2)
    before = model.train()(x)
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).add_(torch.randn_like(model.get_parameter(name)))
    assert torch.allclose(model(x), before, atol=1e-4)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for name in trained:
        if name.endswith(".bias") and "non_local" in name and "W.1" not in name:
            with torch.no_grad():
                model.get_parameter(name).add_(1.0)
            assert not torch.allclose(model(x), before, atol=1e-3), name


def conv1x1(conv: nn.Module, joint: torch.Tensor) -> torch.Tensor:
    y = conv.weight.flatten(1) @ joint
    return y if conv.bias is None else y + conv.bias


def batch_norm(norm: nn.Module, joint: torch.Tensor) -> torch.Tensor:
    scaled = (joint - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
    return scaled * norm.weight + norm.bias


def test_embedded_block_agrees_with_a_transcription():
    block = randomise(EmbeddedNonLocal(6)).eval()
    x = torch.randn(3, 17, 6)
    expected = torch.empty_like(x)
    for b in range(3):
        theta, phi, g = (
            torch.stack([conv1x1(c, joint) for joint in x[b]])
            for c in (block.theta, block.phi, block.g)
        )
        for i in range(17):
            weights = torch.softmax(torch.stack([theta[i] @ phi[j] for j in range(17)]), 0)
            y = sum(w * g[j] for j, w in enumerate(weights))
            expected[b, i] = x[b, i] + batch_norm(block.W[1], conv1x1(block.W[0], y))
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_grouped_block_agrees_with_a_transcription():
    block = randomise(GroupedNonLocal(6, 16)).eval()
    x = torch.randn(3, 16, 6)
    w = block.concat_project[0].weight.flatten()
    expected = torch.empty_like(x)
    for b in range(3):
        pooled = {
            name: [torch.maximum(conv1x1(c, x[b, p]), conv1x1(c, x[b, q])) for p, q in JOINT_PAIRS]
            for name, c in (("g", block.g[0]), ("phi", block.phi[0]))
        }
        for i in range(16):
            theta = conv1x1(block.theta, x[b, i])
            y = torch.zeros(3)
            for g, phi in zip(pooled["g"], pooled["phi"], strict=True):
                y = y + torch.relu(w @ torch.cat([theta, phi])) / 8 * g
            expected[b, i] = x[b, i] + batch_norm(block.W[1], conv1x1(block.W[0], y))
    assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("block", [EmbeddedNonLocal(8), GroupedNonLocal(8, 16)])
def test_non_local_blocks_are_the_identity_at_initialisation(block):
    x = torch.randn(4, 16, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("non_local", [None, "grouped", "embedded"])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one_works(non_local, training):
    model = build_model({"joints": 16, "hid_dim": 8, "non_local": non_local, "dropout": 0.1})
    assert model.train(training)(torch.randn(1, 16, 2)).shape == (1, 16, 3)


def test_poses_of_a_batch_do_not_see_each_other_at_test():
    model = randomise(build_model({"joints": 17, "hid_dim": 8, "non_local": "embedded"})).eval()
    x = torch.randn(6, 17, 2)
    single = torch.cat([model(pose.unsqueeze(0)) for pose in x])
    assert torch.allclose(model(x), single, atol=1e-5)


@pytest.mark.parametrize("non_local", [None, "grouped", "embedded"])
def test_folding_batch_norm_for_inference_changes_nothing(non_local):
    arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1, "non_local": non_local}
    model = randomise(build_model(arguments)).train()
    for _ in range(30):  # running statistics near the data's keep the values moderate
        model(torch.randn(32, 16, 2))
    x = torch.randn(5, 16, 2)
    expected = model.eval()(x)
    with torch.inference_mode():
        folded = model(x)
    assert not torch.equal(folded, torch.zeros_like(folded))
    assert (folded - expected).norm() < 1e-5 * expected.norm()


def gradients_of(model: nn.Module, x: torch.Tensor, forward) -> list[torch.Tensor]:
    pose = forward(x)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [pose, *torch.autograd.grad(pose.float().square().mean(), trained)]


@pytest.mark.parametrize(("how", "tolerance"), [("compiled", 1e-4), ("bfloat16", 0.1)])
def test_compiling_and_autocast_see_the_same_function(how, tolerance):
    model = randomise(build_model({"joints": 16, "hid_dim": 8, "num_layers": 1}))
    x = torch.randn(64, 16, 2)
    expected = gradients_of(model, x, model)
    # The "eager" backend traces as the default one does, and needs no compiler.
    forward = torch.compile(model, backend="eager") if how == "compiled" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "bfloat16"):
        found = gradients_of(model, x, forward)
    scale = max(gradient.norm() for gradient in expected[1:])
    assert (found[0].float() - expected[0]).norm() < tolerance * expected[0].norm()
    for gradient, wanted in zip(found[1:], expected[1:], strict=True):
        assert (gradient - wanted).norm() < tolerance * scale


def test_misuse_is_named():
    with pytest.raises(ValueError, match="16 joints, not 17"):
        ModulatedGCN(H36M_17.adjacency(), non_local="grouped")
    with pytest.raises(ValueError, match="non_local"):
        ModulatedGCN(H36M_16.adjacency(), non_local="yes")
    with pytest.raises(ValueError, match="modulation_init"):
        ModulatedGCN(H36M_16.adjacency(), modulation_init="zeros")
    with pytest.raises(ValueError, match=r"\(B, 16, 2\) expected"):
        ModulatedGCN(H36M_16.adjacency(), hid_dim=4)(torch.zeros(1, 17, 2))
    assert set(SKELETONS) == {16, 17}
