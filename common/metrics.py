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
_SURE = 0.01  # see nearest_rotation


def root_centred(pose: Tensor) -> Tensor:
    """The whole pose (B, J, 3) moved so that its root, joint 0, is at zero."""
    return pose - pose[:, :1]


def published_form(pose: Tensor) -> Tensor:
    """The pose (B, J, 3) with joint 0 set to zero and nothing else moved.

    This is what the published evaluations score: they subtract the root in place, through a view of
    the memory being written, so that only the root itself moves.
    """
    return torch.cat([torch.zeros_like(pose[:, :1]), pose[:, 1:]], dim=1)


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
    covariance = (p.mT @ t).nan_to_num(0.0, 0.0, 0.0)
    rotation = nearest_rotation(covariance)
    size = p.square().sum(dim=(1, 2)).clamp_min(torch.finfo(p.dtype).tiny)
    scale = (rotation * covariance).sum(dim=(1, 2)) / size
    return (scale[:, None, None] * (p @ rotation) - t).norm(dim=-1).mean(dim=-1).to(pred.dtype)


def nearest_rotation(matrices: Tensor) -> Tensor:
    """The rotations R with the largest trace(R^T C), for C (B, 3, 3) float64: -> (B, 3, 3).

    Markley's FOAM (1993), a few elementwise operations where a singular value decomposition takes
    each matrix by itself. With C scaled to ||C|| = 1, singular values s1 >= s2 >= s3 and s3 counted
    negative where det C < 0, l = s1 + s2 + s3 is the largest root of
    (l^2 - ||C||^2)^2 - 8 l det C - 4 ||cof C||^2, and

        R = ((k + ||C||^2) C + l cof C - C C^T C) / z,    k = (l^2 - ||C||^2) / 2,
        z = k l - det C = (s1 + s2) (s1 + s3) (s2 + s3).

    Rounding grows with 1 / z^2, to 1e-12 at most as long as z > 0.01. The others, among them all
    whose best rotation is not unique, are decomposed.
    """
    largest = matrices.abs().amax(dim=(1, 2), keepdim=True)
    C = matrices / largest.clamp_min(torch.finfo(matrices.dtype).tiny)
    C = C / C.norm(dim=(1, 2), keepdim=True).clamp_min(0.5)  # 1 at least, unless C is zero
    cofactors = torch.linalg.cross(C.roll(-1, 1), C.roll(-2, 1), dim=2)
    det = (C[:, 0] * cofactors[:, 0]).sum(dim=1)
    norm, cofactor_norm = C.square().sum(dim=(1, 2)), cofactors.square().sum(dim=(1, 2))
    # Newton's iteration falls to the largest root from any bound above it; 12 rounds are enough
    # wherever z > 0.01.
    root = (norm + 2 * (3 * cofactor_norm).sqrt()).sqrt()
    for _ in range(12):
        rest = root.square() - norm
        value = rest.square() - 8 * det * root - 4 * cofactor_norm
        root = root - value / (4 * rest * root - 8 * det)
    k = (root.square() - norm) / 2
    z = k * root - det
    k, root, z = (v[:, None, None] for v in (k + norm, root, z))
    rotations = (k * C + root * cofactors - C @ (C.mT @ C)) / z
    unsure = ~(z.flatten() > _SURE)
    if unsure.any():
        rotations[unsure] = _nearest_rotation_by_svd(matrices[unsure])
    return rotations


def _nearest_rotation_by_svd(matrices: Tensor) -> Tensor:
    U, _, Vt = torch.linalg.svd(matrices)
    # The last axis turns round where the best orthogonal matrix would be a reflection.
    sign = torch.where(torch.linalg.det(U @ Vt) < 0, -1.0, 1.0).to(U)
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (U * signs.unsqueeze(1)) @ Vt


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
    """Sums errors by action; sums are exact enough (float64) not to depend on the batches.

    Several forms of the same predictions, such as root-centred and :func:`published_form`, are
    scored in one go, which is cheaper than one after the other.
    """

    def __init__(
        self,
        actions: Sequence[str],
        metrics: Sequence[str] = ("mpjpe_mm", "p_mpjpe_mm"),
        mean_over: str = "actions",
        device: torch.device | str = "cpu",
        forms: int = 1,
    ) -> None:
        """
        Args:
            metrics: names in :data:`METRICS`.
            mean_over: the mean in all is over "actions", each counting alike, or "frames".
            forms: of each prediction.
        """
        self.actions, self.metrics, self.mean_over = tuple(actions), tuple(metrics), mean_over
        shape = (forms, len(self.actions), len(self.metrics))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.frames = torch.zeros(len(self.actions), dtype=torch.int64, device=device)

    def update(self, pred: Tensor, target: Tensor, action: Tensor) -> None:
        """Add B poses.

        Args:
            pred: (forms, B, J, 3) metres, or (B, J, 3) where there is one form.
            target: (B, J, 3) metres, root-centred.
            action: (B,) indices.
        """
        action, forms = action.long(), len(self.sums)
        pred, target = pred.reshape(-1, *pred.shape[-2:]), target.repeat(forms, 1, 1)
        values = [METRICS[name][0](pred, target) for name in self.metrics]
        values = torch.stack(values, dim=1).double().view(forms, -1, len(self.metrics))
        self.sums.index_add_(1, action, values)
        self.frames += torch.bincount(action, minlength=len(self.actions))

    def summary(self, form: int = 0, mean_over: str | None = None) -> dict:
        """Means: of each action over its frames, and in all.

        Gives {metric: mean in all, "mean_over": ..., "frames": n, "per_action": {action: {metric,
        "frames"}}}; an action without frames is None there and does not count in the mean.

        Args:
            mean_over: another than the one of all forms.
        """
        mean_over = mean_over or self.mean_over
        frames, sums = self.frames.cpu(), self.sums[form].cpu()
        sums = sums * torch.tensor([METRICS[name][1] for name in self.metrics])
        means = sums / frames.unsqueeze(1)
        by_actions = means[frames > 0].mean(dim=0)
        overall = by_actions if mean_over == "actions" else sums.sum(dim=0) / frames.sum()
        rows = {
            action: self._named(means[i].tolist() if n else [None] * len(self.metrics), n)
            for i, (action, n) in enumerate(zip(self.actions, frames.tolist(), strict=True))
        }
        total = self._named(overall.tolist(), int(frames.sum()))
        return total | {"mean_over": mean_over, "per_action": rows}

    def _named(self, values: list, frames: int) -> dict:
        return dict(zip(self.metrics, values, strict=True)) | {"frames": frames}
