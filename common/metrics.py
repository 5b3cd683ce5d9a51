"""Errors of 3D poses, one value a pose, and their table by action.

Poses are (B, J, 3) in metres; errors are metres here and millimetres in every summary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


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


def _check_shapes(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape or pred.dim() != 3 or pred.shape[-1] != 3:
        raise ValueError(
            f"poses: two (B, J, 3) tensors expected, got {tuple(pred.shape)}, {tuple(target.shape)}"
        )


class ActionErrors:
    """Sums errors by action; sums are exact enough (float64) not to depend on the batches."""

    METRICS = (("mpjpe_mm", mpjpe), ("p_mpjpe_mm", p_mpjpe))

    def __init__(self, actions: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.actions = tuple(actions)
        shape = (len(self.actions), len(self.METRICS))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.frames = torch.zeros(len(self.actions), dtype=torch.int64, device=device)

    def update(self, pred: Tensor, target: Tensor, action: Tensor) -> None:
        """Add B poses: (B, J, 3) metres, both root-centred; ``action`` (B,) indices."""
        action = action.long()
        errors = torch.stack([metric(pred, target) for _, metric in self.METRICS], dim=1)
        self.sums.index_add_(0, action, errors.double())
        self.frames += torch.bincount(action, minlength=len(self.actions))

    def summary(self) -> dict:
        """Means in mm: of each action over its frames, and of the actions that have frames.

        Gives {metric: mean of actions, "frames": n, "per_action": {action: {metric, "frames"}}};
        an action without frames is None there and does not count in the mean.
        """
        frames = self.frames.cpu()
        means = 1000 * self.sums.cpu() / frames.unsqueeze(1)
        names = [name for name, _ in self.METRICS]
        overall = means[frames > 0].mean(dim=0).tolist()
        rows = {
            action: dict(zip(names, means[i].tolist() if n else [None] * len(names), strict=True))
            | {"frames": n}
            for i, (action, n) in enumerate(zip(self.actions, frames.tolist(), strict=True))
        }
        return dict(zip(names, overall, strict=True)) | {
            "frames": int(frames.sum()),
            "per_action": rows,
        }
