"""Semantic GCN (Zhao et al., CVPR 2019): each edge of the skeleton has a learned weight."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.graph_network import GraphNetwork, initialise
from models.layout import aggregate

_NO_EDGE = -9e15  # the softmax makes zero of it


class SemGraphConv(nn.Module):
    """Graph convolution with a learned weight for each edge, self loops included.

        S   = softmax over each row of (e on the edges, -9e15 elsewhere)
        out = diag(S) (X W[0]) + offdiag(S) (X W[1]) + bias

    e (1, E) has a value for each of the E edges, in the order of the adjacency's rows. Source: the
    paper's section 3.2.
    """

    def __init__(self, in_dim: int, out_dim: int, adj: Tensor) -> None:
        """
        Args:
            adj: (J, J) with self loops. Entries above zero are edges; their values do not matter.
        """
        super().__init__()
        self.register_buffer("mask", adj > 0, persistent=False)
        self.W = nn.Parameter(torch.empty(2, in_dim, out_dim))
        self.e = nn.Parameter(torch.ones(1, int(self.mask.sum())))
        self.bias = nn.Parameter(torch.empty(out_dim))
        initialise([self.W], self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        logits = torch.full_like(self.mask, _NO_EDGE, dtype=self.e.dtype)
        S = torch.softmax(logits.masked_scatter(self.mask, self.e), dim=1)
        diagonal = S.diagonal()
        own = diagonal.unsqueeze(1) * (x @ self.W[0])
        return own + aggregate(S - torch.diag_embed(diagonal), x @ self.W[1]) + self.bias


class SemGCN(GraphNetwork):
    """The network of ``GraphNetwork`` around :class:`SemGraphConv`. Published checkpoints load.

    With grouped non-local blocks its authors trained for 30 epochs.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "hid_dim": 128, "num_layers": 4, "dropout": 0.0, "non_local": False,
        "loss": "mse", "weight_l1": 0.0, "batch_size": 64, "epochs": 50, "lr": 1e-3,
        "lr_decay": 100_000, "lr_gamma": 0.96, "max_norm": 1.0,
    }  # fmt: skip
    CONV: ClassVar[Callable[..., nn.Module]] = SemGraphConv
    LAYER: ClassVar[dict[str, int]] = {"W": 3, "e": 2, "bias": 1}

    @staticmethod
    def joints_of(layer: dict[str, Tensor]) -> dict[str, int]:
        """{"joints": J}: a tree of J joints has J self loops and 2 (J - 1) directed edges."""
        return {"joints": (layer["e"].numel() + 2) // 3}
