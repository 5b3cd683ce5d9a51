"""PCK and AUC, the metrics of MPI-INF-3DHP: how many joints lie near enough to the truth."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.skeleton import H36M_16, Skeleton

# Official: 0 to 150 mm in steps of 5, in metres.
AUC_THRESHOLDS = tuple(step / 1000 for step in range(0, 151, 5))
# Our joints that are not among the 14 of the official evaluation.
_NOT_SCORED = ("Hip", "Spine", "Neck/Nose")


def official_joints(skeleton: Skeleton) -> tuple[int, ...]:
    """The indices of the 14 joints that the official evaluation scores, in a skeleton of ours."""
    return tuple(i for i, name in enumerate(skeleton.names) if name not in _NOT_SCORED)


JOINTS_14 = official_joints(H36M_16)


def pck(
    pred: Tensor, target: Tensor, threshold: float = 0.150, joints: Sequence[int] = JOINTS_14
) -> Tensor:
    """The share of correct joints of each pose: those nearer to the truth than ``threshold``.

    Args:
        pred, target: (B, J, 3) metres, both root-centred.
        threshold: metres.
        joints: the scored joints; by default the official 14, which are the 16 joints
            without Hip and Spine. For another skeleton: :func:`official_joints`.

    Returns:
        (B,) in [0, 1].
    """
    return _share_within(pred, target, (threshold,), joints)


def auc(pred: Tensor, target: Tensor, joints: Sequence[int] = JOINTS_14) -> Tensor:
    """The area under the PCK curve of each pose: the mean PCK at 0, 5, ... 150 mm (31 of them).

    A joint is correct when its error is below the threshold, so that none is at 0 mm, and a
    perfect pose has 30/31. Arguments and result as in :func:`pck`.
    """
    return _share_within(pred, target, AUC_THRESHOLDS, joints)


def _share_within(
    pred: Tensor, target: Tensor, thresholds: Sequence[float], joints: Sequence[int]
) -> Tensor:
    if pred.shape != target.shape or pred.ndim != 3 or pred.shape[2] != 3:
        raise ValueError(
            f"two (B, J, 3) expected, got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    kept = list(joints)
    errors = (pred[:, kept] - target[:, kept]).norm(dim=-1)
    correct = errors.unsqueeze(-1) < errors.new_tensor(thresholds)
    return correct.to(torch.float32).mean(dim=(1, 2))
