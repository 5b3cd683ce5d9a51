"""Checkpoints: ours, which describe themselves, and published ones, which are read by shape.

A checkpoint is a dict with the published keys (epoch, step, lr, error, state_dict, optimizer) and,
in ours, ``model`` (the network's arguments), ``dataset``, ``options``, ``history``, ``best``,
``chosen_by`` and ``random_state``: plain containers and tensors only, so that nothing but data is
ever unpickled.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import os_errors_as_user_errors, write_bytes
from models.build import (
    DEFAULT,
    INPUT_ARGUMENTS,
    MODELS,
    build_model,
    default_arguments,
    describe_weights,
    size_of_network,
)
from training.checkpoint_contents import check, network_weights, whole_checkpoint
from training.legacy_checkpoint import read_legacy_checkpoint
from training.zip_checkpoint import read_zip_checkpoint

# Arguments of a network that change how it is trained, and nothing of a trained one.
_FOR_TRAINING = ("name", "dropout", "modulation_init")
_WITHOUT_FLAG = ("in_dim", "out_dim")
# Arguments of a network that are as its checkpoint has them: nobody asks for another value.
_OF_CHECKPOINT = ("predict_root",)
# How the files begin that torch.save writes: since version 1.6, and before.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class Source:
    """A checkpoint that a call of a script starts from, and the path it was read from."""

    path: str
    checkpoint: dict[str, Any]


def to_bytes(state: dict[str, Any]) -> bytes:
    """The content of a checkpoint file. torch's own writing of files hides why it failed."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    write_bytes(path, to_bytes(state))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, ours or a published one, without executing anything in it.

    A file that is a bare state dict is given back under the key ``state_dict``; ``model`` is
    filled from names and shapes where the file does not say it.

    Raises:
        UserError: the file is missing, damaged, holds more than data, no network of ours, or
            something that ``training.checkpoint_contents`` does not admit.
    """
    found = load_plain(path)
    state = found if isinstance(found, dict) and "state_dict" in found else {"state_dict": found}
    weights = check_state_dict(path, state["state_dict"])
    state["state_dict"] = weights
    if "model" not in state:
        state["model"] = _describe(path, state["state_dict"])
    check(path, state, whole_checkpoint)
    return state


def load_plain(path: str | Path) -> Any:
    """Read tensors, numbers and plain containers onto the CPU; nothing in the file is executed.

    Raises:
        UserError: the file is missing, damaged, or holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        if path.is_dir():
            raise UserError(f"{path} is a folder: give a file in it, such as ckpt_last.pth.tar")
        raise UserError(f"{path} is not there: give a checkpoint file")
    with os_errors_as_user_errors(f"read {path}"), path.open("rb") as file:
        start = file.read(len(_ZIP))
    if start != _ZIP and not start.startswith(_PICKLE):
        kind = "another kind of" if start else "an empty"
        raise UserError(
            f"{path} is {kind} file, not a checkpoint; nothing in it was executed. Give another"
        )
    try:
        return read_zip_checkpoint(path) if start == _ZIP else read_legacy_checkpoint(path)
    except Exception as error:  # a damaged file can make the reader raise anything
        reason = f"{type(error).__name__}: {error}"[:100]
        raise UserError(
            f"{path} is not a checkpoint this program reads ({reason}): it is damaged or holds "
            "more than tensors; nothing in it was executed. Get the file again, or resume the "
            "run's folder, which takes the newest whole checkpoint"
        ) from error


def check_state_dict(path: str | Path, weights: Any) -> dict[str, Tensor]:
    """Give a state dict back, with our names.

    Raises:
        UserError: it is none.
    """
    whole = (
        isinstance(weights, dict)
        and len(weights) > 0
        and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in weights.items())
    )
    if not whole:
        raise UserError(f"{path} holds no state dict of a network")
    return {_our_name(name): tensor for name, tensor in weights.items()}


def _our_name(name: str) -> str:
    """Networks trained in parallel put module. before every name; SemGCN's say nonlocal."""
    return name.removeprefix("module.").replace(".nonlocal.", ".non_local.")


def _describe(path: Path, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Read the network's arguments off the names and shapes of its weights."""
    try:
        found = describe_weights(weights)
    except (ValueError, TypeError, LookupError, ZeroDivisionError):
        found = None  # the names of a network, with shapes that it cannot have
    # Every network here has a matrix from its channels to its channels.
    if found is None or found.get("hid_dim", 0) ** 2 > sum(t.numel() for t in weights.values()):
        raise UserError(f"{path} holds no Modulated GCN, nor a baseline of {', '.join(MODELS)}")
    return found


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The arguments in which two networks differ, with both values.

    Of different models only the names are compared. An argument that is missing counts as the
    model's default; without a default it is not compared.
    """
    name = found.get("name", DEFAULT)
    if name != wanted.get("name", DEFAULT):
        return {"model": (name, wanted.get("name", DEFAULT))}
    unsaid = dict.fromkeys(INPUT_ARGUMENTS, False) | default_arguments(name)
    found, wanted = unsaid | found, unsaid | wanted
    compared = [key for key in wanted if key in found and key not in _FOR_TRAINING]
    return {key: (found[key], wanted[key]) for key in compared if found[key] != wanted[key]}


def check_model(path: str | Path, found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Compare the network a checkpoint holds with the one asked for.

    Returns:
        The arguments asked for, with those that only the checkpoint can say.

    Raises:
        UserError: they differ; the line names each difference and the flags that put it right.
    """
    name = found.get("name", DEFAULT)
    if name not in [*MODELS]:
        raise UserError(f"{path} holds a network {name!r}: this program has {', '.join(MODELS)}")
    of_checkpoint = {key: found[key] for key in _OF_CHECKPOINT if key in found}
    wanted = wanted | of_checkpoint if name == wanted.get("name", DEFAULT) else wanted
    if unlike := differences(found, wanted):
        what = ", ".join(f"{key} {is_}, not {asked}" for key, (is_, asked) in unlike.items())
        flags = [_flag(key, is_) for key, (is_, _) in unlike.items() if key not in _WITHOUT_FLAG]
        remedy = f"; give {' '.join(flags)}" if flags else ""
        raise UserError(f"{path} has {what} as the flags or their defaults say{remedy}")
    return wanted


def _flag(name: str, value: Any) -> str:
    """The flag that gives a network this argument."""
    if name == "non_local" or isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value}"


def build_saved(
    path: str | Path,
    arguments: dict[str, Any],
    weights: dict[str, Tensor],
    device: str = "cpu",
) -> nn.Module:
    """The network of a checkpoint's arguments, with first weights, see ``build_model``.

    Args:
        weights: of the checkpoint. Memory is taken for a network that is no larger than they are.

    Raises:
        UserError: there is no such network.
    """
    storages = {t.untyped_storage().data_ptr(): t for t in weights.values()}.values()
    held = sum(t.untyped_storage().nbytes() // t.itemsize for t in storages)
    try:
        if arguments.get("num_layers", 0) > len(weights) or size_of_network(arguments) > held:
            raise ValueError("it has more weights than the file")
        return build_model(arguments, device)
    except (
        LookupError, TypeError, ValueError, ImportError, AttributeError, ArithmeticError,
        RuntimeError, MemoryError,
    ) as error:  # fmt: skip
        raise UserError(
            f"{path} holds a network that this program cannot build ({error!r:.200}): it is "
            "damaged, or of a model that is not in models/build.py"
        ) from error


def load_weights(path: str | Path, module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put a checkpoint's weights into a network.

    Raises:
        UserError: a name or a shape does not fit, a weight is not finite, or a statistic is none.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = ascii(" ".join(str(error).split()))[:300]
        raise UserError(
            f"{path} does not fit this network: {reason}. Get the file again, or give another one"
        ) from error
    check(path, weights, network_weights, "weights")
