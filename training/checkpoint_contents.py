"""What a checkpoint may hold: tables against which a file is checked before any of it is used.

A description is a function that takes what a file holds and its place in the file. To let
checkpoints hold something more, add an entry to :data:`CHECKPOINT`.
"""

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.metrics import METRICS
from common.person import PersonStatistics
from common.skeleton import SKELETONS
from models.build import INPUT_ARGUMENTS, MODELS
from models.modulated_gcn import ADJ_MODULATIONS
from models.norm import NORMS

Description = Callable[[Any, str], None]
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,4096}")  # as long as a path, no control characters
_BEYOND_WHOLE = 2**64
_LARGEST_NUMBER = sys.float_info.max
_MOST_HOPS = 1000  # each takes a loop over the joints when a network is built


class WrongContentError(Exception):
    """Something in a checkpoint is not as its description says; the message starts with its
    place."""


def check(path: str | Path, found: Any, description: Description, where: str = "") -> None:
    """Compare what a checkpoint holds with its description.

    Args:
        where: the place in the checkpoint, for the message; "" is the whole.

    Raises:
        UserError: it differs; the line names the file, the place, and what is expected there.
    """
    try:
        description(found, where)
    except WrongContentError as error:
        raise UserError(
            f"{path} cannot be used: its {error}. It is damaged or of another program: get the "
            "file again, or give another one"
        ) from error


def value(expected: str, admits: Callable[[Any], bool]) -> Description:
    """A single value. ``expected`` names those that are admitted."""

    def describe(found: Any, where: str) -> None:
        if not admits(found):
            raise WrongContentError(f"{where} is {_shown(found)}, not {expected}")

    return describe


def record(
    entries: dict[str, Description],
    needed: Sequence[str] = (),
    others: Description | None = None,
) -> Description:
    """A dict of known keys.

    Args:
        needed: keys that have to be there.
        others: of values under keys that are not in ``entries``; None leaves them alone.
    """

    def describe(found: Any, where: str) -> None:
        _DICT(found, where)
        prefix = f"{where}." if where else ""
        for key in needed:
            if key not in found:
                raise WrongContentError(f"{prefix}{key} is missing")
        for key, item in found.items():
            if description := entries.get(key, others):
                description(item, f"{prefix}{key if key in entries else _shown(key)}")

    return describe


def dict_of(item: Description) -> Description:
    """A dict of names and alike values."""

    def describe(found: Any, where: str) -> None:
        _DICT(found, where)
        for key, entry in found.items():
            TEXT(key, f"name in {where}")
            item(entry, f"{where}.{key}")

    return describe


def list_of(item: Description) -> Description:
    """A list of alike values."""

    def describe(found: Any, where: str) -> None:
        _LIST(found, where)
        for index, entry in enumerate(found):
            item(entry, f"{where}[{index}]")

    return describe


def maybe(description: Description) -> Description:
    """None, or what is described."""
    return lambda found, where: None if found is None else description(found, where)


def _shown(found: Any) -> str:
    """A value in a message: short, and without characters that move the cursor."""
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)} of {str(found.dtype).removeprefix('torch.')}"
    if found is None or isinstance(found, bool | float | str):
        return ascii(found)[:60]
    if isinstance(found, int):
        return str(found) if abs(found) < _BEYOND_WHOLE else "a very large number"
    return f"a {type(found).__name__}"


def _is_whole(found: Any, low: int, high: int = _BEYOND_WHOLE) -> bool:
    return type(found) is int and low <= found < high


def _is_number(found: Any, low: float = -math.inf) -> bool:
    """Whether it is a finite number; numpy's numbers are Real."""
    if not isinstance(found, Real) or isinstance(found, bool):
        return False
    return abs(found) <= _LARGEST_NUMBER and low <= found  # which NaN is not


def _is_share(found: Any) -> bool:
    return _is_number(found, 0) and found < 1


def _are_betas(found: Any) -> bool:
    return isinstance(found, list | tuple) and len(found) == 2 and all(map(_is_share, found))


def _is_text(found: Any) -> bool:
    return isinstance(found, str) and _TEXT.fullmatch(found) is not None


def _is_setting(found: Any) -> bool:
    if isinstance(found, list):
        return all(map(_is_text, found))
    return found is None or isinstance(found, bool) or _is_text(found) or _is_number(found)


def _one_of(*choices: Any) -> Description:
    expected = f"one of {', '.join(map(str, choices))}"
    return value(expected, lambda found: any(found is c or _equal(found, c) for c in choices))


def _equal(found: Any, choice: Any) -> bool:
    return type(found) is type(choice) and found == choice


def _whole(low: int, high: int = _BEYOND_WHOLE) -> Description:
    above = "" if high == _BEYOND_WHOLE else f" to {high - 1}"
    return value(f"a whole number from {low}{above}", lambda found: _is_whole(found, low, high))


def _tensor(expected: str, admits: Callable[[Tensor], bool]) -> Description:
    return value(expected, lambda found: isinstance(found, Tensor) and admits(found))


def _finite(tensor: Tensor, low: float = -math.inf) -> bool:
    return bool(torch.isfinite(tensor).all()) and bool((tensor >= low).all())


_DICT = value("a dict", lambda found: isinstance(found, dict))
_LIST = value("a list", lambda found: isinstance(found, list | tuple))
TEXT = value("a text of one line", _is_text)
SWITCH = value("True or False", lambda found: isinstance(found, bool))
OFF = value("False", lambda found: found is False)
COUNT = _whole(0)
NUMBER = value("a finite number", _is_number)
NOT_NEGATIVE = value("a finite number from 0", lambda found: _is_number(found, 0))
# What is measured on bodies and cameras. Others are divided by it.
MEASURED = value("a number from 1e-6 to 1e6", lambda f: _is_number(f, 1e-6) and f <= 1e6)
SHARE = value("a number from 0 to below 1", _is_share)
SETTING = value("a number, a text, True, False, None or a list of texts", _is_setting)
UNKNOWN = value("something that this program knows", lambda found: False)
BETAS = value("two numbers from 0 to below 1", _are_betas)
TENSOR = _tensor("a tensor", lambda t: True)
BYTES = _tensor("the state of a generator", lambda t: t.dtype == torch.uint8 and t.dim() == 1)
FINITE = _tensor("a tensor of finite numbers", lambda t: t.is_floating_point() and _finite(t))
VARIANCE = _tensor(
    "a tensor of finite numbers from 0", lambda t: t.is_floating_point() and _finite(t, 0)
)
COUNTS = _tensor("whole numbers from 0", lambda t: not t.is_floating_point() and _finite(t, 0))
STEPS = value(
    "a finite number from 0",
    lambda found: (
        _finite(found, 0) and found.dim() == 0
        if isinstance(found, Tensor)
        else _is_number(found, 0)
    ),
)

_FIGURES = dict.fromkeys(METRICS, NOT_NEGATIVE)
_OF_ACTION = record(dict.fromkeys(METRICS, maybe(NOT_NEGATIVE)) | {"frames": COUNT}, ("frames",))
# Results of early versions lack mean_over and published_form.
_NEEDED_OF_SUMMARY = ("mpjpe_mm", "p_mpjpe_mm", "frames", "per_action")
_SUMMARY = _FIGURES | {
    "frames": COUNT, "mean_over": _one_of("actions", "frames"), "per_action": dict_of(_OF_ACTION),
}  # fmt: skip
_RESULT = record(
    _SUMMARY
    | {
        "epoch": COUNT,
        "chosen_by": TEXT,
        "published_form": record(_SUMMARY | {"over_frames": record(_FIGURES)}, _NEEDED_OF_SUMMARY),
    },
    ("epoch", "chosen_by", *_NEEDED_OF_SUMMARY),
)
_COLUMNS = {
    "epoch": COUNT, "step": COUNT, "lr": NOT_NEGATIVE, "loss": NUMBER, "mpjpe_mm": NOT_NEGATIVE,
    "p_mpjpe_mm": NOT_NEGATIVE, "train_seconds": NOT_NEGATIVE, "test_seconds": NOT_NEGATIVE,
}  # fmt: skip
_LATER_COLUMNS = {"skipped_steps": COUNT}
# Arguments of models/build.py; those of other models are plain values, and their class checks them.
_MODEL = record(
    {
        "name": _one_of(*MODELS), "joints": _one_of(*SKELETONS), "hid_dim": _whole(1),
        "num_layers": COUNT, "in_dim": _whole(1), "out_dim": _whole(1), "dropout": SHARE,
        "non_local": _one_of(None, "grouped", "embedded"), "norm_layer": _one_of(*NORMS),
        "modulation_init": _one_of("ones", "xavier"), "weight_modulation": SWITCH,
        "adj_modulation": _one_of(*ADJ_MODULATIONS), "rank": _whole(1), "adj_symmetric": SWITCH,
        "decouple_self": SWITCH, "hops": _whole(1, _MOST_HOPS + 1), "predict_root": SWITCH,
        **dict.fromkeys(INPUT_ARGUMENTS, SWITCH),
    },
    others=SETTING,
)  # fmt: skip
# See ``common.person.PersonStatistics``.
_PERSONS = record(
    {
        "proportions": list_of(MEASURED), "size": MEASURED, "ankle_height": maybe(NUMBER),
        "screen_sigma": maybe(NOT_NEGATIVE), "length_sigmas": list_of(MEASURED),
        "symmetry_sigma": MEASURED, "joint_sigmas": maybe(list_of(MEASURED)),
    },
    tuple(field.name for field in fields(PersonStatistics)),
    others=UNKNOWN,
)  # fmt: skip
_WEIGHTS = dict_of(TENSOR)
# Of a parameter, by the optimiser.
PARAMETER_STATE = {
    "step": STEPS, "exp_avg": FINITE, "exp_avg_sq": VARIANCE, "max_exp_avg_sq": VARIANCE,
    "momentum_buffer": maybe(FINITE),
}  # fmt: skip
_GROUP = record(
    {
        "params": list_of(COUNT), "lr": NOT_NEGATIVE, "betas": BETAS, "eps": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE, "momentum": SHARE, "dampening": NOT_NEGATIVE,
        "amsgrad": SWITCH, "nesterov": SWITCH, "decoupled_weight_decay": SWITCH,
        "foreach": maybe(SWITCH), "fused": maybe(SWITCH), "maximize": OFF, "capturable": OFF,
        "differentiable": OFF,
    },
    ("params",),
)  # fmt: skip
# See ``training.training_state``: of each process, in their order, the sum of its losses and its
# random state.
_POSITION_ENTRIES = {
    "epoch": _whole(1), "step": COUNT, "batches": COUNT, "poses": COUNT, "seconds": NOT_NEGATIVE,
    "skipped": COUNT, "loss": list_of(FINITE), "cpu": list_of(BYTES), "cuda": list_of(BYTES),
}  # fmt: skip
_POSITION = record(_POSITION_ENTRIES, tuple(_POSITION_ENTRIES))
CHECKPOINT = record(
    {
        "epoch": COUNT,
        "step": COUNT,
        "lr": maybe(NOT_NEGATIVE),
        "error": maybe(value("a number", lambda found: isinstance(found, Real))),
        "chosen_by": TEXT,
        "state_dict": _WEIGHTS,
        "post_refine": _WEIGHTS,
        "trained": record({"state_dict": _WEIGHTS, "post_refine": _WEIGHTS}),
        "optimizer": record({"param_groups": list_of(_GROUP), "state": _DICT}),
        "random_state": record({"cpu": BYTES, "cuda": list_of(BYTES)}),
        "model": _MODEL,
        "dataset": record({"name": TEXT, "keypoints": TEXT, "train_subjects": list_of(TEXT)}),
        "options": dict_of(SETTING),
        "persons": maybe(_PERSONS),
        "position": _POSITION,
        "history": list_of(record(_COLUMNS | _LATER_COLUMNS, tuple(_COLUMNS), others=UNKNOWN)),
        "last": maybe(_RESULT),
        "best": maybe(_RESULT),
    }
)
# Of a network, by the last part of their names; all others are FINITE.
_STATISTICS = {"running_var": VARIANCE, "num_batches_tracked": COUNTS}


def parameter_state(optimizer: torch.optim.Optimizer, amsgrad: bool) -> Description:
    """What the optimiser has to know of a parameter that it has changed."""
    adam = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
    needed = ["step", "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else [])]
    return record(PARAMETER_STATE, needed if adam else ())


def network_weights(found: dict[str, Tensor], where: str) -> None:
    """The weights of a network, whose names and shapes fit: a :data:`Description`."""
    for name, tensor in found.items():
        _STATISTICS.get(name.rpartition(".")[2], FINITE)(tensor, f"{where}.{name}")


def whole_checkpoint(state: dict[str, Any], where: str) -> None:
    """A checkpoint, whose parts also have to agree: a :data:`Description`."""
    CHECKPOINT(state, where)
    rows = [(row["epoch"], row["step"]) for row in state.get("history", ())]
    if rows != sorted(set(rows)):
        raise WrongContentError("history has epochs that do not follow each other")
    own, position = (state.get("epoch"), state.get("step")), state.get("position")
    if position is None and rows and rows[-1] != own:
        raise WrongContentError("history ends at another epoch or step than its own")
    if position and (
        (position["epoch"] - 1, position["step"]) != own
        or (rows and rows[-1][0] != own[0])
        or not len(position["loss"]) == len(position["cpu"]) > 0
        or any(loss.dim() for loss in position["loss"])
    ):
        raise WrongContentError("position does not fit its epoch, step or processes")
    if state.get("persons") and "joints" in state.get("model", {}):
        _check_persons(state["persons"], state["model"]["joints"])
    last, best = state.get("last"), state.get("best")
    if last and best and _table_of(last) != _table_of(best):
        raise WrongContentError("best and its last are tests of other actions or metrics")


def _check_persons(persons: dict[str, Any], joints: int) -> None:
    """Refuse statistics of another skeleton."""
    sizes = {"proportions": joints - 1, "length_sigmas": joints - 1, "joint_sigmas": joints}
    for name, size in sizes.items():
        if persons[name] is not None and len(persons[name]) != size:
            found = len(persons[name])
            raise WrongContentError(f"persons.{name} has {found} values, not {size}")


def _table_of(result: dict[str, Any]) -> tuple[set[str], ...]:
    """The metrics and the actions of a result."""
    rows = result["per_action"].values()
    metrics = [METRICS.keys() & row.keys() for row in (result, *rows)]
    return {*result["per_action"]}, *metrics
