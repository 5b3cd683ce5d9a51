"""Checkpoints from before torch 1.6, which are no zip files, read without trusting them.

Such a file is a sequence of pickles, then the values of the tensors, little-endian:

    a magic number; the protocol's version; facts of the machine; the object itself, in which
    ("storage", type, key, location, number of values, view) names a storage; the list of all keys
    in the order of that list, each storage's number of values (8 bytes) and its values

The unpickler admits tensors, plain containers and numpy's numbers, and text as Python 2 wrote it.
Nothing in the file is called: our own stand-ins note what a tensor is to be, and memory is taken
only for values that are there.
"""

import collections
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.safe_pickle import (
    NUMPY_STAND_INS,
    ForbiddenError,
    RestrictedUnpickler,
    StandIn,
    resolve,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_HEAD = 64  # bytes that hold the magic number, as any protocol of pickles writes it
_MOST_DIMENSIONS = 64


@dataclass(eq=False)
class _StorageType(StandIn):
    """Stand-in for a class such as ``torch.FloatStorage``."""

    dtype: torch.dtype


@dataclass(eq=False)
class _Storage(StandIn):
    """Values in a row, which come after the pickles."""

    dtype: torch.dtype
    numel: int
    values: Tensor | None = None


@dataclass(eq=False)
class _View(StandIn):
    """A piece of a storage, or the whole one."""

    storage: _Storage
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


class _CheckpointUnpickler(RestrictedUnpickler):
    """Reads the object of a checkpoint; ``storages`` are those that it names, by key."""

    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = NUMPY_STAND_INS | _TORCH_STAND_INS
    dispatch: ClassVar = dict(RestrictedUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _View:
        """A storage, which may be named several times; wherever it was, it comes to the CPU."""
        kind, storage_type, key, _, numel, view = pid
        known = isinstance(storage_type, _StorageType) and isinstance(key, str)
        if kind != "storage" or not known or not _is_count(numel):
            raise ForbiddenError("a persistent object that is no storage")
        storage = self.storages.setdefault(key, _Storage(storage_type.dtype, numel))
        if (storage.dtype, storage.numel) != (storage_type.dtype, numel):
            raise ForbiddenError("a storage of two kinds")
        if view is None:
            return _View(storage, 0, numel)
        _, begin, length = view
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


def read_legacy_checkpoint(path: str | Path) -> Any:
    """Read the object of a file, its tensors on the CPU; dictionaries come plain, in their order.

    Raises:
        ForbiddenError: the file holds something else, or contradicts itself.
        Exception: it is damaged, which can be of any kind.
    """
    with Path(path).open("rb") as file:
        head = file.read(_HEAD)
        if _load(io.BytesIO(head)) != _MAGIC:  # before all of a file that is something else is read
            raise ForbiddenError("another kind of file")
        content = head + file.read()
    stream = io.BytesIO(content)
    if (_load(stream), _load(stream)) != (_MAGIC, _VERSION):
        raise ForbiddenError("another version of the form")
    _load(stream)  # facts of the machine
    unpickler = _CheckpointUnpickler(stream)
    found = unpickler.load()
    _read_values(memoryview(content), stream, unpickler.storages)
    return resolve(found)


def _load(stream: io.BytesIO) -> Any:
    return RestrictedUnpickler(stream, encoding="latin1").load()


def _read_values(content: memoryview, stream: io.BytesIO, storages: dict[str, _Storage]) -> None:
    """Read the list of keys, then the storages, each once."""
    keys = _load(stream)
    place = stream.tell()
    for key in keys:
        storage = storages.pop(key)
        size = storage.numel * storage.dtype.itemsize
        begin, place = place + 8, place + 8 + size
        count = int.from_bytes(content[begin - 8 : begin], "little", signed=True)
        if count != storage.numel or place > len(content):
            raise ForbiddenError("a storage of another size")
        storage.values = _values(content[begin:place], storage.dtype)


def _values(content: memoryview, dtype: torch.dtype) -> Tensor:
    """Bytes -> a tensor (n,) with memory of its own."""
    if not content:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool:  # whose bytes may be 0 and 1 only
        return torch.frombuffer(bytearray(content), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(content), dtype=dtype)
