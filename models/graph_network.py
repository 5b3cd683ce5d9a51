"""The lifting network of SemGCN and Modulated GCN, around any graph convolution.

Shapes: B poses, J joints, C channels; ``models.layout`` explains the memory layout.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.layout import to_poses, to_rows
from models.non_local import EmbeddedNonLocal, GroupedNonLocal
from models.norm import NORMS

XAVIER_GAIN = 1.414  # of all first weights of the graph convolutions


def initialise(weights: Iterable[Tensor], bias: Tensor) -> None:
    """Draw a graph convolution's first weights, Xavier-uniform, and its bias (out,), uniform in
    +-1 / sqrt(out)."""
    for weight in weights:
        nn.init.xavier_uniform_(weight, gain=XAVIER_GAIN)
    bound = 1 / math.sqrt(len(bias))
    nn.init.uniform_(bias, -bound, bound)


class Block(nn.Module):
    """Graph convolution, normalisation, ReLU, dropout: (B, J, in_dim) -> (B, J, out_dim)."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        conv: Callable[[int, int], nn.Module],
        dropout: float,
        norm_layer: str,
    ) -> None:
        super().__init__()
        self.gconv = conv(in_dim, out_dim)
        # Batch normalisation subtracts the mean, so this bias has no effect and its gradient is
        # zero up to rounding. Adam would scale the rounding up to whole steps, which the running
        # mean cannot follow.
        self.gconv.bias.requires_grad_(norm_layer != "batch")
        self.bn = NORMS[norm_layer](out_dim)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        if not isinstance(self.bn, nn.BatchNorm1d):
            return self.dropout(torch.relu(self.bn(self.gconv(x))))
        if getattr(self.gconv, "fast", False) and not (self.training or torch.is_grad_enabled()):
            # Batch normalisation is a fixed scale and shift, which the layer takes.
            scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
            shift = self.bn.bias - self.bn.running_mean * scale
            return torch.relu_(self.gconv(x, scale, shift))
        rows = torch.relu_(self.bn(to_rows(self.gconv(x))))
        return self.dropout(to_poses(rows, x.shape[1]))


class ResidualBlock(nn.Module):
    """Two blocks C -> C, and the input added to their output."""

    def __init__(
        self,
        dim: int,
        conv: Callable[[int, int], nn.Module],
        dropout: float,
        norm_layer: str,
    ) -> None:
        super().__init__()
        self.gconv1 = Block(dim, dim, conv, dropout, norm_layer)
        self.gconv2 = Block(dim, dim, conv, dropout, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, C) -> (B, J, C)."""
        return x + self.gconv2(self.gconv1(x))


class GroupedStage(nn.Module):
    """A grouped non-local block under the name that it has in published checkpoints."""

    def __init__(self, dim: int, num_joints: int) -> None:
        super().__init__()
        self.non_local = GroupedNonLocal(dim, num_joints)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, C) -> (B, J, C)."""
        return self.non_local(x)


class GraphNetwork(nn.Module):
    """The lifting network around any graph convolution: 2D (B, J, in_dim) -> 3D (B, J, out_dim).

    2D in normalised screen coordinates; 3D in metres, camera space, relative to the root.
    An input block, ``num_layers`` residual blocks, and a bare graph convolution to the output.
    The state dict has the names of the published checkpoints.

    A graph convolution has a parameter ``bias``. If it has an attribute ``fast`` that is true, its
    ``forward(x, scale, shift)`` computes scale o forward(x) + shift without gradients, with scale
    and shift (C,); at test the blocks pass their batch normalisation so.

    Attributes:
        CONV: (in_dim, out_dim, adj) -> the graph convolution (B, J, in_dim) -> (B, J, out_dim).
        LAYER: the names of a graph convolution's weights, with their numbers of dimensions. A state
            dict without a description is recognised by them; empty, it is not.
    """

    CONV: ClassVar[Callable[..., nn.Module]]
    LAYER: ClassVar[dict[str, int]] = {}

    def __init__(
        self,
        adj: Tensor,
        hid_dim: int = 128,
        num_layers: int = 4,
        in_dim: int = 2,
        out_dim: int = 3,
        dropout: float = 0.0,
        non_local: str | None = None,
        norm_layer: str = "batch",
        *,
        conv: Callable[..., nn.Module] | None = None,
    ) -> None:
        """
        Args:
            adj: (J, J), see ``Skeleton.adjacency``.
            non_local: None; "grouped", a block after the input block and after each residual
                block (16 joints, as SemGCN's); or "embedded", one block before the output.
            norm_layer: of ``models.norm.NORMS``.
            conv: ``CONV`` with further arguments bound, from a subclass; None is ``CONV`` itself.

        Raises:
            ValueError: an unknown choice, or grouped blocks for other than 16 joints.
        """
        super().__init__()
        if non_local not in (None, "grouped", "embedded"):
            raise ValueError(f"non_local: None, 'grouped' or 'embedded', not {non_local!r}")
        conv = partial(conv or self.CONV, adj=adj)
        blocks = {"conv": conv, "dropout": dropout, "norm_layer": norm_layer}
        count = num_layers + 1 if non_local == "grouped" else 0
        grouped = [GroupedStage(hid_dim, len(adj)) for _ in range(count)]
        self.gconv_input = nn.Sequential(Block(in_dim, hid_dim, **blocks), *grouped[:1])
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [ResidualBlock(hid_dim, **blocks), *grouped[index + 1 : index + 2]]
        self.gconv_layers = nn.Sequential(*layers)
        self.non_local = EmbeddedNonLocal(hid_dim) if non_local == "embedded" else nn.Identity()
        self.gconv_output = conv(hid_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        x = self.gconv_layers(self.gconv_input(x))
        return self.gconv_output(self.non_local(x))

    @classmethod
    def describe(cls, weights: dict[str, Tensor]) -> dict[str, Any] | None:
        """Read the network's arguments off a state dict; None if it is of another network."""
        input_layer = _part(weights, "gconv_input.0.gconv")
        output_layer = _part(weights, "gconv_output")
        for layer in (input_layer, output_layer):
            if not layer or {name: t.dim() for name, t in layer.items()} != cls.LAYER:
                return None
        in_dim, hid_dim = input_layer["W"].shape[-2:]
        parts = [name.split(".")[1:3] for name in weights if name.startswith("gconv_layers.")]
        grouped = any(part[1:] == ["non_local"] for part in parts)
        embedded = "embedded" if "non_local.W.0.weight" in weights else None
        return cls.joints_of(output_layer) | {
            "hid_dim": hid_dim,
            "num_layers": len({part[0] for part in parts if part[1:] == ["gconv1"]}),
            "in_dim": in_dim,
            "out_dim": output_layer["W"].shape[-1],
            "non_local": "grouped" if grouped else embedded,
        }

    @staticmethod
    def joints_of(layer: dict[str, Tensor]) -> dict[str, int]:
        """{"joints": J}, read off a graph convolution's weights; {} if they do not depend on J."""
        return {}


def _part(weights: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """The weights of a module of the network, by their names in the module."""
    prefix = f"{module}."
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
