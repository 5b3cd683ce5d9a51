"""Checkpoints since torch 1.6, which are zip files, read without trusting them.

Such a file holds NAME/data.pkl, the pickle of the object, in which ("storage", type, key, location,
number of values) names a storage; and the values of each storage in NAME/data/KEY, not compressed.
``torch.load(weights_only=True)`` reads it; it does not compare checksums, and we do that first.
"""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.safe_pickle import NUMPY_STAND_INS, ForbiddenError
from training.tensor_unpickler import TensorUnpickler

_OBJECT = "/data.pkl"


def read_zip_checkpoint(path: Path) -> Any:
    """Read the object of a file, its tensors on the CPU.

    Raises:
        ForbiddenError: the file holds something else, or contradicts itself.
        Exception: it is damaged, which can be of any kind. A member whose checksum is wrong is a
            ``zipfile.BadZipFile`` that names it.
    """
    _check(path)
    admitted = [(stand_in, ".".join(name)) for name, stand_in in NUMPY_STAND_INS.items()]
    with torch.serialization.safe_globals(admitted), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on files that it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


def _check(path: Path) -> None:
    """Refuse a file that is damaged or that needs far more memory than its size.

    Our own unpickler goes through the object first. Unlike torch it bounds sizes, and the time that
    it takes to refuse something.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ForbiddenError("compressed members")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ForbiddenError("members that are larger than the file")
        if wrong := archive.testzip():
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {wrong!r}")
        names = [member.filename for member in members]
        (folder,) = (n.removesuffix(_OBJECT) for n in names if n.endswith(_OBJECT))
        if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
            raise ForbiddenError("big-endian values")
        unpickler = TensorUnpickler(io.BytesIO(archive.read(folder + _OBJECT)))
        unpickler.load()
        for key, storage in unpickler.storages.items():
            if archive.getinfo(f"{folder}/data/{key}").file_size != storage.size:
                raise ForbiddenError("a storage of another size")
