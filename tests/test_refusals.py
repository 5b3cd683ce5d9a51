"""Refusals that no other test reaches, in one table: what is given, and the line.

``pytest --refusals FILE`` lists for each refusal of the program the test that reaches it
(``tests/refusals.py``), and fails if there is one that none reaches.
"""

import http.client
import io
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from data import download, prepare_data_2d_h36m_sh, prepare_data_asfamc, prepare_data_h36m
from tests import h36m_miniature as mini
from tests import mocap_miniature as mocap
from tests.conftest import load_h36m, make_h36m
from tools import benchmark, same_weights, sweep
from training import distributed
from training.checkpoint import load_checkpoint

SKELETON = mocap.made_skeleton()
POSES_H5 = mini.h5_bytes(poses=np.zeros((2, 16, 2), dtype=np.float32))


def _unreachable(folder: Path) -> None:
    download.fetch_url("http://127.0.0.1:9/x", folder / "x.partial")


class _Broken:
    def read1(self, size: int) -> bytes:
        raise http.client.IncompleteRead(b"")


def _cut_off(folder: Path) -> None:
    list(download._blocks(_Broken()))


def _no_folder(folder: Path) -> None:
    (folder / "file").touch()
    download._fetch_all([next(iter(download.SOURCES))], folder / "file" / "dataset")


def _no_frames(folder: Path) -> None:
    make_h36m(folder, sequences=["Sitting"])
    load_h36m(folder, actions=["Walking"])


def _h5_archive(folder: Path, *names: str) -> Path:
    with tarfile.open(folder / "sh.tar", "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(POSES_H5)
            archive.addfile(member, io.BytesIO(POSES_H5))
    return folder / "sh.tar"


def _detections(*names: str):
    def read(folder: Path) -> None:
        prepare_data_2d_h36m_sh.read_detections(_h5_archive(folder, *names), "StackedHourglass")

    return read


def _motion(change):
    def read(folder: Path) -> None:
        text = change(mocap.amc_text(mocap.made_motion(2)))
        motion = prepare_data_asfamc.parse_amc(text, "x.amc")
        skeleton = prepare_data_asfamc.parse_asf(mocap.asf_text(SKELETON), "x.asf")
        prepare_data_asfamc.forward_kinematics(skeleton, motion, "x.amc")

    return read


def _two_clips(folder: Path) -> None:
    (folder / "HDM_xy.asf").write_text(mocap.asf_text(SKELETON))
    for stem in ("a/HDM_xy_squat_001_120.amc", "b/HDM_xy_squat_001_120.AMC"):
        (folder / stem).parent.mkdir()
        (folder / stem).write_text(mocap.amc_text(mocap.made_motion(8)), encoding="latin-1")
    prepare_data_asfamc.convert(folder, 120, 30)


def _no_rate(folder: Path) -> None:
    prepare_data_asfamc.main([str(folder), "--rate_out", "0", "--output", str(folder / "x.npz")])


def _strange_cdf(folder: Path) -> None:
    cdfwrite = pytest.importorskip("cdflib").cdfwrite
    with cdfwrite.CDF(folder / "x.cdf") as file:
        spec = {"Variable": "Pose", "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True,
                "Dim_Sizes": [3 * 2**20]}  # fmt: skip
        file.write_var(spec, var_data=np.zeros((1, 3 * 2**20), dtype=np.float32))
    prepare_data_h36m.read_cdf((folder / "x.cdf").read_bytes(), "x.cdf")


def _device_of_all(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    distributed.own_device(torch.device("cuda:0"))


def _too_few_gpus(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    distributed.own_device(torch.device("cuda"))


def _failing(monkeypatch, folder: Path) -> None:
    ended = subprocess.CompletedProcess([], 1, "", "no memory")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: ended)


def _memory_fails(folder: Path, monkeypatch) -> None:
    _failing(monkeypatch, folder)
    benchmark._in_process("ours", str(folder))


def _version_fails(folder: Path, monkeypatch) -> None:
    _failing(monkeypatch, folder)
    same_weights.train(folder, same_weights.CASES["published_gcn"], folder)


def _spec(text: str | None):
    def read(folder: Path) -> None:
        if text is not None:
            (folder / "spec.json").write_text(text)
        sweep.read_spec(folder / "spec.json")

    return read


def _sweep_into_a_file(folder: Path) -> None:
    (folder / "file").touch()
    with sweep._exclusive(folder / "file" / "out"):
        pass


TABLE = [
    (_unreachable, "http://127.0.0.1:9/x cannot be reached"),
    (_cut_off, "the transfer broke off"),
    (_no_folder, "cannot write"),
    (_no_frames, "data_3d_h36m.npz has no frames of Walking by S9, S11"),
    (_detections("S1/x.h5"), "has no files like S1/StackedHourglass/Directions_1.54138969.h5"),
    (
        _detections(*2 * ["S1/StackedHourglass/Directions_1.54138969.h5"]),
        "a second file of S1/Directions 1, camera 54138969",
    ),
    (lambda _: prepare_data_2d_h36m_sh.main([]), "give -pt or -ft, or both"),
    (_motion(lambda text: text.replace("rtibia", "ltibia")), "x.amc has a bone twice in a frame"),
    (_motion(lambda text: text.replace("head", "tail")), "x.amc does not fit its skeleton"),
    (
        _motion(lambda text: re.sub(r"(?m)^(head \S+) \S+$", r"\1", text)),
        "x.amc does not fit its skeleton: head has 1 angles",
    ),
    (_two_clips, "a second clip 'squat 1' of subject xy: remove one"),
    (_no_rate, "give frame rates of at least 1 Hz"),
    (_strange_cdf, "x.cdf: Pose holds no sequence but [3145728] numbers"),
    (load_checkpoint, "is a folder: give a file in it, such as ckpt_last.pth.tar"),
    (lambda _, patch: _device_of_all(patch), "is one for all processes: give --device cuda"),
    (lambda _, patch: _too_few_gpus(patch), "more processes than the 1 GPUs here"),
    (_memory_fails, "measuring the memory of ours failed: no memory"),
    (_version_fails, "failed: no memory"),
    (lambda _: same_weights.main(["a", "b", "--cases", "x"]), "unknown case 'x': there are"),
    (_spec(None), "cannot read"),
    (_spec("[]"), "a JSON object expected, see tools/sweep.py --help"),
    (_sweep_into_a_file, "cannot make"),
]


@pytest.mark.parametrize(("refused", "line"), TABLE, ids=[line for _, line in TABLE])
def test_each_is_one_line(refused, line, tmp_path, monkeypatch):
    arguments = (tmp_path, monkeypatch)[: refused.__code__.co_argcount]
    with pytest.raises(UserError) as error:
        refused(*arguments)
    assert line in " ".join(str(error.value).split())
