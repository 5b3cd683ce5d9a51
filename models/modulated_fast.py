"""The published modulated graph convolution, written for speed.

``models.modulated_gcn.ModulatedGraphConv.forward`` defines what is computed. With the paper's
choices that is, for a skeleton's adjacency A and S = (A + Q + (A + Q)^T) / 2,

    out = diag(S) (M o (X W[0])) + offdiag(S) (M o (X W[1])) + b

and the functions here compute the same up to rounding. Shapes: X (B, J, in), W (2, in, out),
M (J, out), A and Q (J, J), b (out,); ``models.layout`` explains the memory layout.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layout import to_poses, to_rows


def convolve(
    X: Tensor,
    W: Tensor,
    M: Tensor,
    A: Tensor,
    Q: Tensor,
    b: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The layer: (B, J, in) -> (B, J, out).

    Args:
        scale, shift: (out,), the result is scale o out + shift.
    """
    if scale is not None:
        M, b = M * scale, b * scale + shift  # M multiplies both terms of the formula
    if not torch.is_grad_enabled():
        # M is the same for all poses, so the weights take it, one pair of matrices a joint:
        # (M o (X W))_j = X_j (W M_j).
        X, M = X.transpose(0, 1).contiguous(), M.unsqueeze(1)
        d, N = _diagonal_and_rest(A, Q)
        out = torch.baddbmm(b, X, W[0] * (d.unsqueeze(1) * M))
        sent = torch.bmm(X, W[1] * M)
        out.view(len(X), -1).addmm_(N.to(out.dtype), sent.view(len(X), -1))
        return out.transpose(0, 1)
    if torch.is_autocast_enabled(X.device.type) or torch.compiler.is_compiling():
        # Autocast chooses a type for each operation, and a compiler fuses operations. Neither can
        # look into a hand-written gradient.
        return _convolve_by_autograd(X, W, M, A, Q, b)
    return to_poses(_Convolution.apply(X, W, M, A, Q, b), len(A))


def _diagonal_and_rest(A: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """d = diag(S) (J, 1) and N = offdiag(S) (J, J)."""
    S = A + Q
    S = (S + S.T) / 2
    diagonal = S.diagonal()
    return diagonal.unsqueeze(1), S - torch.diag_embed(diagonal)


def _convolve_by_autograd(
    X: Tensor, W: Tensor, M: Tensor, A: Tensor, Q: Tensor, b: Tensor
) -> Tensor:
    """:func:`convolve` in joint-major memory, with autograd's gradient."""
    X = X.transpose(0, 1)
    d, N = _diagonal_and_rest(A, Q)
    own = (X @ W[0]) * (d * M).unsqueeze(1)
    sent = (X @ W[1]) * M.unsqueeze(1)
    out = own + (N @ sent.flatten(1)).view_as(own)
    return to_poses((out + b).flatten(0, 1), len(A))


class _Convolution(torch.autograd.Function):
    """:func:`convolve` with a hand-written gradient: X (B, J, in) -> rows (J B, out).

    With d = diag(S), N = offdiag(S) and, for each joint,

        own = X W[0]      sent = X W[1]      out = (d M) o own + N (M o sent) + b

    the gradients for g = d loss / d out are, with back = N^T g and the sums over poses p,

        dN = g (M o sent)^T         dd_j = sum_c M_jc sum_p (own o g)_jpc
        dM = d sum_p own o g + sum_p sent o back
        dW = X^T (d M o g), X^T (M o back)       dX = (d M o g) W[0]^T + (M o back) W[1]^T
        dQ = (dS + dS^T) / 2                     db = sum_jp g

    Autograd would compute the same with some fifteen more passes over the activations, each into
    new memory, and some thirty more small operations, which matter in a small batch. Here every
    elementwise product overwrites a tensor that is no longer needed, the bias is added with the
    first product, and the second matrix product of dX adds to the first.
    """

    @staticmethod
    def forward(ctx, X: Tensor, W: Tensor, M: Tensor, A: Tensor, Q: Tensor, b: Tensor) -> Tensor:
        rows, shape = to_rows(X), (len(A), -1, W.shape[2])
        d, N = _diagonal_and_rest(A, Q)
        own, sent = rows.mm(W[0]).view(shape), rows.mm(W[1]).view(shape)
        modulated = sent * M.unsqueeze(1)
        out = torch.addcmul(b, own, (d * M).unsqueeze(1))
        out.view(len(A), -1).addmm_(N, modulated.view(len(A), -1))
        ctx.save_for_backward(rows, W, M, d, N, own, sent, modulated)
        return out.view(-1, W.shape[2])

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, W, M, d, N, own, sent, modulated = ctx.saved_tensors
        flat, g = g.reshape(len(M), -1), g.reshape(own.shape)
        back = (N.T @ flat).view_as(own)
        d_S = flat @ modulated.view(len(M), -1).T

        product = own * g
        own_sum = product.sum(1)
        sent_sum = torch.mul(sent, back, out=product).sum(1)
        d_own = torch.mul(g, (d * M).unsqueeze(1), out=product).flatten(0, 1)
        d_sent = back.mul_(M.unsqueeze(1)).flatten(0, 1)

        d_W = torch.stack([rows.T @ d_own, rows.T @ d_sent])
        d_X = None
        if ctx.needs_input_grad[0]:
            d_X = to_poses((d_own @ W[0].T).addmm_(d_sent, W[1].T), len(M))
        d_M = d * own_sum + sent_sum
        d_S.diagonal().copy_((M * own_sum).sum(1))
        d_b = g.sum((0, 1)) if ctx.needs_input_grad[5] else None
        return d_X, d_W, d_M, None, (d_S + d_S.T) / 2, d_b
