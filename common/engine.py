"""Training and evaluation, shared by the scripts: functions of values, not of flags."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common import distributed
from common.averaging import WeightAverage
from common.errors import UserError
from common.metrics import ActionErrors, published_form, root_centred
from common.progress import Progress, format_duration
from common.run import Run
from data.pose_dataset import PoseBatch, PoseLoader

Rate = Callable[[int, int], float]  # step (from 1), epoch (from 1) -> learning rate
_CHECK_EVERY = 200  # steps between two looks at the loss: each look waits for the device


@dataclass
class Predictor:
    """What one prediction is, for a script's model.

    Attributes:
        networks: those that are tested and saved, by the key of their weights in a checkpoint.
        predict: a batch -> poses (B, J, 3), metres, camera space, as tested.
        amp: the networks compute in bfloat16 where autocast finds that safe.
    """

    networks: dict[str, nn.Module]
    predict: Callable[[PoseBatch], Tensor]
    amp: bool = False


@dataclass(kw_only=True)
class Trainer(Predictor):
    """What one step of training is, too.

    Attributes:
        loss: a batch -> scalar to minimise.
        optimizer: over the model's weights.
        rate: of learning, at each step.
        max_norm: gradients are clipped to this norm; None leaves them.
        average: where it is given, ``networks`` are its averages of the networks in training.
    """

    loss: Callable[[PoseBatch], Tensor]
    optimizer: torch.optim.Optimizer
    rate: Rate
    max_norm: float | None
    average: WeightAverage | None = None

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The networks that the loss trains."""
        return self.average.trained if self.average else self.networks

    def every_network(self) -> list[nn.Module]:
        """In training, and their averages."""
        return [*self.trained.values(), *(self.networks.values() if self.average else ())]

    def parameters(self) -> list[nn.Parameter]:
        return [p for network in self.trained.values() for p in network.parameters()]


@dataclass
class Outlook:
    """How far a training has still to go, for the lines of its log.

    Attributes:
        progress: that its loops share.
        epochs: the last one's number.
        test_share: the time of a test, as a multiple of an epoch's training.
    """

    progress: Progress
    epochs: int
    test_share: float = 0.0

    def time_left(self, epoch: int, seconds: float, left: float) -> str:
        """
        Args:
            epoch: in training, so many seconds since it started and so many from its end.
        """
        to_go = self.epochs - epoch + 1
        in_all = to_go * (seconds + left) * (1 + self.test_share) - seconds
        return f"{format_duration(left)} left in this epoch, {format_duration(in_all)} in all"


def set_mode(networks: dict[str, nn.Module], training: bool) -> None:
    """Batch normalisation and dropout as in training, or as at test."""
    for network in networks.values():
        network.train(training)


def select_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device where there is one, else the CPU; of several processes,
    each gets a CUDA device of its own.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"--device {name} is not to be had here ({reason}): try cpu") from error
    return distributed.own_device(device)


def exponential_rate(lr: float, gamma: float, decay_steps: int) -> Rate:
    """The published schedule: lr gamma^(s / decay_steps), set at step 1 and then only at every
    multiple of ``decay_steps``; a function of the step alone, so that resuming is exact."""

    def rate(step: int, epoch: int) -> float:
        last_set = max(1, step // decay_steps * decay_steps)
        return lr * gamma ** (last_set / decay_steps)

    return rate


def step_rate(lr: float, factor: float, every: int) -> Rate:
    """The detected-2D schedule: the rate times ``factor`` after every ``every`` epochs."""
    return lambda step, epoch: lr * factor ** ((epoch - 1) // every)


def cosine_rate(lr: float, steps: int) -> Rate:
    """Half a cosine from ``lr`` to zero over all ``steps`` of the training."""
    return lambda step, epoch: lr * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


def warmed_up(rate: Rate, steps: int) -> Rate:
    """A schedule whose first ``steps`` rise in a line from zero to it."""
    if not steps:
        return rate
    return lambda step, epoch: min(step / steps, 1) * rate(step, epoch)


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


def train_one_epoch(
    trainer: Trainer, loader: PoseLoader, epoch: int, step: int, outlook: Outlook | None = None
) -> tuple[float, int]:
    """Train on every pose once.

    Args:
        epoch: its number, from 1.
        step: steps done before.
        outlook: of the whole training; None takes this epoch for the last.

    Returns:
        The mean loss over poses, and the steps done after.

    Raises:
        UserError: the loss is no longer finite.
    """
    set_mode(trainer.trained, training=True)
    distributed.seed_epoch(loader.seed, epoch)
    parameters = trainer.parameters()
    device = loader.dataset.targets_3d.device
    total, seen = torch.zeros((), device=device), 0
    outlook = outlook or Outlook(Progress(), epoch)

    def ending(seconds: float, left: float) -> str:
        rate = trainer.optimizer.param_groups[0]["lr"]  # of the step; reading the loss waits for it
        state = f"loss {total.item() / seen:.4g}, learning rate {rate:.4g}"
        return f"{state}, {outlook.time_left(epoch, seconds, left)}"

    what = (f"epoch {epoch}/{outlook.epochs}", loader.epoch_steps, "step")
    batches = loader.shuffled_batches(epoch)
    for batch in outlook.progress.follow(batches, *what, leave=False, ending=ending):
        step += 1
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.rate(step, epoch)
        trainer.optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.amp):
            loss = trainer.loss(batch)
        loss.backward()
        if trainer.max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, trainer.max_norm)
        trainer.optimizer.step()
        if trainer.average:
            trainer.average.update(step)
        poses = batch.global_size or len(batch)
        total += loss.detach() * poses
        seen += poses
        if step % _CHECK_EVERY == 0:
            _check_finite(total, step)
    distributed.average(total)
    _check_finite(total, step)
    return total.item() / loader.epoch_size, step


def _check_finite(total: Tensor, step: int) -> None:
    if not torch.isfinite(total):
        raise UserError(
            f"the loss is no longer a finite number at step {step}: lower --lr; "
            "the checkpoint of the last whole epoch is kept"
        )


@torch.inference_mode()
def predict_uncentred(predictor: Predictor, batch: PoseBatch) -> Tensor:
    """Poses (B, J, 3) as the networks give them: metres, camera space, root near zero."""
    set_mode(predictor.networks, training=False)
    with torch.autocast(batch.index.device.type, torch.bfloat16, enabled=predictor.amp):
        return predictor.predict(batch).float()


def predict(predictor: Predictor, batch: PoseBatch) -> Tensor:
    """Poses (B, J, 3) as tested: metres, camera space, root at zero."""
    return root_centred(predict_uncentred(predictor, batch))


def evaluate(
    predictor: Predictor,
    loader: PoseLoader,
    progress: Progress | None = None,
    what: str = "testing",
) -> dict[str, Any]:
    """The errors of a data set, as ``ActionErrors.summary``.

    On data sets of the Human3.6M protocol "published_form" holds the same summary of the poses in
    the published code's form, mean of actions, and there "over_frames" their means over frames.

    Args:
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
        pose = predict_uncentred(predictor, batch)
        scored = torch.stack([form(pose) for form in forms])
        errors.update(scored, batch.targets_3d, dataset.action[batch.index])
    distributed.add_up(errors.sums, errors.frames)
    if not torch.isfinite(errors.sums).all():
        raise UserError("the model predicts values that are not finite: the weights are unusable")
    summary = errors.summary()
    if info.h36m_protocol:
        over_frames = errors.summary(1, "frames")
        means = {metric: over_frames[metric] for metric in info.metrics}
        summary["published_form"] = {**errors.summary(1, "actions"), "over_frames": means}
    return summary


def fit(
    trainer: Trainer,
    run: Run,
    train: PoseLoader,
    test: PoseLoader,
    epochs: int,
    on_best: Callable[[int, float], None] | None = None,
) -> None:
    """Train to the given epoch, testing, logging and saving after each one.

    Args:
        on_best: called with epoch and MPJPE (mm) when an epoch is the best so far.
    """
    loss = distributed.averaged_loss(list(trainer.trained.values()), trainer.loss)
    trainer = replace(trainer, loss=loss)
    # Until it is measured: a pose is tested in about a third of the time of its training.
    test_share = len(test.dataset) / train.epoch_size / 3
    outlook = Outlook(Progress(), epochs, test_share)
    for epoch in range(run.epoch + 1, epochs + 1):
        start = time.perf_counter()
        mean_loss, step = train_one_epoch(trainer, train, epoch, run.step, outlook)
        trained = time.perf_counter()
        summary = evaluate(trainer, test, outlook.progress, f"epoch {epoch}/{epochs}, testing")
        row = {
            "epoch": epoch,
            "step": step,
            "lr": trainer.optimizer.param_groups[0]["lr"],
            "loss": mean_loss,
            "mpjpe_mm": summary["mpjpe_mm"],
            "p_mpjpe_mm": summary["p_mpjpe_mm"],
            "train_seconds": trained - start,
            "test_seconds": time.perf_counter() - trained,
        }
        outlook.test_share = row["test_seconds"] / row["train_seconds"]
        is_best = run.finish_epoch(row, summary, training_state(trainer))
        if is_best and on_best:
            on_best(epoch, row["mpjpe_mm"])
        print(
            f"epoch {epoch}/{epochs}  loss {mean_loss:.6f}  MPJPE {row['mpjpe_mm']:.2f} mm  "
            f"P-MPJPE {row['p_mpjpe_mm']:.2f} mm  ({row['train_seconds']:.0f} s training, "
            f"{row['test_seconds']:.0f} s testing)",
            flush=True,
        )


def training_state(trainer: Trainer) -> dict[str, Any]:
    """What resuming needs beside the run's own records."""
    random_state = {"cpu": torch.get_rng_state()}
    # The processes of a job draw anew each epoch, and rank 0 leaves the others' devices alone.
    if torch.cuda.is_available() and distributed.world_size() == 1:
        random_state["cuda"] = torch.cuda.get_rng_state_all()
    return {
        **_state(trainer.networks),
        **({"trained": _state(trainer.trained)} if trainer.average else {}),
        "optimizer": trainer.optimizer.state_dict(),
        "random_state": random_state,
    }


def _state(networks: dict[str, nn.Module]) -> dict[str, Any]:
    return {key: network.state_dict() for key, network in networks.items()}


def _optimizer_state(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The optimiser's state in a checkpoint, in the order and the shapes of our parameters.

    It has no names. Its order is that of the weights in the checkpoint, whose network may have its
    layers in another order; and our old checkpoints have some weights in another shape. What the
    optimiser is told beside its state (Adam as one kernel) and the checkpoint lacks is as here.
    """
    (group,) = checkpoint["optimizer"]["param_groups"]
    saved = checkpoint["optimizer"]["state"]
    parameters = {
        (key, name): parameter
        for key, network in trainer.trained.items()
        for name, parameter in network.named_parameters()
    }
    names = [(key, name) for key in trainer.trained for name in checkpoint[key]]
    names = [name for name in names if name in parameters]
    number_of = dict(zip(names, group["params"], strict=True))
    state = {
        index: {key: _shaped_as(value, parameter) for key, value in saved[number].items()}
        for index, (name, parameter) in enumerate(parameters.items())
        if (number := number_of[name]) in saved
    }
    options = trainer.optimizer.param_groups[0] | group | {"params": [*range(len(parameters))]}
    return {"state": state, "param_groups": [options]}


def _shaped_as(value: Any, parameter: nn.Parameter) -> Any:
    """A part of the optimiser's state: a number, or a tensor for each weight of the parameter.

    Raises:
        ValueError: it is of another shape, ones at its end aside.
    """
    if not isinstance(value, Tensor):
        return value if value is None else float(value)
    if value.dim() == 0:
        return value
    long, short = sorted((value.shape, parameter.shape), key=len, reverse=True)
    if long[: len(short)] != short or long.numel() != short.numel():
        raise ValueError(f"{tuple(value.shape)} for weights {tuple(parameter.shape)}")
    return value.reshape(parameter.shape)


def restore_training_state(trainer: Trainer, path: str, checkpoint: dict[str, Any]) -> None:
    """Put optimiser and random state back; the weights are the caller's to load, but for those in
    training where the checkpoint's own are their average.

    Raises:
        UserError: the checkpoint holds weights only, or the optimiser's state is of another model.
    """
    needed = ("epoch", "step", "optimizer", *(["trained"] if trainer.average else []))
    lacking = [key for key in needed if key not in checkpoint]
    if lacking:
        raise UserError(f"{path} has no {', '.join(lacking)}: it can be evaluated, not resumed")
    try:
        trainer.optimizer.load_state_dict(_optimizer_state(trainer, checkpoint))
        _train_what_was_trained(trainer.optimizer)
        if trainer.average:
            for key, network in trainer.trained.items():
                network.load_state_dict(checkpoint["trained"][key])
        random_state = checkpoint.get("random_state", {})
        if "cpu" in random_state:
            torch.set_rng_state(random_state["cpu"])
        if torch.cuda.is_available() and "cuda" in random_state:
            here = range(torch.cuda.device_count())  # perhaps not as many as where it was saved
            for device, saved in zip(here, random_state["cuda"], strict=False):
                torch.cuda.set_rng_state(saved, device)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} cannot be resumed, its state does not fit: {error!r}") from error


def _train_what_was_trained(optimizer: torch.optim.Optimizer) -> None:
    """Freeze and unfreeze parameters as the saved run had them: new versions of a network may leave
    a bias untrained that an old run trained. A parameter that was trained has a state."""
    if not optimizer.state:  # no step was taken
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(parameter in optimizer.state)
