"""One epoch of training, and an evaluation."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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

_LOOK_EVERY = 200  # batches between two looks at the loss on a GPU: each look waits for it


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
        skips_not_finite: a step whose loss or gradient is not finite is skipped. If this is False,
            it raises :class:`NotFiniteError`.
    """

    networks: dict[str, nn.Module]
    loss: Callable[[PoseBatch], Tensor]
    optimizer: torch.optim.Optimizer
    rate: Rate
    max_norm: float | None = None
    amp: bool = False
    average: WeightAverage | None = None
    skips_not_finite: bool = False

    def all_networks(self) -> list[nn.Module]:
        """In training, and their averages."""
        return [*self.networks.values(), *(self.average.networks.values() if self.average else ())]

    def tested_networks(self) -> dict[str, nn.Module]:
        """The networks that are tested and saved."""
        return self.average.networks if self.average else self.networks


@dataclass
class Position:
    """How far a training has come inside an epoch.

    Attributes:
        epoch: in training, from 1.
        step: steps done since the training began.
        batches: done in this epoch.
        poses: seen in this epoch, without those of skipped batches.
        loss: the sum of their losses; None at the start of an epoch.
        seconds: spent on this epoch before the run was resumed.
        skipped: batches of this epoch that changed nothing, see ``Training.skips_not_finite``.
    """

    epoch: int
    step: int
    batches: int = 0
    poses: int = 0
    loss: Tensor | None = None
    seconds: float = 0.0
    skipped: int = 0

    def count(self, loss: Tensor | None, poses: int) -> None:
        """Count the poses of a batch and their mean loss; None counts the batch as skipped."""
        if loss is None:
            self.skipped += 1
        else:
            self.loss += loss * poses
            self.poses += poses


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
        skipped: batches that changed nothing, see ``Training.skips_not_finite``.
    """

    number: int
    step: int
    loss: float
    lr: float
    seconds: float
    ended: float
    skipped: int = 0


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
    training: Training,
    loader: PoseLoader,
    start: Position,
    outlook: Outlook | None = None,
    after_step: Callable[[Position], None] | None = None,
) -> TrainedEpoch:
    """Train on every pose once.

    Args:
        start: where to begin: at the start of an epoch, or inside it, where the state of the
            training is that after ``start.batches`` batches.
        outlook: of the whole training; None takes this epoch for the last.
        after_step: called after each step. It may raise to stop the training.

    Raises:
        NotFiniteError: a loss or a gradient is not finite.
        UserError: every step was skipped.
    """
    began = time.perf_counter()
    for network in training.networks.values():
        network.train()
    if not start.batches:
        distributed.seed_epoch(loader.seed, start.epoch)
    parameters = [p for network in training.networks.values() for p in network.parameters()]
    group = training.optimizer.param_groups[0]
    total = torch.zeros((), device=loader.dataset.targets_3d.device)
    at = replace(start, loss=total if start.loss is None else start.loss.to(total.device))
    outlook = outlook or Outlook(at.epoch)

    def end_of_line(seconds: float, left: float) -> str:
        state = f"loss {at.loss.item() / max(at.poses, 1):.4g}, learning rate {group['lr']:.4g}"
        return f"{state}, {outlook.time_left(at.epoch, start.seconds + seconds, left)}"

    what = (f"epoch {at.epoch}/{outlook.epochs}", loader.epoch_steps, "step")
    batches = loader.shuffled_batches(at.epoch, start.batches)
    options = {"leave": False, "done": start.batches, "ending": end_of_line}
    for batch in outlook.progress.follow(batches, *what, **options):
        at.step, at.batches = at.step + 1, at.batches + 1
        group["lr"] = training.rate(at.step, at.epoch)
        loss = _optimise(training, batch, parameters, at)
        at.count(loss, batch.global_size or len(batch))
        if training.average and loss is not None:
            training.average.update(at.step)
        at.seconds = start.seconds + time.perf_counter() - began
        if after_step:
            after_step(at)
    if not at.poses:
        raise UserError(
            f"every step of epoch {at.epoch} was skipped, since its loss or gradient was not "
            "finite: lower --lr, or test the weights that it starts from"
        )
    mean = distributed.mean(at.loss).item() / at.poses
    end = time.perf_counter()
    seconds = start.seconds + end - began
    return TrainedEpoch(at.epoch, at.step, mean, group["lr"], seconds, end, at.skipped)


def _optimise(
    training: Training, batch: PoseBatch, parameters: list[nn.Parameter], at: Position
) -> Tensor | None:
    """One step of the optimiser on the loss of a batch.

    Returns:
        The loss, without its graph; None if the step was skipped.

    Raises:
        NotFiniteError: the loss or the gradient is not finite, and steps are not skipped.
    """
    looks = training.skips_not_finite or batch.index.device.type == "cpu"
    looks = looks or at.batches % _LOOK_EVERY == 0
    networks = training.networks.values() if looks else ()
    random_state = torch.get_rng_state() if looks else None
    # A forward pass in training changes the running statistics of normalisations.
    buffers = [buffer for network in networks for buffer in network.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    training.optimizer.zero_grad()
    with torch.autocast(batch.index.device.type, torch.bfloat16, enabled=training.amp):
        loss = training.loss(batch)
    loss.backward()
    if looks or training.max_norm is not None:
        norm = nn.utils.clip_grad_norm_(parameters, training.max_norm or math.inf)
        if looks and not _is_finite(loss, norm):
            for buffer, before in zip(buffers, kept, strict=True):
                buffer.copy_(before)
            if training.skips_not_finite:
                return None
            raise NotFiniteError(loss.item(), norm.item(), replace(at), batch, random_state)
    training.optimizer.step()
    return loss.detach()


def _is_finite(loss: Tensor, norm: Tensor) -> bool:
    """Whether a step can be taken. Processes of a job share the gradient and not the loss, and all
    of them have to decide the same."""
    alone = distributed.world_size() == 1
    return bool(torch.isfinite(norm)) and (not alone or bool(torch.isfinite(loss)))


class NotFiniteError(Exception):
    """A step whose loss or gradient is not finite. On a CPU the weights are those before the step.
    On a GPU it is found up to ``_LOOK_EVERY`` steps late, since each look waits for the device."""

    def __init__(
        self, loss: float, norm: float, at: Position, batch: PoseBatch, random_state: Tensor
    ) -> None:
        super().__init__(
            f"the loss of step {at.step} (batch {at.batches} of epoch {at.epoch}) is {loss:g} "
            f"and the norm of its gradient {norm:g}"
        )
        self.at, self.batch, self.random_state = at, batch, random_state


def evaluate(
    pose_of: Callable[[PoseBatch], Tensor],
    loader: PoseLoader,
    progress: Progress | None = None,
    what: str = "testing",
    after_batch: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """The errors of a data set, as ``ActionErrors.summary``.

    On data sets of the Human3.6M protocol "published_form" holds the same summary of the poses in
    the published code's form, mean of actions, and there "over_frames" their means over frames.

    Args:
        pose_of: a batch -> poses (B, J, 3), metres, camera space, not centred.
        progress: of the training that this is a part of.
        what: is being done, for the progress.
        after_batch: called after each batch. It may raise to stop the test.

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
        if after_batch:
            after_batch()
    distributed.add_up(errors.sums, errors.frames)
    if not torch.isfinite(errors.sums).all():
        raise UserError("the model predicts values that are not finite: its weights are unusable; "
                        "test another checkpoint, or train with a lower --lr")  # fmt: skip
    summary = errors.summary()
    if info.h36m_protocol:
        over_frames = errors.summary(1, "frames")
        means = {metric: over_frames[metric] for metric in info.metrics}
        summary["published_form"] = {**errors.summary(1, "actions"), "over_frames": means}
    return summary
