"""Training losses on poses (B, J, 3) in metres, each a scalar mean."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.metrics import mpjpe
from common.skeleton import Skeleton


def _mean_mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    return mpjpe(pred, target).mean()


def _smooth_l1(pred: Tensor, target: Tensor) -> Tensor:
    """torch's own bend, at 1 m, would make it half the squared error for every pose."""
    return F.smooth_l1_loss(pred, target, beta=_SMOOTH_L1_BEND)


_SMOOTH_L1_BEND = 0.01  # metres: errors below are squared, those above are not
_MAIN = {"mse": F.mse_loss, "mpjpe": _mean_mpjpe, "l1": F.l1_loss, "smooth_l1": _smooth_l1}
LOSSES = tuple(_MAIN)


def pose_loss(pred: Tensor, target: Tensor, main: str, weight_l1: float) -> Tensor:
    """(1 - weight_l1) main + weight_l1 L1, the published form of both models; main of ``LOSSES``.

    Ground-truth 2D: "mse" with 0.1; detected 2D: "mpjpe" with 0.01.
    """
    return (1 - weight_l1) * _MAIN[main](pred, target) + weight_l1 * F.l1_loss(pred, target)


def sparsity_loss(offsets: Iterable[Tensor]) -> Tensor:
    """The L1 norm of the learned adjacencies Q (..., J, J) of all layers together -> scalar.

    The paper speaks of sparse adjacencies; the released code has no such term.

    Args:
        offsets: of a network, see ``ModulatedGCN.adjacency_offsets``.
    """
    return torch.stack([offset.abs().sum() for offset in offsets]).sum()


def symmetry_loss(pose: Tensor, skeleton: Skeleton, signed: bool = False) -> Tensor:
    """Difference of left and right limb lengths (B, J, 3) -> scalar, metres.

    The sum over six pairs of limbs (hip, thigh, shank, shoulder, upper arm, forearm) of the batch
    mean of |left - right|. With ``signed`` it is the published form, the batch mean of
    (left - right): that one falls without bound as right limbs grow.
    """

    def lengths(joints: tuple[int, ...]) -> Tensor:
        parents = [skeleton.parents[joint] for joint in joints]
        return (pose[:, list(joints)] - pose[:, parents]).norm(dim=-1)

    difference = lengths(skeleton.joints_left) - lengths(skeleton.joints_right)
    return (difference if signed else difference.abs()).mean(dim=0).sum()
