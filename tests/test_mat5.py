"""MATLAB's files against scipy's writer, and files that end scipy's reader."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from common.errors import UserError
from data import mat5
from data.mat5 import read_mat5


def written(data, compress=True, **others) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {**others, "data": data}, do_compression=compress)
    return buffer.getvalue()


def cell(value) -> np.ndarray:
    box = np.empty((1, 1), dtype=object)
    box[0, 0] = value
    return box


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_gives_what_scipy_wrote(compress, dtype):
    values = np.random.default_rng(0).normal(size=(5, 96)).astype(dtype)
    content = written(cell(values), compress, a_number=3.0)
    np.testing.assert_array_equal(read_mat5(content, "data", "a file"), values)


def test_whole_numbers_in_small_types_and_the_other_byte_order():
    """MATLAB writes doubles that are whole numbers as integers, which scipy does not."""
    for order, mark in (("<", b"IM"), (">", b"MI")):

        def element(kind, content, order=order):
            return (
                struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)
            )

        def matrix(flag, shape, name, content, order=order, element=element):
            pack = struct.pack
            head = element(6, pack(f"{order}II", flag, 0)) + element(5, pack(f"{order}2i", *shape))
            return element(14, head + name + content)

        small = struct.pack(f"{order}I", 1 | 4 << 16) + b"data"  # type and size in four bytes
        numbers = element(3, np.arange(6).astype(f"{order}i2").tobytes())
        inner = matrix(6, (2, 3), element(1, b""), numbers)
        content = bytes(124) + b"\x01\0" + mark + matrix(1, (1, 1), small, inner)
        found = read_mat5(content, "data", "a file")
        np.testing.assert_array_equal(found, [[0, 2, 4], [1, 3, 5]])


def test_cells_in_cells_are_refused():
    """scipy recurses into them until the stack is full and the process ends."""
    value = np.ones((2, 3))
    for _ in range(9):
        value = cell(value)
    with pytest.raises(UserError, match="a cell in a cell"):
        read_mat5(written(value), "data", "a file")


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(mat5, "MAX_MEMBER", 1000)
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        read_mat5(written(cell(np.zeros((99, 96)))), "data", "a file")


@pytest.mark.parametrize(
    "data",
    [
        np.ones((2, 3)), cell(1j * np.ones((2, 3))), cell("text"), {"a": 1.0},
        np.full((1, 2), cell(1.0)), np.array("text"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(data):
    with pytest.raises(UserError, match="a file"):
        read_mat5(written(data), "data", "a file")


def test_a_missing_cell_and_damage_are_named():
    other = written(cell(1.0), compress=False).replace(b"data", b"date")
    with pytest.raises(UserError, match="has no cell 'data'"):
        read_mat5(other, "data", "a file")
    whole = written(cell(np.ones((4, 96))), compress=False)
    for length in range(128, len(whole), 97):
        with pytest.raises(UserError, match="a file"):
            read_mat5(whole[:length], "data", "a file")
    bomb = whole[:128] + struct.pack("<II", 15, 99) + zlib.compress(b"")
    with pytest.raises(UserError, match="cut off"):
        read_mat5(bomb, "data", "a file")
