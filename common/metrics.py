"""Errors of 3D poses, one value a pose, and their table by action.

Poses are (B, J, 3) in metres; errors are metres here and millimetres in every summary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.skeleton import SKELETONS

# MPI-INF-3DHP: 0 to 150 mm in steps of 5, in metres; the joints that its evaluation leaves out.
AUC_THRESHOLDS = tuple(step / 1000 for step in range(0, 151, 5))
_NOT_SCORED = ("Hip", "Spine", "Neck/Nose")


def mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    """Protocol 1: mean over joints of the Euclidean distance, (B, J, 3) -> (B,).

    Prediction and target are to be root-centred alike by the caller.
    """
    _check_shapes(pred, target)
    return (pred - target).norm(dim=-1).mean(dim=-1)


def p_mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    """Protocol 2: MPJPE after the best similarity transform of each pose, (B, J, 3) -> (B,).

    Rotation (no reflection), scale and translation that bring ``pred`` closest to ``target`` in
    the least-squares sense (Umeyama 1991), in float64. Degenerate poses (all joints in one point
    or on one line) give finite errors; poses that are not finite give NaN.
    """
    _check_shapes(pred, target)
    p, t = pred.double(), target.double()
    p, t = p - p.mean(dim=1, keepdim=True), t - t.mean(dim=1, keepdim=True)
    U, S, Vt = torch.linalg.svd((p.mT @ t).nan_to_num(0.0, 0.0, 0.0))
    # The last axis turns round where the best orthogonal matrix would be a reflection.
    sign = torch.where(torch.linalg.det(U @ Vt) < 0, -1.0, 1.0).to(S)
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    rotation = (U * signs.unsqueeze(1)) @ Vt
    size = p.square().sum(dim=(1, 2)).clamp_min(torch.finfo(p.dtype).tiny)
    scale = (S * signs).sum(dim=-1) / size
    return (scale[:, None, None] * (p @ rotation) - t).norm(dim=-1).mean(dim=-1).to(pred.dtype)


def scored_joints(num_joints: int) -> list[int]:
    """The 14 joints that MPI-INF-3DHP's evaluation scores, as indices of our 16 or 17."""
    names = SKELETONS[num_joints].names
    return [joint for joint, name in enumerate(names) if name not in _NOT_SCORED]


def pck(pred: Tensor, target: Tensor, threshold: float = 0.150) -> Tensor:
    """Share of correct joints, those nearer to the truth than ``threshold`` metres: -> (B,).

    Over the 14 joints of MPI-INF-3DHP's evaluation, prediction and target root-centred.
    """
    return _share_within(pred, target, (threshold,))


def auc(pred: Tensor, target: Tensor) -> Tensor:
    """Area under the PCK curve: mean PCK at 0, 5, ... 150 mm (31 thresholds), -> (B,).

    Nearer is strictly so: no joint is correct at 0 mm, and a perfect pose has 30/31.
    """
    return _share_within(pred, target, AUC_THRESHOLDS)


def _share_within(pred: Tensor, target: Tensor, thresholds: Sequence[float]) -> Tensor:
    _check_shapes(pred, target)
    errors = (pred - target)[:, scored_joints(pred.shape[1])].norm(dim=-1)
    correct = errors.unsqueeze(-1) < errors.new_tensor(thresholds)
    return correct.to(pred.dtype).mean(dim=(1, 2))


def _check_shapes(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape or pred.dim() != 3 or pred.shape[-1] != 3:
        raise ValueError(
            f"poses: two (B, J, 3) tensors expected, got {tuple(pred.shape)}, {tuple(target.shape)}"
        )


# Metrics of a table: (B, J, 3) twice -> (B,), and the factor to the unit of the name.
METRICS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "mpjpe_mm": (mpjpe, 1000.0),
    "p_mpjpe_mm": (p_mpjpe, 1000.0),
    "pck_percent": (pck, 100.0),
    "auc_percent": (auc, 100.0),
}


class ActionErrors:
    """Sums errors by action; sums are exact enough (float64) not to depend on the batches."""

    def __init__(
        self,
        actions: Sequence[str],
        metrics: Sequence[str] = ("mpjpe_mm", "p_mpjpe_mm"),
        mean_over: str = "actions",
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            metrics: names in :data:`METRICS`.
            mean_over: the mean in all is over "actions", each counting alike, or "frames".
        """
        self.actions, self.metrics, self.mean_over = tuple(actions), tuple(metrics), mean_over
        shape = (len(self.actions), len(self.metrics))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.frames = torch.zeros(len(self.actions), dtype=torch.int64, device=device)

    def update(self, pred: Tensor, target: Tensor, action: Tensor) -> None:
        """Add B poses: (B, J, 3) metres, both root-centred; ``action`` (B,) indices."""
        action = action.long()
        values = [METRICS[name][0](pred, target) for name in self.metrics]
        self.sums.index_add_(0, action, torch.stack(values, dim=1).double())
        self.frames += torch.bincount(action, minlength=len(self.actions))

    def summary(self) -> dict:
        """Means: of each action over its frames, and in all.

        Gives {metric: mean in all, "mean_over": ..., "frames": n, "per_action": {action: {metric,
        "frames"}}}; an action without frames is None there and does not count in the mean.
        """
        frames, sums = self.frames.cpu(), self.sums.cpu()
        sums = sums * torch.tensor([METRICS[name][1] for name in self.metrics])
        means = sums / frames.unsqueeze(1)
        by_actions = means[frames > 0].mean(dim=0)
        overall = by_actions if self.mean_over == "actions" else sums.sum(dim=0) / frames.sum()
        rows = {
            action: self._named(means[i].tolist() if n else [None] * len(self.metrics), n)
            for i, (action, n) in enumerate(zip(self.actions, frames.tolist(), strict=True))
        }
        total = self._named(overall.tolist(), int(frames.sum()))
        return total | {"mean_over": self.mean_over, "per_action": rows}

    def _named(self, values: list, frames: int) -> dict:
        return dict(zip(self.metrics, values, strict=True)) | {"frames": frames}
