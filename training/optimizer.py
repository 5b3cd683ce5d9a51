"""The optimisers that the flags name."""

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from training.settings import weight_decay


def build_optimizer(
    networks: Iterable[nn.Module], args: argparse.Namespace, amsgrad: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of ``--optimizer`` over all parameters of the networks.

    SGD is the published one: Nesterov momentum 0.9. ``amsgrad`` is for Adam. With
    ``--max_weight_norm`` the weights of the first network are limited after each step.
    """
    networks = list(networks)
    parameters = [parameter for network in networks for parameter in network.parameters()]
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            parameters, lr=args.lr, momentum=0.9, nesterov=True, weight_decay=weight_decay(args)
        )
    elif args.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            parameters, lr=args.lr, weight_decay=weight_decay(args), fused=True
        )
    else:
        optimizer = torch.optim.Adam(parameters, lr=args.lr, amsgrad=amsgrad, fused=True)
    if args.max_weight_norm:
        limit_weights(optimizer, networks[0], args.max_weight_norm)
    return optimizer


def limit_weights(optimizer: torch.optim.Optimizer, network: nn.Module, max_norm: float) -> None:
    """Have the optimiser scale, after each step, the weights into each unit of a linear layer or a
    convolution to this norm at most.

    Raises:
        UserError: the network has no such layers.
    """
    layers = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv1d))]
    if not layers:
        raise UserError("--max_weight_norm is for networks of linear layers: --model martinez")

    @torch.no_grad()
    def limit(*_: Any) -> None:
        for layer in layers:
            layer.weight.renorm_(p=2, dim=0, maxnorm=max_norm)

    optimizer.register_step_post_hook(limit)
