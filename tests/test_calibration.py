"""A person's proportions and size from 2D joints alone."""

import json
import re
from dataclasses import replace
from functools import partialmethod

import pytest
import torch

from common.body import Body, bone_names, by_bone, read_body
from common.camera import project
from common.errors import UserError
from common.input_view import InputView
from common.metrics import mpjpe
from common.person import PersonStatistics, bone_lengths, proportions_and_size
from common.ray_fit import ray_misfit, usual_sigmas
from common.skeleton import BONE_GROUPS, H36M_16, H36M_17
from common.standing_height import standing_height
from data.keypoint_formats import FORMATS
from data.pose_dataset import PoseBatch
from tests.conftest import load_h36m, make_h36m
from training import calibration
from training.calibration import (
    calibrate,
    medians,
    up_direction,
    with_camera_height,
    with_person_height,
)
from training.lifter import Lifter

# Log factors of the kinds of bones of the person to be found.
FACTORS = torch.tensor([0.04, -0.05, 0.03, 0.02, -0.04, 0.05, -0.03, 0.04, -0.05])


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Frames of made persons of equal proportions, who stand on the floor."""
    folder = tmp_path_factory.mktemp("people")
    make_h36m(folder, ("Sitting",), subjects=("S9",), frames=80)
    return load_h36m(folder, splits=(("S9",),))[0]


def changed(pose, factors):
    """Poses (B, 16, 3) whose bones are exp(factors) times as long, by kind."""
    longer = torch.zeros_like(pose)
    for (joint, parent), kind in zip(H36M_16.bones(), H36M_16.bone_groups(), strict=True):
        bone = (pose[:, joint] - pose[:, parent]) * factors[kind].exp()
        longer[:, joint] = longer[:, parent] + bone
    return longer


class Remembers(torch.nn.Module):
    """Gives the pose that belongs to an input, as a network that sees each body as ``poses``."""

    def __init__(self, inputs, poses):
        super().__init__()
        self.inputs, self.poses = inputs, poses

    def forward(self, inputs):
        far = torch.cdist(inputs.flatten(1), self.inputs.flatten(1))
        return self.poses[far.argmin(dim=1)]


def person(dataset, factors, error=0.03):
    """What is seen of a person of other proportions: (screen, intrinsics, pose, lifter). The
    network takes everybody for the mean training person, and errs."""
    batch = dataset.batch(torch.arange(len(dataset)))
    pose = changed(batch.targets_3d, factors)
    screen = project(pose + batch.root_3d.unsqueeze(1), batch.intrinsics)
    generator = torch.Generator().manual_seed(0)
    off = error * torch.randn(pose.shape, generator=generator)
    network = Remembers(screen, batch.targets_3d + off)
    means = proportions_and_size(batch.targets_3d, H36M_16)[0].mean(dim=0)
    persons = PersonStatistics(tuple(means.tolist()), 0.25, 0.0, 0.0, (0.004,) * 15, 0.006)
    lifter = Lifter(network, {}, InputView(), H36M_16, persons=persons)
    return screen, batch.intrinsics, pose, lifter


def errors(body, pose):
    """Of the proportions, without the head: shares."""
    true = by_bone(proportions_and_size(pose, H36M_16)[0].mean(dim=0), H36M_16)
    found = [body.proportions[b] / true[b] - 1 for b in true if b != "Head"]
    return torch.tensor(found).abs()


def test_proportions_are_found_from_2d_alone(seen, monkeypatch):
    screen, intrinsics, pose, lifter = person(seen, FACTORS)
    mean = Body("", by_bone(lifter.persons.proportions, H36M_16))
    assert errors(mean, pose).mean() > 0.03
    monkeypatch.setattr(calibration, "_STEPS", 40)
    few = slice(None, None, 5)
    body = calibrate(lifter, screen[few], intrinsics[few], seeds=(0, 1))
    off = errors(body, pose)
    assert off.mean() < 0.015 and off.max() < 0.03, off
    assert sum(body.known(1, H36M_16).proportions[0]) == pytest.approx(15)
    assert body.size is None and body.uncertainty.keys() == body.proportions.keys()
    monkeypatch.setattr(calibration, "_STEPS", 1)
    again = [calibrate(lifter, screen[few], intrinsics[few], seeds=(0, 1)) for _ in range(2)]
    assert again[0] == again[1]  # no draw of the global generator


def test_only_rigid_bones_are_fitted_and_told(seen, monkeypatch):
    screen, intrinsics, pose, lifter = person(seen, FACTORS)
    monkeypatch.setattr(calibration, "_STEPS", 40)
    few = slice(None, None, 5)
    told = []

    def lift(self, screen, intrinsics, known=None):
        told.append(known.proportions)
        return self.network(screen)

    monkeypatch.setattr(Lifter, "lift", lift)
    rigid = FORMATS["coco17"].rigid_kinds(H36M_16)
    body = calibrate(lifter, screen[few], intrinsics[few], seeds=(0, 1), bones=rigid)
    trunk = {"Spine", "Thorax", "Head", "Shoulder"}
    assert {bone for bone, value in body.proportions.items() if value is None} == trunk
    assert {bone for bone, value in body.uncertainty.items() if value is None} == trunk
    assert not body.is_whole
    assert body.how.endswith(
        "without Spine, Thorax, Head, Shoulder, not rigid with these keypoints"
    )
    unknown = torch.tensor([bone in trunk for bone in bone_names(H36M_16)])
    rows = [known for known in told if known is not None]
    assert rows and all(torch.equal(row.isnan(), unknown.expand_as(row)) for row in rows)
    # Legs and arms came out longer and shorter by the true factors, relative to each other.
    mean = by_bone(lifter.persons.proportions, H36M_16)
    true = by_bone(proportions_and_size(pose, H36M_16)[0].mean(dim=0), H36M_16)
    limbs = sorted(rigid)
    found, wanted = (
        torch.tensor([of[bone] / mean[bone] for bone in limbs]).log()
        for of in (body.proportions, true)
    )
    off = (found - found.mean()) - (wanted - wanted.mean())
    assert off.abs().mean() < 0.015 and off.abs().max() < 0.03, off


def test_a_fit_far_from_the_poses_is_not_trusted(seen, monkeypatch):
    screen, intrinsics, _, lifter = person(seen, FACTORS)
    far = FACTORS.clone()
    far[2] += 0.15
    monkeypatch.setattr(calibration._Calibration, "fitted", lambda self, seed: far.unsqueeze(0))
    body = calibrate(lifter, screen, intrinsics)
    assert body.proportions is None and "off the medians of the poses" in body.how


def with_somebody_else(dataset, share):
    """``person``, and the same frames with this share of them of somebody else."""
    screen, intrinsics, pose, lifter = person(dataset, FACTORS)
    count = int(share * len(screen))
    other, *_, other_lifter = person(dataset, -FACTORS)
    lifter.network.inputs = torch.cat([screen, other])
    lifter.network.poses = torch.cat([lifter.network.poses, other_lifter.network.poses])
    return screen, intrinsics, pose, lifter, torch.cat([other[:count], screen[count:]])


@pytest.mark.parametrize("others", [0, 0.3])
def test_frames_of_two_persons_are_noticed(seen, monkeypatch, others):
    _, intrinsics, _, lifter, mixed = with_somebody_else(seen, others)
    fits = calibration._Calibration
    monkeypatch.setattr(fits, "fitted", partialmethod(_first_fit, fits.fitted))
    body = calibrate(lifter, mixed, intrinsics)
    if others:
        assert body.proportions is None
        assert re.search(r"(29|30|31)% of the frames fit another body", body.how), body.how
    else:
        assert body.proportions, body.how


def _first_fit(self, fitted, seed, *two, **shorter):
    """The true factors stand for the fits of one body."""
    return fitted(self, seed, *two, **shorter) if two else FACTORS.unsqueeze(0)


@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 0.1, 0.3])
def test_frames_of_somebody_else_do_little_harm(seen, others):
    screen, intrinsics, pose, lifter, mixed = with_somebody_else(seen, others)
    body = calibrate(lifter, mixed, intrinsics)
    if not others:
        off = errors(body, pose)
        assert off.mean() < 0.015 and off.max() < 0.03, off
    batch = PoseBatch(*7 * [torch.arange(len(pose))])
    batch = replace(batch, inputs_2d=screen, intrinsics=intrinsics)
    lifter.screen_sigma, lifter.ray_fit = 0.0, True
    known, unknown = (
        mpjpe(lifter.tested_pose(batch, known=told), pose).mean()
        for told in (body.known(len(pose), H36M_16), None)
    )
    assert known < (1.02 if others else 0.9) * unknown, (known, unknown)


def test_nothing_is_claimed_where_nothing_can_be_found(seen, monkeypatch):
    screen, intrinsics, _, lifter = person(seen, FACTORS)
    for find in (calibrate, medians):
        few = find(lifter, screen[:49], intrinsics[:49])
        assert few == Body("proportions unknown: 49 frames are too few, 50 are needed")
        noisy = find(lifter, screen, intrinsics, 0.02)
        assert noisy.proportions is None and "off by 10 px at width 1,000" in noisy.how
        unknown = find(lifter, screen, intrinsics, None)
        assert unknown.proportions is None and "the error of these 2D joints is not" in unknown.how
    monkeypatch.setattr(calibration, "_STEPS", 0)  # each fit stays where it began
    body = calibrate(lifter, screen, intrinsics)
    assert body.proportions is None and "the fits of the calibration differ by" in body.how
    known = body.known(3, H36M_16)
    assert known.proportions is None and known.size is None and known.up is None
    assert body.known(3, H36M_16, up_direction(0, -2, 0)).up.tolist() == [[0, -1, 0]] * 3


def test_two_fits_that_agree_outvote_a_third(seen, monkeypatch):
    screen, intrinsics, _, lifter = person(seen, FACTORS)
    fits = {0: FACTORS, 1: FACTORS + 0.003, 2: FACTORS + 0.1 * torch.randn(9)}
    of_fits = calibration._Calibration
    monkeypatch.setattr(of_fits, "fitted", lambda self, seed: fits[seed].unsqueeze(0))
    monkeypatch.setattr(of_fits, "why_not_one_person", lambda self, factors: None)
    body = calibrate(lifter, screen, intrinsics)
    assert body.proportions, body.how
    assert max(body.uncertainty.values()) > 0.01


def test_a_checkpoint_without_statistics_starts_at_its_own_medians(seen, monkeypatch):
    screen, intrinsics, _, lifter = person(seen, FACTORS)
    lifter = replace(lifter, persons=None)
    monkeypatch.setattr(calibration, "_STEPS", 1)
    monkeypatch.setattr(calibration, "_START_SIGMA", 0.0)
    body, middle = (find(lifter, screen, intrinsics) for find in (calibrate, medians))
    for bone, value in middle.proportions.items():
        assert body.proportions[bone] == pytest.approx(value, rel=0.025)  # a step of Adam: 2%


def test_medians_are_those_of_the_poses(seen):
    screen, intrinsics, pose, lifter = person(seen, FACTORS)
    lifter.network.poses = pose
    body = medians(lifter, screen, intrinsics[0])
    assert errors(body, pose).max() < 0.02  # the cameras are alike
    assert errors(medians(lifter, screen, intrinsics), pose).max() < 5e-3  # the head nods


def test_the_derivative_of_what_is_left_is_that_of_the_minimum(seen):
    screen, intrinsics, pose = (tensor[:3].double() for tensor in person(seen, FACTORS)[:3])
    lengths = (bone_lengths(pose, H36M_16) * 1.02).requires_grad_()
    off = (pose + 0.03 * torch.randn_like(pose)).requires_grad_()
    given = (screen, intrinsics, H36M_16, usual_sigmas(H36M_16))

    def left(pose, lengths):
        return ray_misfit(pose, *given, lengths, steps=30).sum()

    found = torch.autograd.grad(left(off, lengths), (off, lengths))
    with torch.no_grad():
        for which, gradient in enumerate(found):
            step = 1e-6 * torch.randn_like(gradient)
            ends = [[off, lengths], [off, lengths]]
            ends[0][which], ends[1][which] = ends[0][which] - step, ends[1][which] + step
            change = left(*ends[1]) - left(*ends[0])
            assert change.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=1e-3)


def test_the_floor_tells_the_size(seen):
    screen, intrinsics, pose, lifter = person(seen, torch.zeros(9))
    batch = seen.batch(torch.arange(len(seen)))
    true = bone_lengths(pose, H36M_16).mean().item()
    lifter.network.poses = 1.1 * batch.targets_3d  # the network's size is wrong
    camera, sequence = seen.camera.long(), seen.sequence.long()
    height = seen.camera_height[sequence, camera]
    given = (lifter, screen, intrinsics, batch.up)
    for sigma in (0.0, None):
        body = with_camera_height(Body("x"), *given, height, camera, sigma)
        assert body.size == pytest.approx(true, rel=5e-3) and body.size_uncertainty < 3e-3
        assert body.how == "x; size from the camera height" and body.proportions is None
    of_view = camera == 2
    alone = (screen[of_view], intrinsics[of_view][0], batch.up[of_view][0])
    body = with_camera_height(Body("x"), lifter, *alone, height[of_view][0].item())
    assert body.size == pytest.approx(true, rel=5e-3) and body.size_uncertainty is None
    assert with_camera_height(Body("x"), *given, -9.0) == Body("x")  # a camera under the floor


def test_the_height_of_a_person_tells_the_size(seen):
    _, _, _, lifter = person(seen, FACTORS)
    proportions = by_bone(torch.linspace(0.6, 1.4, 15), H36M_16)
    body = with_person_height(Body("x", proportions), lifter, 1.73)
    lengths = body.size * body.known(1, H36M_16).proportions.numpy()
    assert standing_height(lengths, H36M_16) == pytest.approx([1.73])
    assert with_person_height(Body("x"), lifter, 1.73).size != body.size
    plain = replace(lifter, persons=None)
    assert with_person_height(body, plain, 1.73).size == body.size
    legs = body.of_bones({"Knee", "Foot"})
    filled = with_person_height(legs, lifter, 1.73).size
    assert filled not in (body.size, with_person_height(Body("x"), lifter, 1.73).size)
    with pytest.raises(UserError, match="needs the proportions"):
        with_person_height(legs, plain, 1.73)
    other = Body("x", dict.fromkeys(bone_names(H36M_17), 1.0))
    with pytest.raises(UserError, match=r"not the bones of a network of 16 joints .*Neck/Nose"):
        with_person_height(other, lifter, 1.73)
    with pytest.raises(UserError, match=r"metres, from 0\.4 to 2\.6, not 173"):
        with_person_height(body, lifter, 173)
    with pytest.raises(UserError, match="needs the proportions"):
        with_person_height(Body("x"), plain, 1.73)


def test_a_direction_is_a_unit_vector():
    assert torch.allclose(up_direction(0, -3, 4), torch.tensor([0, -0.6, 0.8]))
    for wrong in ((0, 0, 0), (0, float("nan"), 1)):
        with pytest.raises(UserError, match="is no direction"):
            up_direction(*wrong)


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17], ids=["16", "17"])
def test_a_body_comes_back_from_its_file(tmp_path, skeleton):
    names = dict.fromkeys(bone_names(skeleton))
    assert len(names) == len(BONE_GROUPS) + skeleton.num_joints - 16
    proportions = dict.fromkeys(names, 1.0)
    path = tmp_path / "body.json"
    for body in (
        Body("nothing"),
        Body("x", proportions, dict.fromkeys(names, 0.01)),
        Body("x", proportions, None, 0.25, 0.002),
        Body("x", proportions, dict.fromkeys(names, 0.01)).of_bones({"Knee", "Foot"}),
    ):
        body.save(path)
        assert read_body(path, skeleton) == body
    other = H36M_17 if skeleton is H36M_16 else H36M_16
    with pytest.raises(UserError, match=f"body.json .*network of {other.num_joints} joints"):
        read_body(path, other)
    with pytest.raises(UserError, match=f"the body has not the bones .*of {other.num_joints}"):
        Body("x", proportions).known(1, other)


def test_other_files_are_no_bodies_and_are_not_replaced(tmp_path):
    path = tmp_path / "body.json"
    with pytest.raises(UserError, match=r"cannot read .*body.json"):
        read_body(path, H36M_16)
    proportions = dict.fromkeys(bone_names(H36M_16), 1.0)
    Body("x", proportions).save(path)
    whole = json.loads(path.read_text())
    for damage, line in (
        ({"made_by": "modulated-gcn results"}, "is no body file of this program"),
        ({"size_m": "1"}, "lacks values of a body"),
        ({"size_m": 10**400}, "lacks values of a body"),
        ({"size_m": 0}, r"no person's body: size_m 0 is not from 0\.05 to 0\.6; make it again"),
        ({"size_m": 5}, "size_m 5 is not from"),
        ({"how": None}, "lacks values of a body"),
        ({"proportions": [1.0]}, "lacks values of a body"),
        ({"proportions": proportions | {"Hip": float("nan")}}, "lacks values of a body"),
        ({"proportions": proportions | {"Hip": 2.0}}, "have not the mean 1"),
        ({"proportions": proportions | {"Hip": 0.0, "Knee": None}}, "proportion of Hip, 0, is not"),
        (
            {"proportions": proportions | {"Hip": None, "Knee": 9.0}},
            "Knee, 9, is not from 0.1 to 4",
        ),
        ({"proportions": dict.fromkeys(proportions)}, "no bone has a proportion"),
        ({"proportions": proportions | {"Ear": 1.0}}, r"has not the bones .* differ by Ear\)"),
    ):
        path.write_text(json.dumps(whole | damage))
        with pytest.raises(UserError, match=line):
            read_body(path, H36M_16)
    for text in ("", "[" * 10**5, "[]"):
        path.write_text(text)
        with pytest.raises(UserError, match="is no body file"):
            read_body(path, H36M_16)
        with pytest.raises(UserError, match="is no body file"):
            Body("x").save(path)
        assert path.read_text() == text
