"""Reads a matrix from files of MATLAB v5 to v7, without trusting them.

scipy reads these too, but a file of a few kilobytes with cells in cells ends its process
(segmentation fault), or inflates to any size. Only the form of Human3.6M is read here: a cell of
one matrix of numbers.

A file is a header of 128 bytes, then elements: type and size (4 bytes each), then the content. An
element of up to 4 bytes has size and type in its first 4 bytes, and the content in the next 4.
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from common.errors import UserError
from data.archive import MAX_MEMBER, errors_about

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CELL, _DOUBLE, _SINGLE = 1, 6, 7  # classes of matrices
# MATLAB stores whole numbers in the smallest type that holds them.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}  # fmt: skip


def read_mat5(content: bytes, name: str, where: str) -> np.ndarray:
    """Read the matrix in the cell ``name``, of one element.

    Args:
        content: the content of the file.
        where: the name of the file, for messages.

    Returns:
        (rows, columns) float64.

    Raises:
        UserError: the file is damaged, has no such cell, or the cell holds something else.
    """
    with errors_about(where):
        order = {b"IM": "<", b"MI": ">"}[content[_HEADER - 2 : _HEADER]]
        for kind, element in _elements(content[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, element = next(_elements(_inflate(element), order))
            found, is_cell, shape, inner = _open_matrix(kind, element, order)
            if found == name.encode():
                if not is_cell or shape != (1, 1):
                    raise UserError(f"{where}: {name} is not a cell of one matrix")
                return _numbers(*next(inner), order)
        raise UserError(f"{where} has no cell {name!r}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the content of each element."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        begin, end = place + 8, place + 8 + size
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            begin, end = place + 4, place + 4 + size
        if end > len(content):
            raise EOFError("an element is cut off")
        yield kind, content[begin:end]
        place = end if kind == _COMPRESSED else end + -end % 8


def _inflate(packed: bytes) -> bytes:
    """
    Raises:
        ValueError: there is more than a sequence can have.
    """
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(packed, MAX_MEMBER)
    if unpacker.unconsumed_tail:
        raise ValueError(f"a part unpacks to more than {MAX_MEMBER:,} bytes")
    return content


def _open_matrix(
    kind: int, element: bytes, order: str
) -> tuple[bytes, bool, tuple[int, ...], Iterator[tuple[int, bytes]]]:
    """Name, whether it is a cell, shape, and what follows: the numbers, or the cell's matrices.

    Raises:
        ValueError: it is no cell and no matrix of real numbers.
    """
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind}")
    inner = _elements(element, order)
    (_, flags), (_, sizes), (_, name) = next(inner), next(inner), next(inner)
    (flag,) = struct.unpack_from(f"{order}I", flags)
    is_complex = flag & 0x800
    if flag & 0xFF not in (_CELL, _DOUBLE, _SINGLE) or is_complex:
        raise ValueError(f"a matrix of class {flag & 0xFF}")
    return name, flag & 0xFF == _CELL, struct.unpack(f"{order}{len(sizes) // 4}i", sizes), inner


def _numbers(kind: int, element: bytes, order: str) -> np.ndarray:
    """The numbers of a matrix."""
    _, is_cell, shape, inner = _open_matrix(kind, element, order)
    if is_cell:
        raise ValueError("a cell in a cell")
    kind, values = next(inner)
    flat = np.frombuffer(values, order + _NUMBERS[kind])
    if flat.size != math.prod(shape):
        raise ValueError(f"{flat.size} numbers for a matrix of shape {shape}")
    return flat.astype(np.float64).reshape(shape, order="F")
