"""Formulas of the method, written plainly, that several tests compare with."""

import numpy as np
import torch
from torch import Tensor


def modulated_layer(
    x: Tensor, W: Tensor, M: Tensor, adj: Tensor, adj2: Tensor, bias: Tensor
) -> Tensor:
    """The published layer, with masks instead of diagonals and one einsum a term."""
    S = adj + adj2
    A = 0.5 * (S + S.transpose(0, 1))
    eye = torch.eye(A.shape[0], dtype=A.dtype)
    own = torch.einsum("ij,bjc->bic", A * eye, M * torch.einsum("bji,ic->bjc", x, W[0]))
    others = torch.einsum("ij,bjc->bic", A * (1 - eye), M * torch.einsum("bji,ic->bjc", x, W[1]))
    return own + others + bias


def pixel(point: np.ndarray, camera: dict) -> tuple[float, float]:
    """One camera-space point to pixels, from the calibration in pixels, number by number."""
    x, y = (min(max(v / point[2], -1.0), 1.0) for v in point[:2])
    k1, k2, k3 = camera["radial_distortion"]
    p1, p2 = camera["tangential_distortion"]
    r2 = x * x + y * y
    factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
    (fx, fy), (cx, cy) = camera["focal_length"], camera["center"]
    return fx * (x * factor + p1 * r2) + cx, fy * (y * factor + p2 * r2) + cy
