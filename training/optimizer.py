"""The optimisers and learning rates that the flags name."""

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from common.acceleration import adam
from common.engine import Rate, cosine_rate, warmed_up
from common.errors import UserError
from training.settings import weight_decay


def build_optimizer(
    parameters: Iterable[nn.Parameter], args: argparse.Namespace, amsgrad: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of ``--optimizer``, with its weight decay.

    SGD is the published one: momentum 0.9, Nesterov's. ``amsgrad`` is Adam's.
    """
    decay = weight_decay(args)
    if args.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=args.lr, momentum=0.9, nesterov=True, weight_decay=decay
        )
    if args.optimizer == "adamw":
        return adam(parameters, args.lr, weight_decay=decay)
    return adam(parameters, args.lr, amsgrad=amsgrad)


def learning_rate(args: argparse.Namespace, published: Rate, steps: int) -> Rate:
    """The schedule: the script's published one or a cosine over so many steps, warmed up.

    Raises:
        UserError: the training would end before it is warm.
    """
    if args.warmup >= steps:
        raise UserError(
            f"--warmup {args.warmup} does not end within the {steps} steps of this training: give "
            "a smaller number, or more --epochs"
        )
    rate = cosine_rate(args.lr, steps) if args.schedule == "cosine" else published
    return warmed_up(rate, args.warmup)


def training_options(args: argparse.Namespace, published: Rate, epoch_steps: int) -> dict[str, Any]:
    """The flags of training that both scripts have, as arguments of ``Trainer``.

    Args:
        published: the script's own schedule.
        epoch_steps: steps of an epoch.
    """
    return {
        "rate": learning_rate(args, published, args.epochs * epoch_steps),
        "max_norm": args.max_norm or None,
        "amp": args.amp,
    }
