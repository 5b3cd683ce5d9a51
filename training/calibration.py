"""Finds out the proportions of a person, and the size, from 2D joints alone.

**Proportions.** 2D joints do not show how large a person is, but many frames of one person show
the proportions: with wrong ones, the poses of the network do not fit on the rays of the joints.
:func:`calibrate` looks for nine factors, one for each kind of bone (``BONE_GROUPS``),
on the mean proportions of the training persons. They minimise the mean over frames of

    log(1 + the sum that ``common.ray_fit`` leaves with these proportions, without symmetry)
    + the sum over kinds of (log factor / 5%)^2, with the weight of one frame

Of keypoints whose trunk or head is not rigid, only the kinds of rigid bones have factors. The
network is told the proportions if it can be told any; its weights do not change. The logarithm
bounds the influence of frames that fit no person. Three fits begin at different factors, and each
draws other frames; the fit with the lowest sum over common frames wins. How much they differ is the
uncertainty.

**Several persons.** A last, shorter fit has two sets of factors, and each frame counts with the one
that fits it better. Where that makes the sum much smaller, the frames are of several persons, and
nothing is claimed.

**Size.** The floor shows it: the lowest joint of a standing person is an ankle, whose height above
the floor differs little between persons. So the height of the camera above the floor gives the
scale (:func:`with_camera_height`); the height of the person does too (:func:`with_person_height`).

Nothing here sees a 3D joint of the person.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.body import Body, bone_names, by_bone
from common.camera import remove_distortion, solve_translation
from common.errors import UserError
from common.metrics import root_centred
from common.person import Known, bone_lengths, left_right_means, proportions_and_size
from common.progress import Progress
from common.ray_fit import Sigmas, ray_misfit
from common.skeleton import BONE_GROUPS
from common.standing_height import check_height, scale_to_height
from data.noise import PIXEL

if TYPE_CHECKING:
    from training.lifter import Lifter

_FEWEST_FRAMES = 50
_MOST_NOISE = PIXEL  # of the 2D joints: 1 px at width 1,000
_STEPS, _BATCH, _RATE, _MAX_NORM = 150, 256, 0.02, 1.0
_PRIOR_SIGMA, _START_SIGMA = 0.05, 0.02  # of the log factors
_JUDGED_FRAMES = 1024
_LARGEST_DIFFERENCE = 0.02  # root mean square over bones, from the best fit to the next
_FARTHEST_FROM_MEDIANS = 0.05  # of any bone
_LARGEST_GAIN = 0.2  # of a second body, in the mean logarithm of what is left of a frame
_AT_ONCE = 4096  # frames
_HEAD = ("Neck/Nose", "Head")  # it nods: its bones are not rigid
_ANKLE_HEIGHT = 0.073  # metres above the floor, where a checkpoint does not say it


def calibrate(
    lifter: Lifter,
    keypoints: Tensor,
    intrinsics: Tensor,
    screen_sigma: float | None = 0.0,
    seeds: Sequence[int] = (0, 1, 2),
    bones: Collection[str] | None = None,
) -> Body:
    """The proportions of a person from frames of the person, in any order, of one or more cameras.

    Args:
        lifter: with any network.
        keypoints: (N, J, 2) screen coordinates.
        intrinsics: (N, 9) or (9,), see ``common.camera``.
        screen_sigma: standard deviation of the 2D joints, screen units; 0 for exact ones, None
            where it is not known.
        seeds: of the fits, at least two.
        bones: the rigid ones, see ``data.keypoint_formats.KeypointFormat.rigid_kinds``; None for
            all. The lengths of others are neither fitted nor imposed.

    Returns:
        A body of these bones, without size. Its proportions are unknown where there are fewer than
        50 frames, where the 2D joints are off by more than 1 px at width 1,000, where the best fit
        agrees with no other to 2%, where a rigid bone is more than 5% off the medians of the poses,
        or where two bodies fit the frames much better than one; ``how`` says so. The uncertainty is
        how much the fits differ; a wrong pose of the network in every frame, and a left side that
        is not as the right one, come on top.
    """
    if reason := _why_not(len(keypoints), screen_sigma):
        return Body(reason)
    lifter = lifter.seeing(screen_sigma)
    bones = frozenset(bone_names(lifter.skeleton) if bones is None else bones)
    fit = _Calibration(lifter, keypoints, intrinsics.expand(len(keypoints), -1), bones)
    factors = torch.cat([fit.fitted(seed) for seed in seeds])
    with torch.no_grad():
        misfits = torch.stack([fit.misfit(row.unsqueeze(0), fit.judged) for row in factors])
        found = torch.stack([fit.proportions(row) for row in factors])
    best = int(misfits.argmin())
    rigid = [name in bones and name not in _HEAD for name in bone_names(lifter.skeleton)]
    reason = _why_not_trusted(found[:, rigid], best, fit.middle[rigid])
    if reason := reason or fit.why_not_one_person(factors[best]):
        return Body(reason)
    return Body(
        f"proportions calibrated from {len(keypoints):,} frames of the person's 2D",
        by_bone(found[best], lifter.skeleton),
        by_bone(found.log().std(dim=0), lifter.skeleton),
    ).of_bones(bones)


def medians(
    lifter: Lifter, keypoints: Tensor, intrinsics: Tensor, screen_sigma: float | None = 0.0
) -> Body:
    """The median proportions of the network's poses of a person, on the rays of their 2D joints.

    Args:
        see :func:`calibrate`. The proportions are unknown in the first two cases there.
    """
    if reason := _why_not(len(keypoints), screen_sigma):
        return Body(reason)
    intrinsics = intrinsics.expand(len(keypoints), -1)
    poses = _placed(lifter, keypoints, intrinsics, Known(), screen_sigma)
    proportions, _ = proportions_and_size(poses, lifter.skeleton)
    middle = left_right_means(proportions.median(dim=0).values, lifter.skeleton)
    return Body(
        f"proportions: medians of the poses of {len(keypoints):,} frames of the person's 2D",
        by_bone(middle / middle.mean(), lifter.skeleton),
        by_bone(proportions.log().std(dim=0) / math.sqrt(len(poses)), lifter.skeleton),
    )


def with_camera_height(
    body: Body,
    lifter: Lifter,
    keypoints: Tensor,
    intrinsics: Tensor,
    up: Tensor,
    camera_height: Tensor | float,
    camera: Tensor | None = None,
    screen_sigma: float | None = 0.0,
) -> Body:
    """The body with the size at which the person stands on the floor.

    Of each frame, the pose is solved on its rays. The lowest joint, the median over the frames of a
    camera, has to lie the camera's height less the ankle's below the camera. The size is the
    mean over cameras.

    Args:
        lifter, keypoints, intrinsics, screen_sigma: see :func:`calibrate`.
        up: (3,) or (N, 3) unit vectors, the upward direction in camera space.
        camera_height: of the camera above the floor, or (N,) of each frame's, metres.
        camera: (N,) a number for each camera; None for one camera.

    Returns:
        The same body where nobody is seen below the camera.
    """
    count = len(keypoints)
    intrinsics, up = intrinsics.expand(count, -1), up.to(keypoints).expand(count, -1)
    known = body.without_size().known(count, lifter.skeleton, up).to(keypoints.device)
    poses = _placed(lifter, keypoints, intrinsics, known, screen_sigma)
    own = bone_lengths(poses, lifter.skeleton).mean(dim=1)
    # How far the lowest joint is below the camera, of a person of size 1.
    below = -(poses * up.unsqueeze(1)).sum(dim=2).amin(dim=1) / own
    ankle = lifter.persons and lifter.persons.ankle_height
    floor = torch.as_tensor(camera_height).to(below) - (_ANKLE_HEIGHT if ankle is None else ankle)
    floor = floor.expand(count)
    camera = torch.zeros(count, device=below.device) if camera is None else camera
    sizes = []
    for number in camera.unique():
        rows = camera == number
        size = (floor[rows].median() / below[rows].median()).item()
        sizes += [size] * (math.isfinite(size) and size > 0)
    if not sizes:
        return body
    found = torch.tensor(sizes)
    spread = found.std().item() if len(sizes) > 1 else None
    return body.with_size(found.mean().item(), "from the camera height", spread)


def with_person_height(body: Body, lifter: Lifter, height: float) -> Body:
    """The body with the size of a person who stands so high, barefoot, in metres.

    ``common.standing_height`` says how the bones make the height. Proportions that are unknown are
    taken from the mean training person.

    Raises:
        UserError: the height is none of a person, or proportions are known from neither.
    """
    check_height(height)
    row = body.known(1, lifter.skeleton).proportions
    own = np.asarray(np.nan if row is None else row[0])
    usual = lifter.persons.proportions if lifter.persons else np.nan
    proportions = np.where(np.isnan(own), usual, own)
    if np.isnan(proportions).any():
        raise UserError(
            "the height of a person needs the proportions, and this checkpoint does not say "
            "those of its training persons: calibrate"
        )
    size = scale_to_height(proportions, lifter.skeleton, height)
    return body.with_size(float(size), f"from a height of {height:g} m")


def up_direction(x: float, y: float, z: float) -> Tensor:
    """An upward direction in camera space (x right, y down, z forward) as a unit vector (3,).

    Raises:
        UserError: it is no direction.
    """
    up = torch.tensor([x, y, z], dtype=torch.float64)
    length = up.norm()
    if not (length.isfinite() and length > 0):
        raise UserError(
            f"--gravity {x:g} {y:g} {z:g} is no direction: give three numbers, such as 0 -1 0"
        )
    return (up / length).float()


def _why_not(count: int, screen_sigma: float | None) -> str | None:
    """Why the proportions cannot be found from so many frames with this error; None if they can."""
    if count < _FEWEST_FRAMES:
        return f"proportions unknown: {count} frames are too few, {_FEWEST_FRAMES} are needed"
    if screen_sigma is None:
        return "proportions unknown: the error of these 2D joints is not known"
    if screen_sigma > _MOST_NOISE:
        pixels = f"{screen_sigma / PIXEL:.3g} px at width 1,000"
        return f"proportions unknown: the 2D joints are off by {pixels}, 1 px at most is needed"
    return None


def _why_not_trusted(found: Tensor, best: int, middle: Tensor) -> str | None:
    """Why the proportions (F, bones) of F fits are not to be trusted; None if they are.

    Args:
        middle: (bones,) the medians of the poses.
    """
    off = (found / found[best]).log().square().mean(dim=1).sqrt()
    nearest = off.sort().values[1].item()
    if not nearest < _LARGEST_DIFFERENCE:
        return f"proportions unknown: the fits of the calibration differ by {nearest:.1%}"
    far = (found[best] / middle).log().abs().max().item()
    if not far < _FARTHEST_FROM_MEDIANS:
        return f"proportions unknown: the calibration is {far:.1%} off the medians of the poses"
    return None


@torch.no_grad()
def _placed(
    lifter: Lifter, screen: Tensor, intrinsics: Tensor, known: Known, screen_sigma: float | None
) -> Tensor:
    """Poses (N, J, 3) at their place in camera space: on the rays if the 2D joints' error is
    known, or else the network's at its solved translation."""
    lifter = lifter.seeing(screen_sigma)
    lifter.network.eval()
    placed = []
    for rows in torch.arange(len(screen), device=screen.device).split(_AT_ONCE):
        uv, cameras, told = screen[rows], intrinsics[rows], known.rows(rows)
        pose = root_centred(lifter.lift(uv, cameras, told))
        if screen_sigma is None:
            straight = remove_distortion(uv, cameras)
            placed.append(pose + solve_translation(pose, straight, cameras).unsqueeze(1))
        else:
            placed.append(lifter.on_rays(pose, uv, cameras, told))
    return torch.cat(placed)


@dataclass
class _Calibration:
    """The sum to minimise, over the log factors (9,) of the kinds of bones."""

    lifter: Lifter
    screen: Tensor
    intrinsics: Tensor
    bones: frozenset[str]  # the rigid ones
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def start(self) -> Tensor:
        """(J - 1,) the proportions of the factors 1: the mean of the training persons, or the
        medians of the network's poses where the checkpoint does not say it."""
        if self.lifter.persons:
            return self.screen.new_tensor(self.lifter.persons.proportions)
        return self.middle

    @cached_property
    def middle(self) -> Tensor:
        """(J - 1,) the medians of the network's poses."""
        found = medians(self.lifter, self.screen, self.intrinsics, self.lifter.screen_sigma)
        return found.known(1, self.lifter.skeleton).proportions[0].to(self.screen)

    @cached_property
    def rigid(self) -> Tensor:
        """(J - 1,) whether a bone is rigid."""
        names = bone_names(self.lifter.skeleton)
        return torch.tensor([name in self.bones for name in names], device=self.screen.device)

    @cached_property
    def sigmas(self) -> Sigmas:
        """Without symmetry."""
        return Sigmas(self.lifter.sigmas.joints, math.inf, self.lifter.sigmas.lengths)

    @cached_property
    def judged(self) -> Tensor:
        """The frames by which the fits are compared, evenly spread."""
        count = min(len(self.screen), _JUDGED_FRAMES)
        return torch.arange(count, device=self.screen.device) * len(self.screen) // count

    def proportions(self, factors: Tensor) -> Tensor:
        """(9,) log factors -> (J - 1,) proportions, whose mean is 1."""
        found = self.start * factors.exp()[self.lifter.skeleton.bone_groups()]
        return found / found.mean()

    def costs(self, factors: Tensor, rows: Tensor) -> Tensor:
        """What ``common.ray_fit`` leaves of these frames with each of K bodies: (K, frames)."""
        screen, intrinsics = self.screen[rows], self.intrinsics[rows]
        given = (screen, intrinsics, self.lifter.skeleton, self.sigmas)
        costs = []
        for body in factors:
            whole = Known(self.proportions(body).expand(len(rows), -1))
            known = Known(whole.proportions.masked_fill(~self.rigid, torch.nan))
            pose = self.lifter.lift(screen, intrinsics, known)
            # NaN comes after the product: the derivatives of a product with it would be NaN.
            lengths = whole.lengths_of(pose, self.lifter.skeleton)
            lengths = lengths.masked_fill(~self.rigid, torch.nan)
            costs.append(ray_misfit(pose, *given, lengths, self.lifter.screen_sigma))
        return torch.stack(costs)

    def misfit(self, factors: Tensor, rows: Tensor) -> Tensor:
        """The sum of these frames, each with the one of K bodies (K, 9) that fits it best."""
        prior = (factors / _PRIOR_SIGMA).square().sum() / len(rows)
        return self.costs(factors, rows).amin(dim=0).log1p().mean() + prior

    def fitted(self, seed: int, start: Tensor | None = None, shorter: int = 1) -> Tensor:
        """The log factors (K, 9) of K bodies, one fit: Adam, whose rate falls to 0.

        Args:
            start: (K, 9) about which it begins; None begins about the mean training person.
            shorter: so many times fewer steps, and frames in each.
        """
        self.lifter.network.eval()
        generator = torch.Generator().manual_seed(seed)
        count, device, steps = len(self.screen), self.screen.device, _STEPS // shorter
        drawn = torch.randint(count, (count,), generator=generator)
        start = torch.zeros(1, len(BONE_GROUPS), device=device) if start is None else start
        noise = _START_SIGMA * torch.randn(start.shape, generator=generator)
        kinds = torch.tensor(self.lifter.skeleton.bone_groups(), device=device)
        fitted = torch.zeros(len(BONE_GROUPS), device=device)
        fitted[kinds[self.rigid]] = 1  # the factors of all other kinds stay 0
        factors = (start + fitted * noise.to(start)).requires_grad_()
        optimizer = torch.optim.Adam([factors])
        what = f"calibration, seed {seed}" + (", two bodies" if len(factors) > 1 else "")
        for step in self.progress.follow(range(steps), what, steps, "step", leave=False):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            size = (min(count, _BATCH // shorter),)
            batch = drawn[torch.randint(count, size, generator=generator)]
            misfit = self.misfit(factors, batch.to(device))
            (gradient,) = torch.autograd.grad(misfit, factors)
            factors.grad = fitted * gradient.nan_to_num(0, 0, 0)  # no pose may stop the fit
            torch.nn.utils.clip_grad_norm_([factors], _MAX_NORM)
            optimizer.step()
        return factors.detach()

    def why_not_one_person(self, factors: Tensor) -> str | None:
        """Why the frames are not those of one body with these factors (9,); None if they are."""
        both = self.fitted(0, factors.expand(2, -1), shorter=2)
        with torch.no_grad():
            one = self.costs(factors.unsqueeze(0), self.judged)[0]
            two = self.costs(both, self.judged)
        gain = (one.log1p() - two.amin(dim=0).log1p()).mean().item()
        if gain < _LARGEST_GAIN:
            return None
        first = (two[0] < two[1]).double().mean().item()
        return (
            f"proportions unknown: {min(first, 1 - first):.0%} of the frames fit another body, as "
            "if they were of another person"
        )
