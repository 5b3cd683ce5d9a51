"""From a checkpoint's description of its network to the network."""

from typing import Any

from torch import nn

from common.skeleton import SKELETONS
from models.modulated_gcn import ModulatedGCN


def build_model(arguments: dict[str, Any]) -> ModulatedGCN:
    """The network of ``arguments``: ``joints`` (16 or 17) and the arguments of ModulatedGCN.

    What the network is given (``common.input_view``) is among them and changes nothing here.
    """
    others = ("joints", "camera_rays", "root_view")
    options = {key: value for key, value in arguments.items() if key not in others}
    return ModulatedGCN(SKELETONS[arguments["joints"]].adjacency(), **options)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
