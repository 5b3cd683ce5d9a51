"""Checkpoints since torch 1.6, which are zip files, read without trusting them.

Such a file holds NAME/data.pkl, the pickle of the object, in which ("storage", type, key, location,
number of values) names a storage; and the values of each storage in NAME/data/KEY, not compressed.
``torch.load`` does not compare checksums.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

from common.safe_pickle import ForbiddenError, resolve
from training.tensor_unpickler import TensorUnpickler

_OBJECT = "/data.pkl"


def read_zip_checkpoint(path: Path) -> Any:
    """Read the object of a file, its tensors on the CPU; dictionaries come plain, in their order.

    Raises:
        ForbiddenError: the file holds something else, or contradicts itself.
        Exception: it is damaged, which can be of any kind. A member whose checksum is wrong is a
            ``zipfile.BadZipFile`` that names it.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ForbiddenError("compressed members")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ForbiddenError("members that are larger than the file")
        names = [member.filename for member in members]
        (folder,) = (n.removesuffix(_OBJECT) for n in names if n.endswith(_OBJECT))
        if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
            raise ForbiddenError("big-endian values")
        unpickler = TensorUnpickler(io.BytesIO(archive.read(folder + _OBJECT)))
        found = unpickler.load()
        for key, storage in unpickler.storages.items():
            storage.fill(archive.read(f"{folder}/data/{key}"))
    return resolve(found)
