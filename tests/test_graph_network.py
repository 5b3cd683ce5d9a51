"""The network around a graph convolution: its names, blocks and normalisations."""

import numpy as np
import pytest
import torch

from common.skeleton import H36M_16, H36M_17
from models.build import build_model
from models.modulated_gcn import ModulatedGCN
from tests.conftest import randomise
from tests.formulas import modulated_layer


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
        return modulated_layer(x, adj=adj, **part)

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


def test_misuse_is_named():
    with pytest.raises(ValueError, match="16 joints, not 17"):
        ModulatedGCN(H36M_17.adjacency(), non_local="grouped")
    with pytest.raises(ValueError, match="non_local"):
        ModulatedGCN(H36M_16.adjacency(), non_local="yes")
