"""A restricted unpickler, which reads numpy arrays from pickles that are not trusted.

A pickle can call any function by its name. The unpickler here accepts only the names in
:data:`NUMPY_STAND_INS`. It replaces them by small classes of our own, which take the data that
numpy wrote (type code, shape, bytes) and build the array. Numpy's own unpickling is not used, since
it trusts the type flags in the file.
"""

import collections
import pickle
import re
import struct
from typing import Any, ClassVar

import numpy as np

PLAIN_DTYPE = re.compile(r"[<>=|]?([biuf][1248]|U\d{1,6}|S\d{1,6})")


class ForbiddenError(Exception):
    """The pickle has something other than arrays, numbers, strings and plain containers."""


class StandIn:
    """Replaces an object in a pickle. It only stores data and calls nothing."""

    def content(self) -> Any:
        """The value that :func:`resolve` puts in place of the stand-in.

        Raises:
            ForbiddenError: there is none; the stand-in is only a part of another object.
        """
        raise ForbiddenError(f"a bare {type(self).__name__}")


class _Dtype(StandIn):
    """Stand-in for ``numpy.dtype`` in a pickle; keeps only the type code and the byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if any(part is not None for part in state[2:5]):
            raise ForbiddenError("a structured array")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        """The numpy type.

        Raises:
            ForbiddenError: it is not a plain type of numbers or strings.
        """
        order = self.order if self.order in ("<", ">") else "="
        if not isinstance(self.code, str) or not PLAIN_DTYPE.fullmatch(order + self.code):
            raise ForbiddenError(f"an array of type {self.code!r}")
        return np.dtype(order + self.code)

    @property
    def is_object(self) -> bool:
        return self.code in ("O", "O8")


class _Array(StandIn):
    """Stand-in for ``numpy.ndarray`` in a pickle.

    Attributes:
        value: the array, built when the pickle gives its state; None before.
    """

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _make_array(content, dtype, shape, "F" if fortran else "C")

    def content(self) -> np.ndarray:
        if self.value is None:
            raise ValueError("an array without content")
        return self.value


def _make_array(content: Any, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    """Build an array from its bytes, or from the list of its objects."""
    if dtype.is_object:
        flat = np.empty(len(content), dtype=object)
        for index, item in enumerate(content):
            flat[index] = resolve(item)
    else:
        flat = np.frombuffer(_bytes(content), dtype=dtype.numpy())
    return flat.reshape(shape, order=order)


def _bytes(content: Any) -> Any:
    """Bytes of an array. Pickles of Python 2 have them as a string, which is read as Latin-1."""
    return content.encode("latin1") if isinstance(content, str) else content


def _reconstruct(subtype: type, shape: tuple, code: bytes) -> _Array:
    return _Array()


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.value = _make_array(content, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return np.frombuffer(_bytes(content), dtype=dtype.numpy())[0]


def _ordered_dict(pairs: Any = ()) -> collections.OrderedDict:
    """Make an ordered dictionary. Pickles of Python 2 pass all pairs here; those of Python 3 pass
    none and set the items afterwards."""
    _check_keys([key for key, _ in pairs])
    return collections.OrderedDict(pairs)


def _check_keys(keys: list) -> None:
    """Refuse tuples and arrays as keys: a short pickle can nest tuples so deeply that hashing one
    takes practically forever.

    Raises:
        ForbiddenError: a key is a tuple or an array.
    """
    if any(isinstance(key, tuple | StandIn) for key in keys):
        raise ForbiddenError("a dictionary whose keys are tuples or arrays")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ForbiddenError(f"text in {encoding!r}")
    return text.encode("latin1")


NUMPY_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): _ordered_dict,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):
    NUMPY_STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    NUMPY_STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    NUMPY_STAND_INS[f"{_core}.numeric", "_frombuffer"] = _frombuffer


# This derives from the unpickler written in Python. The one in C keeps its memo in an array, which
# a damaged file can make arbitrarily large. It would not be much faster: most of a file is a few
# long byte strings.
class RestrictedUnpickler(pickle._Unpickler):
    """Reads plain containers, numbers, strings and numpy arrays; raises :class:`ForbiddenError` for
    anything else. Pass the result to :func:`resolve`.

    Attributes:
        ADMITTED: {(module, name) in the pickle: our replacement}.
    """

    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = NUMPY_STAND_INS
    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    for _opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[_opcode[0]]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise ForbiddenError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenError("a persistent object")

    def load_build(self) -> None:
        """Set the state of a stand-in. The state of another object could alter our functions."""
        state, instance = self.stack.pop(), self.stack[-1]
        if not isinstance(instance, _Array | _Dtype):
            raise ForbiddenError(f"the state of a {type(instance).__name__}")
        instance.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        """Read a byte array. It allocates memory for the bytes in the file, and not for the length
        that the pickle claims."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def resolve(item: Any) -> Any:
    """Replace the stand-ins in nested containers by their arrays.

    Raises:
        ForbiddenError: there is a stand-in without a value, or a function.
    """
    return _resolve(item, {})


def _resolve(item: Any, known: dict[int, Any]) -> Any:
    """Resolve each object once; ``known`` has the results by id. A pickle can nest a list that has
    the same list twice, at a few bytes a level, and without this each level would double the time.
    """
    if id(item) not in known:
        known[id(item)] = _resolve_anew(item, known)
    return known[id(item)]


def _resolve_anew(item: Any, known: dict[int, Any]) -> Any:
    if isinstance(item, StandIn):
        return item.content()
    if isinstance(item, dict):
        return {key: _resolve(value, known) for key, value in item.items()}
    if isinstance(item, list):
        return [_resolve(value, known) for value in item]
    if isinstance(item, tuple):
        return tuple(_resolve(value, known) for value in item)
    if callable(item):
        raise ForbiddenError("a bare function or type")
    return item
