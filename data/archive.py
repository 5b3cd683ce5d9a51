"""Reads downloaded files directly from folders, zip archives and tar archives.

Nothing is unpacked to disk. The archives are not trusted: members with a path outside the folder,
links, devices, encrypted members and decompression bombs are refused. Any error inside a reader
becomes one line that names the file.
"""

import gzip
import io
import math
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.errors import UserError
from common.extras import require

# The largest files that are read hold one sequence: about 6,000 frames of 96 numbers, 5 MB, or
# 12 MB as text. Twice this limit, for a copy, stays below 64 MiB.
MAX_MEMBER = 28 * 2**20
# Poses compress to about a third of their size. A far larger ratio indicates a bomb.
MAX_RATIO = 40
# The largest array that is read: 10,000 frames of 96 numbers. A file can claim any size in a few
# bytes, so this bounds the memory.
MAX_VALUES = 2**20
_TAR_HEADER = 512
_CHECKSUM = 4  # bytes of Fletcher's checksum


@contextmanager
def errors_about(name: object, remedy: str = "download or copy it again") -> Iterator[None]:
    """Convert any exception inside the ``with`` block to a UserError that names ``name``, and
    ends with the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file can make the readers raise anything
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise UserError(f"{name} cannot be read ({reason}): {remedy}") from error


def read_members(
    source: Path, pattern: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], str, bytes]]:
    """Read the files of a folder or a zip, tar or tgz archive whose paths match a pattern.

    Args:
        source: the folder or archive.
        pattern: searched in "name of the source/path inside". Other files are not read.

    Yields:
        The match, "source: path inside" for messages, and the content of the file. Files come one
        at a time, in the order of the archive; those of a folder are sorted.

    Raises:
        UserError: the source is missing, damaged or encrypted; a member has a path outside the
            folder, or is a link or a device; a matching file has more than :data:`MAX_MEMBER`
            bytes, or an archive unpacks to more than :data:`MAX_RATIO` times its size.
    """
    if not source.exists():
        raise UserError(f"{source} is not there: give a folder or an archive (.zip, .tar, .tgz)")
    root = source.resolve().name
    budget = unpacked_limit(source)
    with errors_about(source):
        for entry in _entries(source):
            where = f"{source}: {entry.name}"
            _check_name(entry.name, where)
            if not entry.is_plain:
                raise UserError(f"{where} is a link or a device: give an archive without them")
            budget -= entry.unpacked
            match = pattern.search(f"{root}/{entry.name}")
            if budget < 0 or (match and entry.size > MAX_MEMBER):
                raise _bomb(where, entry.size)
            if match:
                yield match, where, _read_whole(entry)


def unpacked_limit(archive: Path) -> int:
    """Limit for the total number of bytes of all members of an archive."""
    return MAX_RATIO * archive.stat().st_size + MAX_MEMBER


def check_zip_member(archive: Path, info: zipfile.ZipInfo) -> None:
    """Refuse a member of a zip archive that cannot be read in pieces of limited size.

    Raises:
        UserError: it is encrypted, compressed by another method than deflate, or far larger than
            the archive.
    """
    where = f"{archive}: {info.filename}"
    if info.flag_bits & 1:
        raise UserError(f"{where} is encrypted: unpack the archive and give the folder")
    # Python unpacks data of the other methods in one piece of unlimited size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{where} is compressed in an unusual way: give an unpacked folder")
    if info.file_size > unpacked_limit(archive):
        raise _bomb(where, info.file_size)


def read_h5(content: bytes, name: str, where: str, kinds: str = "f") -> np.ndarray:
    """Read the dataset ``name`` of an HDF5 file, such as a file of MATLAB v7.3.

    The dataset must be in the file itself: soft and external links, virtual datasets and external
    storage are not followed. It may be compressed by gzip, with shuffle and Fletcher's checksum. If
    the dataset is a MATLAB cell of one element, the element is read.

    Args:
        content: the content of the file.
        where: the name of the file, for messages.
        kinds: the permitted kinds of numbers (``numpy.dtype.kind``).

    Raises:
        UserError: h5py is not installed; the file is damaged or has no such dataset; the dataset
            has another type, or more values than a sequence can have.
    """
    h5py = require("h5py")
    with errors_about(where), h5py.File(io.BytesIO(content), "r") as file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            found = ", ".join(file) or "nothing"
            raise UserError(f"{where} has no dataset {name!r} of its own (it has: {found})")
        dataset = file[name]
        if _is_cell(dataset):
            dataset = file[dataset[0, 0]]
        if not isinstance(dataset, h5py.Dataset):
            raise UserError(f"{where}: {name} is not an array of numbers")
        values = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
        if dataset.dtype.kind not in kinds or values > MAX_VALUES:
            raise UserError(f"{where}: {name} holds no poses but {dataset.dtype} {dataset.shape}")
        # HDF5 2.0 crashes if a file in memory has a virtual dataset in another file.
        if dataset.is_virtual or dataset.external:
            raise UserError(f"{where}: {name} is stored in other files, which are not read")
        _check_chunks(dataset)
        return dataset[()]


def _check_chunks(dataset: Any) -> None:
    """HDF5 inflates a chunk to whatever it becomes, and loads other filters as plug-ins.

    Raises:
        ValueError: a chunk unpacks to more than it should, or has another filter than gzip, shuffle
            and Fletcher's checksum.
    """
    h5z = require("h5py").h5z
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    known = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
    if not known.issuperset(filters) or len(set(filters)) < len(filters):
        raise ValueError(f"an unusual compression, by the filters {filters}")
    if h5z.FILTER_DEFLATE not in filters:
        return
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize + _CHECKSUM
    for i in range(dataset.id.get_num_chunks()):
        skipped, packed = dataset.id.read_direct_chunk(dataset.id.get_chunk_info(i).chunk_offset)
        unpacker = zlib.decompressobj()
        unpacker.decompress(packed, size)
        if skipped or unpacker.unconsumed_tail:
            raise ValueError("a chunk unpacks to more than its values")


def _is_cell(dataset: Any) -> bool:
    """Whether an HDF5 object is a MATLAB cell of one element, stored as a reference."""
    h5py = require("h5py")
    return (
        isinstance(dataset, h5py.Dataset)
        and h5py.check_ref_dtype(dataset.dtype) is h5py.Reference
        and dataset.shape == (1, 1)
    )


@dataclass(frozen=True)
class _Entry:
    """A file of a folder or archive.

    Attributes:
        name: path inside the folder or archive.
        is_plain: it is a regular file, not a link or device.
        size: bytes of its content.
        unpacked: bytes that must be unpacked to read it or to skip it.
        open: opens it for reading.
    """

    name: str
    is_plain: bool
    size: int
    unpacked: int
    open: Callable[[], Any]


def _entries(source: Path) -> Iterator[_Entry]:
    if source.is_dir():
        return _folder_entries(source)
    with source.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    return _zip_entries(source) if is_zip else _tar_entries(source)


def _folder_entries(folder: Path) -> Iterator[_Entry]:
    for place, subfolders, files in os.walk(folder):
        subfolders.sort()
        links = [name for name in subfolders if Path(place, name).is_symlink()]
        for name in sorted(files) + links:
            path = Path(place, name)
            is_plain = stat.S_ISREG(path.lstat().st_mode)
            size = path.lstat().st_size
            yield _Entry(
                path.relative_to(folder).as_posix(), is_plain, size, 0,
                lambda path=path: path.open("rb"),
            )  # fmt: skip


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            check_zip_member(path, info)
            yield _Entry(
                info.filename, kind in (0, stat.S_IFREG), info.file_size, info.file_size,
                lambda info=info: archive.open(info),
            )  # fmt: skip


def _tar_entries(path: Path) -> Iterator[_Entry]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    stream = _BoundedGzip(path) if is_gzip else path.open("rb")
    with stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if not info.isdir():
                yield _Entry(
                    info.name, info.isreg() and not info.issparse(), info.size,
                    info.size + _TAR_HEADER, lambda info=info: archive.extractfile(info),
                )  # fmt: skip


class _BoundedGzip(gzip.GzipFile):
    """Limits the size of a read. A tar header can announce a name of any length, and tarfile reads
    it in one piece."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_MEMBER:
            raise ValueError(f"a header of {size} bytes")
        return super().read(size)


def _check_name(name: str, where: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match("[A-Za-z]:", name):
        raise UserError(
            f"{where} is refused: it would leave the folder. Get the file from its original source."
        )


def _bomb(where: str, size: int) -> UserError:
    return UserError(
        f"{where} is refused: it unpacks to {size:,} bytes, far more than expected. "
        "Get the file from its original source."
    )


def _read_whole(entry: _Entry) -> bytes:
    with entry.open() as stream:
        content = stream.read(entry.size)
    if len(content) != entry.size:
        raise EOFError(f"{entry.name} is cut off")
    return content
