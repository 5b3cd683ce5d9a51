"""Learning rates as functions of the step and the epoch, both from 1, so that resuming is exact."""

import argparse
import math
from collections.abc import Callable

from common.errors import UserError

Rate = Callable[[int, int], float]


def exponential_rate(lr: float, gamma: float, decay_steps: int) -> Rate:
    """The published schedule of ground-truth 2D: lr gamma^(step / decay_steps), computed at step 1
    and then only at every multiple of ``decay_steps``."""

    def rate(step: int, epoch: int) -> float:
        last_set = max(1, step // decay_steps * decay_steps)
        return lr * gamma ** (last_set / decay_steps)

    return rate


def step_rate(lr: float, factor: float, every: int) -> Rate:
    """The published schedule of detected 2D: times ``factor`` after every ``every`` epochs."""
    return lambda step, epoch: lr * factor ** ((epoch - 1) // every)


def cosine_rate(lr: float, steps: int) -> Rate:
    """Half a cosine from ``lr`` to zero over all ``steps`` of the training."""
    return lambda step, epoch: lr * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


def warmed_up(rate: Rate, steps: int) -> Rate:
    """A schedule times a factor that rises linearly from zero to one in the first ``steps``."""
    if not steps:
        return rate
    return lambda step, epoch: min(step / steps, 1) * rate(step, epoch)


def learning_rate(args: argparse.Namespace, published: Rate, epoch_steps: int) -> Rate:
    """The schedule of the flags: the script's published one or a cosine, warmed up.

    Args:
        epoch_steps: steps of an epoch.

    Raises:
        UserError: the training would end before it is warm.
    """
    steps = args.epochs * epoch_steps
    if args.warmup >= steps:
        raise UserError(
            f"--warmup {args.warmup} does not end within the {steps} steps of this training: give "
            "a smaller number, or more --epochs"
        )
    rate = cosine_rate(args.lr, steps) if args.schedule == "cosine" else published
    return warmed_up(rate, args.warmup)
