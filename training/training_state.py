"""What a checkpoint holds so that a training goes on exactly where it stopped."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from training import distributed
from training.checkpoint import load_weights
from training.checkpoint_contents import PARAMETER_STATE, check, parameter_state
from training.engine import Position, Training


def training_state(training: Training, at: Position | None = None) -> dict[str, Any]:
    """What resuming needs beside the run's own records.

    Args:
        at: the position inside an epoch, which is saved too; None at the end of one. All processes
            of a job take part, since each has random numbers and losses of its own.
    """
    random_state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    # The processes of a job draw anew each epoch, and rank 0 leaves the others' devices alone.
    if torch.cuda.is_available() and distributed.world_size() == 1:
        random_state["cuda"] = torch.cuda.get_rng_state_all()
    return {
        **_state(training.tested_networks()),
        **({"trained": _state(training.networks)} if training.average else {}),
        "optimizer": training.optimizer.state_dict(),
        "random_state": random_state,
        **({"position": _position(at)} if at else {}),
    }


def _position(at: Position) -> dict[str, Any]:
    """A position as a checkpoint has it: numbers, and of each process of the job (by rank) the sum
    of its losses and its random state."""
    on_gpu = at.loss.device.type == "cuda"
    gathered = distributed.gather(torch.cuda.get_rng_state(at.loss.device)) if on_gpu else []
    return {
        **vars(at),
        "loss": [loss.cpu() for loss in distributed.gather(at.loss)],
        "cpu": distributed.gather(torch.get_rng_state()),
        "cuda": gathered,
    }


def position_of(checkpoint: dict[str, Any]) -> Position | None:
    """The position inside an epoch at which a checkpoint was saved; None for one of a whole epoch.

    The checkpoint is of as many processes as there are now.
    """
    if (saved := checkpoint.get("position")) is None:
        return None
    own = {each.name: saved[each.name] for each in fields(Position)}
    return Position(**own | {"loss": saved["loss"][distributed.rank()]})


def processes_of(checkpoint: dict[str, Any]) -> int | None:
    """How many processes saved a checkpoint inside an epoch; None for one of a whole epoch."""
    return len(checkpoint["position"]["loss"]) if "position" in checkpoint else None


def _state(networks: dict[str, nn.Module]) -> dict[str, Any]:
    return {key: network.state_dict() for key, network in networks.items()}


def _optimizer_state(training: Training, path: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The optimiser's state in a checkpoint, in the order and the shapes of our parameters.

    It has no names. Its order is that of the weights in the checkpoint, whose network may have its
    layers in another order; and our old checkpoints have some weights in another shape. What the
    optimiser is told beside its state (Adam as one kernel) and the checkpoint lacks is as here.

    Raises:
        UserError, ValueError: a part of it is of another kind or shape than the optimiser needs.
            Torch does not check that, and would read beyond the memory of a smaller tensor.
    """
    (group,) = checkpoint["optimizer"]["param_groups"]
    saved = checkpoint["optimizer"]["state"]
    parameters = {
        (key, name): parameter
        for key, network in training.networks.items()
        for name, parameter in network.named_parameters()
    }
    names = [(key, name) for key in training.networks for name in checkpoint[key]]
    names = [name for name in names if name in parameters]
    number_of = dict(zip(names, group["params"], strict=True))
    options = training.optimizer.param_groups[0] | group | {"params": [*range(len(parameters))]}
    description = parameter_state(training.optimizer, options.get("amsgrad", False))
    state = {}
    for index, (name, parameter) in enumerate(parameters.items()):
        found, where = saved.get(number_of[name]), f"optimizer.state of {name[1]}"
        if found is None:
            if saved and parameter.requires_grad:
                raise ValueError(f"no {where}")
            continue
        check(path, found, description, where)
        shapes = {key: () if key == "step" else parameter.shape for key in PARAMETER_STATE}
        state[index] = {
            key: _shaped_as(found[key], shape, f"{where}.{key}")
            for key, shape in shapes.items()
            if key in found
        }
    return {"state": state, "param_groups": [options]}


def _shaped_as(found: Any, shape: Sequence[int], where: str) -> Any:
    """A part of the optimiser's state of a parameter: a tensor of this shape, a number, or None.

    Raises:
        ValueError: it is of another shape, ones at its end aside.
    """
    if not isinstance(found, Tensor):
        return found if found is None else float(found)
    long, short = sorted((tuple(found.shape), tuple(shape)), key=len, reverse=True)
    if long != (*short, *[1] * (len(long) - len(short))):
        raise ValueError(f"{where} is {tuple(found.shape)}, not {tuple(shape)}")
    return found.reshape(shape)


def restore_training_state(training: Training, path: str, checkpoint: dict[str, Any]) -> None:
    """Put the optimiser's and the random generators' state back.

    The caller has loaded the checkpoint's own weights. Where these are running averages, the
    weights in training are loaded here.

    Raises:
        UserError: the checkpoint holds weights only, or the optimiser's state is of another model.
    """
    needed = ("epoch", "step", "optimizer", *(["trained"] if training.average else []))
    lacking = [key for key in needed if key not in checkpoint]
    if lacking:
        raise UserError(f"{path} has no {', '.join(lacking)}: it can be evaluated, not resumed")
    try:
        training.optimizer.load_state_dict(_optimizer_state(training, path, checkpoint))
        _train_what_was_trained(training.optimizer)
        if training.average:
            for key, network in training.networks.items():
                load_weights(path, network, checkpoint["trained"][key])
        random_state = _random_state(checkpoint)
        if "cpu" in random_state:
            torch.set_rng_state(random_state["cpu"])
        if torch.cuda.is_available() and "cuda" in random_state:
            here = range(torch.cuda.device_count())  # perhaps not as many as where it was saved
            for device, saved in zip(here, random_state["cuda"], strict=False):
                torch.cuda.set_rng_state(saved, device)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be resumed, its state does not fit: {error!r:.200}. Get the file "
            "again, or start a new run"
        ) from error


def _random_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The random state of this process in a checkpoint."""
    if "position" not in checkpoint:
        return checkpoint.get("random_state", {})
    own = distributed.rank()
    position = checkpoint["position"]
    return {"cpu": position["cpu"][own], "cuda": position["cuda"][own : own + 1]}


def _train_what_was_trained(optimizer: torch.optim.Optimizer) -> None:
    """Freeze and unfreeze parameters as the saved run had them: new versions of a network may leave
    a bias untrained that an old run trained. A parameter that was trained has a state."""
    if not optimizer.state:  # no step was taken
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(parameter in optimizer.state)
