"""Zip files of tensors: damaged, compressed, or contradicting themselves."""

import copy
import zipfile

import pytest
import torch

from common.errors import UserError
from training.checkpoint import load_plain


def flip(path) -> None:
    """Damage a weight; its checksum stays."""
    whole, weight = path.read_bytes(), torch.tensor([500.0]).numpy().tobytes()
    assert whole.count(weight) == 1
    path.write_bytes(whole.replace(weight, bytes(4)))


def rewrite(path, member: str, content: bytes | None, method: int = zipfile.ZIP_STORED) -> None:
    """Give a member of the zip file another content, or none, and all of them right checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert member in members
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, whole in (members | {member: content}).items():
            if whole is not None:
                archive.writestr(name, whole)


CHANGES = {
    "BadZipFile: Bad CRC-32 for file 'a/data/0'": flip,
    "compressed members": lambda path: rewrite(path, "a/version", b"3", zipfile.ZIP_DEFLATED),
    "a storage of another size": lambda path: rewrite(path, "a/data/0", bytes(4001)),
    "big-endian values": lambda path: rewrite(path, "a/byteorder", b"big"),
    "KeyError": lambda path: rewrite(path, "a/data/1", None),
    "ValueError": lambda path: rewrite(path, "a/data.pkl", None),
}


@pytest.mark.parametrize("said", CHANGES)
def test_damaged_and_contradicting_files_are_refused(tmp_path, said):
    path = tmp_path / "a.pth"
    weights = {"w1.weight": torch.arange(1000.0), "b": torch.arange(3)}
    for content in (weights, {"state_dict": weights}):  # also a bare state dict
        torch.save(content, path)
        assert load_plain(path)
        CHANGES[said](path)
        remedy = "Get the file again, or resume the run's folder"
        with pytest.raises(UserError, match=f"a.pth .*{said}.*{remedy}"):
            load_plain(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """Each is whole, and together they are larger than the file."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1000), "b": torch.zeros(1000), "c": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("a/data/0")
        for number in range(9):
            twin = copy.copy(first)
            twin.filename = f"a/data/{3 + number}"
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    with pytest.raises(UserError, match="members that are larger than the file"):
        load_plain(path)


def test_many_weights_in_few_bytes_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a tensor that does not lie within its storage"):
        load_plain(tmp_path / "a.pth")
