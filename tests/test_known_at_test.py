"""What a test knows of the persons and the cameras: flags, remarks, and what they do."""

import json
from dataclasses import replace

import pytest
import torch

import main_gcn
import main_graph
import opt
from common.errors import UserError
from common.person import proportions_and_size
from common.skeleton import H36M_16
from data.datasets import HDM05
from data.pose_dataset import load_pose_datasets
from tests.conftest import ROOT, SLICE
from training import calibration
from training.known_at_test import check_known_flags, known_at_test
from training.lifter import load_lifter

TOLD = ("--camera_rays", "--tell_body", "--tell_gravity")
EVERYTHING = ("--body", "medians", "--gravity", "camera", "--body_size", "camera_height")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two networks after an epoch: "told" is trained with more known at its last test."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in (("plain", ()), ("told", (*TOLD, *EVERYTHING))):
        place = ("--epochs", "1", "--name", name, "-c", str(folder))
        with pytest.MonkeyPatch.context() as patch:
            for picture in ("save_curves", "_draw_poses"):
                patch.setattr(f"training.report.{picture}", lambda path, *args: path.touch())
            main_gcn.main([*SLICE, *place, *flags])
    return folder


def results_of(call, runs, name, *flags, main=main_gcn.main):
    """The printed lines of a test, and its results file."""
    results = runs / "r.json"
    checkpoint = runs / name / "ckpt_last.pth.tar"
    given = (*SLICE, "--evaluate", checkpoint, "--results", results, *flags)
    status, out, err = call(main, *given)
    assert (status, err) == (0, "")
    return out, json.loads(results.read_text())


def test_figures_with_what_is_known_stand_apart_and_say_so(call, runs):
    _, plain = results_of(call, runs, "told")
    assert "known" not in plain and plain["results"].keys() == {"evaluated"}
    out, found = results_of(call, runs, "told", "--ray_fit", *EVERYTHING)
    assert found["results"].keys() == {"evaluated, known"} and "evaluated, known" in out
    for part in (
        "medians over the network's poses of the person, from the 2D of the same frames",
        "the camera's vertical",
        "the camera height and the person's 2D of the same frames",
    ):
        assert part in found["known"] and part in out
    for name in HDM05.subjects_test:
        body = found["bodies"][name]
        assert 0.2 < body["size_m"] < 0.4 and body["proportions"].keys() == {
            *body["proportion_errors_percent"]
        }
    out, oracle = results_of(call, runs, "told", "--body", "oracle", "--body_size", "oracle")
    assert oracle["results"].keys() == {"evaluated, oracle"}
    assert "ORACLE: the true proportions" in out and "ORACLE: the true size" in out
    figures = [r["results"] for r in (plain, found, oracle)]
    figures = {next(iter(results.values()))["mpjpe_mm"] for results in figures}
    assert len(figures) == 3


def test_a_training_ends_with_a_further_test(runs):
    content = json.loads((runs / "told" / "results.json").read_text())
    known = content["known_at_test"]
    assert content["results"].keys() == {"last", "best"} and "known" not in content
    assert known["results"].keys() == {"last, known"} and "camera height" in known["known"]
    assert known["results"]["last, known"]["mpjpe_mm"] != content["results"]["last"]["mpjpe_mm"]
    plain = json.loads((runs / "plain" / "results.json").read_text())
    assert "known_at_test" not in plain


def test_lengths_are_imposed_on_any_network(call, runs):
    _, fitted = results_of(call, runs, "plain", "--ray_fit")
    _, oracle = results_of(call, runs, "plain", "--ray_fit", "--body", "oracle")
    assert (
        oracle["results"]["evaluated, oracle"]["mpjpe_mm"]
        < fitted["results"]["evaluated"]["mpjpe_mm"]
    )


def test_what_would_change_nothing_is_refused(call, runs):
    checkpoint = runs / "plain" / "ckpt_last.pth.tar"
    for flags, line in (
        (("--gravity", "camera"), "--gravity: this network cannot be told where up is"),
        (("--body", "medians"), "--body: this network cannot be told a body: give --ray_fit"),
        (("--body_size", "oracle", "--ray_fit"), "--body_size: this network cannot be told a size"),
    ):
        status, _, err = call(main_gcn.main, *SLICE, "--evaluate", checkpoint, *flags)
        assert status == 2 and line in err and err.count("\n") == 1


def test_2d_joints_with_an_error_leave_the_body_unknown(call, runs):
    graph = (*SLICE, "-k", "noisy", "--joints", 16)
    status, _, err = call(
        main_graph.main, *graph, "--pro_train", 1, "-e", 1, "--name", "noisy", "-c", runs
    )
    assert (status, err) == (0, "")
    found = [
        results_of(call, runs, "noisy", "-k", "noisy", "--ray_fit", *flags, main=main_graph.main)
        for flags in ((), ("--body", "calibrate"))
    ]
    of_mm = (
        "of mm, proportions unknown: the 2D joints are off by 10 px at width 1,000, 1 px at most"
    )
    assert f"nothing is known: {of_mm}" in found[1][0]
    assert f"; {of_mm.replace('of mm', 'of tr')}" in found[1][0]
    figures = [found[0][1]["results"]["xyz"], found[1][1]["results"]["xyz, nothing known"]]
    assert figures[0]["mpjpe_mm"] == figures[1]["mpjpe_mm"]
    flags = ("--ray_fit", "--body", "calibrate", "--body_size", "oracle")
    refused = call(
        main_graph.main, *graph, "--evaluate", runs / "noisy" / "ckpt_last.pth.tar", *flags
    )
    assert refused[0] == 0 and f"the true size of each person. But {of_mm}" in refused[1]


def test_each_pose_gets_what_is_known_of_its_person_and_camera(runs, monkeypatch):
    monkeypatch.setattr(calibration, "_FEWEST_FRAMES", 10**6)
    (dataset,) = load_pose_datasets(
        HDM05, ROOT / "dataset", [HDM05.subjects_test], H36M_16, downsample=60
    )
    lifter = load_lifter(runs / "told" / "ckpt_last.pth.tar", None)

    def known_of(*flags):
        args = opt.parse_gcn(["--dataset", "hdm05", *flags])
        check_known_flags(args, lifter, dataset)
        return known_at_test(args, lifter, dataset)

    assert known_of() is None
    oracle = known_of("--body", "oracle", "--body_size", "oracle", "--gravity", "camera")
    truth, size = proportions_and_size(dataset.targets_3d, H36M_16)
    for number in range(len(dataset.subjects)):
        rows = dataset.subject == number
        assert torch.allclose(oracle.known.proportions[rows], truth[rows].mean(dim=0), atol=1e-5)
        assert torch.allclose(oracle.known.size[rows], size[rows].mean(), atol=1e-5)
    everything = dataset.batch(torch.arange(len(dataset)))
    assert torch.equal(oracle.known.up, everything.up) and oracle.kind == "oracle"
    nothing = known_of("--body", "medians")
    assert nothing.known.proportions.isnan().all() and nothing.known.size.isnan().all()
    assert nothing.known.up is None and "frames are too few" in nothing.remark
    unknown = replace(dataset, intrinsics=dataset.intrinsics * torch.nan)
    args = opt.parse_gcn(["--dataset", "hdm05", "--body", "medians"])
    with pytest.raises(UserError, match="are not known: leave out --body"):
        check_known_flags(args, lifter, unknown)
