"""Poses from inputs: flipped twins, the refinement, and cameras that have to be known."""

from dataclasses import replace

import pytest
import torch

import opt
from common.errors import UserError
from common.input_view import InputView
from common.skeleton import H36M_16, H36M_17
from data.datasets import H36M
from data.pose_dataset import PoseLoader, load_pose_datasets
from tests.conftest import SLICE, load_h36m
from training.lifter import Lifter, build_lifter

NOISY = [*SLICE, "--keypoints", "noisy"]


def test_unknown_cameras_are_refused(h36m_folder):
    (dataset,) = load_pose_datasets(H36M, h36m_folder, [["S9"]], H36M_16)
    unknown = replace(dataset, intrinsics=torch.full_like(dataset.intrinsics, torch.nan))
    for view in (InputView(camera_rays=True), InputView(root_view=True)):
        lifter = Lifter(torch.nn.Identity(), {}, view, H36M_16)
        lifter.check_data(dataset)
        with pytest.raises(UserError, match="cameras of h36m are not known"):
            lifter.check_data(unknown)
    Lifter(torch.nn.Identity(), {}, InputView(), H36M_16).check_data(unknown)


def lifter_of(*flags):
    args = opt.parse_graph([*NOISY, *flags])
    return args, build_lifter(args, "main_graph", None, bool(args.post_refine))


@pytest.mark.parametrize("refine", [False, True])
def test_evaluation_does_not_depend_on_the_batches(h36m_folder, refine):
    from training.engine import evaluate

    (dataset,) = load_h36m(h36m_folder, H36M_17, keypoints="noisy")
    flags = ["--post_refine", "--root_depth", "estimate"] if refine else []
    _, lifter = lifter_of(*flags)
    pose_of = lifter.refined_pose if refine else lifter.tested_pose
    tables = [evaluate(pose_of, PoseLoader(dataset, size)) for size in (1, 256, 37)]

    class Mixed(PoseLoader):
        def ordered_batches(self):
            return (self.dataset.batch(i) for i in torch.randperm(len(dataset)).split(19))

    tables.append(evaluate(pose_of, Mixed(dataset, 19)))
    for table in tables[1:]:
        for action, row in tables[0]["per_action"].items():
            for metric, value in row.items():
                other = table["per_action"][action][metric]
                assert (value is None) == (other is None)
                assert value is None or abs(value - other) < 1e-4


def test_flipped_twins_are_averaged_at_test(h36m_folder):
    (dataset,) = load_h36m(h36m_folder, H36M_17)
    _, lifter = lifter_of()
    lifter.network.eval()
    batch = dataset.batch(torch.arange(8))
    twin = batch.mirrored(torch.ones(8, dtype=torch.bool), dataset.skeleton)
    mean = (lifter.network(batch.inputs_2d) + H36M_17.flip(lifter.network(twin.inputs_2d))) / 2
    assert torch.allclose(lifter.tested_pose(batch), mean, atol=1e-6)
    # so the prediction of a mirrored input is the mirrored prediction
    mirrored = H36M_17.flip(lifter.tested_pose(twin))
    assert torch.allclose(mirrored, lifter.tested_pose(batch), atol=1e-6)
