"""From a checkpoint's description of its network to the network, and the other way."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.skeleton import SKELETONS
from models.gcn import VanillaGCN
from models.martinez import Martinez
from models.modulated_gcn import ModulatedGCN
from models.semgcn import SemGCN
from models.unshared import UnsharedGCN
from models.vp3d import VideoPose3D

# By their names for --model; docs/extending.md adds one.
MODELS: dict[str, type[nn.Module]] = {
    "mgcn": ModulatedGCN,
    "semgcn": SemGCN,
    "gcn": VanillaGCN,
    "unshared": UnsharedGCN,
    "martinez": Martinez,
    "vp3d": VideoPose3D,
}
DEFAULT = "mgcn"  # and what old checkpoints that do not name their network hold


def build_model(arguments: dict[str, Any]) -> nn.Module:
    """The network of ``arguments``: ``name`` (of ``MODELS``), ``joints`` (16 or 17), and the
    arguments of that class.

    What the network is given (``common.input_view``) is among them and changes nothing here.
    """
    others = ("name", "joints", "camera_rays", "root_view")
    options = {key: value for key, value in arguments.items() if key not in others}
    model = MODELS[arguments.get("name", DEFAULT)]
    return model(SKELETONS[arguments["joints"]].adjacency(), **options)


def default_arguments(name: str) -> dict[str, Any]:
    """What a model's class takes beside the adjacency, with the defaults: its paper's settings."""
    found = inspect.signature(MODELS[name]).parameters.values()
    return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}


def describe_weights(weights: dict[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of ``build_model`` as names and shapes of a state dict show them (those that
    they show); None if no model has such weights."""
    for name, model in MODELS.items():
        describe = getattr(model, "describe", None)
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
