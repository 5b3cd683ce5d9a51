"""Graph convolution without weight sharing: each joint has its own weight matrices.

This is the pre-aggregation form of Liu et al. (ECCV 2020).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.gcn import row_normalised
from models.graph_network import GraphNetwork, initialise
from models.layout import aggregate
from models.semgcn import SemGCN


class UnsharedGraphConv(nn.Module):
    """Each joint transforms its features by its own weights, and then sends them along its edges.

        out_i = A_ii (x_i W[0, i]) + sum over j != i of A_ij (x_j W[1, j]) + bias

    A is the row-normalised adjacency with self loops. A joint has one weight matrix for itself and
    one for its neighbours.
    """

    def __init__(self, in_dim: int, out_dim: int, adj: Tensor) -> None:
        """
        Args:
            adj: (J, J) with self loops. Entries above zero are edges; their values do not matter.
        """
        super().__init__()
        self.register_buffer("adj", row_normalised(adj), persistent=False)
        self.W = nn.Parameter(torch.empty(2, len(adj), in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))
        # The pair of matrices of each joint starts as the shared pair of SemGCN does.
        initialise(self.W.unbind(1), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        joint_major = x.transpose(0, 1)
        own, sent = ((joint_major @ W).transpose(0, 1) for W in self.W)
        diagonal = self.adj.diagonal()
        neighbours = self.adj - torch.diag_embed(diagonal)
        return diagonal.unsqueeze(1) * own + aggregate(neighbours, sent) + self.bias


class UnsharedGCN(GraphNetwork):
    """The network of ``GraphNetwork`` around :class:`UnsharedGraphConv`, trained like SemGCN."""

    PUBLISHED: ClassVar[dict[str, Any]] = SemGCN.PUBLISHED
    CONV: ClassVar[Callable[..., nn.Module]] = UnsharedGraphConv
    LAYER: ClassVar[dict[str, int]] = {"W": 4, "bias": 1}

    @staticmethod
    def joints_of(layer: dict[str, Tensor]) -> dict[str, int]:
        """{"joints": J}: W has a pair of matrices for each joint."""
        return {"joints": layer["W"].shape[1]}
