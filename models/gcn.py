"""Vanilla graph convolution: one weight matrix for all joints and edges.

It is the simplest weight sharing that Liu et al. (ECCV 2020) compare.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.graph_network import GraphNetwork, initialise
from models.layout import aggregate
from models.semgcn import SemGCN


def row_normalised(adj: Tensor) -> Tensor:
    """The edges of adj (J, J), self loops included, each row divided by its sum."""
    edges = (adj > 0).to(adj.dtype)
    return edges / edges.sum(dim=1, keepdim=True)


class GraphConv(nn.Module):
    """Graph convolution with shared weights.

        out = A X W + bias

    A is the row-normalised adjacency with self loops.
    """

    def __init__(self, in_dim: int, out_dim: int, adj: Tensor) -> None:
        """
        Args:
            adj: (J, J) with self loops. Entries above zero are edges; their values do not matter.
        """
        super().__init__()
        self.register_buffer("adj", row_normalised(adj), persistent=False)
        self.W = nn.Parameter(torch.empty(in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))
        initialise([self.W], self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        return aggregate(self.adj, x @ self.W) + self.bias


class VanillaGCN(GraphNetwork):
    """The network of ``GraphNetwork`` around :class:`GraphConv`, trained like SemGCN."""

    PUBLISHED: ClassVar[dict[str, Any]] = SemGCN.PUBLISHED
    CONV: ClassVar[Callable[..., nn.Module]] = GraphConv
    LAYER: ClassVar[dict[str, int]] = {"W": 2, "bias": 1}
