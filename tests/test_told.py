"""Networks that are told whose body they see and where up is: channels, training, checkpoints."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import main_gcn
import main_graph
import opt
from common.camera import undistort
from common.input_view import InputView
from common.person import Known, PersonStatistics, proportions_and_size
from common.skeleton import BONE_GROUPS, H36M_16, H36M_17
from common.told_channels import ToldChannels
from data.augment import Augmentation
from data.datasets import H36M
from data.pose_dataset import PoseLoader, augment_batch
from data.telling import Telling
from models.build import MODELS
from tests.conftest import SLICE, load_h36m, make_h36m
from training.checkpoint import load_checkpoint
from training.lifter import Lifter, build_lifter, known_screen_sigma, load_lifter
from training.load_data import training_loader
from training.person_statistics import person_statistics, with_errors

MEANS = tuple(torch.linspace(0.6, 1.4, 15).tolist())
STATISTICS = PersonStatistics(MEANS, 0.25, 0.07, 0.0, (0.004,) * 15, 0.006)
TOLD = ["--tell_body", "--tell_gravity", "--tell_noise"]


def appended(known, told, rotation=None):
    """The channels behind two of the input, (B, 16, n)."""
    found = told.appended(torch.ones(3, 16, 2), known, rotation, STATISTICS)
    assert torch.equal(found[..., :2], torch.ones(3, 16, 2))
    return found[..., 2:]


def test_the_body_is_four_channels_a_joint():
    proportions = torch.tensor(MEANS).repeat(3, 1)
    proportions[0, 4] += 0.05
    proportions[2] = torch.nan
    size = torch.tensor([0.3, torch.nan, 0.25])
    found = appended(Known(proportions, size), ToldChannels(body=True))
    length, length_known, of_size, size_known = found.unbind(2)
    expected = torch.zeros(3, 16)
    expected[0, 5] = 1.0  # bone 4 ends at joint 5
    assert torch.allclose(length, expected, atol=1e-5)
    assert torch.equal(length_known, torch.tensor([1.0, 1, 0]).unsqueeze(1).expand(3, 16))
    assert torch.allclose(of_size, torch.tensor([4.0, 0, 0]).unsqueeze(1), atol=1e-5)
    assert torch.equal(size_known, torch.tensor([1.0, 0, 1]).unsqueeze(1).expand(3, 16))


def test_the_vertical_is_three_channels_in_the_space_of_the_view():
    up = torch.nn.functional.normalize(torch.randn(3, 3), dim=1)
    up[1] = torch.nan
    rotation = torch.linalg.qr(torch.randn(3, 3, 3))[0]
    found = appended(Known(up=up), ToldChannels(gravity=True), rotation)
    assert found[1].abs().max() == 0
    for row in (0, 2):
        assert torch.allclose(found[row], (rotation[row] @ up[row]).expand(16, 3), atol=1e-6)


def test_the_noise_of_the_2d_joints_is_a_channel():
    told, pixel = ToldChannels(noise=True), 0.002
    known = Known(screen_sigma=torch.tensor([0, 2 * pixel, torch.nan]))
    found = told.appended(torch.ones(3, 16, 2), known, None, None, screen_sigma=6 * pixel)[..., 2:]
    assert torch.allclose(found, torch.tensor([0, 0.5, 0.75]).view(3, 1, 1).expand(3, 16, 1))
    assert not appended(None, told).count_nonzero()


@pytest.mark.parametrize(
    "told", [ToldChannels(True, True, True), ToldChannels(True), ToldChannels()]
)
def test_channels_of_what_is_not_known_are_zero(told):
    unknown = Known(*(torch.full(shape, torch.nan) for shape in ((3, 15), (3,), (3, 3), (3,))))
    for known in (None, Known(), unknown):
        found = appended(known, told)
        assert found.shape[2] == told.count and not found.count_nonzero()


class Recorder(torch.nn.Module):
    """Keeps its inputs, and gives back zero poses."""

    def forward(self, inputs):
        self.inputs = inputs
        return inputs.new_zeros(*inputs.shape[:2], 3)


def test_the_mirrored_twin_is_told_the_mirrored_vertical(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    batch, told = dataset.batch(torch.arange(9)), ToldChannels(True, True)
    lifter = Lifter(Recorder(), {}, InputView(True, True), H36M_16, told=told, persons=STATISTICS)
    known = Known(*proportions_and_size(batch.targets_3d, H36M_16), batch.up)
    twin = batch.mirrored(torch.ones(9, dtype=torch.bool), H36M_16)
    lifter.lift(twin.inputs_2d, twin.intrinsics, replace(known, up=twin.up))
    expected = lifter.network.inputs
    replace(lifter, flip_test=True).lift(batch.inputs_2d, batch.intrinsics, known)
    assert torch.allclose(lifter.network.inputs[9:], expected, atol=1e-6)  # twins are last
    assert expected.shape[2] == lifter.in_dim == 11


def known_of(dataset, telling, epoch=1, batch_id="0"):
    batch = dataset.batch(torch.arange(len(dataset)).repeat(20))
    pose = (batch.targets_3d, batch.up, dataset.skeleton)
    return batch, telling.known_of(*pose, epoch, batch_id)


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_what_is_told_is_near_the_truth_and_often_withheld(h36m_folder, skeleton):
    (dataset,) = load_h36m(h36m_folder, skeleton)
    groups = torch.tensor(skeleton.bone_groups())
    for epoch, head_sigma in ((1, 0.01), (2, 0.07)):
        batch, known = known_of(dataset, Telling(True, True, last_epoch=2), epoch)
        proportions, size = proportions_and_size(batch.targets_3d, skeleton)
        shares = [v.isfinite().float().mean() for v in (known.proportions, known.size, known.up)]
        assert torch.allclose(torch.stack(shares), torch.tensor([0.6, 0.4, 0.6]), atol=0.03)
        error = (known.proportions / proportions).log()
        error = error[error.isfinite().all(dim=1)]
        assert torch.allclose(known.proportions.nansum(1)[known.proportions[:, 0] > 0],
                              torch.tensor(skeleton.num_joints - 1.0))  # fmt: skip
        for number, group in enumerate(BONE_GROUPS):
            of_group = error[:, groups == number]
            assert (of_group - of_group[:, :1]).abs().max() < 1e-5  # one error for all its bones
            sigma = head_sigma if "Head" in group else 0.01
            assert of_group.std() == pytest.approx(sigma, rel=0.25)
        assert (known.size / size).log().nan_to_num().square().sum() / (0.4 * len(batch)) == (
            pytest.approx(0.015**2, rel=0.2)
        )
        there = known.up.isfinite().all(dim=1)
        assert torch.equal(known.up[there], batch.up[there])
    assert known_of(dataset, Telling(False, True, 1))[1].proportions is None
    assert known_of(dataset, Telling(True, False, 1))[1].up is None


def test_telling_draws_no_random_number_of_others_and_is_the_same_after_a_stop(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    plain = PoseLoader(dataset, 32, augmentation=Augmentation(keep_ground=True))
    telling = replace(plain, telling=Telling(True, True, last_epoch=9))
    batches = []
    for loader in (plain, telling):
        torch.manual_seed(5)
        batches.append(list(loader.shuffled_batches(1)))
        state = torch.get_rng_state()
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.inputs_2d, b.inputs_2d) and a.known is None
    torch.manual_seed(5)
    list(plain.shuffled_batches(1))
    assert torch.equal(state, torch.get_rng_state())
    resumed = next(iter(telling.shuffled_batches(1, done=2)))
    places = [batch.known.proportions[:, 0].isnan() for batch in (batches[1][2], resumed)]
    assert torch.equal(*places) and not torch.equal(batches[1][1].known.size.isnan(), places[0])
    # what is told is of the augmented poses
    _, size = proportions_and_size(batches[1][0].targets_3d, H36M_16)
    error = (batches[1][0].known.size / size).log()
    assert error.nan_to_num().abs().max() < 0.08 and error.isfinite().any()


def test_a_quarter_of_the_poses_has_noise_that_is_told(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    plain = PoseLoader(dataset, 512, flips=True, telling=Telling(True, True, last_epoch=9))
    telling = replace(plain.telling, noise=True, screen_sigma=0.004)
    before, after = (
        list(replace(plain, telling=t).shuffled_batches(1)) for t in (plain.telling, telling)
    )
    for a, b in zip(before, after, strict=True):
        for key in ("proportions", "size", "up"):
            assert torch.equal(*(getattr(x.known, key).nan_to_num() for x in (a, b)))
        assert torch.equal(a.targets_3d, b.targets_3d) and a.known.screen_sigma is None
    told = torch.cat([b.known.screen_sigma for b in after])
    moved = [b.inputs_2d - a.inputs_2d for a, b in zip(before, after, strict=True)]
    added = (told.square() - 0.004**2).clamp_min(0).sqrt()
    noise = torch.cat(moved)
    exact = noise.flatten(1).abs().amax(dim=1) == 0
    assert torch.allclose(added[exact], torch.zeros(()), atol=1e-5)
    assert exact.float().mean() == pytest.approx(0.75, abs=0.1)
    added, noise = added[~exact], noise[~exact]
    assert added.min() > 0.3 * 0.002 - 1e-5 and added.max() < 15 * 0.002 + 1e-5
    assert (noise.flatten(1).std(dim=1) / added).median() == pytest.approx(1, abs=0.1)


def test_the_error_that_is_told_is_the_source_s_or_that_of_the_training():
    lifter = Lifter(Recorder(), {}, InputView(), H36M_16, told=ToldChannels(noise=True))
    assert lifter.input_sigma == 0.0
    lifter.persons = replace(STATISTICS, screen_sigma=0.006)
    assert lifter.input_sigma == 0.006 and lifter.seeing(None) is lifter
    screen = torch.zeros(2, 16, 2)
    for found, channel in ((lifter, 0.6), (lifter.seeing(0.004), 0.5), (lifter.seeing(0.0), 0.0)):
        found.lift(screen, None)
        assert torch.allclose(found.network.inputs[..., 2], torch.tensor(channel))
    args = opt.parse_gcn(["--keypoints", "noisy"])
    args.keypoint_noise = 10.0
    assert known_screen_sigma(args) == pytest.approx(0.02 * 2**0.5)
    args.keypoints = "cpn"
    assert known_screen_sigma(args) is None


def test_a_tilted_pose_is_told_its_own_vertical(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    before = dataset.batch(torch.arange(len(dataset)))
    after = augment_batch(before, Augmentation(0.0, 0.0, turn=0.5, tilt=20.0), H36M_16)
    heights = [(b.targets_3d * b.up.unsqueeze(1)).sum(dim=2) for b in (before, after)]
    assert torch.allclose(*heights, atol=1e-5)
    assert (after.up - before.up).norm(dim=1).mean() > 0.1
    turned = augment_batch(before, Augmentation(0.0, 0.0, turn=1.0), H36M_16)
    assert torch.equal(turned.up, before.up)


def test_the_statistics_are_those_of_the_files(tmp_path):
    positions = make_h36m(tmp_path, subjects=("S1", "S5"), frames=5)
    (dataset,) = load_h36m(tmp_path, splits=[("S1", "S5")], keypoints="noisy")
    found = person_statistics(dataset)
    ankles, lengths = [], {}
    for motions in positions.values():
        joints = np.concatenate([*motions.values()])[:, list(H36M_16.stored)]
        heights = np.sort(joints[..., 2].min(axis=1))
        ankles.append(heights[(len(heights) - 1) // 2])
        for joint, parent in H36M_16.bones():
            off = joints[:, joint] - joints[:, parent]
            lengths.setdefault(joint, []).append(np.linalg.norm(off, axis=1))
    assert found.ankle_height == pytest.approx(np.median(ankles), abs=1e-4)
    names, means = H36M_16.names, {}
    for joint, of_bone in lengths.items():
        twin = names.index({"L": "R", "R": "L"}.get(names[joint][0], names[joint][0])
                           + names[joint][1:]) if names[joint][0] in "LR" else joint  # fmt: skip
        means[joint] = (np.concatenate(of_bone) + np.concatenate(lengths[twin])) / 2
    table = np.stack([means[joint] for joint, _ in H36M_16.bones()], axis=1)
    assert found.size == pytest.approx(table.mean(axis=1).mean(), rel=1e-5)
    expected = (table / table.mean(axis=1, keepdims=True)).mean(axis=0)
    assert np.allclose(found.proportions, expected, rtol=1e-4)
    assert 0.004 < found.screen_sigma < 0.04  # 5 px at width 1,000, and some gross errors
    assert found.symmetry_sigma == 0.006  # made bodies are symmetric
    for joint, of_bone in lengths.items():
        off_mean = np.concatenate([row - row.mean() for row in of_bone])
        sigma = max(np.sqrt(np.square(off_mean).mean()), 0.004)
        assert found.length_sigmas[joint - 1] == pytest.approx(sigma, rel=0.01)


def test_the_sigmas_of_joints_are_twice_the_errors_along_the_rays(h36m_folder):
    (dataset,) = load_h36m(h36m_folder)
    truth, off = person_statistics(dataset), 0.01 * torch.arange(16)

    def pose_of(batch):
        rays = undistort(batch.inputs_2d, batch.intrinsics)
        rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=2)
        rays = rays / rays.norm(dim=2, keepdim=True)
        return 1 + batch.targets_3d + off.unsqueeze(1) * rays

    sigmas = with_errors(truth, pose_of, dataset).sigmas
    twins = torch.tensor(H36M_16.flip_order())
    expected = 2 * ((off.square() + off[twins].square()) / 2).sqrt()
    assert torch.allclose(torch.tensor(sigmas.joints)[1:], expected[1:], atol=1e-4)
    assert truth.sigmas is None
    unknown = replace(dataset, intrinsics=torch.full_like(dataset.intrinsics, torch.nan))
    assert with_errors(truth, pose_of, unknown) == truth
    for factor in (1e30, torch.nan):  # a network that has diverged
        sigmas = with_errors(truth, lambda batch, f=factor: f * pose_of(batch), dataset).sigmas
        assert sigmas.joints[1:] == (1000.0,) * 15
    nothing = person_statistics(unknown)
    assert nothing.screen_sigma is None and nothing.ankle_height == truth.ankle_height


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_told(name, h36m_folder):
    (dataset,) = load_h36m(h36m_folder, splits=[H36M.subjects_train])
    args = opt.parse_gcn(["--model", name, "-z", "16", "-l", "1", *TOLD])
    lifter = build_lifter(args, "main_gcn", None)
    lifter.persons = person_statistics(dataset)
    assert lifter.arguments["in_dim"] == 10
    batch = next(iter(training_loader(args, dataset).shuffled_batches(1)))
    pose, *_ = lifter.pose_and_target(batch)
    lifter.network.eval()
    told, *_ = lifter.pose_and_target(batch)
    untold, *_ = lifter.pose_and_target(replace(batch, known=None))
    assert pose.shape == told.shape and not torch.allclose(told, untold)


def test_a_shorter_epoch_takes_other_poses_each_time(h36m_folder):
    (dataset,) = load_h36m(h36m_folder, splits=[H36M.subjects_train])
    args = opt.parse_gcn(["--epoch_poses", "70", "--batch_size", "32"])
    loader = training_loader(args, dataset)
    assert loader.epoch_size == 70 < len(dataset) and loader.epoch_steps == 3
    epochs = [torch.cat([b.index for b in loader.shuffled_batches(n)]) for n in (1, 2)]
    assert all(len(index.unique()) == 70 for index in epochs)
    assert not torch.equal(*(index.sort().values for index in epochs))
    assert replace(loader, poses=10**9).epoch_size == len(dataset)


def run(call, main, *flags):
    status, out, err = call(main, *flags)
    assert (status, err) == (0, ""), err
    return out


def test_a_told_run_is_resumed_tested_and_read_with_its_persons(call, tmp_path):
    flags = [*SLICE, "--recipe", "person", "--tell_noise", "--warmup", "1", "-c", tmp_path]
    flags += ["--name", "run"]
    run(call, main_gcn.main, *flags, "-e", 1)
    last = tmp_path / "run" / "ckpt_last.pth.tar"
    before = load_checkpoint(last)["persons"]
    run(call, main_gcn.main, "--resume", last, "-e", 2)
    whole = load_checkpoint(last)
    for key in ("proportions", "size", "ankle_height", "screen_sigma"):
        assert whole["persons"][key] == before[key]
    assert len(before["joint_sigmas"]) == 16
    assert whole["persons"]["joint_sigmas"] != before["joint_sigmas"]
    assert whole["model"]["in_dim"] == 12 and whole["model"]["tell_gravity"]
    results = tmp_path / "r.json"
    out = run(call, main_gcn.main, *SLICE, "--evaluate", last, "--results", results)
    assert "tell_body True" in out
    assert "the network is told that 2D joints are off by 0 px at width 1,000" in out
    found = json.loads(results.read_text())["results"]["evaluated"]["mpjpe_mm"]
    assert found == pytest.approx(whole["last"]["mpjpe_mm"], abs=1e-3)
    lifter = load_lifter(last, None)
    assert lifter.told == ToldChannels(True, True, True)
    assert lifter.persons == PersonStatistics.of(whole["persons"])
    del whole["persons"]
    torch.save(whole, tmp_path / "lost.pth.tar")
    status, _, err = call(main_gcn.main, *SLICE, "--evaluate", tmp_path / "lost.pth.tar")
    assert status == 2 and "lacks the statistics of its training persons" in err
    status, _, err = call(main_gcn.main, *SLICE, "--evaluate", last, "--no-tell_body")
    assert status == 2 and "give --tell_body" in err


def test_sigmas_of_the_checkpoint_are_those_of_the_fit(h36m_folder, monkeypatch):
    (dataset,) = load_h36m(h36m_folder)
    given = []
    monkeypatch.setattr(
        "training.lifter.fit_to_rays", lambda pose, *a, **o: given.append(a[3]) or pose
    )
    lifter = Lifter(Recorder(), {}, InputView(), H36M_16, screen_sigma=0.0, ray_fit=True)
    batch = dataset.batch(torch.arange(4))
    own = replace(STATISTICS, joint_sigmas=(0.1,) * 16)
    for persons in (None, STATISTICS, own):
        replace(lifter, persons=persons).tested_pose(batch)
    assert given[0] == given[1] != given[2] == own.sigmas


def test_published_names_carry_the_persons_of_a_told_network(call, tmp_path):
    flags = [*SLICE, "-k", "noisy", "-c", tmp_path / "runs"]
    run(call, main_graph.main, *flags, *TOLD, "--pro_train", 1, "-e", 2, "--save_model", 1,
        "--save_dir", tmp_path / "ckpt")  # fmt: skip
    assert "tell_body True" in run(call, main_graph.main, *flags, "--eva", tmp_path / "ckpt")
    (path,) = (tmp_path / "ckpt").glob("*.pth")
    assert load_lifter(path, None).persons.joint_sigmas
