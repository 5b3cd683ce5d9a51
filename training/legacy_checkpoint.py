"""Checkpoints from before torch 1.6, which are no zip files, read without trusting them.

Such a file is a sequence of pickles, then the values of the tensors, little-endian:

    a magic number; the protocol's version; facts of the machine; the object itself, in which
    ("storage", type, key, location, number of values, view) names a storage; the list of all keys
    in the order of that list, each storage's number of values (8 bytes) and its values
"""

import io
from pathlib import Path
from typing import Any

from common.safe_pickle import ForbiddenError, RestrictedUnpickler, resolve
from training.tensor_unpickler import Storage, TensorUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_HEAD = 64  # bytes that hold the magic number, as any protocol of pickles writes it


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
    unpickler = TensorUnpickler(stream)
    found = unpickler.load()
    _read_values(memoryview(content), stream, unpickler.storages)
    return resolve(found)


def _load(stream: io.BytesIO) -> Any:
    return RestrictedUnpickler(stream, encoding="latin1").load()


def _read_values(content: memoryview, stream: io.BytesIO, storages: dict[str, Storage]) -> None:
    """Read the list of keys, then the storages, each once."""
    keys = _load(stream)
    place = stream.tell()
    for key in keys:
        storage = storages.pop(key)
        begin, place = place + 8, place + 8 + storage.size
        count = int.from_bytes(content[begin - 8 : begin], "little", signed=True)
        if count != storage.numel:
            raise ForbiddenError("a storage of another size")
        storage.fill(content[begin:place])
