"""Whether a training or a test fits into memory, known from shapes before anything is allocated.

All figures are lower bounds: what fits is not refused.
"""

import argparse
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from common.memory import refuse_too_large
from data.pose_dataset import PoseLoader
from models.build import build_model
from models.costs import count_activation_bytes, count_parameters
from training.checkpoint import Source, build_saved
from training.lifter import Lifter
from training.settings import model_arguments

# Numbers that an optimiser keeps for each weight; the amsgrad of main_graph.py's Adam one more.
_OPTIMIZER_STATE = {"sgd": 1, "adam": 2, "adamw": 2}
_REMEDY = "give a smaller --hid_dim or --num_layers"


def check_weights_fit(
    args: argparse.Namespace,
    script: str,
    source: Source | None,
    trains: bool,
    device: torch.device,
) -> None:
    """Refuse the network of the flags if its weights, in training with their gradients, the state
    of the optimiser and their average, are more than the device or the CPU can hold.

    Args:
        source: the checkpoint that the flags follow, if any.

    Raises:
        UserError: they are more, or the checkpoint holds a network that cannot be built.
    """
    if source:
        held = source.checkpoint
        network = build_saved(source.path, held["model"], held["state_dict"], "meta")
    else:
        network = build_model(model_arguments(args, script), device="meta")
    weights = _weights(network)
    needed = weights + (_training_bytes(args, script, network) if trains else 0)
    what = f"a network of {count_parameters(network):,} parameters"
    refuse_too_large(weights, torch.device("cpu"), what, _REMEDY)  # it is built there
    refuse_too_large(needed, device, f"training {what}" if trains else what, _REMEDY)


def check_step_fits(
    args: argparse.Namespace, script: str, lifter: Lifter, loader: PoseLoader
) -> None:
    """Refuse a training if a step of it, beside data and weights that are there, needs more than
    the device has.

    Raises:
        UserError: it needs more.
    """
    parameter = next(lifter.network.parameters())
    pose = parameter.new_zeros(1, lifter.arguments["joints"], lifter.in_dim)
    poses = -(-min(args.batch_size, loader.epoch_size) // loader.world_size)
    kept = poses * count_activation_bytes(lifter.network, pose) // (2 if args.amp else 1)
    refuse_too_large(
        _training_bytes(args, script, lifter.network) + kept,
        parameter.device,
        f"a step of {poses:,} poses",
        "give a smaller --batch_size, --hid_dim or --num_layers",
    )


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _weights(network: nn.Module) -> int:
    """Bytes of weights and statistics."""
    return _size(network.parameters()) + _size(network.buffers())


def _training_bytes(args: argparse.Namespace, script: str, network: nn.Module) -> int:
    """Bytes that training adds to the weights: gradients, state of the optimiser, average."""
    amsgrad = args.optimizer == "adam" and script == "main_graph"
    copies = 1 + _OPTIMIZER_STATE[args.optimizer] + amsgrad
    trained = _size(p for p in network.parameters() if p.requires_grad)
    return copies * trained + (_weights(network) if args.ema else 0)
