"""Learning rates as functions of the step and the epoch, both from 1, so that resuming is exact."""

import argparse
import math
from collections.abc import Callable

from common.errors import UserError

Rate = Callable[[int, int], float]
_FLOAT32_TINY, _FLOAT32_MAX = 1.2e-38, 3.4e38


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


def learning_rate(args: argparse.Namespace, epoch_steps: int) -> Rate:
    """The schedule of the flags: the script's published one or a cosine, warmed up.

    Args:
        epoch_steps: steps of an epoch.

    Raises:
        UserError: the training would end before it is warm, or the rate leaves what a number holds.
    """
    check_schedule(args, epoch_steps)
    steps = args.epochs * epoch_steps
    if args.warmup >= steps:
        raise UserError(
            f"--warmup {args.warmup} does not end within the {steps} steps of this training: give "
            "a smaller number, or more --epochs"
        )
    return warmed_up(_schedule(args, steps), args.warmup)


def check_schedule(args: argparse.Namespace, epoch_steps: int = 1) -> None:
    """Refuse a schedule whose rate becomes zero or too large for float32 before the last step.

    Args:
        epoch_steps: steps of an epoch, at least.

    Raises:
        UserError: it does, with the flags that make it.
    """
    if args.schedule == "cosine":  # between --lr and its zero at the end
        return
    steps = args.epochs * epoch_steps
    try:  # the published schedules rise or fall all the time
        last = _schedule(args, steps)(steps, args.epochs)
    except OverflowError:
        last = math.inf
    if not _FLOAT32_TINY < last < _FLOAT32_MAX:
        flags = {"exponential": ("lr_gamma", "lr_decay"), "step": ("lr_decay", "large_decay_epoch")}
        given = [f"--{flag} {getattr(args, flag)}" for flag in ("lr", *flags[args.schedule])]
        raise UserError(
            f"the learning rate gets {'to zero' if last < 1 else 'too large to compute with'} "
            f"within {args.epochs} epochs: change {', '.join(given)}"
        )


def _schedule(args: argparse.Namespace, steps: int) -> Rate:
    """The schedule of the flags over so many steps, without warm-up."""
    if args.schedule == "cosine":
        return cosine_rate(args.lr, steps)
    if args.schedule == "step":
        return step_rate(args.lr, args.lr_decay, args.large_decay_epoch)
    return exponential_rate(args.lr, args.lr_gamma, args.lr_decay)
