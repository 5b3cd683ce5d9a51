#!/usr/bin/env python
"""Download files that others publish of Human3.6M, and check the files in ``dataset/``.

    python data/download.py cpn labels    download by name; resumes an interrupted transfer
    python data/download.py --list        list the names and the sources of the files
    python data/download.py --check       list files that are there or damaged, and commands for
                                          files that experiments still need

A file is called ``<name>.partial`` until it has been verified. The checksums of verified files are
recorded in ``dataset/SHA256SUMS``, in the format of ``sha256sum -c SHA256SUMS``. Human3.6M itself
requires registration and a licence: vision.imar.ro/human3.6m.
"""

import argparse
import hashlib
import http.client
import re
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

from common.errors import UserError, run_script
from common.extras import require
from common.files import atomic_write, os_errors_as_user_errors
from common.parser import Parser
from common.progress import follow
from data.datasets import H36M, HDM05, MOCAP, MPI_INF_3DHP, DatasetInfo
from data.npz_io import load_object_array

_DATASET = Path(__file__).resolve().parents[1] / "dataset"
_SUMS = "SHA256SUMS"
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
# The 2D joints of Human3.6M take 290 MB, the 3D joints 200 MB. A far larger file is another one,
# and opening it could exhaust the memory.
_MAX_NPZ_BYTES = 2 << 30
_BLOCK = 1 << 20


@dataclass(frozen=True)
class DataFile:
    """A file of ``dataset/``.

    Attributes:
        name: file name.
        key: key of the npz array that holds {subject: ...}; None for a zip archive, which has a
            folder for each subject.
        subjects: the subjects that a complete file has.
        command: the command that downloads or makes the file.
        made_from: another file of ``dataset/`` that the command reads.
    """

    name: str
    key: str | None
    subjects: tuple[str, ...]
    command: str
    made_from: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a file is published: a plain ``url``, or a Google Drive ``drive_id``."""

    file: str
    url: str = ""
    drive_id: str = ""

    @property
    def page(self) -> str:
        """Address to open in a browser."""
        return self.url or f"https://drive.google.com/file/d/{self.drive_id}/view"


def _npz(info: DatasetInfo, name: str, command: str, made_from: str | None = None) -> DataFile:
    key = "positions_3d" if name == info.file_3d() else "positions_2d"
    return DataFile(name, key, info.subjects_train + info.subjects_test, command, made_from)


_ARCHIVE = DataFile(
    "h36m.zip", None, H36M.subjects_train + H36M.subjects_test, "python data/download.py archive"
)
_LABELS = _npz(H36M, H36M.file_3d(), "python data/download.py labels")
_PROJECTED = _npz(
    H36M,
    H36M.file_2d("gt"),
    "python data/prepare_data_h36m.py --from-archive dataset/h36m.zip",
    made_from=_ARCHIVE.name,
)
_CPN = _npz(H36M, H36M.file_2d("cpn_ft_h36m_dbb"), "python data/download.py cpn")
_DETECTRON = _npz(H36M, H36M.file_2d("detectron_ft_h36m"), "python data/download.py detectron")
_SH_FT = _npz(
    H36M,
    H36M.file_2d("sh_ft_h36m"),
    "python data/prepare_data_2d_h36m_sh.py -ft stacked_hourglass_fined_tuned_240.tar.gz",
)
_SH_PT = _npz(
    H36M,
    H36M.file_2d("sh_pt_mpii"),
    "python data/prepare_data_2d_h36m_sh.py -pt dataset/h36m.zip",
    made_from=_ARCHIVE.name,
)
_HDM05 = _npz(HDM05, HDM05.file_3d(), "git checkout dataset")
_MOCAP = _npz(MOCAP, MOCAP.file_3d(), "git checkout dataset")
_TO_PREPARE_3DHP = "python data/prepare_data_3dhp.py mpi_inf_3dhp_test_set"
_3DHP = _npz(MPI_INF_3DHP, MPI_INF_3DHP.file_3d(), _TO_PREPARE_3DHP)
_3DHP_2D = _npz(MPI_INF_3DHP, MPI_INF_3DHP.file_2d("gt"), _TO_PREPARE_3DHP)

FILES = {
    file.name: file
    for file in (
        _HDM05, _MOCAP, _LABELS, _PROJECTED, _CPN, _DETECTRON, _SH_FT, _SH_PT, _ARCHIVE, _3DHP,
        _3DHP_2D,
    )
}  # fmt: skip
# The files that an experiment needs; ground-truth 2D is projected where there is no file of it.
EXPERIMENTS = {
    "main_gcn.py, hdm05": (_HDM05,),
    "main_gcn.py, mocap": (_MOCAP,),
    "main_gcn.py, gt": (_LABELS,),
    "main_graph.py, cpn_ft_h36m_dbb": (_LABELS, _CPN),
    "main_graph.py, detectron_ft_h36m": (_LABELS, _DETECTRON),
    "main_graph.py, sh_ft_h36m": (_LABELS, _SH_FT),
    "main_graph.py, sh_pt_mpii": (_LABELS, _SH_PT),
    "main_gcn.py, 3dhp test": (_3DHP, _3DHP_2D),
}
_PUBLISHED = "https://dl.fbaipublicfiles.com/video-pose-3d/"
SOURCES = {
    "cpn": Source(_CPN.name, url=_PUBLISHED + _CPN.name),
    "detectron": Source(_DETECTRON.name, url=_PUBLISHED + _DETECTRON.name),
    "labels": Source(_LABELS.name, drive_id="1P7W3ldx2lxaYJJYcf3RG4Y9PsD4EJ6b0"),
    "archive": Source(_ARCHIVE.name, drive_id="1Ac-gUXAg-6UiwThJVaw6yw2151Bot3L1"),
}


# ---- transfer: everything up to <name>.partial ----


def fetch_url(url: str, partial: Path) -> None:
    """Download ``url`` to ``partial``. If ``partial`` exists, resume after its last byte.

    Raises:
        UserError: the server cannot be reached, refuses, or stops early (the received bytes are
            kept); ``partial`` cannot be written.
    """
    start = partial.stat().st_size if partial.is_file() else 0
    # With transfer compression, byte positions would not be those of the file.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise UserError(f"{url} answers {error.code} {error.reason}") from error
        if error.headers["Content-Range"] != f"bytes */{start}":
            partial.unlink()  # it is a part of another, longer file
            fetch_url(url, partial)
        return
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url} cannot be reached ({error}): check the network") from error
    with response:
        _receive(response, partial, *_first_byte_and_size(response, start))


def _first_byte_and_size(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Position in the file of the first byte of a response, and the size of the file; None if the
    server does not give it.

    Raises:
        UserError: the response is a web page, or begins at another byte than ``asked``.
    """
    if response.headers.get_content_type() == "text/html":
        raise UserError(f"{response.url} is a web page, not the file")
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file
        return 0, response.length
    sent = response.headers["Content-Range"] or ""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", sent)
    if not match or int(match[1]) != asked:
        raise UserError(f"{response.url} was asked to resume at byte {asked}, but sent {sent!r}")
    return asked, int(match[2])


def _receive(
    response: http.client.HTTPResponse, partial: Path, start: int, total: int | None
) -> None:
    """Write a response to ``partial``, from byte ``start`` on; the file has ``total`` bytes."""
    blocks = follow(_blocks(response), partial.stem, total, "B", done=start, size=len)
    try:
        with partial.open("ab" if start else "wb") as file:
            for block in blocks:
                file.write(block)
    except OSError as error:
        raise UserError(
            f"cannot write {partial} ({error.strerror or error}): free some space, then run this "
            "again"
        ) from error
    size = partial.stat().st_size
    if total is not None and size != total:
        raise UserError(
            f"the transfer stopped at {size:,} of {total:,} bytes: run this again to resume it"
        )


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(_BLOCK):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"the transfer broke off ({error!r}): run this again to resume it"
        ) from error


def fetch_drive(drive_id: str, partial: Path) -> None:
    """Download a file of Google Drive to ``partial``. If ``partial`` exists, resume it.

    Raises:
        UserError: Google Drive cannot be reached, or does not send the file.
    """
    gdown = require("gdown")
    try:
        gdown.download(
            id=drive_id,
            output=str(partial),
            quiet=not sys.stderr.isatty(),
            use_cookies=False,
            resume=True,
        )
    except Exception as error:  # gdown's own, those of its network library, and of page parsing
        raise UserError(f"Google Drive does not send the file ({str(error)[:200]})") from error
    if not partial.is_file():  # older versions of gdown print the reason and raise nothing
        raise UserError("Google Drive does not send the file")


# ---- verification ----


def verify(path: Path, file: DataFile) -> None:
    """Read a whole file, and check the checksums of its members and its subjects.

    Raises:
        UserError: the file is missing, damaged, a web page, or another file.
    """
    with _opened(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if file.key is not None and size > _MAX_NPZ_BYTES:
            raise UserError(f"{path} would unpack to {size:,} bytes, far more than {file.name} has")
        if broken := archive.testzip():
            raise UserError(f"{path} is damaged (in {broken})")
        folders = {part for name in archive.namelist() for part in PurePosixPath(name).parts[:-1]}
    found = folders if file.key is None else load_object_array(path, file.key)
    if not isinstance(found, dict | set):
        raise UserError(f"{path} is another file: {file.key} is not {{subject: ...}}")
    if absent := [subject for subject in file.subjects if subject not in found]:
        raise UserError(f"{path} lacks {', '.join(absent)}")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, such as an npz file. Any error becomes a UserError that names it."""
    try:
        with path.open("rb") as file:
            head = file.read(1024).lower()
        if b"<html" in head or b"<!doctype" in head:
            raise UserError(
                f"{path} is a web page, not the file: Google Drive sends one when a file was "
                "downloaded too often, so try again tomorrow"
            )
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # a damaged archive can make zipfile raise anything
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """Read ``SHA256SUMS``: {file name: hexadecimal checksum}. Empty if the file does not exist.

    Raises:
        UserError: a line is not in the format of sha256sum.
    """
    path = folder / _SUMS
    sums = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        match = _SUM_LINE.fullmatch(line)
        if not match:
            raise UserError(f"{path}: {line[:80]!r} is not a checksum and a name: delete the line")
        sums[match[2]] = match[1]
    return sums


def _record_checksum(folder: Path, name: str, digest: str) -> None:
    """Add or replace the checksum of a file in ``SHA256SUMS``."""
    sums = {**read_sums(folder), name: digest}
    with atomic_write(folder / _SUMS) as partial:
        lines = [f"{value}  {file}\n" for file, value in sorted(sums.items())]
        partial.write_text("".join(lines), encoding="utf-8")


def _verified_checksum(path: Path, folder: Path, file: DataFile) -> str:
    """Verify a file, and compare its checksum with the recorded one. Returns the checksum.

    Args:
        path: the file, which may still have a temporary name.
        folder: the folder of ``SHA256SUMS``.

    Raises:
        UserError: see :func:`verify`; also if the checksum is not the recorded one.
    """
    verify(path, file)
    digest = sha256(path)
    recorded = read_sums(folder).get(file.name, digest)
    if digest != recorded:
        raise UserError(
            f"{path} is whole, but its checksum is not the one that {folder / _SUMS} records for "
            f"{file.name}: delete that line if the new file is right"
        )
    return digest


# ---- download by name ----


def fetch(name: str, folder: Path) -> list[Path]:
    """Download the file of a name in :data:`SOURCES`, unless it is there already.

    Returns:
        The paths of the verified files in ``folder``.

    Raises:
        UserError: the download or the verification fails; the message says how to get the file by
            hand. Only ``<name>.partial`` may be left, and only if the download can be resumed.
    """
    source = SOURCES[name]
    path = folder / source.file
    try:
        if path.exists():
            return [_accept_existing(path, folder)]
        partial = path.with_name(f"{path.name}.partial")
        if source.url:
            fetch_url(source.url, partial)
        else:
            fetch_drive(source.drive_id, partial)
        return _install(partial, folder, FILES[source.file])
    except UserError as error:
        raise UserError(
            f"{name}: {str(error).rstrip('.')}. "
            f"By hand: open {source.page} in a browser and save the file as {path}"
        ) from error


def _accept_existing(path: Path, folder: Path) -> Path:
    """Verify a file that is there already, perhaps put there by hand, and record its checksum."""
    try:
        _record_checksum(folder, path.name, _verified_checksum(path, folder, FILES[path.name]))
    except UserError as error:
        raise UserError(f"{error}; to download it again, delete {path} first") from error
    return path


def _install(partial: Path, folder: Path, file: DataFile) -> list[Path]:
    """Verify a downloaded file. Rename it to its final name, or remove it if it is wrong.

    Returns:
        The paths of the installed files: several if the download is an archive of npz files.

    Raises:
        UserError: the file is wrong.
    """
    try:
        if members := _npz_members(partial, file):
            paths = [_unpack(partial, member, folder) for member in members]
            partial.unlink()
            return paths
        digest = _verified_checksum(partial, folder, file)
    except UserError as error:
        partial.unlink()  # resuming would not repair it
        raise UserError(f"the download is not the file and was removed: {error}") from error
    path = folder / file.name
    partial.replace(path)
    _record_checksum(folder, path.name, digest)
    return [path]


def _npz_members(partial: Path, file: DataFile) -> list[str]:
    """The npz files to extract, if the download is a zip archive of them; else an empty list.

    Raises:
        UserError: the archive has two files of the same name.
    """
    if file is not _LABELS:
        return []
    with _opened(partial) as archive:
        found = {}
        for member in archive.namelist():
            name = PurePosixPath(member).name
            if name in (_LABELS.name, _PROJECTED.name) and found.setdefault(name, member) != member:
                raise UserError(f"{partial} holds {name} twice")
    return list(found.values()) if file.name in found else []


def _unpack(bundle: Path, member: str, folder: Path) -> Path:
    """Extract one npz file from a zip archive to ``folder``; an existing file is kept.

    Returns:
        The path of the verified file.
    """
    path = folder / PurePosixPath(member).name
    if path.exists():
        return _accept_existing(path, folder)
    with _opened(bundle) as archive, atomic_write(path) as partial:
        if archive.getinfo(member).file_size > _MAX_NPZ_BYTES:
            raise UserError(f"{bundle}: {member} is far larger than {path.name} should be")
        with archive.open(member) as packed, partial.open("wb") as file:
            shutil.copyfileobj(packed, file)
        digest = _verified_checksum(partial, folder, FILES[path.name])
    _record_checksum(folder, path.name, digest)
    return path


# ---- --check and --list ----


def check(folder: Path) -> None:
    """Print the state of each file, and the commands that each experiment still needs.

    Raises:
        UserError: a file is damaged, or its checksum is not the recorded one.
    """
    sums = read_sums(folder)
    width = max(map(len, FILES))
    whole, damaged = set(), []
    for file in FILES.values():
        path = folder / file.name
        state = _state_of_absent(path)
        if path.exists():
            try:
                _verified_checksum(path, folder, file)
                whole.add(file.name)
                checksum = "as recorded" if file.name in sums else "not recorded"
                state = f"whole: {len(file.subjects)} subjects, {_size(path)}, checksum {checksum}"
            except UserError as error:
                damaged.append(file.name)
                state = f"DAMAGED: {error}"
        print(f"{file.name:<{width}}  {state}")
    print()
    for title, needed in EXPERIMENTS.items():
        commands = dict.fromkeys(c for file in needed for c in _commands(file, whole))
        print(f"{title:<{width}}  {' && '.join(commands) or 'ready'}")
    if damaged:
        raise UserError(
            f"damaged in {folder}: {', '.join(damaged)}: delete them and run the commands above"
        )


def _state_of_absent(path: Path) -> str:
    """Whether a part of a missing file is there."""
    # gdown appends characters to the name.
    parts = list(path.parent.glob(f"{path.name}.partial*"))
    return f"partly there, {_size(parts[0])}: the download can be resumed" if parts else "not there"


def _commands(file: DataFile, whole: set[str]) -> list[str]:
    """The commands that make a file, in order; none if it is in ``whole``."""
    if file.name in whole:
        return []
    first = _commands(FILES[file.made_from], whole) if file.made_from else []
    return [*first, file.command]


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def list_sources() -> None:
    """Print the names that can be downloaded, with file and address."""
    for name, source in SOURCES.items():
        print(f"{name:<10} {source.file:<36} {source.page}")
    print("Human3.6M requires registration and a licence: vision.imar.ro/human3.6m")


def _fetch_all(names: Sequence[str], folder: Path) -> None:
    for name in names:
        if name not in SOURCES:
            raise UserError(f"unknown name {name!r}: there are {', '.join(SOURCES)}")
    with os_errors_as_user_errors(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for path in fetch(name, folder):
            print(f"{path}: whole, {_size(path)}, sha256 {read_sums(folder)[path.name]}")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"files to download: {', '.join(SOURCES)}")
    parser.add_argument(
        "--check", action="store_true", help="check the files, list what is missing"
    )
    parser.add_argument("--list", action="store_true", help="list the names and their sources")
    parser.add_argument(
        "--dataset_dir", type=Path, default=_DATASET, metavar="DIR",
        help="folder of the files (default: the dataset/ folder of the repository)",
    )  # fmt: skip
    args = parser.parse_args()
    if not (args.names or args.check or args.list):
        raise UserError(f"nothing to do: give {', '.join(SOURCES)}, or --list or --check")
    if args.list:
        list_sources()
    _fetch_all(args.names, args.dataset_dir)
    if args.check:
        check(args.dataset_dir)


if __name__ == "__main__":
    run_script(main)
