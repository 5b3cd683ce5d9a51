"""Poses from inputs: flipped twins, the refinement, and cameras that have to be known."""

from dataclasses import replace

import pytest
import torch

import opt
from common.camera import back_project_pose
from common.errors import UserError
from common.input_view import InputView, rotate
from common.metrics import root_centred
from common.person import Known, bone_lengths, proportions_and_size
from common.ray_fit import fit_to_rays, usual_sigmas
from common.skeleton import H36M_16, H36M_17
from data.datasets import H36M
from data.pose_dataset import PoseLoader, load_pose_datasets
from tests.conftest import SLICE, load_h36m
from training.lifter import Lifter, build_lifter, load_lifter

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


def test_there_is_no_refinement_unless_asked_for():
    lifter = build_lifter(opt.parse_graph(NOISY), "main_graph", None)
    assert lifter.networks().keys() == {"state_dict"}
    assert lifter_of("--post_refine")[1].networks().keys() == {"state_dict", "post_refine"}


@pytest.mark.parametrize("there", [True, False])
def test_a_refinement_is_loaded_ready_to_test_unless_it_is_not_wanted(tmp_path, there):
    _, made = lifter_of("--post_refine")
    weights = {key: network.state_dict() for key, network in made.networks().items()}
    if not there:
        del weights["post_refine"]
    path = tmp_path / "ckpt.pth.tar"
    torch.save({"model": made.arguments, "epoch": 1, **weights}, path)
    assert load_lifter(path, None, refined=False).post_refine is None
    found = load_lifter(path, None, refined=None)
    assert (found.post_refine is not None) is there
    assert not any(network.training for network in found.networks().values())
    assert not replace(found, screen_sigma=0.0).fits  # only where --ray_fit is asked for


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


class Stub(torch.nn.Module):
    """Gives back what it was built with, and keeps what it was called with."""

    def __init__(self, found: torch.Tensor | None = None) -> None:
        super().__init__()
        self.found = found

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        self.given = given
        return given[0] if self.found is None else self.found


@pytest.mark.parametrize("flip_test", [False, True])
def test_poses_of_a_rotated_view_come_back_to_camera_space(h36m_folder, flip_test):
    (dataset,) = load_h36m(h36m_folder)
    batch, view = dataset.batch(torch.arange(40)), InputView(True, True)
    _, rotation = view.apply(batch.inputs_2d, batch.intrinsics)
    exact = rotate(batch.targets_3d, rotation)
    given, _ = view.apply(batch.inputs_2d, batch.intrinsics)
    lifter = Lifter(Stub(exact), {}, view, H36M_16, flip_test)

    def with_twins(inputs):  # twins are in the same batch; each answers with its mirrored pose
        assert torch.equal(inputs[:40], given) and len(inputs) == 80
        return torch.cat([exact, H36M_16.flip(exact)])

    if flip_test:
        lifter.network.forward = with_twins
    assert (exact - batch.targets_3d).abs().max() > 0.01
    assert torch.allclose(
        lifter.lift(batch.inputs_2d, batch.intrinsics), batch.targets_3d, atol=1e-6
    )
    lifter.network.forward = lambda inputs: exact
    pose, target, same = lifter.pose_and_target(batch)
    assert torch.equal(pose, target) and torch.equal(same, rotation)


@pytest.mark.parametrize("true_root_depth", [True, False])
def test_the_depth_of_the_root_is_the_true_one_or_that_of_the_pose(h36m_folder, true_root_depth):
    (dataset,) = load_h36m(h36m_folder)
    batch, refinement = dataset.batch(torch.arange(40)), Stub()
    lifter = Lifter(
        Stub(), {}, InputView(), H36M_16, post_refine=refinement, true_root_depth=true_root_depth
    )
    # As it would be seen from 1.25 times as far away, and not centred.
    larger = 1.25 * batch.targets_3d + torch.tensor([0.1, -0.2, 0.3])
    assert lifter.refine(larger, batch) is larger
    depth = batch.root_3d[:, 2] * (1.0 if true_root_depth else 1.25)
    expected = back_project_pose(larger, batch.inputs_2d, depth, batch.intrinsics)
    pose, lifted = refinement.given
    assert pose is larger and torch.allclose(lifted, expected, atol=1e-3)


def test_poses_are_tested_before_and_after_refinement(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    batch = dataset.batch(torch.arange(8))
    before, after = torch.randn(2, 8, 16, 3)
    lifter = Lifter(Stub(before), {}, InputView(), H36M_16, post_refine=Stub(after))
    assert torch.equal(lifter.tested_pose(batch), before)
    assert torch.equal(lifter.refined_pose(batch), after)
    assert not lifter.network.training and not lifter.post_refine.training
    unknown = replace(dataset, intrinsics=torch.full_like(dataset.intrinsics, torch.nan))
    with pytest.raises(UserError, match="--no-post_refine"):
        lifter.check_data(unknown)


def test_known_lengths_are_imposed_on_the_rays_where_they_are_known(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    batch = dataset.batch(torch.arange(30))
    pose = 1.1 * batch.targets_3d + 0.03 * torch.randn(30, 16, 3)
    lifter = Lifter(Stub(pose), {}, InputView(), H36M_16, screen_sigma=0.0, ray_fit=True)
    proportions, size = proportions_and_size(batch.targets_3d, H36M_16)
    proportions[::2], size[:15] = torch.nan, torch.nan
    found = lifter.tested_pose(batch, known=Known(proportions, size))
    assert torch.equal(found[::2], lifter.tested_pose(batch)[::2])  # lengths unknown: no change
    own = bone_lengths(pose, H36M_16).mean(dim=1, keepdim=True)
    expected = proportions * torch.where(size.isnan().unsqueeze(1), own, size.unsqueeze(1))
    given = (batch.inputs_2d[1::2], batch.intrinsics[1::2], H36M_16, usual_sigmas(H36M_16))
    fitted = root_centred(fit_to_rays(pose[1::2], *given, expected[1::2]))
    assert torch.allclose(found[1::2], fitted, atol=1e-5)
