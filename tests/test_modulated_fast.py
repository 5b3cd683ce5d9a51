"""The fast forms of the published layer against its formula."""

import pytest
import torch
from torch import nn

from common.skeleton import H36M_16, H36M_17
from models.build import build_model
from models.modulated_gcn import ModulatedGraphConv
from tests.conftest import randomise
from tests.formulas import modulated_layer

WEIGHTS = ("W", "M", "adj2", "bias")


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
@pytest.mark.parametrize("layout", ["pose-major", "joint-major"])
def test_layer_agrees_with_its_formula_in_output_and_all_gradients(skeleton, layout):
    J = skeleton.num_joints
    adj = skeleton.adjacency()
    layer = randomise(ModulatedGraphConv(5, 7, adj, "xavier"))
    x = torch.randn(J, 4, 5).transpose(0, 1) if layout == "joint-major" else torch.randn(4, J, 5)
    weights = {name: getattr(layer, name) for name in WEIGHTS}
    inputs = [x.requires_grad_(), *weights.values()]
    weight = torch.randn(4, J, 7)

    def outcome(out):
        return dict(zip(["x", *WEIGHTS], torch.autograd.grad((out * weight).sum(), inputs),
                        strict=True)) | {"out": out}  # fmt: skip

    expected = outcome(modulated_layer(x, adj=adj, **weights))
    assert layer.fast
    fast = outcome(layer(x))
    layer.fast = False
    for found in (fast, outcome(layer(x))):
        for name, wanted in expected.items():
            assert torch.allclose(found[name], wanted, atol=1e-5, rtol=1e-5), name
    assert not torch.equal(fast["out"], layer(x))  # rounding: it is another way


@pytest.mark.parametrize("layout", ["pose-major", "joint-major"])
def test_scale_and_shift_at_test(layout):
    layer = randomise(ModulatedGraphConv(5, 7, H36M_16.adjacency(), "xavier"))
    x = torch.randn(16, 4, 5).transpose(0, 1) if layout == "joint-major" else torch.randn(4, 16, 5)
    scale, shift = torch.randn(7), torch.randn(7)
    weights = {name: getattr(layer, name) for name in WEIGHTS}
    expected = modulated_layer(x, adj=H36M_16.adjacency(), **weights) * scale + shift
    for fast in (True, False):
        layer.fast = fast
        with torch.no_grad():
            assert torch.allclose(layer(x, scale, shift), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_whole_network_agrees_with_the_formula(training):
    model = randomise(build_model({"joints": 16, "hid_dim": 8, "num_layers": 2}))
    for _ in range(30):  # running statistics near the data's keep the values moderate
        model(torch.randn(32, 16, 2))
    x = torch.randn(5, 16, 2)
    with torch.set_grad_enabled(training):
        fast = model.train(training)(x)
        for module in model.modules():
            if isinstance(module, ModulatedGraphConv):
                module.fast = False
        plain = model(x)
    assert not torch.equal(fast, plain)
    assert (fast - plain).norm() < 1e-5 * plain.norm()


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
