"""The open layer against the paper's own, and each choice against a transcription in numpy."""

import itertools

import numpy as np
import pytest
import torch

from common.losses import sparsity_loss
from common.skeleton import H36M_16, H36M_17
from models.build import build_model
from models.graph_conv_variants import ADJ_MODULATIONS, GraphConvVariant, hop_adjacencies
from models.modulated_gcn import ModulatedGraphConv
from tests.conftest import randomise


def distances(skeleton) -> np.ndarray:
    """(J, J) bones between joints, by walking up to the first common ancestor."""

    def line(joint):
        return [joint] + (line(skeleton.parents[joint]) if skeleton.parents[joint] >= 0 else [])

    lines = [line(joint) for joint in range(skeleton.num_joints)]
    return np.array([[
        min(a.index(c) + b.index(c) for c in set(a) & set(b)) for b in lines] for a in lines
    ])  # fmt: skip


def test_the_papers_choices_give_the_papers_layer_gradients_included():
    adj = H36M_17.adjacency()
    paper = randomise(ModulatedGraphConv(5, 7, adj, "xavier"))
    ours = GraphConvVariant(5, 7, adj, "xavier")
    ours.load_state_dict(paper.state_dict())
    weight = torch.randn(4, 17, 7)
    results = []
    for layer in (paper, ours):
        x = torch.linspace(-1, 1, 4 * 17 * 5).view(4, 17, 5).requires_grad_()
        out = layer(x)
        parameters = dict(layer.named_parameters())
        gradients = torch.autograd.grad((out * weight).sum(), [x, *parameters.values()])
        results.append(dict(zip(["out", "x", *parameters], [out, *gradients], strict=True)))
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        assert torch.allclose(results[1][name], expected, atol=1e-5, rtol=1e-5), name


def test_the_network_with_the_papers_choices_has_the_papers_layer():
    def layer_of(**choices):
        return type(build_model({"joints": 16, "hid_dim": 4, **choices}).gconv_output)

    assert layer_of() is layer_of(rank=9) is ModulatedGraphConv
    for choice in ({"hops": 2}, {"weight_modulation": False}, {"adj_modulation": "mul"},
                   {"adj_symmetric": False}, {"decouple_self": False}):  # fmt: skip
        assert layer_of(**choice) is GraphConvVariant


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_a_hop_joins_the_joints_so_many_bones_apart(skeleton):
    bones, found = distances(skeleton), hop_adjacencies(skeleton.adjacency(), 9).numpy()
    assert np.array_equal(found[0], skeleton.adjacency().numpy())
    for hop in range(2, 10):
        assert np.array_equal(found[hop - 1] > 0, bones == hop), hop
        sums = found[hop - 1].sum(axis=1)
        assert np.allclose(sums, (bones == hop).any(axis=1)), hop


def transcription(x, w, adj, modulation, symmetric, decoupled, hops) -> np.ndarray:
    """Pose by pose, joint by joint, from the state dict ``w`` alone."""
    J = len(adj)
    bones = distances(H36M_16)
    out = np.zeros((len(x), J, w["W"].shape[-1])) + w["bias"]
    for hop in range(1, hops + 1):
        part = {n: t[hop - 1] if hops > 1 and n not in ("W", "bias") else t for n, t in w.items()}
        count = (bones == hop).sum(axis=1)
        A = adj if hop == 1 else np.where(bones == hop, 1 / np.maximum(count, 1)[:, None], 0)
        Q = part.get("adj2", 0)
        if modulation == "lowrank":
            Q = np.einsum("ir,jr->ij", part["adj2_left"], part["adj2_right"])
        S = {"mul": A + A * Q, "full": Q}.get(modulation, A + Q)
        if symmetric:
            S = 0.5 * S + 0.5 * S.T
        M = part.get("M", np.ones((J, out.shape[-1])))
        for i, j in itertools.product(range(J), repeat=2):
            if i == j and hop > 1:
                continue
            chosen = (0 if i == j else hop) if decoupled else hop - 1
            out[:, i] += S[i, j] * M[j] * (x[:, j] @ w["W"][chosen])
    return out


@pytest.mark.parametrize("modulation", ADJ_MODULATIONS)
@pytest.mark.parametrize(
    ("weighted", "symmetric", "decoupled", "hops"),
    [
        (True, True, True, 1),
        (False, True, False, 1),
        (True, False, True, 3),
        (True, True, False, 2),
    ],
)
def test_every_choice_agrees_with_a_transcription(modulation, weighted, symmetric, decoupled, hops):
    layer = GraphConvVariant(
        3, 5, H36M_16.adjacency(), "xavier", bool(weighted), adj_modulation=modulation,
        rank=2, adj_symmetric=symmetric, decouple_self=decoupled, hops=hops,
    )  # fmt: skip
    randomise(layer)
    x = torch.randn(2, 16, 3)
    w = {n: t.double().numpy() for n, t in layer.state_dict().items()}
    assert len(w["W"]) == hops + decoupled and ("M" in w) == weighted and "adj" not in w
    adj = H36M_16.adjacency().double().numpy()
    expected = transcription(x.double().numpy(), w, adj, modulation, symmetric, decoupled, hops)
    assert np.allclose(layer(x).detach().numpy(), expected, atol=1e-5)


def started(modulation: str) -> GraphConvVariant:
    torch.manual_seed(0)
    layer = GraphConvVariant(3, 5, H36M_16.adjacency(), adj_modulation=modulation)
    with torch.no_grad():  # the draw of U comes before that of the others
        layer.W.copy_(torch.linspace(-1, 1, layer.W.numel()).view_as(layer.W))
        layer.bias.zero_()
    return layer


def test_modulated_adjacencies_start_where_none_is():
    x = torch.randn(4, 16, 3)
    none = started("none")(x)
    assert torch.equal(started("mul")(x), none)
    assert torch.equal(started("lowrank")(x), none)
    assert torch.allclose(started("add")(x), none, atol=1e-4)
    assert not torch.allclose(started("full")(x), none, atol=0.1)
    # A start is no end: each learns.
    for modulation in ("add", "mul", "lowrank", "full"):
        layer = started(modulation)
        layer(x).square().sum().backward()
        learned = layer.adj2_right if modulation == "lowrank" else layer.adj2
        assert learned.grad.abs().max() > 1e-3, modulation


def test_without_modulation_it_is_a_graph_convolution_with_two_weights():
    """The whole network, with a plain layer put in the place of each of its layers."""

    class Plain(torch.nn.Module):
        def __init__(self, layer, adj):
            super().__init__()
            self.W, self.bias, self.adj = layer.W, layer.bias, (adj + adj.T) / 2

        def forward(self, x):
            own = torch.stack([self.adj[j, j] * x[:, j] @ self.W[0] for j in range(16)], dim=1)
            hollow = self.adj.clone().fill_diagonal_(0)
            return own + torch.einsum("ij,bjc,cd->bid", hollow, x, self.W[1]) + self.bias

    arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1}
    model = build_model(arguments | {"weight_modulation": False, "adj_modulation": "none"})
    names = {n.split(".")[-1] for n, _ in model.named_parameters() if "gconv." in n}
    assert names == {"W", "bias"}
    x = torch.randn(6, 16, 2)
    expected = randomise(model).eval()(x)
    blocks = [model.gconv_input[0], model.gconv_layers[0].gconv1, model.gconv_layers[0].gconv2]
    for block in blocks:
        block.gconv = Plain(block.gconv, H36M_16.adjacency())
    model.gconv_output = Plain(model.gconv_output, H36M_16.adjacency())
    assert torch.allclose(model(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm_layer", ["layer", "group"])
def test_normalisations_within_a_pose(norm_layer):
    arguments = {"joints": 16, "hid_dim": 16, "num_layers": 1, "norm_layer": norm_layer}
    model = randomise(build_model(arguments)).train()
    x = torch.randn(5, 16, 2)
    apart = torch.cat([model(pose.unsqueeze(0)) for pose in x])
    assert torch.allclose(model(x), apart, atol=1e-4)  # no pose sees another, in training too
    block = model.gconv_input[0]
    y = block.gconv(x).detach().double().numpy()
    groups, over = (1, (3,)) if norm_layer == "layer" else (8, (1, 3))
    grouped = y.reshape(5, 16, groups, -1)
    scaled = (grouped - grouped.mean(over, keepdims=True)) / np.sqrt(
        grouped.var(over, keepdims=True) + 1e-5
    )
    w = {n: t.detach().double().numpy() for n, t in block.bn.named_parameters()}
    expected = np.maximum(scaled.reshape(y.shape) * w["weight"] + w["bias"], 0)
    assert np.allclose(block(x).detach().numpy(), expected, atol=1e-4)
    assert block.gconv.bias.requires_grad  # it means something here


def test_sparsity_is_the_sum_of_absolute_entries():
    arguments = {"joints": 16, "hid_dim": 4, "num_layers": 1}
    paper = randomise(build_model(arguments))
    total = sum(t.abs().sum() for n, t in paper.state_dict().items() if n.endswith("adj2"))
    assert torch.allclose(sparsity_loss(paper), total)
    lowrank = randomise(build_model(arguments | {"adj_modulation": "lowrank", "hops": 2}))
    state, total = lowrank.state_dict(), 0.0
    for name in [n for n in state if n.endswith("adj2_left")]:
        for left, right in zip(state[name], state[name.replace("left", "right")], strict=True):
            total += np.abs(left.numpy() @ right.numpy().T).sum()
    assert torch.allclose(sparsity_loss(lowrank), torch.tensor(total))
    sparsity_loss(lowrank).backward()
    assert lowrank.gconv_output.adj2_left.grad.abs().sum() > 0


def test_misuse_is_named():
    adj = H36M_16.adjacency()
    with pytest.raises(ValueError, match="adj_modulation"):
        GraphConvVariant(2, 3, adj, adj_modulation="sum")
    with pytest.raises(ValueError, match="modulation_init"):
        GraphConvVariant(2, 3, adj, "zeros")
