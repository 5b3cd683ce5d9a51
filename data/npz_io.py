"""Reads and writes object arrays in npz files; no other module does.

Human3.6M's npz files hold nested dictionaries as a pickled 0-d object array. Unpickling can execute
any code, so the arrays are read by the restricted unpickler of ``common.safe_pickle``. It accepts
only numbers, strings, plain containers and numpy arrays.
"""

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError
from common.files import atomic_write
from common.safe_pickle import PLAIN_DTYPE, ForbiddenError, RestrictedUnpickler, resolve
from data.archive import check_zip_member

_MIN_STEPS = 100_000  # Human3.6M's files take 20,000


def load_object_array(path: str | Path, key: str, optional: bool = False) -> Any:
    """Read the array ``key`` of an npz file. For a 0-d object array, return the object in it.

    The object may consist of numbers, strings, dictionaries, lists, tuples and numpy arrays of
    these. Nothing in the file is executed. The arrays are read-only.

    Args:
        optional: return None if the file has no such key, instead of raising.

    Raises:
        UserError: the file is missing or damaged, has no such key, or holds any other object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not there")
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                if optional:
                    return None
                found = ", ".join(sorted(n.removesuffix(".npy") for n in archive.namelist()))
                raise UserError(f"{path} has no array {key!r} (it has: {found or 'nothing'})")
            check_zip_member(path, archive.getinfo(f"{key}.npy"))
            with archive.open(f"{key}.npy") as member:
                return _read_member(member, _MIN_STEPS + path.stat().st_size // 8)
    except ForbiddenError as error:
        raise UserError(
            f"{path} is refused: it holds {error}, and only numbers and plain containers are "
            "read; nothing in it was executed. Get the file from its original source."
        ) from error
    except UserError:
        raise
    except Exception as error:  # a damaged file can make the readers raise anything
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:80]}): "
            "download or prepare it again"
        ) from error


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of the array of an opened npy file, whether it is in Fortran's order, and its type.

    Raises:
        ValueError: it is no npy file.
    """
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    return read_header(file)


class _Limited(dict):
    """The steps of an unpickler, of which it may take only ``left``. Each can make an object of a
    hundred bytes, and compression packs a thousand steps into a byte."""

    left = 0

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ForbiddenError("far more objects than poses need")
        return super().__getitem__(opcode)


def _read_member(member: BinaryIO, steps: int) -> Any:
    """The array of an opened npy file, or the object in it if the array is 0-d.

    Args:
        steps: the largest number of steps of a pickle.

    Raises:
        ForbiddenError: it holds something that is not read.
        Exception: any other kind, where the file is damaged.
    """
    shape, fortran, dtype = read_npy_header(member)
    if not dtype.hasobject:
        if not PLAIN_DTYPE.fullmatch(dtype.str):
            raise ForbiddenError(f"an array of type {dtype}")
        flat = np.frombuffer(member.read(), dtype=dtype)
        return flat.reshape(shape, order="F" if fortran else "C")
    unpickler = RestrictedUnpickler(member)
    unpickler.dispatch = _Limited(unpickler.dispatch)
    unpickler.dispatch.left = steps
    array = resolve(unpickler.load())
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError("the content does not match the header")
    return array.item() if shape == () else array


def save_object_arrays(path: str | Path, **arrays: Any) -> None:
    """Write each value as a 0-d object array to a compressed npz file, as the published files are.

    The write is atomic: the file appears complete or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    boxed = {}
    for key, value in arrays.items():
        boxed[key] = np.empty((), dtype=object)
        boxed[key][()] = value
    with atomic_write(path) as partial, partial.open("wb") as file:  # numpy would append .npz
        np.savez_compressed(file, **boxed)
