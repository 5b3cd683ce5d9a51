"""Tensors out of the pickles of torch, read without trusting them.

The unpickler admits tensors, plain containers and numpy's numbers, and text as Python 2 wrote it.
Nothing in the file is called: our own stand-ins note what a tensor is to be, and memory is taken
only for values that are there.
"""

import collections
import io
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.safe_pickle import NUMPY_STAND_INS, ForbiddenError, RestrictedUnpickler, StandIn

_MOST_DIMENSIONS = 64


@dataclass(eq=False)
class _StorageType(StandIn):
    """Stand-in for a class such as ``torch.FloatStorage``."""

    dtype: torch.dtype


@dataclass(eq=False)
class Storage(StandIn):
    """Values in a row, which the file holds beside the pickle of the object."""

    dtype: torch.dtype
    numel: int
    values: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes that the values take."""
        return self.numel * self.dtype.itemsize

    def fill(self, content: bytes | memoryview) -> None:
        """Take the values, little-endian, from their bytes into memory of their own.

        Raises:
            ForbiddenError: they are more or fewer bytes than the object says.
        """
        if len(content) != self.size:
            raise ForbiddenError("a storage of another size")
        if not content:
            self.values = torch.empty(0, dtype=self.dtype)
        elif self.dtype == torch.bool:  # whose bytes may be 0 and 1 only
            self.values = torch.frombuffer(bytearray(content), dtype=torch.uint8) != 0
        else:
            self.values = torch.frombuffer(bytearray(content), dtype=self.dtype)


@dataclass(eq=False)
class _View(StandIn):
    """A piece of a storage, or the whole one."""

    storage: Storage
    begin: int
    numel: int


@dataclass(eq=False)
class _Tensor(StandIn):
    """Stand-in for a tensor; built once the values are there."""

    view: _View
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def content(self) -> Tensor:
        values = self.view.storage.values
        if values is None:
            raise ValueError("a tensor without values")
        if 0 in self.size:
            return values.new_empty(self.size)
        return values.as_strided(self.size, self.stride, self.view.begin + self.offset)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _rebuild_tensor(view: Any, offset: Any, size: Any, stride: Any) -> _Tensor:
    """In the place of ``torch._utils._rebuild_tensor``: a tensor of distinct values of a view."""
    if not isinstance(view, _View) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ForbiddenError("a tensor that is none")
    whole = len(size) == len(stride) <= _MOST_DIMENSIONS and all(
        _is_count(number) for number in (offset, *size, *stride)
    )
    if not whole or not _lies_within(view.numel, offset, size, stride):
        raise ForbiddenError("a tensor that does not lie within its storage")
    return _Tensor(view, offset, size, stride)


def _lies_within(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether all elements lie among ``numel`` values, each in a place of its own."""
    if 0 in size:
        return offset <= numel
    reach = 0  # from the first element to the last of the dimensions so far
    for step, count in sorted(pair for pair in zip(stride, size, strict=True) if pair[1] > 1):
        if step <= reach:
            return False
        reach += step * (count - 1)
    return offset + reach < numel


def _rebuild_tensor_v2(
    view: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, bits: Any = None
) -> _Tensor:
    """In the place of torch's; whether it had a gradient, and its hooks, are left out."""
    if bits:
        raise ForbiddenError("a conjugate or negative view")
    return _rebuild_tensor(view, offset, size, stride)


def _rebuild_parameter(tensor: Any, grad: Any, hooks: Any) -> _Tensor:
    """In the place of torch's: the tensor."""
    if not isinstance(tensor, _Tensor):
        raise ForbiddenError("a parameter that is no tensor")
    return tensor


_DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip
_TORCH_STAND_INS = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", f"{kind}Storage"): _StorageType(dtype) for kind, dtype in _DTYPES.items()},
}


class TensorUnpickler(RestrictedUnpickler):
    """Reads the object of a checkpoint; ``storages`` are those that it names, by key."""

    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = NUMPY_STAND_INS | _TORCH_STAND_INS
    dispatch: ClassVar = dict(RestrictedUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def persistent_load(self, pid: Any) -> _View:
        """A storage, which may be named several times; wherever it was, it comes to the CPU. The
        form of before torch 1.6 adds a view of it, or None."""
        kind, storage_type, key, _, numel, *views = pid
        known = isinstance(storage_type, _StorageType) and isinstance(key, str)
        if kind != "storage" or not known or not _is_count(numel):
            raise ForbiddenError("a persistent object that is no storage")
        storage = self.storages.setdefault(key, Storage(storage_type.dtype, numel))
        if (storage.dtype, storage.numel) != (storage_type.dtype, numel):
            raise ForbiddenError("a storage of two kinds")
        if views in ([], [None]):
            return _View(storage, 0, numel)
        ((_, begin, length),) = views
        if not _is_count(begin) or not _is_count(length) or begin + length > numel:
            raise ForbiddenError("a view beyond its storage")
        return _View(storage, begin, length)

    def load_build(self) -> None:
        """A state dict brings versions of modules as its attributes: they are left out."""
        if isinstance(self.stack[-2], collections.OrderedDict):
            self.stack.pop()
        else:
            super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
