"""The tool that compares the weights of two versions, on versions made up for it."""

import json

import numpy as np
import pytest
import torch

from tools import same_weights as tool
from tools.same_weights import CASES, difference

# A version: it "trains" the weights that lie beside it.
SCRIPT = """
import pathlib, shutil, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(flags["--checkpoint"], flags["--name"])
folder.mkdir(parents=True)
for name in ("ckpt_last.pth.tar", "results.json"):
    shutil.copy(pathlib.Path(__file__).parent / name, folder)
"""


@pytest.fixture
def version(tmp_path):
    def make(name: str, weight: float):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "main_gcn.py").write_text(SCRIPT)
        torch.save({"state_dict": {"w": torch.tensor([1.0, weight])}}, folder / tool.LAST)
        row = {"mpjpe_mm": 50.0, "p_mpjpe_mm": 40.0, "frames": 3}
        nothing = {"mpjpe_mm": None, "p_mpjpe_mm": None, "frames": 0}
        last = {"per_action": {"walk": row, "absent": nothing}}
        (folder / tool.RESULTS).write_text(json.dumps({"results": {"last": last}}))
        return folder

    return make


def test_the_same_weights_are_the_same_bits_and_are_stored(version, tmp_path, call):
    old, new = version("old", 2.0), version("new", 2.0)
    (tmp_path / "golden").mkdir()
    flags = ["--cases", "published_gcn", "--store", tmp_path / "golden"]
    status, out, err = call(tool.main, old, new, *flags)
    assert status == 0 and "published_gcn: the same bits" in out + err
    with np.load(tmp_path / "golden/published_gcn.npz") as stored:
        found = {key: stored[key].tolist() for key in stored}
    assert found == {
        "state_dict w": [1.0, 2.0], "table mpjpe_mm": [50.0], "table p_mpjpe_mm": [40.0],
    }  # fmt: skip


def test_other_weights_are_named_with_status_1(version, call):
    status, out, err = call(
        tool.main, version("old", 2.0), version("new", 2.5), "--cases", "published_gcn"
    )
    assert status == 1 and "published_gcn: state_dict w: by up to 5.00e-01" in out + err


def test_a_version_that_fails_and_an_unknown_case_are_one_line(version, call):
    broken = version("broken", 1.0)
    (broken / "main_gcn.py").write_text("raise SystemExit('error: no data')")
    status, _, err = call(tool.main, broken, broken, "--cases", "published_gcn")
    assert status == 2 and "failed: error: no data" in err
    status, _, err = call(tool.main, broken, broken, "--cases", "nothing")
    assert status == 2 and "unknown case 'nothing'" in err


def test_names_and_shapes_differ_before_values_do():
    one = {"a": torch.zeros(2)}
    assert difference(one, {"b": torch.zeros(2)}) == "only one of them has a"
    assert difference(one, {"a": torch.zeros(3)}) == "a: (2,) and (3,)"
    assert difference(one, {"a": torch.zeros(2)}) is None


def test_a_resumed_case_calls_twice(tmp_path):
    first, second = CASES["resumed"].calls(tmp_path / "run")
    assert first[-2:] == ["--epochs", "1"] and second[-2:] == ["--epochs", "2"]
    assert second[:2] == ["--resume", str(tmp_path / "run" / tool.LAST)]
