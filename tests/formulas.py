"""Formulas of the method, written plainly, that several tests compare with."""

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
