"""No weight sharing: a weight matrix for each joint (Liu et al., ECCV 2020, pre-aggregation)."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.gcn import row_normalised
from models.layout import aggregate
from models.modulated_gcn import GraphNetwork
from models.semgcn import SemGCN


class UnsharedGraphConv(nn.Module):
    """Each joint transforms its features by its own weights, before they are sent along edges.

        out_i = A_ii (x_i W[0, i]) + sum over j != i of A_ij (x_j W[1, j]) + bias

    A is the row-normalised adjacency with self loops; self and neighbours are decoupled.
    """

    def __init__(self, in_dim: int, out_dim: int, adj: Tensor) -> None:
        """
        Args:
            adj: (J, J) with self loops; only which entries are above zero counts.
        """
        super().__init__()
        self.register_buffer("adj", row_normalised(adj), persistent=False)
        self.W = nn.Parameter(torch.empty(2, len(adj), in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))
        # Each joint's pair of matrices starts as the shared pair of SemGCN does.
        for pair in self.W.unbind(1):
            nn.init.xavier_uniform_(pair, gain=1.414)
        nn.init.uniform_(self.bias, -1 / math.sqrt(out_dim), 1 / math.sqrt(out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        joint_major = x.transpose(0, 1)
        own, sent = ((joint_major @ W).transpose(0, 1) for W in self.W)
        diagonal = self.adj.diagonal()
        neighbours = self.adj - torch.diag_embed(diagonal)
        return diagonal.unsqueeze(1) * own + aggregate(neighbours, sent) + self.bias


class UnsharedGCN(GraphNetwork):
    """The network of ``GraphNetwork`` around :class:`UnsharedGraphConv`, trained as SemGCN."""

    PUBLISHED: ClassVar[dict[str, Any]] = SemGCN.PUBLISHED
    CONV: ClassVar[Callable[..., nn.Module]] = UnsharedGraphConv
    LAYER: ClassVar[dict[str, int]] = {"W": 4, "bias": 1}

    @staticmethod
    def joints_of(layer: dict[str, Tensor]) -> dict[str, int]:
        return {"joints": layer["W"].shape[1]}
