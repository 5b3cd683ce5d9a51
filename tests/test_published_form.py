"""Errors as the published code computes them, against the in-place subtraction itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import main_gcn
from common.skeleton import H36M_16
from data.datasets import HDM05, MPI_INF_3DHP
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader, load_pose_datasets
from models.build import build_model
from tests.conftest import ROOT, SLICE
from tools.textbook import textbook_p_mpjpe
from training.engine import evaluate
from training.lifter import load_lifter
from training.report import format_table

ACTIONS = ["throwBasketball", "squat"]
FLAGS = [*SLICE, "--actions", ",".join(ACTIONS), "--downsample", "40"]


def load(info=HDM05) -> PoseDataset:
    splits = [HDM05.subjects_test]
    return load_pose_datasets(info, ROOT / "dataset", splits, H36M_16, "gt", ACTIONS, 40)[0]


def published_errors(pose: torch.Tensor, dataset: PoseDataset) -> dict[str, np.ndarray]:
    """(N, 2) MPJPE and P-MPJPE in mm of each frame, by action."""
    with torch.inference_mode():
        pose = pose.clone(memory_format=torch.contiguous_format)
        pose[:, :, :] -= pose[:, :1, :]  # in place, as published: only joint 0 becomes zero
    pairs = list(zip(pose.numpy().astype(float), dataset.targets_3d.numpy(), strict=True))
    errors = np.array(
        [[np.linalg.norm(p - t, axis=1).mean(), textbook_p_mpjpe(p, t)] for p, t in pairs]
    )
    action = dataset.action.numpy()
    return {name: 1000 * errors[action == i] for i, name in enumerate(dataset.actions)}


def assert_published(found: dict, expected: dict[str, np.ndarray]) -> None:
    keys = ("mpjpe_mm", "p_mpjpe_mm")
    frames = np.concatenate(list(expected.values()))
    for name, errors in expected.items():
        row = found["per_action"][name]
        assert [row[key] for key in keys] == pytest.approx(errors.mean(axis=0), abs=1e-3)
        assert row["frames"] == len(errors)
    over_actions = np.mean([errors.mean(axis=0) for errors in expected.values()], axis=0)
    assert [found[key] for key in keys] == pytest.approx(over_actions, abs=1e-3)
    over_frames = [found["over_frames"][key] for key in keys]
    assert over_frames == pytest.approx(frames.mean(axis=0), abs=1e-3)
    assert abs(over_frames[0] - found["mpjpe_mm"]) > 0.1  # or the two means were not told apart


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.pth.tar"
    network = build_model({"joints": 16, "hid_dim": 16, "num_layers": 1})
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, path)
    return path


@pytest.mark.parametrize("flip", [[], ["--flip_test"]])
def test_results_hold_the_published_form_by_action(call, checkpoint, tmp_path, flip):
    results = tmp_path / "r.json"
    status, out, err = call(
        main_gcn.main, *FLAGS, "--evaluate", checkpoint, "--results", results, *flip
    )
    assert (status, err) == (0, "")
    summary = json.loads(results.read_text())["results"]["evaluated"]
    dataset = load()
    with torch.inference_mode():
        pose = load_lifter(checkpoint, bool(flip)).lift(dataset.inputs_2d, None)
    found = summary["published_form"]
    assert_published(found, published_errors(pose, dataset))
    assert abs(found["mpjpe_mm"] - summary["mpjpe_mm"]) > 1  # an untrained root lies far off
    (line,) = (line for line in out.splitlines() if "published code" in line)
    figures = f"{found['mpjpe_mm']:.2f} / {found['p_mpjpe_mm']:.2f}"
    assert line.startswith(f"as the published code computes it: {figures}")


def test_any_prediction_is_scored_so_and_only_on_data_of_this_protocol():
    dataset = load()
    made = torch.randn(len(dataset), 16, 3)

    def pose_of(batch: PoseBatch) -> torch.Tensor:
        return made[batch.index]

    found = evaluate(pose_of, PoseLoader(dataset, 37))
    assert_published(found["published_form"], published_errors(made, dataset))
    other = replace(dataset, info=replace(HDM05, h36m_protocol=False))
    plain = evaluate(pose_of, PoseLoader(other, 37))
    assert "published_form" not in plain and "published code" not in format_table({"a": plain}, "")
    assert plain == {key: found[key] for key in plain}
    assert not MPI_INF_3DHP.h36m_protocol
