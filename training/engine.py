"""One epoch of training, and an evaluation."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.metrics import ActionErrors, published_form, root_centred
from common.progress import Progress, format_duration
from data.pose_dataset import PoseBatch, PoseLoader
from training import distributed
from training.schedule import Rate
from training.weight_average import WeightAverage

_CHECK_EVERY = 200  # steps between two looks at the loss: each look waits for the device


@dataclass
class Training:
    """What a step of training needs.

    Attributes:
        networks: that are trained, by the keys of their weights in a checkpoint.
        loss: a batch -> the scalar to minimise.
        optimizer: over the parameters of the networks.
        rate: the learning rate of each step.
        max_norm: gradients are clipped to this norm; None does not clip.
        amp: compute in bfloat16 where autocast finds that safe.
        average: the running average of the networks, which is tested and saved; None where the
            networks themselves are.
    """

    networks: dict[str, nn.Module]
    loss: Callable[[PoseBatch], Tensor]
    optimizer: torch.optim.Optimizer
    rate: Rate
    max_norm: float | None = None
    amp: bool = False
    average: WeightAverage | None = None

    def all_networks(self) -> list[nn.Module]:
        """In training, and their averages."""
        return [*self.networks.values(), *(self.average.networks.values() if self.average else ())]

    def tested_networks(self) -> dict[str, nn.Module]:
        """The networks that are tested and saved."""
        return self.average.networks if self.average else self.networks


@dataclass(frozen=True)
class TrainedEpoch:
    """An epoch of training.

    Attributes:
        number: of the epoch, from 1.
        step: steps done since the training began.
        loss: its mean over poses.
        lr: the learning rate of the last step.
        seconds: that it took.
        ended: the reading of ``time.perf_counter`` at its end.
    """

    number: int
    step: int
    loss: float
    lr: float
    seconds: float
    ended: float


@dataclass
class Outlook:
    """How far a training has still to go, for the lines of its log.

    Attributes:
        epochs: the last one's number.
        test_share: the time of a test as a multiple of an epoch's training.
        progress: that the loops of a training share.
    """

    epochs: int
    test_share: float = 0.0
    progress: Progress = field(default_factory=Progress)

    def update(self, row: dict[str, Any]) -> None:
        """Take the share from the times of an epoch, a row of the log."""
        self.test_share = row["test_seconds"] / row["train_seconds"]

    def time_left(self, epoch: int, seconds: float, left: float) -> str:
        """
        Args:
            epoch: that is in training, ``seconds`` after its start and ``left`` before its end.
        """
        epochs_left = self.epochs - epoch + 1
        total = epochs_left * (seconds + left) * (1 + self.test_share) - seconds
        return f"{format_duration(left)} left in this epoch, {format_duration(total)} in all"


def train_one_epoch(
    training: Training, loader: PoseLoader, epoch: int, step: int, outlook: Outlook | None = None
) -> TrainedEpoch:
    """Train on every pose once.

    Args:
        epoch: its number, from 1.
        step: steps done before.
        outlook: of the whole training; None takes this epoch for the last.

    Raises:
        UserError: the loss is no longer finite.
    """
    start = time.perf_counter()
    for network in training.networks.values():
        network.train()
    distributed.seed_epoch(loader.seed, epoch)
    parameters = [p for network in training.networks.values() for p in network.parameters()]
    group = training.optimizer.param_groups[0]
    device = loader.dataset.targets_3d.device
    total, seen = torch.zeros((), device=device), 0
    outlook = outlook or Outlook(epoch)

    def end_of_line(seconds: float, left: float) -> str:
        state = f"loss {total.item() / seen:.4g}, learning rate {group['lr']:.4g}"
        return f"{state}, {outlook.time_left(epoch, seconds, left)}"

    what = (f"epoch {epoch}/{outlook.epochs}", loader.epoch_steps, "step")
    batches = loader.shuffled_batches(epoch)
    for batch in outlook.progress.follow(batches, *what, leave=False, ending=end_of_line):
        step += 1
        group["lr"] = training.rate(step, epoch)
        loss = _optimise(training, batch, parameters)
        if training.average:
            training.average.update(step)
        poses = batch.global_size or len(batch)
        total += loss * poses
        seen += poses
        if step % _CHECK_EVERY == 0:
            _check_finite(total, step)
    distributed.take_mean(total)
    _check_finite(total, step)
    loss, end = total.item() / loader.epoch_size, time.perf_counter()
    return TrainedEpoch(epoch, step, loss, group["lr"], end - start, end)


def _optimise(training: Training, batch: PoseBatch, parameters: list[nn.Parameter]) -> Tensor:
    """One step of the optimiser on the loss of a batch; gives that loss, without its graph."""
    training.optimizer.zero_grad()
    with torch.autocast(batch.index.device.type, torch.bfloat16, enabled=training.amp):
        loss = training.loss(batch)
    loss.backward()
    if training.max_norm is not None:
        nn.utils.clip_grad_norm_(parameters, training.max_norm)
    training.optimizer.step()
    return loss.detach()


def _check_finite(total: Tensor, step: int) -> None:
    if not torch.isfinite(total):
        raise UserError(
            f"the loss is no longer a finite number at step {step}: lower --lr; "
            "the checkpoint of the last whole epoch is kept"
        )


def evaluate(
    pose_of: Callable[[PoseBatch], Tensor],
    loader: PoseLoader,
    progress: Progress | None = None,
    what: str = "testing",
) -> dict[str, Any]:
    """The errors of a data set, as ``ActionErrors.summary``.

    On data sets of the Human3.6M protocol "published_form" holds the same summary of the poses in
    the published code's form, mean of actions, and there "over_frames" their means over frames.

    Args:
        pose_of: a batch -> poses (B, J, 3), metres, camera space, not centred.
        progress: of the training that this is a part of.
        what: is being done, for the progress.

    Raises:
        UserError: a prediction is not finite.
    """
    dataset = loader.dataset
    info = dataset.info
    forms = [root_centred, published_form] if info.h36m_protocol else [root_centred]
    settings = (info.metrics, info.mean_over, dataset.targets_3d.device, len(forms))
    errors = ActionErrors(dataset.actions, *settings)
    steps = -(-len(dataset) // loader.world_size // loader.batch_size)
    progress = progress or Progress()
    for batch in progress.follow(loader.ordered_batches(), what, steps, "step", leave=False):
        pose = pose_of(batch)
        scored = torch.stack([form(pose) for form in forms])
        errors.update(scored, batch.targets_3d, batch.action)
    distributed.add_up(errors.sums, errors.frames)
    if not torch.isfinite(errors.sums).all():
        raise UserError("the model predicts values that are not finite: the weights are unusable")
    summary = errors.summary()
    if info.h36m_protocol:
        over_frames = errors.summary(1, "frames")
        means = {metric: over_frames[metric] for metric in info.metrics}
        summary["published_form"] = {**errors.summary(1, "actions"), "over_frames": means}
    return summary
