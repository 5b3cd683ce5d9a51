"""The modulated layer and its choices, against transcriptions of the formula in numpy."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch

from common.losses import sparsity_loss
from common.skeleton import H36M_16, H36M_17
from models.build import build_model, default_arguments
from models.costs import count_parameters
from models.modulated_gcn import (
    ADJ_MODULATIONS,
    ModulatedGCN,
    ModulatedGraphConv,
    hop_adjacencies,
)
from tests.conftest import randomise


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


# Of every choice of the layer, a value that is not the default.
OTHERWISE = {
    "modulation_init": "xavier", "weight_modulation": False, "adj_modulation": "mul", "rank": 9,
    "adj_symmetric": False, "decouple_self": False, "hops": 2,
}  # fmt: skip
WITHOUT_EFFECT = {"modulation_init", "rank"}  # on what the published layer computes


def test_every_choice_has_a_value_here_and_the_networks_defaults_are_the_layers():
    parameters = inspect.signature(ModulatedGraphConv).parameters
    of_layer = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
    of_network = default_arguments("mgcn")
    assert of_layer.keys() == OTHERWISE.keys()
    for name, default in of_layer.items():
        assert of_network[name] == default != OTHERWISE[name], name


@pytest.mark.parametrize("choice", OTHERWISE)
def test_the_network_passes_a_choice_on_and_it_has_its_effect(choice):
    """The fast form knows the paper's choices only: with another one it must not be used."""
    changed = {choice: OTHERWISE[choice]}
    network = build_model({"joints": 16, "hid_dim": 4, **changed})
    layer = ModulatedGraphConv(4, 3, H36M_16.adjacency(), **changed)
    if choice == "modulation_init":
        assert not torch.equal(network.gconv_output.M, torch.ones(16, 3))
    if choice == "rank":
        arguments = {"joints": 16, "hid_dim": 4, "adj_modulation": "lowrank", **changed}
        assert build_model(arguments).gconv_output.adj2_left.shape == (16, 9)
    randomise(layer)
    network.gconv_output.load_state_dict(layer.state_dict())
    x = torch.randn(3, 16, 4)
    found = network.gconv_output(x)
    assert torch.equal(found, layer(x))
    assert layer.fast == (choice in WITHOUT_EFFECT)
    layer.fast = False
    assert torch.allclose(found, layer(x), atol=1e-5)


def distances(skeleton) -> np.ndarray:
    """(J, J) bones between joints, by walking up to the first common ancestor."""

    def line(joint):
        return [joint] + (line(skeleton.parents[joint]) if skeleton.parents[joint] >= 0 else [])

    lines = [line(joint) for joint in range(skeleton.num_joints)]
    return np.array([[
        min(a.index(c) + b.index(c) for c in set(a) & set(b)) for b in lines] for a in lines
    ])  # fmt: skip


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
        (True, True, True, 1),
    ],
)
def test_every_choice_agrees_with_a_transcription(modulation, weighted, symmetric, decoupled, hops):
    layer = ModulatedGraphConv(
        3, 5, H36M_16.adjacency(), "xavier", bool(weighted), adj_modulation=modulation,
        rank=2, adj_symmetric=symmetric, decouple_self=decoupled, hops=hops,
    )  # fmt: skip
    randomise(layer)
    x = torch.randn(2, 16, 3)
    w = {n: t.double().numpy() for n, t in layer.state_dict().items()}
    assert len(w["W"]) == hops + decoupled and ("M" in w) == weighted and "adj" not in w
    adj = H36M_16.adjacency().double().numpy()
    expected = transcription(x.double().numpy(), w, adj, modulation, symmetric, decoupled, hops)
    for fast in {layer.fast, False}:
        layer.fast = fast
        assert np.allclose(layer(x).detach().numpy(), expected, atol=1e-5)


def started(modulation: str) -> ModulatedGraphConv:
    torch.manual_seed(0)
    layer = ModulatedGraphConv(3, 5, H36M_16.adjacency(), adj_modulation=modulation)
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


def test_sparsity_is_the_sum_of_absolute_entries():
    arguments = {"joints": 16, "hid_dim": 4, "num_layers": 1}
    paper = randomise(build_model(arguments))
    total = sum(t.abs().sum() for n, t in paper.state_dict().items() if n.endswith("adj2"))
    assert torch.allclose(sparsity_loss(paper.adjacency_offsets()), total)
    lowrank = randomise(build_model(arguments | {"adj_modulation": "lowrank", "hops": 2}))
    state, total = lowrank.state_dict(), 0.0
    for name in [n for n in state if n.endswith("adj2_left")]:
        for left, right in zip(state[name], state[name.replace("left", "right")], strict=True):
            total += np.abs(left.numpy() @ right.numpy().T).sum()
    assert torch.allclose(sparsity_loss(lowrank.adjacency_offsets()), torch.tensor(float(total)))
    sparsity_loss(lowrank.adjacency_offsets()).backward()
    assert lowrank.gconv_output.adj2_left.grad.abs().sum() > 0


def test_misuse_is_named():
    adj = H36M_16.adjacency()
    with pytest.raises(ValueError, match="adj_modulation"):
        ModulatedGraphConv(2, 3, adj, adj_modulation="sum")
    with pytest.raises(ValueError, match="modulation_init"):
        ModulatedGraphConv(2, 3, adj, "zeros")
    with pytest.raises(ValueError, match="modulation_init"):
        ModulatedGCN(adj, modulation_init="zeros")
    for choices in ({}, {"weight_modulation": False, "adj_modulation": "none"}):
        with pytest.raises(ValueError, match=r"\(B, 16, 2\) expected"):
            ModulatedGCN(adj, hid_dim=4, **choices)(torch.zeros(1, 17, 2))
