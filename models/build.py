"""From the arguments that a checkpoint carries to the network, and back from its weights."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.skeleton import SKELETONS

# Name for --model: file in models/ and class. docs/extending.md shows how to add one.
MODELS = {
    "mgcn": "modulated_gcn.ModulatedGCN",
    "semgcn": "semgcn.SemGCN",
    "gcn": "gcn.VanillaGCN",
    "unshared": "unshared.UnsharedGCN",
    "martinez": "martinez.Martinez",
    "vp3d": "vp3d.VideoPose3D",
}
DEFAULT = "mgcn"  # and the network of old checkpoints, which do not name theirs
# What a network is given, see ``common.input_view`` and ``common.told_channels``.
INPUT_ARGUMENTS = ("camera_rays", "root_view", "tell_body", "tell_gravity", "tell_noise")
# Arguments that no class takes: its name, its skeleton, and its input.
_NOT_OF_CLASS = ("name", "joints", *INPUT_ARGUMENTS)


def model_class(name: str) -> type[nn.Module]:
    """The class of a name in ``MODELS``."""
    module, class_name = MODELS[name].split(".")
    return getattr(import_module(f"models.{module}"), class_name)


def build_model(arguments: dict[str, Any], device: str = "cpu") -> nn.Module:
    """Build the network of ``arguments``, with first weights.

    Args:
        arguments: ``joints`` (16 or 17), ``name`` (of ``MODELS``; ``DEFAULT`` if it is missing),
            and arguments of that class. Those of ``INPUT_ARGUMENTS`` say what the network is
            given; they are ignored here.
        device: of the weights; "meta" gives their shapes only, and takes no memory.
    """
    model = model_class(arguments.get("name", DEFAULT))
    own = {key: value for key, value in arguments.items() if key not in _NOT_OF_CLASS}
    adjacency = SKELETONS[arguments["joints"]].adjacency()
    with torch.device(device), _WithoutNormal() if device == "meta" else nullcontext():
        return model(adjacency, **own)


class _WithoutNormal(TorchFunctionMode):
    """Leaves out normal numbers. Where there is no memory for them, torch loads its compiler to
    draw them, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def size_of_network(arguments: dict[str, Any]) -> int:
    """The number of values in the state dict of the network of ``arguments``, see
    :func:`build_model`; takes no memory for them."""
    network = build_model(arguments, device="meta")
    return sum(t.numel() for t in network.state_dict().values())


def default_arguments(name: str) -> dict[str, Any]:
    """The arguments of a model's class beside the adjacency, with their defaults: the settings of
    its paper. Keyword-only arguments are for subclasses and left out."""
    parameters = inspect.signature(model_class(name)).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty
    }


def describe_weights(weights: dict[str, Tensor]) -> dict[str, Any] | None:
    """Read the arguments of ``build_model`` off the names and shapes of a state dict.

    Returns:
        The arguments that names and shapes show; None if no model has such weights.
    """
    for name in MODELS:
        describe = getattr(model_class(name), "describe", None)
        if describe and (found := describe(weights)) is not None:
            return {"name": name, **found}
    return None
