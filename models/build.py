"""From a checkpoint's description of its network to the network, and the other way."""

import inspect
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.skeleton import SKELETONS

# Name for --model: file in models/ and class; docs/extending.md adds one.
MODELS = {
    "mgcn": "modulated_gcn.ModulatedGCN",
    "semgcn": "semgcn.SemGCN",
    "gcn": "gcn.VanillaGCN",
    "unshared": "unshared.UnsharedGCN",
    "martinez": "martinez.Martinez",
    "vp3d": "vp3d.VideoPose3D",
}
DEFAULT = "mgcn"  # and what old checkpoints that do not name their network hold


def model_class(name: str) -> type[nn.Module]:
    """The class of a name in ``MODELS``."""
    module, class_name = MODELS[name].split(".")
    return getattr(import_module(f"models.{module}"), class_name)


def build_model(arguments: dict[str, Any]) -> nn.Module:
    """The network of ``arguments``: ``name`` (of ``MODELS``), ``joints`` (16 or 17), and the
    arguments of that class.

    What the network is given (``common.input_view``) is among them and changes nothing here.
    """
    others = ("name", "joints", "camera_rays", "root_view")
    options = {key: value for key, value in arguments.items() if key not in others}
    model = model_class(arguments.get("name", DEFAULT))
    return model(SKELETONS[arguments["joints"]].adjacency(), **options)


def default_arguments(name: str) -> dict[str, Any]:
    """What a model's class takes beside the adjacency, with the defaults: its paper's settings."""
    found = inspect.signature(model_class(name)).parameters.values()
    return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}


def describe_weights(weights: dict[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of ``build_model`` as names and shapes of a state dict show them (those that
    they show); None if no model has such weights."""
    for name in MODELS:
        describe = getattr(model_class(name), "describe", None)
        if describe and (found := describe(weights)) is not None:
            return {"name": name, **found}
    return None


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _flop_of_mv(matrix: torch.Size, vector: torch.Size, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _flop_of_addition(total: torch.Size, a: torch.Size, b: torch.Size, **kwargs: Any) -> int:
    """total += a b, single matrices or batches of them."""
    return 2 * total.numel() * a[-1]


_UNKNOWN_TO_TORCH = {
    torch.ops.aten.mv: _flop_of_mv,
    torch.ops.aten.addmm_: _flop_of_addition,
    torch.ops.aten.baddbmm_: _flop_of_addition,
}


@torch.no_grad()
def count_multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Multiplications with an addition in the matrix products of one test of ``inputs``, counted
    as they are carried out; elementwise operations are left out."""
    training = model.training
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH) as counter:
        model.eval()(*inputs)
    model.train(training)
    return counter.get_total_flops() // 2
