"""VideoPose3D on one frame (Pavllo et al., CVPR 2019).

Its convolutions over time have width 1.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.norm import PoseBatchNorm


def _conv(in_dim: int, out_dim: int, bias: bool = False) -> nn.Conv1d:
    return nn.Conv1d(in_dim, out_dim, kernel_size=1, bias=bias)


def _apply(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """The convolution of one frame, as a matrix product, which is faster: (B, in) -> (B, out)."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class VideoPose3D(nn.Module):
    """A fully connected network on all joints together: (B, J, in_dim) -> (B, J, out_dim).

    2D in normalised screen coordinates; 3D in metres, camera space, relative to the root.
    A layer is a convolution of width 1 without bias, batch normalisation, ReLU, dropout. The first
    layer expands to C channels, residual blocks of two layers follow, and a convolution with bias
    gives the output.
    """

    # The rate is multiplied by 0.95 every epoch. main_gcn.py counts its decay in steps: an epoch of
    # Human3.6M has 1,524 batches of 1,024.
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "hid_dim": 1024, "num_layers": 4, "dropout": 0.25, "non_local": False,
        "loss": "mpjpe", "weight_l1": 0.0, "batch_size": 1024, "epochs": 80, "lr": 1e-3,
        "lr_decay": 1_524, "lr_gamma": 0.95, "max_norm": 0.0,
    }  # fmt: skip
    PUBLISHED_DETECTED: ClassVar[dict[str, Any]] = {"lr_decay": 0.95, "large_decay_epoch": 1}

    def __init__(
        self,
        adj: Tensor,
        hid_dim: int = 1024,
        num_layers: int = 4,
        in_dim: int = 2,
        out_dim: int = 3,
        dropout: float = 0.25,
    ) -> None:
        """
        Args:
            adj: (J, J); only the number of joints counts.
            num_layers: residual blocks of two convolutions each.
        """
        super().__init__()
        num_joints = len(adj)
        self.expand_conv = _conv(num_joints * in_dim, hid_dim)
        self.expand_bn = PoseBatchNorm(hid_dim)
        count = 2 * num_layers
        self.layers_conv = nn.ModuleList(_conv(hid_dim, hid_dim) for _ in range(count))
        self.layers_bn = nn.ModuleList(PoseBatchNorm(hid_dim) for _ in range(count))
        self.shrink = _conv(hid_dim, num_joints * out_dim, bias=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        y = self._activate(_apply(self.expand_conv, x.flatten(1)), self.expand_bn)
        for index in range(0, len(self.layers_conv), 2):
            skipped = y
            for k in (index, index + 1):
                y = self._activate(_apply(self.layers_conv[k], y), self.layers_bn[k])
            y = skipped + y
        return _apply(self.shrink, y).unflatten(1, (x.shape[1], -1))

    def _activate(self, y: Tensor, norm: nn.Module) -> Tensor:
        """What follows a convolution in a layer: (B, C) -> (B, C)."""
        return self.dropout(torch.relu(norm(y)))

    @staticmethod
    def describe(weights: dict[str, Tensor]) -> dict[str, Any] | None:
        """Read the network's arguments off a state dict; None if it is of another network."""
        if not {"expand_conv.weight", "shrink.weight"} <= weights.keys():
            return None
        hid_dim, inputs, _ = weights["expand_conv.weight"].shape
        layers = {name for name in weights if name.startswith("layers_conv.")}
        return {
            "joints": inputs // 2,
            "hid_dim": hid_dim,
            "num_layers": len(layers) // 2,
            "in_dim": 2,
            "out_dim": 2 * len(weights["shrink.weight"]) // inputs,
        }
