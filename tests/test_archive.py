import gzip
import io
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from common.errors import UserError
from data import archive
from data.archive import MAX_MEMBER, read_h5, read_members
from data.npz_io import load_object_array, save_object_arrays
from tests import h36m_miniature as mini

H5 = re.compile(r"(?:^|/)(?P<subject>S\d+)/(?P<name>[^/]+)\.h5$")
FILES = {
    "S1/a b.h5": b"one",
    "S1/not wanted.txt": b"two",
    "deep/er/S5/c.h5": b"three" * 999,
    "S5/empty.h5": b"",
}


def contents(source, pattern=H5):
    return {(m["subject"], m["name"]): content for m, _, content in read_members(source, pattern)}


@pytest.mark.parametrize("kind", ["folder", "zip", "tgz", "tar"])
def test_every_form_gives_the_wanted_files(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "folder":
        mini.write_folder(path, FILES.items())
    elif kind == "zip":
        mini.write_zip(path, FILES.items())
    else:
        mini.write_tgz(path, FILES.items())
    if kind == "tar":
        path.write_bytes(gzip.decompress(path.read_bytes()))
    wanted = {("S1", "a b"): b"one", ("S5", "c"): b"three" * 999, ("S5", "empty"): b""}
    assert contents(path) == wanted


def test_a_subject_s_own_folder_may_be_given(tmp_path, monkeypatch):
    mini.write_folder(tmp_path, FILES.items())
    assert contents(tmp_path / "S1") == {("S1", "a b"): b"one"}
    monkeypatch.chdir(tmp_path / "S1")
    assert contents(archive.Path(".")) == {("S1", "a b"): b"one"}


def test_what_is_not_wanted_is_not_read(tmp_path):
    path = mini.write_zip(tmp_path / "x.zip", FILES.items())
    content = path.read_bytes()
    at = content.index(b"S1/not wanted.txt") + len("S1/not wanted.txt")
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    assert ("S1", "a b") in contents(path)
    with pytest.raises(UserError, match="cannot be read"):
        contents(path, re.compile(r"(?P<subject>S1)/(?P<name>.*)\.txt"))


@pytest.mark.parametrize("write", [mini.write_zip, mini.write_tgz])
@pytest.mark.parametrize("name", ["../S1/x.h5", "a/../../S1/x.h5", "/S1/x.h5", "..\\S1\\x", "C:/x"])
def test_members_that_leave_the_folder_are_refused(write, name, tmp_path):
    path = write(tmp_path / "x", [("S1/fine.h5", b""), (name, b"x")])
    with pytest.raises(UserError, match="would leave the folder"):
        contents(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_tar_members_that_are_no_files_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("S1/x.h5")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    with pytest.raises(UserError, match="link or a device"):
        contents(tmp_path / "x.tgz")


def test_links_in_zips_and_folders_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        info = zipfile.ZipInfo("S1/x.h5")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/hostname")
    mini.write_folder(tmp_path / "elsewhere", FILES.items())
    (tmp_path / "to file" / "S1").mkdir(parents=True)
    (tmp_path / "to file" / "S1" / "x.h5").symlink_to(tmp_path / "elsewhere" / "S1" / "a b.h5")
    (tmp_path / "to folder").mkdir()
    (tmp_path / "to folder" / "S1").symlink_to(tmp_path / "elsewhere" / "S1")
    for name in ("x.zip", "to file", "to folder"):
        with pytest.raises(UserError, match=r"S1.* is a link"):
            contents(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_a_folder_does_not_hang(tmp_path):
    (tmp_path / "S1").mkdir()
    os.mkfifo(tmp_path / "S1" / "x.h5")
    with pytest.raises(UserError, match="link or a device"):
        contents(tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = mini.write_zip(tmp_path / "x.zip", [("S1/x.h5", bytes(MAX_MEMBER + 1))])
    assert path.stat().st_size < MAX_MEMBER / 500
    with pytest.raises(UserError, match="unpacks to 29,360,129 bytes"):
        contents(path)


def test_many_members_that_are_a_bomb_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBER", 2**20)
    files = [(f"S1/{number}.h5", bytes(2**20)) for number in range(8)]
    for write in (mini.write_zip, mini.write_tgz):
        with pytest.raises(UserError, match="far more than expected"):
            contents(write(tmp_path / write.__name__, files))


@pytest.mark.parametrize("claimed", [9, 100_001])
def test_a_zip_member_of_another_size_than_it_says_is_refused(claimed, tmp_path):
    path = mini.write_zip(tmp_path / "x.zip", [("S1/x.h5", bytes(99_999))])
    lie = path.read_bytes().replace(struct.pack("<L", 99_999), struct.pack("<L", claimed))
    path.write_bytes(lie)
    with pytest.raises(UserError, match="cannot be read"):
        contents(path)


def test_a_tar_header_that_fills_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBER", 2**20)
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 2**24
    with gzip.open(tmp_path / "x.tgz", "wb") as file:
        file.write(info.tobuf() + bytes(2**24))
    with pytest.raises(UserError, match="a header of 16777216 bytes"):
        contents(tmp_path / "x.tgz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_unpacks_in_one_piece_is_refused(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as file:
        file.writestr("S1/x.h5", b"x" * 999)
    with pytest.raises(UserError, match="compressed in an unusual way"):
        contents(tmp_path / "x.zip")


def test_an_encrypted_zip_is_refused(tmp_path):
    path = mini.write_zip(tmp_path / "x.zip", [("S1/x.h5", b"x")])
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        contents(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04 and no more", b"\x1f\x8b", b"text"])
def test_what_is_no_archive_is_an_error(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match="x cannot be read"):
        contents(tmp_path / "x")


def h5_file(build):
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        build(h5py, file)
    return buffer.getvalue()


def test_h5_gives_the_values():
    values = np.arange(12.0).reshape(3, 4)
    for header in (0, 512):
        found = read_h5(mini.h5_bytes(header, poses=values), "poses", "a file")
        np.testing.assert_array_equal(found, values)


def test_h5_links_to_other_files_are_not_followed(tmp_path):
    secret = np.arange(12.0)
    (tmp_path / "secret.h5").write_bytes(mini.h5_bytes(poses=secret))
    (tmp_path / "secret.raw").write_bytes(secret.tobytes())
    other = str(tmp_path / "secret.h5")

    def external(h5py, file):
        file["poses"] = h5py.ExternalLink(other, "poses")

    def soft(h5py, file):
        file["there"] = secret
        file["poses"] = h5py.SoftLink("/there")

    def virtual(h5py, file):
        layout = h5py.VirtualLayout((12,), "f8")
        layout[:] = h5py.VirtualSource(other, "poses", (12,))
        file.create_virtual_dataset("poses", layout)

    def stored_outside(h5py, file):
        raw = [(str(tmp_path / "secret.raw"), 0, secret.nbytes)]
        file.create_dataset("poses", (12,), "f8", external=raw)

    for build, message in (
        (external, "of its own"),
        (soft, "of its own"),
        (virtual, "stored in other files"),
        (stored_outside, "stored in other files"),
    ):
        content = h5_file(build)
        with pytest.raises(UserError, match=message):
            read_h5(content, "poses", "a file")


def test_h5_datasets_that_are_no_poses_are_refused():
    def too_many(h5py, file):
        file.create_dataset("poses", (2**33, 2**33), "f8", chunks=(8, 8))

    def large_chunks(h5py, file):
        file.create_dataset("poses", (4, 4), "f8", chunks=(2**14, 2**14), maxshape=(None, None))

    def text(h5py, file):
        file["poses"] = ["text"]

    def group(h5py, file):
        file.create_group("poses")

    def bomb(h5py, file):
        options = {"chunks": (4, 4), "compression": "gzip", "fletcher32": True}
        data = file.create_dataset("poses", (4, 4), "f8", **options)
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**20)))

    def plug_in(h5py, file):
        file.create_dataset("poses", (4, 4), "f8", chunks=(4, 4), compression="lzf")

    def nothing(h5py, file):
        file["other"] = [1.0]

    for build, message in (
        (too_many, "holds no poses"),
        (large_chunks, "holds no poses"),
        (text, "holds no poses"),
        (group, "not an array of numbers"),
        (bomb, "unpacks to more than its values"),
        (plug_in, "an unusual compression"),
        (nothing, r"no dataset 'poses' .*\(it has: other\)"),
    ):
        content = h5_file(build)
        with pytest.raises(UserError, match=message):
            read_h5(content, "poses", "a file")


def test_npz_files_that_are_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBER", 2**16)
    save_object_arrays(tmp_path / "x.npz", positions_3d={"S1": {"Eating": np.zeros((2**20, 3))}})
    with pytest.raises(UserError, match="far more than expected"):
        load_object_array(tmp_path / "x.npz", "positions_3d")
