"""From a checkpoint's description of its network to the network."""

from typing import Any

from torch import nn

from common.skeleton import SKELETONS
from models.modulated_gcn import ModulatedGCN


def build_model(arguments: dict[str, Any]) -> ModulatedGCN:
    """The network of ``arguments``: ``joints`` (16 or 17) and the arguments of ModulatedGCN."""
    options = {key: value for key, value in arguments.items() if key != "joints"}
    return ModulatedGCN(SKELETONS[arguments["joints"]].adjacency(), **options)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
