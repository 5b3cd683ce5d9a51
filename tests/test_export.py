"""Networks for other programs."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from common.camera import normalize_screen_coordinates
from models.build import MODELS, build_model
from models.pose_refine import PoseRefine
from tools import benchmark, export
from training.lifter import load_lifter


@pytest.fixture
def checkpoint(tmp_path):
    """Arguments -> the file of an untrained network, with a refinement where asked for."""

    def write(name="gcn", rays=False, refined=False):
        arguments = {
            "name": name, "joints": 16, "hid_dim": 4, "num_layers": 1,
            "in_dim": 4 if rays else 2, "camera_rays": rays, "root_view": rays,
        }  # fmt: skip
        state = {"state_dict": build_model(arguments).state_dict(), "model": arguments}
        if refined:
            state["post_refine"] = PoseRefine(16).state_dict()
        torch.save(state, tmp_path / "c.pth.tar")
        return tmp_path / "c.pth.tar"

    return write


@pytest.fixture
def with_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="requirements-export.txt is not installed")


def first(results):
    """The same function of the first coordinate, for all three."""
    return lambda inputs: results(inputs[..., :1])


def made_pixels(count: int) -> torch.Tensor:
    return torch.rand(count, 16, 2) * torch.tensor([640.0, 480.0])


@pytest.mark.slow  # the exporter takes seconds
def test_onnx_gives_the_poses_of_torch_for_any_number_of_them(
    with_onnx, checkpoint, call, tmp_path, monkeypatch
):
    path, out = checkpoint(), tmp_path / "pose.onnx"
    status, printed, err = call(export.main, path, "-o", out, "--flip_test", "--unit", "mm")
    assert (status, err) == (0, "") and "as torch within" in printed
    pixels = made_pixels(5)
    np.save(tmp_path / "k.npy", pixels.numpy())
    monkeypatch.syspath_prepend(export.Path(export.__file__).parents[1] / "examples")
    found = __import__("lift_onnx").main(out, tmp_path / "k.npy", 640, 480)
    lifter = load_lifter(path, flip_test=True)
    with torch.no_grad():
        pose = lifter.lift(normalize_screen_coordinates(pixels, 640, 480), None)
    assert np.abs(found - 1000 * (pose - pose[:, :1]).numpy()).max() < 1e-2
    import onnxruntime

    facts = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert json.loads(facts["joints"]) == list(lifter.skeleton.names)
    assert (facts["unit"], facts["flip_test"], facts["refined"]) == ("mm", "true", "false")
    assert "u = 2 x / w - 1" in facts["keypoints"] and "intrinsics" not in facts


def test_the_bare_network_as_pt2(checkpoint, call, tmp_path):
    path, out = checkpoint(rays=True), tmp_path / "pose.pt2"
    assert call(export.main, path, "-o", out, "--no-input_view")[0] == 0
    inputs = torch.rand(3, 16, 4)
    found = torch.export.load(out).module()(inputs)
    with torch.no_grad():
        pose = load_lifter(path, flip_test=False).network(inputs)
    assert torch.allclose(found, pose - pose[:, :1], atol=1e-6)


def test_what_cannot_be_exported_is_refused(checkpoint, call, tmp_path, monkeypatch):
    def refused(*flags):
        status, _, err = call(export.main, *flags)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
        return err

    path, out = checkpoint(), tmp_path / "p.pt2"
    assert ".onnx or .pt2" in refused(path, "-o", tmp_path / "p.txt")
    assert "leave out" in refused(path, "-o", out, "--no-input_view", "--flip_test")
    assert "no refinement" in refused(path, "-o", out, "--post_refine")
    for factor in (1.0, float("nan")):
        results = partial(torch.mul, torch.tensor(factor))
        monkeypatch.setitem(
            export._FORMATS, ".pt2", (lambda path, *_: path.touch(), lambda _, r=results: first(r))
        )
        assert "differs" in refused(path, "-o", out, "--no-input_view")
    assert not out.exists()
    out.touch()
    assert "--force" in refused(path, "-o", out)


@pytest.mark.slow
@pytest.mark.parametrize("rays", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_as_onnx(with_onnx, name, rays, checkpoint, call, tmp_path):
    status, _, err = call(export.main, checkpoint(name, rays), "-o", tmp_path / "p.onnx")
    assert (status, err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("rays", [False, True])
def test_refinement(with_onnx, rays, suffix, checkpoint, call, tmp_path):
    """The root's depth is estimated, as predict.py would have to."""
    path, out = checkpoint("mgcn", rays, refined=True), tmp_path / f"p.{suffix}"
    status, printed, err = call(export.main, path, "-o", out)
    assert (status, err) == (0, "") and "refined: true" in printed and "intrinsics: " in printed


@pytest.mark.slow
def test_the_speed_is_measured(with_onnx, call):
    status, out, _ = call(benchmark.main, "--deploy", "-z", 4, "--turns", 1)
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and [row[-5] for row in rows[:2]] == ["torch", "onnxruntime"]
    assert len(rows) == 6 and all(float(row[-1].replace(",", "")) > 0 for row in rows)
