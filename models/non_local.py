"""Non-local blocks over joints (Wang et al., CVPR 2018): every joint looks at every other.

Their 1x1 convolutions are ``nn.Conv2d`` so that the state dict has the shapes of the published
checkpoints, (out, in, 1, 1); they are applied as matrix products in the layout of
``models.layout``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layout import to_poses, to_rows

# Neighbours pooled together by the grouped block (16 joints), as in SemGCN.
JOINT_PAIRS = ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9), (14, 15), (11, 12), (10, 13))


def _conv(in_dim: int, out_dim: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_dim, out_dim, kernel_size=1, bias=bias)


def _apply(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution on (B, J, in) -> (B, J, out)."""
    return to_poses(F.linear(to_rows(x), conv.weight.flatten(1), conv.bias), x.shape[1])


def _output(in_dim: int, out_dim: int) -> nn.Sequential:
    """Convolution and batch normalisation; the latter starts at zero, the block at identity.

    Batch normalisation subtracts the mean, so the convolution's bias has no effect and no gradient.
    """
    conv, norm = _conv(in_dim, out_dim), nn.BatchNorm2d(out_dim)
    conv.bias.requires_grad_(False)
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)
    return nn.Sequential(conv, norm)


def _apply_output(output: nn.Sequential, y: Tensor) -> Tensor:
    """The above on (B, J, in) -> (B, J, out); statistics over poses and joints."""
    rows = to_rows(_apply(output[0], y))[:, :, None, None]
    return to_poses(output[1](rows).flatten(1), y.shape[1])


class EmbeddedNonLocal(nn.Module):
    """Embedded Gaussian: x + BN(W y), y = softmax(theta^T phi) g over joints, unscaled.

    The detected-2D model has one before its output layer. It is the identity at initialisation.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = _conv(dim, dim // 2)
        self.theta = _conv(dim, dim // 2)
        self.phi = _conv(dim, dim // 2)
        self.W = _output(dim // 2, dim)
        # Their exact gradient is zero too. phi's bias adds the same to each logit of a row, which
        # the softmax cancels. The rows of the affinity sum to 1, so g's bias adds a constant to y,
        # which the batch normalisation in W subtracts. Adam would train the rounding error.
        self.g.bias.requires_grad_(False)
        self.phi.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, C) -> (B, J, C)."""
        affinity = torch.softmax(_apply(self.theta, x) @ _apply(self.phi, x).mT, dim=-1)
        return x + _apply_output(self.W, affinity @ _apply(self.g, x))


class GroupedNonLocal(nn.Module):
    """SemGCN's block: x + BN(W y) with keys and values max-pooled over pairs of joints.

        f(i, j) = ReLU(w . [theta_i ; phi_j]) / 8        y_i = sum_j f(i, j) g_j

    i runs over 16 joints and j over 8 pairs. The identity at initialisation.
    Source: Zhao et al., CVPR 2019, in the form of its released code.
    """

    def __init__(self, dim: int, num_joints: int) -> None:
        """
        Raises:
            ValueError: the pairs are known for 16 joints only.
        """
        super().__init__()
        order = [joint for pair in JOINT_PAIRS for joint in pair]
        if num_joints != len(order):
            raise ValueError(f"the grouped non-local block is for 16 joints, not {num_joints}")
        self.register_buffer("order", torch.tensor(order), persistent=False)
        # Two-element Sequentials (convolution, pooling) in the original give the names g.0, phi.0.
        self.g = nn.Sequential(_conv(dim, dim // 2))
        self.theta = _conv(dim, dim // 2)
        self.phi = nn.Sequential(_conv(dim, dim // 2))
        self.concat_project = nn.Sequential(_conv(dim, 1, bias=False))
        self.W = _output(dim // 2, dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _pool(self, x: Tensor) -> Tensor:
        """Maximum over each pair: (B, 16, C) -> (B, 8, C)."""
        return x[:, self.order].unflatten(1, (len(JOINT_PAIRS), 2)).amax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16, C) -> (B, 16, C)."""
        g = self._pool(_apply(self.g[0], x))
        phi = self._pool(_apply(self.phi[0], x))
        # w . [theta_i ; phi_j] is a sum of a term of i and a term of j.
        w_theta, w_phi = self.concat_project[0].weight.flatten().chunk(2)
        affinity = (_apply(self.theta, x) @ w_theta).unsqueeze(2) + (phi @ w_phi).unsqueeze(1)
        return x + _apply_output(self.W, torch.relu(affinity) / len(JOINT_PAIRS) @ g)
