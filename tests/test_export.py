"""Networks for other programs."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from common.camera import normalize_screen_coordinates
from common.errors import UserError
from common.extras import require
from common.metrics import root_centred
from common.person import Known, PersonStatistics
from models.build import MODELS, build_model
from models.pose_refine import PoseRefine
from tests.conftest import ROOT
from tools import benchmark, export
from training.lifter import load_lifter


@pytest.fixture
def checkpoint(tmp_path):
    """Arguments -> the file of an untrained network, with a refinement where asked for."""

    def write(name="gcn", rays=False, refined=False, told=False):
        arguments = {
            "name": name, "joints": 16, "hid_dim": 4, "num_layers": 1,
            "in_dim": (4 if rays else 2) + 8 * told, "camera_rays": rays, "root_view": rays,
            "tell_body": told, "tell_gravity": told, "tell_noise": told,
        }  # fmt: skip
        weights = build_model(arguments).state_dict()
        for values in weights.values():
            if values.ndim > 1:
                values /= 2  # poses of the size of people: float32 has fewer digits of larger ones
        state = {"state_dict": weights, "model": arguments}
        if told:
            state["persons"] = PersonStatistics(
                (1.0,) * 15, 0.25, 0.07, 0.0, (0.004,) * 15, 0.006
            ).plain()
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


def known_of(count: int) -> Known:
    """All of the first pose, nothing of the second, and no size of the others."""
    known = Known(
        1 + 0.1 * torch.randn(count, 15), 0.25 + 0.02 * torch.randn(count),
        normalize(torch.randn(count, 3), dim=1), 0.01 + 0.01 * torch.rand(count),
    )  # fmt: skip
    known.size[2:] = torch.nan
    for values in vars(known).values():
        values[1] = torch.nan
    return known


@torch.no_grad()
def assert_poses_of_torch(found, path, screen, known, flip_test, intrinsics=None):
    """Found (B, J, 3) are those of the checkpoint, told what is known; and all of it matters."""
    lifter = load_lifter(path, flip_test)
    pose, untold = (root_centred(lifter.lift(screen, intrinsics, k)) for k in (known, None))
    assert (found - pose).abs().max() < export.TOLERANCE
    assert (found[1] - untold[1]).abs().max() < export.TOLERANCE
    for name in vars(known):
        fewer = root_centred(lifter.lift(screen, intrinsics, replace(known, **{name: None})))
        assert (found[0] - fewer[0]).abs().max() > 10 * export.TOLERANCE


def made_pixels(count: int) -> torch.Tensor:
    return torch.rand(count, 16, 2) * torch.tensor([640.0, 480.0])


@pytest.fixture
def example(monkeypatch):
    """The main of examples/lift_onnx.py."""
    monkeypatch.syspath_prepend(export.Path(export.__file__).parents[1] / "examples")
    return __import__("lift_onnx").main


@pytest.mark.slow  # the exporter takes seconds
def test_onnx_gives_the_poses_of_torch_for_any_number_of_them(
    with_onnx, checkpoint, call, example, tmp_path
):
    path, out = checkpoint(), tmp_path / "pose.onnx"
    status, printed, err = call(export.main, path, "-o", out, "--flip_test", "--unit", "mm")
    assert (status, err) == (0, "") and "as torch within" in printed
    pixels = made_pixels(5)
    np.save(tmp_path / "k.npy", pixels.numpy())
    found = example(out, tmp_path / "k.npy", 640, 480)
    np.save(tmp_path / "scored.npy", np.ones((5, 16, 3)))
    with pytest.raises(SystemExit, match=r"scored.npy: \(5, 16, 3\), not \(T, J, 2\) of .*RHip"):
        example(out, tmp_path / "scored.npy", 640, 480)
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


@pytest.mark.parametrize("rays", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_pt2_is_told_what_is_known(rays, checkpoint, call, tmp_path):
    path, out, known = checkpoint(rays=rays, told=True), tmp_path / "p.pt2", known_of(5)
    status, printed, _ = call(export.main, path, "-o", out, *["--flip_test"] * rays)
    assert status == 0
    for name, shape in (("proportions", "(batch, 15)"), ("size", "(batch,)"), ("up", "(batch, 3)")):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{name}: {shape}"))
        assert "NaN" in line and "not known" in line
    screen = normalize_screen_coordinates(made_pixels(5), 640, 480)
    camera = [torch.tensor([2.0, 2, 0, 0, 0, 0, 0, 0, 0]).repeat(5, 1)] * rays
    found = torch.export.load(out).module()(screen, *camera, **vars(known))
    assert_poses_of_torch(found, path, screen, known, rays, *camera)


@pytest.mark.parametrize("arguments", [(), ("no.onnx", "no.npy", "640", "480")])
def test_the_example_says_how_it_is_called(with_onnx, arguments):
    script = ROOT / "examples" / "lift_onnx.py"
    assert len(script.read_text().splitlines()) <= 30
    run = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert run.returncode == 1 and "python lift_onnx.py pose.onnx keypoints.npy W H" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_an_onnx_is_told_what_is_known(with_onnx, checkpoint, call, example, tmp_path):
    path, out, known = checkpoint(told=True), tmp_path / "p.onnx", known_of(5)
    assert call(export.main, path, "-o", out)[0] == 0
    pixels = made_pixels(5)
    np.save(tmp_path / "k.npy", pixels.numpy())
    np.savez(tmp_path / "told.npz", **vars(known))
    given = (out, tmp_path / "k.npy", 640, 480)
    found, untold = (torch.from_numpy(example(*given, *t)) for t in ((tmp_path / "told.npz",), ()))
    screen = normalize_screen_coordinates(pixels, 640, 480)
    assert_poses_of_torch(found, path, screen, known, False)
    unknown = Known(*(torch.full_like(v, torch.nan) for v in vars(known).values()))
    with torch.no_grad():
        pose = root_centred(load_lifter(path, False).lift(screen, None, unknown))
    assert (untold - pose).abs().max() < export.TOLERANCE
    one = {name: values[0].numpy() for name, values in vars(known).items()}  # for all images
    np.savez(tmp_path / "told.npz", **one)
    assert np.allclose(example(*given, tmp_path / "told.npz")[0], found[0], atol=1e-5)
    np.savez(tmp_path / "told.npz", hight=1.8)
    with pytest.raises(SystemExit, match="cannot be told hight"):
        example(*given, tmp_path / "told.npz")


@pytest.mark.slow
def test_the_bare_network_that_can_be_told_as_onnx(with_onnx, checkpoint, call, tmp_path):
    path, out = checkpoint(rays=True, told=True), tmp_path / "p.onnx"
    status, printed, _ = call(export.main, path, "-o", out, "--no-input_view")
    assert status == 0 and "keypoints: (batch, 16, 12)" in printed and "\nup: " not in printed


def test_a_missing_package_is_named_with_the_file_of_requirements(
    checkpoint, call, tmp_path, monkeypatch
):
    lines = (ROOT / "requirements-export.txt").read_text().splitlines()
    modules = [line.partition(">=")[0].replace("-", "_") for line in lines if line[0] != "#"]
    assert {"onnx", "onnxscript", "onnxruntime", "imageio_ffmpeg"} == set(modules)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        with pytest.raises(UserError, match=rf"{module} is .*: pip install -r requirements-export"):
            require(module)
    status, _, err = call(export.main, checkpoint(), "-o", tmp_path / "p.onnx")
    assert status == 2 and "-r requirements-export.txt" in err and err.count("\n") == 1


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
@pytest.mark.parametrize("rays, told", [(False, False), (True, True)])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_as_onnx(with_onnx, name, rays, told, checkpoint, call, tmp_path):
    path, out = checkpoint(name, rays, told=told), tmp_path / "p.onnx"
    status, printed, err = call(export.main, path, "-o", out)
    assert (status, err) == (0, "")
    assert ("\nintrinsics: " in printed, "\nup: " in printed) == (rays, told)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("rays, told", [(False, False), (True, False), (False, True)])
def test_refinement(with_onnx, rays, told, suffix, checkpoint, call, tmp_path):
    """The root's depth is estimated, as predict.py would have to."""
    path, out = checkpoint("mgcn", rays, True, told), tmp_path / f"p.{suffix}"
    status, printed, err = call(export.main, path, "-o", out)
    assert (status, err) == (0, "") and "refined: true" in printed and "intrinsics: " in printed


@pytest.mark.slow
def test_the_speed_is_measured(with_onnx, call):
    status, out, _ = call(benchmark.main, "--deploy", "-z", 4, "--turns", 1)
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and [row[-5] for row in rows[:2]] == ["torch", "onnxruntime"]
    assert len(rows) == 6 and all(float(row[-1].replace(",", "")) > 0 for row in rows)
