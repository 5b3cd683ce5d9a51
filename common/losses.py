"""Training losses of poses (B, J, 3) in metres; each returns a scalar."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.metrics import mpjpe
from common.skeleton import Skeleton


def _mean_mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    return mpjpe(pred, target).mean()


def _smooth_l1(pred: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 loss: quadratic for errors below 1 cm, linear above.

    With torch's default limit of 1 m it would be quadratic for nearly all errors of poses.
    """
    return F.smooth_l1_loss(pred, target, beta=_SMOOTH_L1_BETA)


_SMOOTH_L1_BETA = 0.01  # metres
_MAIN_TERMS = {"mse": F.mse_loss, "mpjpe": _mean_mpjpe, "l1": F.l1_loss, "smooth_l1": _smooth_l1}
LOSSES = tuple(_MAIN_TERMS)


def pose_loss(pred: Tensor, target: Tensor, main: str, weight_l1: float) -> Tensor:
    """The published loss: (1 - weight_l1) * main term + weight_l1 * L1 -> scalar.

    Args:
        pred, target: (B, J, 3) metres.
        main: name of the main term, one of ``LOSSES``. Published: "mse" for ground-truth 2D,
            "mpjpe" for detected 2D.
        weight_l1: published: 0.1 for ground-truth 2D, 0.01 for detected 2D.
    """
    return (1 - weight_l1) * _MAIN_TERMS[main](pred, target) + weight_l1 * F.l1_loss(pred, target)


def sparsity_loss(offsets: Iterable[Tensor]) -> Tensor:
    """L1 norm of the learned adjacency offsets Q, summed over entries and layers -> scalar.

    The paper asks for sparse adjacencies; the released code has no such term.

    Args:
        offsets: (..., J, J) of each layer, see ``ModulatedGCN.adjacency_offsets``.
    """
    return torch.stack([offset.abs().sum() for offset in offsets]).sum()


def symmetry_loss(pose: Tensor, skeleton: Skeleton, signed: bool = False) -> Tensor:
    """Difference between left and right limb lengths of poses (B, J, 3) -> scalar, metres.

    The batch mean of |left - right|, summed over six pairs of limbs: hip, thigh, shank, shoulder,
    upper arm, forearm.

    Args:
        signed: use the published form, (left - right) without the absolute value. It has no lower
            bound: it decreases as the right limbs grow.
    """

    def lengths(joints: tuple[int, ...]) -> Tensor:
        parents = [skeleton.parents[joint] for joint in joints]
        return (pose[:, list(joints)] - pose[:, parents]).norm(dim=-1)

    difference = lengths(skeleton.joints_left) - lengths(skeleton.joints_right)
    return (difference if signed else difference.abs()).mean(dim=0).sum()
