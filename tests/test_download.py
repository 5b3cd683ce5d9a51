"""Fetching from a server on this machine that breaks off, lies, or is not there."""

import hashlib
import io
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import numpy as np
import pytest

from common.errors import UserError
from data import download
from data.datasets import H36M
from data.npz_io import save_object_arrays

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
CPN, LABELS, GT = H36M.file_2d("cpn_ft_h36m_dbb"), H36M.file_3d(), H36M.file_2d("gt")


def npz(key: str, subjects: tuple[str, ...] = SUBJECTS) -> bytes:
    """A small file of noise, so that it does not compress to nothing."""
    random = np.random.default_rng(5)
    poses = {who: {"Walking": random.random((40, 17, 3), dtype=np.float32)} for who in subjects}
    return _written(lambda path: save_object_arrays(path, **{key: poses}))


def archive(members: dict[str, bytes]) -> bytes:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)

    return _written(write)


def _written(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.npz"
        write(path)
        return path.read_bytes()


@dataclass
class Site:
    """What the server has and how it behaves; ``ranges`` collects what it was asked for.

    Attributes:
        cut: bytes of a body after which the connection is closed, once.
        honours_range: whether a Range header is heard.
        content_range: overrides the Content-Range header of a partial answer.
    """

    content: bytes = b""
    status: int = 200
    content_type: str = "application/octet-stream"
    cut: int | None = None
    honours_range: bool = True
    content_range: str | None = None
    says_length: bool = True
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, site: Site, *args) -> None:
        self.site = site
        super().__init__(*args)

    def do_GET(self) -> None:
        site, asked = self.site, self.headers["Range"]
        site.ranges.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and site.honours_range else 0
        total = len(site.content)
        if start >= total and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else site.status)
        if start:
            told = site.content_range or f"bytes {start}-{total - 1}/{total}"
            self.send_header("Content-Range", told)
        self.send_header("Content-Type", site.content_type)
        if site.says_length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end, site.cut = site.cut, None
        self.wfile.write(site.content[start:end])

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    """A server whose one file is what ``cpn`` stands for."""
    site = Site(npz("positions_2d"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/{CPN}"
    cpn = replace(download.SOURCES["cpn"], url=site.url)
    monkeypatch.setattr(download, "SOURCES", {**download.SOURCES, "cpn": cpn})
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def drive(monkeypatch) -> dict:
    """Google Drive: what ``drive['content']`` is, or raises; ``drive['ids']`` were asked for."""
    state = {"content": b"", "ids": []}

    def fetched(*, id: str, output: str, quiet: bool, use_cookies: bool, resume: bool) -> str:
        assert resume
        assert not use_cookies
        state["ids"].append(id)
        if isinstance(state["content"], Exception):
            raise state["content"]
        Path(output).write_bytes(state["content"])
        return output

    monkeypatch.setattr(gdown, "download", fetched)
    return state


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["download.py", *arguments, "--dataset_dir", str(folder)])
    download.main()


def refused(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        run(monkeypatch, folder, *arguments)
    return str(caught.value)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fetches_records_and_is_content_with_what_is_there(site, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tmp_path, "cpn")
    assert (tmp_path / CPN).read_bytes() == site.content
    digest = hashlib.sha256(site.content).hexdigest()
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  {CPN}\n"
    assert names(tmp_path) == {CPN, "SHA256SUMS"}
    assert digest in capsys.readouterr().out
    run(monkeypatch, tmp_path, "cpn")
    assert site.ranges == [None]


def test_sums_are_in_the_form_of_sha256sum(site, tmp_path, monkeypatch):
    run(monkeypatch, tmp_path, "cpn")
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("honours_range", [True, False])
def test_an_interrupted_transfer_goes_on(site, tmp_path, monkeypatch, honours_range):
    site.cut, site.honours_range = 7000, honours_range
    message = refused(monkeypatch, tmp_path, "cpn")
    assert f"stopped at 7,000 of {len(site.content):,} bytes" in message
    assert names(tmp_path) == {f"{CPN}.partial"}
    run(monkeypatch, tmp_path, "cpn")
    assert site.ranges == [None, "bytes=7000-"]
    assert (tmp_path / CPN).read_bytes() == site.content


def test_a_transfer_without_length_is_checked_too(site, tmp_path, monkeypatch):
    site.says_length, site.cut = False, 7000
    assert "damaged" in refused(monkeypatch, tmp_path, "cpn")
    assert names(tmp_path) == set()
    run(monkeypatch, tmp_path, "cpn")
    assert (tmp_path / CPN).read_bytes() == site.content


def test_a_complete_partial_is_not_fetched_again(site, tmp_path, monkeypatch):
    (tmp_path / f"{CPN}.partial").write_bytes(site.content)
    run(monkeypatch, tmp_path, "cpn")
    assert site.ranges == [f"bytes={len(site.content)}-"]
    assert (tmp_path / CPN).read_bytes() == site.content


def test_a_partial_of_a_longer_file_is_replaced(site, tmp_path, monkeypatch):
    (tmp_path / f"{CPN}.partial").write_bytes(site.content + b"more")
    run(monkeypatch, tmp_path, "cpn")
    assert site.ranges[-1] is None
    assert (tmp_path / CPN).read_bytes() == site.content


def test_a_partial_of_another_file_is_found_out(site, tmp_path, monkeypatch):
    (tmp_path / f"{CPN}.partial").write_bytes(bytes(5000))
    assert "removed" in refused(monkeypatch, tmp_path, "cpn")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("told", ["bytes 0-9/10", "bytes 7-8/100", "nonsense"])
def test_a_wrong_range_is_refused_and_the_partial_kept(site, tmp_path, monkeypatch, told):
    (tmp_path / f"{CPN}.partial").write_bytes(site.content[:7000])
    site.content_range = told
    assert "asked to resume at byte 7000" in refused(monkeypatch, tmp_path, "cpn")
    assert (tmp_path / f"{CPN}.partial").read_bytes() == site.content[:7000]


def test_404_says_what_to_do_by_hand(site, tmp_path, monkeypatch):
    site.status = 404
    message = refused(monkeypatch, tmp_path, "cpn")
    assert "answers 404" in message
    assert f"open {site.url} in a browser and save the file as {tmp_path / CPN}" in message
    assert names(tmp_path) == set()


def test_no_network_is_one_line_and_status_2(tmp_path):
    """As a script, with every connection sent to a port where nobody listens."""
    script = Path(download.__file__).resolve()
    done = subprocess.run(
        [sys.executable, script, "cpn", "--dataset_dir", tmp_path / "new"],
        env={"https_proxy": "http://127.0.0.1:9"}, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: cpn: https://")
    assert "cannot be reached" in line
    assert "By hand" in line


PAGE = b"\n<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>"


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_a_file(site, tmp_path, monkeypatch, content_type):
    site.content, site.content_type = PAGE, content_type
    assert "web page" in refused(monkeypatch, tmp_path, "cpn")
    assert names(tmp_path) == set()


def test_a_web_page_does_not_replace_what_came_before(site, tmp_path, monkeypatch):
    (tmp_path / f"{CPN}.partial").write_bytes(b"what came before")
    site.content, site.content_type, site.honours_range = PAGE, "text/html", False
    assert "web page" in refused(monkeypatch, tmp_path, "cpn")
    assert (tmp_path / f"{CPN}.partial").read_bytes() == b"what came before"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz("positions_2d", SUBJECTS[:5]), "lacks S9, S11"),
        (npz("positions_3d"), "no array 'positions_2d'"),
        (npz("positions_2d")[:-300], "damaged"),
        (b"", "damaged"),
        (_written(lambda path: save_object_arrays(path, positions_2d=[1])), "another file"),
    ],
)
def test_a_wrong_file_never_gets_the_name(site, tmp_path, monkeypatch, content, message):
    site.content = content
    assert message in refused(monkeypatch, tmp_path, "cpn")
    assert names(tmp_path) == set()


def test_a_flipped_byte_is_found(site, tmp_path, monkeypatch):
    damaged = bytearray(site.content)
    damaged[len(damaged) // 2] ^= 1
    site.content = bytes(damaged)
    assert "damaged" in refused(monkeypatch, tmp_path, "cpn")


def test_a_bomb_is_not_opened(site, tmp_path, monkeypatch):
    site.content = archive({"positions_2d.npy": bytes(10**6)})
    monkeypatch.setattr(download, "_MAX_NPZ_BYTES", 10**5)
    assert "unpack to 1,000,000 bytes" in refused(monkeypatch, tmp_path, "cpn")


def test_a_bomb_in_a_zip_archive_is_not_unpacked(drive, tmp_path, monkeypatch):
    drive["content"] = archive({LABELS: bytes(10**6)})
    monkeypatch.setattr(download, "_MAX_NPZ_BYTES", 10**5)
    assert f"{LABELS} is far larger" in refused(monkeypatch, tmp_path, "labels")
    assert names(tmp_path) == set()


def test_a_pickle_that_runs_code_is_refused(site, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "executed").touch, ())

    buffer = io.BytesIO()
    np.savez(buffer, positions_2d=np.array(Evil(), dtype=object))
    site.content = buffer.getvalue()
    assert "nothing in it was executed" in refused(monkeypatch, tmp_path, "cpn")
    assert names(tmp_path) == set()


def test_another_file_than_recorded_is_refused(site, tmp_path, monkeypatch):
    run(monkeypatch, tmp_path, "cpn")
    recorded = (tmp_path / "SHA256SUMS").read_text()
    (tmp_path / CPN).unlink()
    other = npz("positions_2d", (*SUBJECTS, "S2"))
    site.content = other
    assert "SHA256SUMS" in refused(monkeypatch, tmp_path, "cpn")
    assert names(tmp_path) == {"SHA256SUMS"}
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  mine.npz\n")
    run(monkeypatch, tmp_path, "cpn")
    assert (tmp_path / CPN).read_bytes() == other
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert lines[1] == f"{'0' * 64}  mine.npz"
    assert lines[0] != recorded.strip()


def test_a_damaged_file_that_is_there_is_left_alone(site, tmp_path, monkeypatch):
    (tmp_path / CPN).write_bytes(b"mine")
    assert f"delete {tmp_path / CPN} first" in refused(monkeypatch, tmp_path, "cpn")
    assert (tmp_path / CPN).read_bytes() == b"mine"
    assert site.ranges == []


def test_a_full_disk_is_said(site, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", _full_disk)
    message = refused(monkeypatch, tmp_path, "cpn")
    assert "No space left on device" in message
    assert "free some space" in message


def _full_disk(self: Path, *args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("bad", ["what is this", f"{'a' * 63}  {CPN}", "a" * 64])
def test_bad_sums_are_named(tmp_path, monkeypatch, bad):
    (tmp_path / "SHA256SUMS").write_text(f"{'a' * 64}  fine.npz\n{bad}\n")
    assert bad[:40] in refused(monkeypatch, tmp_path, "--check")


def test_unknown_and_no_names(tmp_path, monkeypatch):
    assert "unknown name 'cpm'" in refused(monkeypatch, tmp_path, "cpm")
    assert "--check" in refused(monkeypatch, tmp_path)


# ---- Google Drive ----


def test_labels_as_a_single_npz(drive, tmp_path, monkeypatch):
    drive["content"] = npz("positions_3d")
    run(monkeypatch, tmp_path, "labels")
    assert drive["ids"] == ["1P7W3ldx2lxaYJJYcf3RG4Y9PsD4EJ6b0"]
    assert (tmp_path / LABELS).read_bytes() == drive["content"]
    assert names(tmp_path) == {LABELS, "SHA256SUMS"}


def test_labels_in_a_zip_archive(drive, tmp_path, monkeypatch):
    members = {
        f"../../{LABELS}": npz("positions_3d"),
        f"data/{GT}": npz("positions_2d"),
        "data/readme.txt": b"hello",
        f"__MACOSX/._{LABELS}": b"x",
    }
    drive["content"] = archive(members)
    folder = tmp_path / "a" / "dataset"
    run(monkeypatch, folder, "labels")
    assert names(folder) == {LABELS, GT, "SHA256SUMS"}
    assert (folder / LABELS).read_bytes() == members[f"../../{LABELS}"]
    assert (folder / GT).read_bytes() == members[f"data/{GT}"]
    assert names(tmp_path) == {"a"}
    assert set(download.read_sums(folder)) == {LABELS, GT}


def test_a_zip_archive_does_not_replace_what_is_there(drive, tmp_path, monkeypatch):
    mine = npz("positions_2d", (*SUBJECTS, "S2"))
    (tmp_path / GT).write_bytes(mine)
    drive["content"] = archive({LABELS: npz("positions_3d"), GT: npz("positions_2d")})
    run(monkeypatch, tmp_path, "labels")
    assert (tmp_path / GT).read_bytes() == mine


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({f"a/{LABELS}": b"1", f"b/{LABELS}": b"2"}, "twice"),
        ({LABELS: b"not an npz"}, "damaged"),
        ({LABELS: npz("positions_3d", SUBJECTS[1:])}, "lacks S1"),
        ({GT: npz("positions_2d")}, "no array 'positions_3d'"),
    ],
)
def test_a_zip_archive_of_wrong_files(drive, tmp_path, monkeypatch, members, message):
    drive["content"] = archive(members)
    assert message in refused(monkeypatch, tmp_path, "labels")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("folders", [SUBJECTS, SUBJECTS[:-1]])
def test_the_archive_needs_every_subject(drive, tmp_path, monkeypatch, folders):
    drive["content"] = archive({f"h36m/{who}/MyPoses/3D_positions/x.h5": b"x" for who in folders})
    if len(folders) == 7:
        run(monkeypatch, tmp_path, "archive")
        assert names(tmp_path) == {"h36m.zip", "SHA256SUMS"}
    else:
        assert "lacks S11" in refused(monkeypatch, tmp_path, "archive")
        assert names(tmp_path) == set()


def test_a_flipped_byte_in_the_archive_is_found(drive, tmp_path, monkeypatch):
    """Only the archive's own checksums can tell: its members are not opened here."""
    members = {f"h36m/{who}/x.h5": b"content of " + who.encode() for who in SUBJECTS}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:  # not compressed
        for name, content in members.items():
            file.writestr(name, content)
    drive["content"] = buffer.getvalue().replace(b"content of S8", b"content of S9")
    assert "damaged (in h36m/S8/x.h5)" in refused(monkeypatch, tmp_path, "archive")
    assert names(tmp_path) == set()


def test_quota_pages_of_google_drive(drive, tmp_path, monkeypatch):
    drive["content"] = PAGE
    message = refused(monkeypatch, tmp_path, "labels")
    assert "try again tomorrow" in message
    assert "drive.google.com/file/d/1P7W3ldx2lxaYJJYcf3RG4Y9PsD4EJ6b0/view" in message
    assert names(tmp_path) == set()
    drive["content"] = gdown.exceptions.FileURLRetrievalError("Cannot retrieve\nthe public link")
    assert "Cannot retrieve" in refused(monkeypatch, tmp_path, "archive")


def test_gdown_that_only_prints_its_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(gdown, "download", lambda **kwargs: None)
    assert "does not send the file" in refused(monkeypatch, tmp_path, "labels")


# ---- --check and --list ----


def table(capsys: pytest.CaptureFixture) -> dict[str, str]:
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


def test_check_of_an_empty_folder(tmp_path, monkeypatch, capsys):
    run(monkeypatch, tmp_path, "--check")
    found = table(capsys)
    assert found[LABELS] == "not there"
    assert found["main_gcn.py, gt"] == "python data/download.py labels"
    assert found["main_graph.py, cpn_ft_h36m_dbb"].split(" && ") == [
        "python data/download.py labels", "python data/download.py cpn"
    ]  # fmt: skip
    commands = found["main_graph.py, sh_pt_mpii"].split(" && ")
    archive_first = [command.split()[1] for command in commands[1:]]
    assert archive_first == ["data/download.py", "data/prepare_data_2d_h36m_sh.py"]
    assert found["main_gcn.py, 3dhp test"].count("prepare_data_3dhp") == 1


def test_check_of_whole_and_partial_files(site, tmp_path, monkeypatch, capsys):
    (tmp_path / LABELS).write_bytes(npz("positions_3d"))
    (tmp_path / "h36m.zip.partialab12.part").write_bytes(bytes(2_500_000))
    run(monkeypatch, tmp_path, "cpn")
    capsys.readouterr()
    run(monkeypatch, tmp_path, "--check")
    found = table(capsys)
    assert found[CPN].startswith("whole: 7 subjects")
    assert found[CPN].endswith("checksum as recorded")
    assert found[LABELS].endswith("checksum not recorded")
    assert found["h36m.zip"].startswith("partly there, 2.5 MB")
    assert found["main_gcn.py, gt"] == found["main_graph.py, cpn_ft_h36m_dbb"] == "ready"
    assert names(tmp_path) == {LABELS, CPN, "h36m.zip.partialab12.part", "SHA256SUMS"}


@pytest.mark.parametrize("how", ["truncated", "subjects", "other than recorded"])
def test_check_of_a_damaged_file(site, tmp_path, monkeypatch, capsys, how):
    run(monkeypatch, tmp_path, "cpn")
    (tmp_path / LABELS).write_bytes(npz("positions_3d"))
    replacement = {
        "truncated": site.content[:-100],
        "subjects": npz("positions_2d", SUBJECTS[:-1]),
        "other than recorded": npz("positions_2d", (*SUBJECTS, "S2")),
    }[how]
    (tmp_path / CPN).write_bytes(replacement)
    capsys.readouterr()
    message = refused(monkeypatch, tmp_path, "--check")
    assert CPN in message
    assert LABELS not in message
    found = table(capsys)
    assert found[CPN].startswith("DAMAGED")
    assert found["main_gcn.py, gt"] == "ready"
    assert found["main_graph.py, cpn_ft_h36m_dbb"] == "python data/download.py cpn"
    assert (tmp_path / CPN).read_bytes() == replacement


def test_check_of_the_bundled_data_is_status_0():
    script = Path(download.__file__).resolve()
    done = subprocess.run(
        [sys.executable, script, "--check", "--list"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"main_gcn.py, hdm05 +ready", done.stdout)
    assert re.search(r"detectron .*https://dl.fbaipublicfiles.com/", done.stdout)
