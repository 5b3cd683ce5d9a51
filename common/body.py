"""What is found out about one person's body, and the JSON file that keeps it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.own_json import marked, read_marked, refuse_other_json, write_json
from common.person import Known
from common.skeleton import Skeleton

_KIND = "body"
_KEYS = ("proportions", "uncertainty", "size_m", "size_uncertainty_m", "how")
_LARGEST = 1000.0  # of all its numbers
_PROPORTIONS = 0.1, 4.0  # of people
_SIZES = 0.05, 0.6  # metres, of people who stand 0.4 to 2.6 m tall, and more
_OFF_MEAN = 0.01  # of the mean of the proportions, which is 1


@dataclass(frozen=True)
class Body:
    """One person's body, as far as it is known.

    The bones are named by their outer joints without a side: Hip (from the root to the side),
    Knee (the thigh), Foot (the shank), Spine, Thorax, Head, Shoulder, Elbow (the upper arm), Wrist
    (the forearm), and Neck/Nose in a skeleton of 17 joints. Left and right bones are equal.

    Attributes:
        how: a sentence: where the values come from, or why they are not known.
        proportions: {bone: its length over the size, or None where that is not known}; None where
            no bone's is known.
        uncertainty: {bone: standard deviation of its proportion, a share of it, or None}, or None.
        size: the mean length of all J - 1 bones, metres; None where it is not known.
        size_uncertainty: its standard deviation, metres, or None.
    """

    how: str
    proportions: dict[str, float | None] | None = None
    uncertainty: dict[str, float | None] | None = None
    size: float | None = None
    size_uncertainty: float | None = None

    def known(self, count: int, skeleton: Skeleton, up: Tensor | None = None) -> Known:
        """What is known of each of this many poses, for a network and the fit to rays.

        Args:
            up: (3,) or (count, 3) unit vectors, the upward direction in camera space, or None.

        Raises:
            UserError: the body is of another skeleton.
        """
        proportions = size = None
        if self.proportions is not None:
            _check_bones("the body", self.proportions, skeleton)
            row = [self.proportions[bone] for bone in bone_names(skeleton)]
            row = torch.tensor([math.nan if value is None else value for value in row])
            proportions = row.expand(count, -1)
        if self.size is not None:
            size = torch.full((count,), self.size)
        return Known(proportions, size, None if up is None else up.expand(count, -1))

    @property
    def known_proportions(self) -> dict[str, float]:
        """Those of the bones of which they are known."""
        return {bone: v for bone, v in (self.proportions or {}).items() if v is not None}

    @property
    def is_whole(self) -> bool:
        """Whether the proportions of all bones are known."""
        return self.proportions is not None and None not in self.proportions.values()

    def of_bones(self, bones: Collection[str]) -> "Body":
        """The same without the proportions of all other bones."""
        left_out = [bone for bone in self.known_proportions if bone not in bones]
        if not left_out:
            return self
        tables = (
            table and {k: None if k in left_out else v for k, v in table.items()}
            for table in (self.proportions, self.uncertainty)
        )
        how = f"{self.how}; without {', '.join(left_out)}, not rigid with these keypoints"
        return Body(how, *tables, self.size, self.size_uncertainty)

    def with_size(self, size: float, how: str, uncertainty: float | None = None) -> "Body":
        how = f"{self.how}; size {how}".removeprefix("; ")
        return replace(self, size=size, size_uncertainty=uncertainty, how=how)

    def without_size(self) -> "Body":
        return replace(self, size=None, size_uncertainty=None)

    def content(self) -> dict[str, Any]:
        """As its file has it, and results.json."""
        values = (self.proportions, self.uncertainty, self.size, self.size_uncertainty, self.how)
        return dict(zip(_KEYS, values, strict=True))

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all.

        Raises:
            UserError: it cannot be written, or another file of that name is there.
        """
        refuse_other_body(path)
        write_json(path, marked(_KIND, self.content()))


def refuse_other_body(path: Path) -> None:
    """
    Raises:
        UserError: a file is there that is no body.
    """
    refuse_other_json(path, _KIND, _KEYS)


def bone_names(skeleton: Skeleton) -> list[str]:
    """The names of ``Skeleton.bones`` in a :class:`Body`."""
    return [skeleton.names[joint].lstrip("LR") for joint, _ in skeleton.bones()]


def by_bone(values: Tensor | Sequence[float], skeleton: Skeleton) -> dict[str, float]:
    """Values of the J - 1 bones, left and right alike -> by name."""
    return {name: float(v) for name, v in zip(bone_names(skeleton), values, strict=True)}


def read_body(path: Path, skeleton: Skeleton) -> Body:
    """The body of a file that :meth:`Body.save` wrote.

    Raises:
        UserError: it cannot be read, is damaged or no such file, or is of another skeleton.
    """
    content = read_marked(path, _KIND)
    *tables, size, size_uncertainty, how = (content.get(key) for key in _KEYS)
    numbers = [table for table in tables if table is not None]
    whole = (
        all(isinstance(table, dict) and all(map(_may_be, table.values())) for table in numbers)
        and all(map(_may_be, (size, size_uncertainty)))
        and isinstance(how, str)
        and not (tables[1] and not tables[0])
    )
    if not whole:
        raise UserError(f"{path} is damaged: it lacks values of a body; make it again")
    for table in numbers:
        _check_bones(str(path), table, skeleton)
    body = Body(how, *tables, size, size_uncertainty)
    if fault := _why_nobody(body, skeleton):
        raise UserError(f"{path} is no person's body: {fault}; make it again")
    return body


def _why_nobody(body: Body, skeleton: Skeleton) -> str | None:
    """Why it is no person's body; None if it is one."""
    low, high = _SIZES
    if body.size is not None and not low <= body.size <= high:
        return f"size_m {body.size:g} is not from {low:g} to {high:g}"
    if body.proportions is None:
        return None
    if not body.known_proportions:
        return "no bone has a proportion"
    low, high = _PROPORTIONS
    for bone, value in body.known_proportions.items():
        if not low <= value <= high:
            return f"the proportion of {bone}, {value:g}, is not from {low:g} to {high:g}"
    mean = body.known(1, skeleton).proportions.mean().item()
    if body.is_whole and not abs(mean - 1) < _OFF_MEAN:
        return "its proportions have not the mean 1"
    return None


def _check_bones(what: str, table: dict[str, float], skeleton: Skeleton) -> None:
    if other := table.keys() ^ set(bone_names(skeleton)):
        raise UserError(
            f"{what} has not the bones of a network of {skeleton.num_joints} joints (they differ "
            f"by {', '.join(sorted(other))}): calibrate with this network"
        )


def _may_be(value: Any) -> bool:
    """Whether it is a value of a body: a number, or None where it is not known."""
    return value is None or (type(value) in (int, float) and 0 <= value <= _LARGEST)  # NaN is not
