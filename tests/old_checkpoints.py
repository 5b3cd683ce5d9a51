"""Checkpoint files as older programs wrote them, and ones that mean harm.

:func:`python2_file` writes the form of before torch 1.6 with the opcodes of Python 2, independently
of torch; :func:`legacy_file` puts one together from any parts, right or wrong.
"""

import collections
import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


class Runs:
    """What must not happen when a file is opened: a pickle of it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def hostile_pickles(canary: Path) -> list[bytes]:
    """Programs that make the folder ``canary``, by each opcode that calls something."""
    path = repr(str(canary)).encode()
    made = [pickle.dumps(Runs(canary), protocol) for protocol in range(6)]
    made += [
        b"cos\nmkdir\n(S" + path + b"\ntR.",
        b"(cos\nmkdir\nS" + path + b"\no.",
        b"(S" + path + b"\nios\nmkdir\n.",
        b'cbuiltins\neval\n(S\'__import__("os").mkdir(' + path.replace(b"'", b'\\"') + b")'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cos\nmkdir\n(S" + path + b"\ntRtR.",
        b"\x80\x02cnumpy\nndarray\n(S" + path + b"\nt\x81.",
        b"cnumpy.testing._private.utils\nrunstring\n(S" + path + b"\n}tR.",
        b"Pposix.mkdir\n.",
        b"\x80\x02S" + path + b"\nQ.",
        b"\x80\x02\x82\x01.",
        b"cnumpy.core.multiarray\nscalar\n}S'__globals__'\n}sb.",
    ]
    return made


def doubling(first: bytes, pair: bytes) -> bytes:
    """A program that builds pairs of the same pair of the same pair ..., 60 levels deep."""
    return first + b"".join(b"q%c%b" % (n, pair.replace(b"?", b"h%c" % n)) for n in range(60))


class _StorageOf:
    """Stands for a tensor's storage, and is written as a persistent id."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: text as bytes, integers of more than 32 bits as the text
    opcode INT, an OrderedDict with all its pairs; storages go into ``storages``, by key."""

    def __init__(self, stream: io.BytesIO, storages: dict[str, torch.Tensor]) -> None:
        super().__init__(stream, protocol=2)
        self.storages = storages

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, text: bytes) -> None:
        size = len(text)
        head = b"U" + bytes([size]) if size < 256 else b"T" + size.to_bytes(4, "little")
        self.write(head + text)
        self.memoize(text)

    def save_str(self, text: str) -> None:
        self.save_bytes(text.encode("latin1"))

    def save_long(self, number: int) -> None:
        if 2**31 <= number < 2**63:
            self.write(b"I%d\n" % number)
        else:
            super().save_long(number)

    dispatch[str], dispatch[bytes], dispatch[int] = save_str, save_bytes, save_long

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, collections.OrderedDict):
            pairs = [[key, value] for key, value in item.items()]
            return collections.OrderedDict, (pairs,), vars(item) or None
        if not isinstance(item, torch.Tensor):
            return NotImplemented
        hooks = collections.OrderedDict()
        size, stride = tuple(item.shape), item.stride()
        about = (_StorageOf(item), item.storage_offset(), size, stride, False, hooks)
        return torch._utils._rebuild_tensor_v2, about

    def persistent_id(self, item: Any) -> Any:
        if not isinstance(item, _StorageOf):
            return None
        whole = item.tensor.untyped_storage()
        values = torch.empty(0, dtype=item.tensor.dtype).set_(whole)
        key = str(whole.data_ptr())
        self.storages[key] = values
        kind = getattr(
            torch, item.tensor.type().removeprefix("torch.").replace("Tensor", "Storage")
        )
        return "storage", kind, key, "cuda:0", len(values), None


def python2_file(content: Any) -> bytes:
    """A checkpoint from a GPU, by Python 2 and a torch of its time."""
    stream, storages = io.BytesIO(), {}
    for part in (MAGIC, 1001, MACHINE, content):
        Python2Pickler(stream, storages).dump(part)
    Python2Pickler(stream, {}).dump(list(storages))
    for values in storages.values():
        stream.write(len(values).to_bytes(8, "little") + values.numpy().tobytes())
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def legacy_file(
    program: bytes,
    keys: Any = ("0",),
    storages: Sequence[tuple[int, bytes]] = ((6, bytes(24)),),
    version: int = 1001,
) -> bytes:
    """A file of the old form around the pickle of its object.

    Args:
        storages: the number of values each one claims, and its bytes.
    """
    head = [MAGIC, version, MACHINE]
    parts = [pickle.dumps(part, 2) for part in head] + [program, pickle.dumps([*keys], 2)]
    parts += [count.to_bytes(8, "little", signed=True) + content for count, content in storages]
    return b"".join(parts)


def row(*items: bytes) -> bytes:
    """A tuple, in a pickle."""
    return b"(" + b"".join(items) + b"t"


def numbers(*values: int) -> bytes:
    return row(*(b"I%d\n" % value for value in values))


def storage(
    kind: bytes = b"S'storage'\n",
    dtype: bytes = b"ctorch\nFloatStorage\n",
    key: bytes = b"S'0'\n",
    numel: bytes = b"I6\n",
    view: bytes = b"N",
) -> bytes:
    """A storage's persistent id, in a pickle."""
    return row(kind, dtype, key, b"S'cpu'\n", numel, view) + b"Q"


def tensor(
    of: bytes | None = None,
    offset: bytes = b"I0\n",
    size: bytes = numbers(2, 3),
    stride: bytes = numbers(3, 1),
) -> bytes:
    """A tensor, in a pickle: by default the six values of a storage."""
    arguments = row(storage() if of is None else of, offset, size, stride, b"I00\n", b"N")
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def state_dict(item: bytes) -> bytes:
    """The program of a dictionary with one item, a."""
    return b"\x80\x02}S'a'\n" + item + b"s."
