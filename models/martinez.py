"""The fully connected baseline (Martinez et al., ICCV 2017), as re-run by SemGCN's authors."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.norm import PoseBatchNorm


def _linear(in_dim: int, out_dim: int, normalised: bool = True) -> nn.Linear:
    """A linear layer with Kaiming-normal weights: (B, in_dim) -> (B, out_dim).

    If batch normalisation follows, the bias is not trained: see ``graph_network.Block``.
    """
    linear = nn.Linear(in_dim, out_dim)
    nn.init.kaiming_normal_(linear.weight)
    linear.bias.requires_grad_(not normalised)
    return linear


class _Stage(nn.Module):
    """Two layers C -> C, and the input added to their output. A layer is linear, batch
    normalisation, ReLU, dropout."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.w1, self.batch_norm1 = _linear(dim, dim), PoseBatchNorm(dim)
        self.w2, self.batch_norm2 = _linear(dim, dim), PoseBatchNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        y = self.dropout(torch.relu(self.batch_norm1(self.w1(x))))
        return x + self.dropout(torch.relu(self.batch_norm2(self.w2(y))))


class Martinez(nn.Module):
    """A fully connected network on all joints together: (B, J, in_dim) -> (B, J, out_dim).

    2D in normalised screen coordinates; 3D in metres, camera space, relative to the root.
    """

    # max_weight_norm is from the original paper.
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "hid_dim": 1024, "num_layers": 2, "dropout": 0.5, "non_local": False,
        "loss": "mse", "weight_l1": 0.0, "batch_size": 64, "epochs": 200, "lr": 1e-3,
        "lr_decay": 100_000, "lr_gamma": 0.96, "max_norm": 1.0, "max_weight_norm": 1.0,
    }  # fmt: skip

    def __init__(
        self,
        adj: Tensor,
        hid_dim: int = 1024,
        num_layers: int = 2,
        in_dim: int = 2,
        out_dim: int = 3,
        dropout: float = 0.5,
        predict_root: bool = True,
    ) -> None:
        """
        Args:
            adj: (J, J); only the number of joints counts.
            num_layers: residual stages of two layers each.
            predict_root: predict the root like the other joints. If False, the root is zero and the
                last layer has (J - 1) out_dim outputs, as in SemGCN's published checkpoints.
        """
        super().__init__()
        num_joints = len(adj)
        self.predict_root = predict_root
        outputs = num_joints if predict_root else num_joints - 1
        self.w1 = _linear(num_joints * in_dim, hid_dim)
        self.batch_norm1 = PoseBatchNorm(hid_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear_stages = nn.ModuleList(_Stage(hid_dim, dropout) for _ in range(num_layers))
        self.w2 = _linear(hid_dim, outputs * out_dim, normalised=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        y = self.dropout(torch.relu(self.batch_norm1(self.w1(x.flatten(1)))))
        for stage in self.linear_stages:
            y = stage(y)
        if self.predict_root:
            return self.w2(y).unflatten(1, (x.shape[1], -1))
        others = self.w2(y).unflatten(1, (x.shape[1] - 1, -1))
        return F.pad(others, (0, 0, 1, 0))  # the root, zero, before them

    @staticmethod
    def describe(weights: dict[str, Tensor]) -> dict[str, Any] | None:
        """Read the network's arguments off a state dict; None if it is of another network."""
        if not {"w1.weight", "w2.weight", "batch_norm1.weight"} <= weights.keys():
            return None
        hid_dim, inputs = weights["w1.weight"].shape
        joints, outputs = inputs // 2, len(weights["w2.weight"])
        predict_root = outputs % joints == 0
        stages = {name.split(".")[1] for name in weights if name.startswith("linear_stages.")}
        return {
            "joints": joints,
            "hid_dim": hid_dim,
            "num_layers": len(stages),
            "in_dim": 2,
            "out_dim": outputs // (joints if predict_root else joints - 1),
            "predict_root": predict_root,
        }
