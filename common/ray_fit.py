"""Poses put back on the rays of their 2D joints.

A predicted pose P, relative to its root, and the 2D joints that it was lifted from rarely agree: P
is right to some centimetres, exact 2D joints to a fraction of a millimetre. Each joint is therefore
sought on its own ray. It is ``X_j = d_j r_j`` with ``r_j = (x/z, y/z, 1)``, and the depths d_j
minimise

    sum over joints |X_j - X_0 - P_j|^2 / s_j^2
    + sum over bones (|X_j - X_parent| - n_j)^2 / s_l^2
    + sum over pairs (length of the left bone - length of the right bone)^2 / s_s^2

with the lengths n_j where they are known. Source for bones of known length: Taylor, CVIU 2000. The
rest is our own.

**2D joints with an error.** Let each 2D joint be the true one plus Gaussian noise of standard
deviation s_u in screen units, along x and y. The joint is then beside the ray: ``X_j = d_j r_j +
(w_j, 0)``. It is seen ``f w_j / d_j`` from its 2D joint, with the focal length f (two numbers; the
lens distortion hardly changes over so short a way). Each sum above is twice the negative
log-likelihood of independent Gaussian errors, up to a constant. That of the noise is

    + sum over joints |f w_j / d_j|^2 / s_u^2

and the minimum over all d_j and w_j is the most probable pose. With s_u = 0 all w_j are zero, and
only the depths are left. The d_j of this term alone are those of the start.

**Method.** Gauss-Newton: X is linear in the unknowns, so only the lengths are linearised. 0.0001 of
the diagonal is added to the normal matrix, so that it always has a Cholesky factor. No step changes
a depth by more than 0.5 m, and no depth falls below 0.2 m. A step that raises the sum is halved
until it does not, or left out.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from common.camera import pinhole_rays, remove_distortion, solve_translation, split_intrinsics
from common.skeleton import Skeleton

_LONGEST_STEP = 0.5  # metres
_NEAREST = 0.2  # metres
_DAMPING = 1e-4
_HALVINGS = 4
# Twice the error along the ray, RMS in mm, on the persons of a training, as measured in
# docs/accuracy-measured.md. Left and right share it.
_JOINT_SIGMAS = {
    "Hip": 30, "Knee": 105, "Foot": 145, "Spine": 45, "Thorax": 70, "Neck/Nose": 90, "Head": 105,
    "Shoulder": 70, "Elbow": 95, "Wrist": 155,
}  # fmt: skip
_SYMMETRY_SIGMA = 0.012
_LENGTH_SIGMA, _HEAD_LENGTH_SIGMA = 0.004, 0.020  # the head nods


@dataclass(frozen=True)
class Sigmas:
    """The expected errors of the terms, in metres. Infinity leaves a length or the symmetry out.

    Attributes:
        joints: J values s_j. The one of the root is not used.
        symmetry: s_s.
        lengths: J - 1 values s_l, in the order of ``Skeleton.bones``.
    """

    joints: Sequence[float]
    symmetry: float
    lengths: Sequence[float]


def usual_sigmas(skeleton: Skeleton) -> Sigmas:
    """Sigmas for a network that carries none of its own."""
    names = [name.lstrip("LR") for name in skeleton.names]
    lengths = [_HEAD_LENGTH_SIGMA if name == "Head" else _LENGTH_SIGMA for name in names[1:]]
    joints = [_JOINT_SIGMAS[name] / 1000 for name in names]
    return Sigmas(tuple(joints), _SYMMETRY_SIGMA, tuple(lengths))


def fit_to_rays(
    pose: Tensor,
    screen: Tensor,
    intrinsics: Tensor,
    skeleton: Skeleton,
    sigmas: Sigmas,
    lengths: Tensor | None = None,
    screen_sigma: float = 0.0,
    depths: Tensor | None = None,
    steps: int = 5,
) -> Tensor:
    """Poses on the rays of their 2D joints, see above: (B, J, 3) metres, camera space.

    They are at their place before the camera; subtract joint 0 for poses relative to the root.

    Args:
        pose: (B, J, 3) predicted poses, metres, camera space, relative to any point.
        screen: (B, J, 2) screen coordinates, with lens distortion.
        intrinsics: (B, 9), see ``common.camera``.
        lengths: (B, J - 1) known lengths of the bones, metres, in the order of ``Skeleton.bones``,
            NaN for a bone whose length is not known; None if none is.
        screen_sigma: s_u, screen units; 0 for exact 2D joints.
        depths: (B, J) metres, to start from; None starts from the pose at its solved translation.
        steps: of the minimisation.
    """
    fit, unknowns = _start(
        pose, screen, intrinsics, skeleton, sigmas, lengths, screen_sigma, depths
    )
    return fit.points(fit.minimised(unknowns, steps)).mT


def ray_misfit(
    pose: Tensor,
    screen: Tensor,
    intrinsics: Tensor,
    skeleton: Skeleton,
    sigmas: Sigmas,
    lengths: Tensor,
    screen_sigma: float = 0.0,
    steps: int = 3,
) -> Tensor:
    """The sum that is left of each pose after the steps of :func:`fit_to_rays`, (B,).

    Its derivatives with respect to the pose and the lengths are those at fixed unknowns: where the
    sum is least, a change of the unknowns does not change it. No step is differentiated, and
    degenerate poses have no large derivatives.

    Args:
        see :func:`fit_to_rays`.
    """
    fit, unknowns = _start(pose, screen, intrinsics, skeleton, sigmas, lengths, screen_sigma)
    with torch.no_grad():
        unknowns = fit.minimised(unknowns, steps)
    return fit.cost(unknowns)


def _start(
    pose: Tensor,
    screen: Tensor,
    intrinsics: Tensor,
    skeleton: Skeleton,
    sigmas: Sigmas,
    lengths: Tensor | None,
    screen_sigma: float,
    depths: Tensor | None = None,
) -> tuple["_Fit", Tensor]:
    """The sum to minimise, and the unknowns to start from."""
    uv = remove_distortion(screen, intrinsics)
    pose = pose - pose[:, :1]
    if depths is None:
        depths = pose[..., 2] + solve_translation(pose, uv, intrinsics)[:, 2:]
    unknowns = depths.detach().clamp_min(_NEAREST).unsqueeze(1)
    rays = torch.cat([pinhole_rays(uv, intrinsics).mT, torch.ones_like(unknowns)], dim=1)
    precision = None
    if screen_sigma:
        precision = (split_intrinsics(intrinsics)[0].mT / (unknowns * screen_sigma)).square()
        unknowns = torch.cat([unknowns, torch.zeros_like(precision)], dim=1)
    fit = _Fit(pose.mT.contiguous(), rays, precision, skeleton, sigmas, lengths)
    return fit, unknowns


class _Fit:
    """The sum to minimise, over unknowns (B, K, J): d alone, K = 1, or d and w, K = 3.

    Joints are the last dimension here, which is faster.
    """

    def __init__(
        self,
        pose: Tensor,
        rays: Tensor,
        precision: Tensor | None,
        skeleton: Skeleton,
        sigmas: Sigmas,
        lengths: Tensor | None,
    ) -> None:
        """
        Args:
            pose: (B, 3, J) P, root at zero.
            rays: (B, 3, J) r.
            precision: (B, 2, J) factors of the squares of w; None where K is 1.
            lengths: (B, J - 1) or None.
        """
        self.pose, self.rays, self.precision = pose, rays, precision
        self.sigmas = sigmas
        self.lengths = self.length_sigmas = None
        if lengths is not None:
            unknown = lengths.isnan()
            self.lengths = lengths.masked_fill(unknown, 0)
            told = lengths.new_tensor(sigmas.lengths).expand_as(lengths)
            self.length_sigmas = told.masked_fill(unknown, torch.inf)
        # A bone is named by its outer joint, and the root is no bone's.
        self.parents, self.left, self.right = (
            torch.tensor(joints, device=pose.device)
            for joints in (skeleton.parents[1:], skeleton.joints_left, skeleton.joints_right)
        )
        self.weight = pose.new_tensor([0, *sigmas.joints[1:]]).pow(-2)
        self.weight[0] = 0
        joints = torch.eye(len(self.weight), dtype=pose.dtype, device=pose.device)
        from_root, bones = joints - joints[0], joints[1:] - joints[self.parents]
        # The derivatives of each X_j with respect to its own unknowns: (B, 3, K J).
        self.columns = rays
        if precision is not None:
            across = torch.eye(3, 2, dtype=pose.dtype, device=pose.device)
            across = across.repeat_interleave(len(joints), 1).expand(len(pose), -1, -1)
            self.columns = torch.cat([rays, across], dim=2)
        kinds = self.columns.shape[2] // len(joints)
        self.ends = bones.repeat(1, kinds)
        from_root = from_root.repeat(1, kinds)
        # The part of the normal matrix that stays: joints as in P, and the noise.
        self.normal = self.columns.mT @ self.columns * (from_root.mT * self.weight @ from_root)
        if precision is not None:
            of_depths = torch.zeros_like(precision[:, 0])
            noise = torch.cat([of_depths, precision.flatten(1)], dim=1)
            self.normal = self.normal + torch.diag_embed(noise)

    def points(self, unknowns: Tensor) -> Tensor:
        """The joints X (B, 3, J)."""
        points = unknowns[:, :1] * self.rays
        if self.precision is None:
            return points
        return points + torch.cat([unknowns[:, 1:], torch.zeros_like(unknowns[:, :1])], dim=1)

    def cost(self, unknowns: Tensor) -> Tensor:
        """The sum of each pose, (B,)."""
        points = self.points(unknowns)
        _, lengths = self._bones(points)
        cost = (self.weight * self._offsets(points).square()).sum(dim=(1, 2))
        cost = cost + self._limb_errors(lengths).square().sum(dim=1)
        if self.precision is not None:
            cost = cost + (self.precision * unknowns[:, 1:].square()).sum(dim=(1, 2))
        return cost

    def minimised(self, unknowns: Tensor, steps: int) -> Tensor:
        """The unknowns after so many steps, none of which raises the sum of a pose."""
        cost = self.cost(unknowns)
        for _ in range(steps):
            unknowns, cost = self._moved(unknowns, self._step(unknowns), cost, _HALVINGS)
        return unknowns

    def _moved(
        self, unknowns: Tensor, step: Tensor, before: Tensor, halvings: int
    ) -> tuple[Tensor, Tensor]:
        """The unknowns after a step, halved where it raises the sum, with the sums.

        Args:
            before: (B,) the sums before the step.
        """
        moved = unknowns + step
        moved[:, 0].clamp_min_(_NEAREST)
        cost = self.cost(moved)
        raised = (~(cost <= before)).nonzero().squeeze(1)
        if len(raised):
            kept = unknowns[raised], before[raised]
            if halvings:
                part = self._part(raised)
                kept = part._moved(kept[0], step[raised] / 2, kept[1], halvings - 1)
            moved[raised], cost[raised] = kept
        return moved, cost

    def _part(self, index: Tensor) -> "_Fit":
        """Some of the poses."""
        part = copy(self)
        for name in ("pose", "rays", "precision", "lengths", "length_sigmas"):
            values = getattr(self, name)
            setattr(part, name, None if values is None else values[index])
        return part

    def _step(self, unknowns: Tensor) -> Tensor:
        """The damped Gauss-Newton step (B, K, J)."""
        points = self.points(unknowns)
        bones, lengths = self._bones(points)
        directions = bones / lengths.unsqueeze(1)
        slopes = directions.mT @ self.columns * self.ends
        rows = self._limb_rows(slopes, None if self.lengths is None else slopes)
        limbs = self._limb_errors(lengths)
        pull = self.weight * self._offsets(points)
        pull = torch.cat([-pull.sum(dim=2, keepdim=True), pull[..., 1:]], dim=2)
        slope = (self.rays * pull).sum(dim=1, keepdim=True)
        if self.precision is not None:
            noise = self.precision * unknowns[:, 1:]
            slope = torch.cat([slope, pull[:, :2] + noise], dim=1)
        slope = slope.flatten(1).unsqueeze(2) + rows.mT @ limbs.unsqueeze(2)
        normal = self.normal + rows.mT @ rows
        normal.diagonal(dim1=1, dim2=2).mul_(1 + _DAMPING)
        # Unlike cholesky, this raises no error for poses that are not numbers.
        factor, _ = torch.linalg.cholesky_ex(normal)
        step = -torch.cholesky_solve(slope, factor).view_as(unknowns)
        step[:, 0].clamp_(-_LONGEST_STEP, _LONGEST_STEP)
        return step

    def _offsets(self, points: Tensor) -> Tensor:
        """How far the joints are from P, (B, 3, J)."""
        return points - points[..., :1] - self.pose

    def _bones(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The bones as vectors (B, 3, J - 1), and their lengths (B, J - 1), which are not 0."""
        bones = points[..., 1:] - points.index_select(2, self.parents)
        tiny = torch.finfo(bones.dtype).tiny
        return bones, bones.square().sum(dim=1).clamp_min(tiny).sqrt()

    def _limb_errors(self, lengths: Tensor) -> Tensor:
        """Symmetry and, where lengths are told, their errors, in sigmas: (B, J - 1) to (B, R)."""
        told = None if self.lengths is None else (lengths - self.lengths).unsqueeze(2)
        return self._limb_rows(lengths.unsqueeze(2), told).squeeze(2)

    def _limb_rows(self, lengths: Tensor, told: Tensor | None) -> Tensor:
        """The same of any n columns of lengths or of their derivatives, (B, J - 1, n) to (B, R, n).

        Args:
            told: (B, J - 1, n) the errors, or their derivatives; None where none are told.
        """
        left, right = (lengths.index_select(1, side - 1) for side in (self.left, self.right))
        symmetry = (left - right) / self.sigmas.symmetry
        if told is None:
            return symmetry
        return torch.cat([symmetry, told / self.length_sigmas.unsqueeze(2)], dim=1)
