"""Non-local blocks over joints (Wang et al., CVPR 2018): every joint attends to every other.

State dicts have the names and shapes of the published checkpoints, in which the blocks' linear maps
are convolutions: over one dimension in the grouped block, over two in the embedded one. Here they
are computed as matrix products in the memory layout of ``models.layout``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layout import to_poses, to_rows

# The pairs of joints that the grouped block pools, as in SemGCN (16 joints).
JOINT_PAIRS = ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9), (14, 15), (11, 12), (10, 13))


class _PointConv(nn.Module):
    """A convolution of width 1 with torch's initialisation: (B, J, in) -> (B, J, out).

    Its weight is (out, in, 1) over one dimension and (out, in, 1, 1) over two. Both shapes load.
    """

    def __init__(self, in_dim: int, out_dim: int, dimensions: int, bias: bool = True) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dimensions]
        drawn = convolution(in_dim, out_dim, kernel_size=1, bias=bias)
        self.weight, self.bias = drawn.weight, drawn.bias
        self.register_load_state_dict_pre_hook(_reshape_weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in) -> (B, J, out)."""
        return to_poses(F.linear(to_rows(x), self.weight.flatten(1), self.bias), x.shape[1])


def _reshape_weight(conv: _PointConv, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the weight that is to be loaded the convolution's number of dimensions."""
    weight = state.get(f"{prefix}weight")
    if isinstance(weight, Tensor) and weight.shape[:2].numel() == weight.numel():
        state[f"{prefix}weight"] = weight.reshape(*weight.shape[:2], *conv.weight.shape[2:])


class _Output(nn.Sequential):
    """Convolution and batch normalisation over poses and joints: (B, J, in) -> (B, J, out).

    The batch normalisation starts at zero, so the whole block starts as the identity. It subtracts
    the mean, so the convolution's bias has no effect and is not trained.
    """

    def __init__(self, in_dim: int, out_dim: int, dimensions: int) -> None:
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dimensions](out_dim)
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
        conv = _PointConv(in_dim, out_dim, dimensions)
        conv.bias.requires_grad_(False)
        super().__init__(conv, norm)

    def forward(self, y: Tensor) -> Tensor:
        """(B, J, in) -> (B, J, out)."""
        conv, norm = self
        rows = to_rows(conv(y))
        images = rows.view(rows.shape + conv.weight.shape[2:])  # one pixel each
        return to_poses(norm(images).flatten(1), y.shape[1])


class EmbeddedNonLocal(nn.Module):
    """Embedded Gaussian: x + BN(W y) with y = softmax(theta^T phi) g over joints, unscaled.

    The detected-2D model has one before its output layer. It starts as the identity.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = _PointConv(dim, dim // 2, dimensions=2)
        self.theta = _PointConv(dim, dim // 2, dimensions=2)
        self.phi = _PointConv(dim, dim // 2, dimensions=2)
        self.W = _Output(dim // 2, dim, dimensions=2)
        # The exact gradient of these biases is zero too. phi's bias adds the same to each logit of
        # a row, and the softmax cancels that. The rows of the affinity sum to 1, so g's bias adds a
        # constant to y, which the batch normalisation in W subtracts. Adam would train the rounding
        # error.
        self.g.bias.requires_grad_(False)
        self.phi.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, C) -> (B, J, C)."""
        affinity = torch.softmax(self.theta(x) @ self.phi(x).mT, dim=-1)
        return x + self.W(affinity @ self.g(x))


class GroupedNonLocal(nn.Module):
    """SemGCN's block: x + BN(W y) with keys and values max-pooled over pairs of joints.

        f(i, j) = ReLU(w . [theta_i ; phi_j]) / 8        y_i = sum_j f(i, j) g_j

    i runs over 16 joints and j over 8 pairs. The block starts as the identity.
    Source: Zhao et al., CVPR 2019, in the form of its released code.
    """

    def __init__(self, dim: int, num_joints: int) -> None:
        """
        Raises:
            ValueError: num_joints is not 16: the pairs are known for 16 joints only.
        """
        super().__init__()
        order = [joint for pair in JOINT_PAIRS for joint in pair]
        if num_joints != len(order):
            raise ValueError(f"the grouped non-local block is for 16 joints, not {num_joints}")
        self.register_buffer("order", torch.tensor(order), persistent=False)
        # In the original these are Sequentials of convolution and pooling: hence the names g.0 and
        # phi.0.
        self.g = nn.Sequential(_PointConv(dim, dim // 2, dimensions=1))
        self.theta = _PointConv(dim, dim // 2, dimensions=1)
        self.phi = nn.Sequential(_PointConv(dim, dim // 2, dimensions=1))
        self.concat_project = nn.Sequential(_PointConv(dim, 1, dimensions=2, bias=False))
        self.W = _Output(dim // 2, dim, dimensions=1)
        for module in self.modules():
            if isinstance(module, _PointConv):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _pool(self, x: Tensor) -> Tensor:
        """Maximum over each pair: (B, 16, C) -> (B, 8, C)."""
        return x[:, self.order].unflatten(1, (len(JOINT_PAIRS), 2)).amax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16, C) -> (B, 16, C)."""
        g, phi = self._pool(self.g(x)), self._pool(self.phi(x))
        # w . [theta_i ; phi_j] is a sum of a term of i and a term of j.
        w_theta, w_phi = self.concat_project[0].weight.flatten().chunk(2)
        affinity = (self.theta(x) @ w_theta).unsqueeze(2) + (phi @ w_phi).unsqueeze(1)
        return x + self.W(torch.relu(affinity) / len(JOINT_PAIRS) @ g)
