"""Error metrics of 3D poses, one value for each pose, and their means by action.

Poses are (B, J, 3) in metres. Errors are in metres; the summaries convert them to millimetres.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.skeleton import SKELETONS

# The evaluation of MPI-INF-3DHP: thresholds of 0 to 150 mm in steps of 5 mm, in metres; and the
# joints that it does not score.
AUC_THRESHOLDS = tuple(step / 1000 for step in range(0, 151, 5))
_NOT_SCORED = ("Hip", "Spine", "Neck/Nose")
_MIN_Z = 0.01  # see nearest_rotation


def root_centred(pose: Tensor) -> Tensor:
    """Translate a pose (B, J, 3) so that its root, joint 0, is at zero."""
    return pose - pose[:, :1]


def published_form(pose: Tensor) -> Tensor:
    """Set joint 0 of a pose (B, J, 3) to zero and leave all other joints in place.

    The published evaluations score this form. They subtract the root in place, through a view of
    the memory being written, so only the root itself moves.
    """
    return torch.cat([torch.zeros_like(pose[:, :1]), pose[:, 1:]], dim=1)


def mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    """MPJPE (Protocol 1): mean Euclidean distance over the joints, (B, J, 3) -> (B,) metres.

    The caller centres prediction and target at the root.
    """
    _check_shapes(pred, target)
    return (pred - target).norm(dim=-1).mean(dim=-1)


def p_mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    """P-MPJPE (Protocol 2): MPJPE after Procrustes alignment, (B, J, 3) -> (B,), metres.

    The alignment is the rotation (no reflection), scale and translation of ``pred`` that minimise
    the squared distance to ``target`` (Umeyama 1991), computed in float64. Degenerate poses (all
    joints in one point or on one line) have a finite error; poses that are not finite have NaN.
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
    """The rotations R that maximise trace(R^T C), for C (B, 3, 3) float64: -> (B, 3, 3).

    Source: FOAM (Markley 1993). It needs a few elementwise operations on the batch, whereas an SVD
    is computed matrix by matrix. Let C be scaled to ||C|| = 1, with singular values s1 >= s2 >= s3,
    and let s3 be negative if det C < 0. Then l = s1 + s2 + s3 is the largest root of
    (l^2 - ||C||^2)^2 - 8 l det C - 4 ||cof C||^2, and

        R = ((k + ||C||^2) C + l cof C - C C^T C) / z,    k = (l^2 - ||C||^2) / 2,
        z = k l - det C = (s1 + s2) (s1 + s3) (s2 + s3).

    The rounding error grows with 1 / z^2; it is at most 1e-12 for z > 0.01. The rotations of all
    other matrices are computed by SVD. If the best rotation is not unique, z = 0.
    """
    largest = matrices.abs().amax(dim=(1, 2), keepdim=True)
    C = matrices / largest.clamp_min(torch.finfo(matrices.dtype).tiny)
    C = C / C.norm(dim=(1, 2), keepdim=True).clamp_min(0.5)  # the norm is 0 or >= 1
    cofactors = torch.linalg.cross(C.roll(-1, 1), C.roll(-2, 1), dim=2)
    det = (C[:, 0] * cofactors[:, 0]).sum(dim=1)
    norm, cofactor_norm = C.square().sum(dim=(1, 2)), cofactors.square().sum(dim=(1, 2))
    # Newton's iteration converges to the largest root from any upper bound of it. 12 iterations are
    # enough for z > 0.01.
    root = (norm + 2 * (3 * cofactor_norm).sqrt()).sqrt()
    for _ in range(12):
        rest = root.square() - norm
        value = rest.square() - 8 * det * root - 4 * cofactor_norm
        root = root - value / (4 * rest * root - 8 * det)
    k = (root.square() - norm) / 2
    z = k * root - det
    k, root, z = (v[:, None, None] for v in (k + norm, root, z))
    rotations = (k * C + root * cofactors - C @ (C.mT @ C)) / z
    inaccurate = ~(z.flatten() > _MIN_Z)
    if inaccurate.any():
        rotations[inaccurate] = _nearest_rotation_by_svd(matrices[inaccurate])
    return rotations


def _nearest_rotation_by_svd(matrices: Tensor) -> Tensor:
    U, _, Vt = torch.linalg.svd(matrices)
    # Where the best orthogonal matrix is a reflection, the last axis is negated.
    sign = torch.where(torch.linalg.det(U @ Vt) < 0, -1.0, 1.0).to(U)
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (U * signs.unsqueeze(1)) @ Vt


def scored_joints(num_joints: int) -> list[int]:
    """The 14 joints that the evaluation of MPI-INF-3DHP scores, as indices of our 16 or 17."""
    names = SKELETONS[num_joints].names
    return [joint for joint, name in enumerate(names) if name not in _NOT_SCORED]


def pck(pred: Tensor, target: Tensor, threshold: float = 0.150) -> Tensor:
    """PCK: share of joints with an error below ``threshold`` metres, (B, J, 3) -> (B,), 0 to 1.

    Only the 14 joints that the evaluation of MPI-INF-3DHP scores count. The caller centres
    prediction and target at the root.
    """
    return _share_within(pred, target, (threshold,))


def auc(pred: Tensor, target: Tensor) -> Tensor:
    """AUC: mean of the PCK at 31 thresholds of 0, 5, ... 150 mm, (B, J, 3) -> (B,), 0 to 30/31.

    The error must be strictly below a threshold. No joint is correct at 0 mm, so a perfect pose has
    30/31.
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


# Metrics of a result table: the function (pred, target) -> (B,), and the factor that converts its
# values to the unit in the name.
METRICS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "mpjpe_mm": (mpjpe, 1000.0),
    "p_mpjpe_mm": (p_mpjpe, 1000.0),
    "pck_percent": (pck, 100.0),
    "auc_percent": (auc, 100.0),
}


class ActionErrors:
    """Accumulates the errors of batches, and averages them by action.

    Several forms of the same predictions, such as :func:`root_centred` and :func:`published_form`,
    are scored together, which is cheaper than one after the other.

    Attributes:
        sums: (forms, actions, metrics) float64, summed errors. In float64 the result does not
            depend on how the poses are batched.
        frames: (actions,) int64, number of poses.
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
            actions: names of the actions.
            metrics: names in :data:`METRICS`.
            mean_over: the overall mean is over "actions", with equal weights, or over "frames".
            device: device of the poses.
            forms: number of forms in which each prediction is scored.
        """
        self.actions, self.metrics, self.mean_over = tuple(actions), tuple(metrics), mean_over
        shape = (forms, len(self.actions), len(self.metrics))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.frames = torch.zeros(len(self.actions), dtype=torch.int64, device=device)

    def update(self, pred: Tensor, target: Tensor, action: Tensor) -> None:
        """Add B poses.

        Args:
            pred: (forms, B, J, 3) metres, or (B, J, 3) if there is one form.
            target: (B, J, 3) metres, root-centred.
            action: (B,) indices of the actions.
        """
        action, forms = action.long(), len(self.sums)
        pred, target = pred.reshape(-1, *pred.shape[-2:]), target.repeat(forms, 1, 1)
        values = [METRICS[name][0](pred, target) for name in self.metrics]
        values = torch.stack(values, dim=1).double().view(forms, -1, len(self.metrics))
        self.sums.index_add_(1, action, values)
        self.frames += torch.bincount(action, minlength=len(self.actions))

    def summary(self, form: int = 0, mean_over: str | None = None) -> dict:
        """Mean errors by action, and overall.

        Args:
            form: index of the form of the predictions.
            mean_over: replaces the ``mean_over`` given at construction.

        Returns:
            {metric: overall mean, "mean_over": ..., "frames": n,
            "per_action": {action: {metric: mean, "frames": n}}}. The mean of an action without
            frames is None, and the overall mean leaves the action out.
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
