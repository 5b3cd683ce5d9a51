"""Modulated graph convolutional network (Zou and Tang, ICCV 2021).

Shapes: B poses, J joints, C channels; ``models.layout`` explains the memory layout.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.graph_conv_variants import GraphConvVariant
from models.layout import to_poses, to_rows
from models.non_local import EmbeddedNonLocal, GroupedNonLocal
from models.norm import NORMS

_GAIN = 1.414


class _Convolution(torch.autograd.Function):
    """The convolution: x (B, J, in) -> rows (J B, out), see ``models.layout``.

    With A the symmetrised adjacency, d = diag(A), N = offdiag(A) and, joint by joint,

        own = X W[0]      sent = X W[1]      out = (d M) o own + N (M o sent) + bias

    the gradients for g = d loss / d out are, with back = N^T g and the sums over poses b,

        dN = g (M o sent)^T         dd_j = sum_c M_jc sum_b (own o g)_jbc
        dM = d sum_b own o g + sum_b sent o back
        dW = X^T (d M o g), X^T (M o back)       dX = (d M o g) W[0]^T + (M o back) W[1]^T
        dadj2 = (dA + dA^T) / 2                  dbias = sum_jb g

    Autograd would find the same with some fifteen more passes over the activations, each into
    fresh memory, and some thirty more small operations, which weigh as much in a small batch.
    Here every elementwise product lands in a tensor that is no longer needed, the bias comes with
    the first of them, and the two terms of dX add up inside the second matrix product.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, W: Tensor, M: Tensor, adj: Tensor, adj2: Tensor, bias: Tensor
    ) -> Tensor:
        rows, shape = to_rows(x), (len(adj), -1, W.shape[2])
        diagonal, neighbours = _adjacency(adj, adj2)
        own, sent = rows.mm(W[0]).view(shape), rows.mm(W[1]).view(shape)
        modulated = sent * M.unsqueeze(1)
        out = torch.addcmul(bias, own, (diagonal * M).unsqueeze(1))
        out.view(len(adj), -1).addmm_(neighbours, modulated.view(len(adj), -1))
        ctx.save_for_backward(rows, W, M, diagonal, neighbours, own, sent, modulated)
        return out.view(-1, W.shape[2])

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, W, M, diagonal, neighbours, own, sent, modulated = ctx.saved_tensors
        flat, g = g.reshape(len(M), -1), g.reshape(own.shape)
        back = (neighbours.T @ flat).view_as(own)
        d_A = flat @ modulated.view(len(M), -1).T

        product = own * g
        own_sum = product.sum(1)
        sent_sum = torch.mul(sent, back, out=product).sum(1)
        d_own = torch.mul(g, (diagonal * M).unsqueeze(1), out=product).flatten(0, 1)
        d_sent = back.mul_(M.unsqueeze(1)).flatten(0, 1)

        d_W = torch.stack([rows.T @ d_own, rows.T @ d_sent])
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = to_poses((d_own @ W[0].T).addmm_(d_sent, W[1].T), len(M))
        d_M = diagonal * own_sum + sent_sum
        d_A.diagonal().copy_((M * own_sum).sum(1))
        d_bias = g.sum((0, 1)) if ctx.needs_input_grad[5] else None
        return d_x, d_W, d_M, None, (d_A + d_A.T) / 2, d_bias


def _adjacency(adj: Tensor, adj2: Tensor) -> tuple[Tensor, Tensor]:
    """diag(A) (J, 1) and offdiag(A) (J, J) of A = (S + S^T) / 2, S = adj + adj2."""
    A = adj + adj2
    A = (A + A.T) / 2
    diagonal = A.diagonal()
    return diagonal.unsqueeze(1), A - torch.diag_embed(diagonal)


class ModulatedGraphConv(nn.Module):
    """Graph convolution with weight modulation and adjacency modulation.

        A   = (S + S^T) / 2                     S = adj + adj2
        out = diag(A) (M o (X W[0])) + offdiag(A) (M o (X W[1])) + bias

    W[0] serves a joint itself and W[1] its neighbours; M (J, out) gives each joint its own version
    of the shared weights; adj2 (J, J) adds learned edges to the skeleton's.
    Source: the paper's section 3.2, with the decoupled self-connection of section 3.3.
    """

    def __init__(
        self, in_dim: int, out_dim: int, adj: Tensor, modulation_init: str = "ones"
    ) -> None:
        """
        Args:
            adj: (J, J) adjacency, not learned and not in the state dict.
            modulation_init: of M, "ones" (ground-truth 2D) or "xavier" (detected 2D).
        """
        super().__init__()
        num_joints = adj.shape[0]
        self.in_dim, self.out_dim = in_dim, out_dim
        self.register_buffer("adj", adj.clone(), persistent=False)
        self.W = nn.Parameter(torch.empty(2, in_dim, out_dim))
        self.M = nn.Parameter(torch.empty(num_joints, out_dim))
        self.adj2 = nn.Parameter(torch.full_like(adj, 1e-6))
        self.bias = nn.Parameter(torch.empty(out_dim))
        nn.init.xavier_uniform_(self.W, gain=_GAIN)
        nn.init.uniform_(self.bias, -1 / math.sqrt(out_dim), 1 / math.sqrt(out_dim))
        if modulation_init == "ones":
            nn.init.ones_(self.M)
        elif modulation_init == "xavier":
            nn.init.xavier_uniform_(self.M, gain=_GAIN)
        else:
            raise ValueError(f"modulation_init: 'ones' or 'xavier', not {modulation_init!r}")

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        return to_poses(self.to_rows(x), len(self.adj))

    def to_rows(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (J B, out_dim), joint by joint, as batch normalisation takes it."""
        self._check(x)
        if not (torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling()):
            return _Convolution.apply(x, self.W, self.M, self.adj, self.adj2, self.bias)
        # Autocast chooses a type for each operation and a compiler fuses them: neither sees
        # into a hand-written gradient.
        x = x.transpose(0, 1)
        diagonal, neighbours = _adjacency(self.adj, self.adj2)
        own = (x @ self.W[0]) * (diagonal * self.M).unsqueeze(1)
        sent = (x @ self.W[1]) * self.M.unsqueeze(1)
        out = own + (neighbours @ sent.flatten(1)).view_as(own)
        return (out + self.bias).flatten(0, 1)

    def adjacencies(self) -> Tensor:
        """A (1, J, J), as that of one hop of ``GraphConvVariant``."""
        diagonal, neighbours = _adjacency(self.adj, self.adj2)
        return (neighbours + torch.diag_embed(diagonal.squeeze(1))).unsqueeze(0)

    def infer(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """scale o forward(x) + shift without gradients, scale and shift (out_dim,).

        M multiplies both terms, so that scale goes into M and shift into the bias; and since M is
        constant over the poses it goes into the weights, one pair a joint:
        (M o (X W))_j = X_j (W M_j).
        """
        self._check(x)
        x = x.transpose(0, 1).contiguous()
        diagonal, neighbours = _adjacency(self.adj, self.adj2)
        M = (self.M * scale).unsqueeze(1)
        bias = self.bias * scale + shift
        out = torch.baddbmm(bias, x, self.W[0] * (diagonal.unsqueeze(1) * M))
        sent = torch.bmm(x, self.W[1] * M)
        out.view(len(x), -1).addmm_(neighbours.to(out.dtype), sent.view(len(x), -1))
        return out.transpose(0, 1)

    def _check(self, x: Tensor) -> None:
        num_joints = len(self.adj)
        if x.dim() != 3 or x.shape[1:] != (num_joints, self.in_dim):
            raise ValueError(f"x: (B, {num_joints}, {self.in_dim}) expected, got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return f"{self.in_dim}, {self.out_dim}, joints={self.adj.shape[0]}"


class _Block(nn.Module):
    """Graph convolution, normalisation, ReLU, dropout."""

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
        # Batch normalisation takes the mean out again, so this bias has no gradient but rounding.
        # Adam would scale that up to whole steps, which the running mean cannot follow.
        self.gconv.bias.requires_grad_(norm_layer != "batch")
        self.bn = NORMS[norm_layer](out_dim)
        self.folds = norm_layer == "batch" and hasattr(self.gconv, "infer")
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or not self.folds:
            if not isinstance(self.bn, nn.BatchNorm1d):
                return self.dropout(torch.relu(self.bn(self.gconv(x))))
            rows = torch.relu_(self.bn(to_rows(self.gconv(x))))
            return self.dropout(to_poses(rows, x.shape[1]))
        # With its statistics fixed batch normalisation is a scale and a shift a channel.
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        shift = self.bn.bias - self.bn.running_mean * scale
        return torch.relu_(self.gconv.infer(x, scale, shift))


class _ResidualBlock(nn.Module):
    """Two blocks C -> C with the input added."""

    def __init__(
        self,
        dim: int,
        conv: Callable[[int, int], nn.Module],
        dropout: float,
        norm_layer: str,
    ) -> None:
        super().__init__()
        self.gconv1 = _Block(dim, dim, conv, dropout, norm_layer)
        self.gconv2 = _Block(dim, dim, conv, dropout, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gconv2(self.gconv1(x))


class _GroupedNonLocalStage(nn.Module):
    """Holds a grouped block under the name that published checkpoints give it."""

    def __init__(self, dim: int, num_joints: int) -> None:
        super().__init__()
        self.non_local = GroupedNonLocal(dim, num_joints)

    def forward(self, x: Tensor) -> Tensor:
        return self.non_local(x)


class GraphNetwork(nn.Module):
    """The lifting network around any graph convolution: 2D (B, J, in_dim) -> 3D (B, J, out_dim).

    2D in normalised screen coordinates; 3D in metres, camera space, relative to the root.
    An input block, ``num_layers`` residual blocks, and a bare graph convolution to the output.
    The state dict has the names of the published checkpoints.

    Attributes:
        CONV: in_dim, out_dim, adj -> the graph convolution (B, J, in_dim) -> (B, J, out_dim), with
            a parameter ``bias``.
        LAYER: the names of a graph convolution's weights, with their numbers of dimensions, by
            which bare state dicts are known; empty where they are not to be.
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
        **layer_options: Any,
    ) -> None:
        """
        Args:
            adj: (J, J), see ``Skeleton.adjacency``.
            non_local: None; "grouped", a block after the input block and after each residual
                block (16 joints, as SemGCN's); or "embedded", one block before the output.
            norm_layer: of ``models.norm.NORMS``.
            layer_options: of the graph convolution.

        Raises:
            ValueError: an unknown choice, or grouped blocks for other than 16 joints.
        """
        super().__init__()
        if non_local not in (None, "grouped", "embedded"):
            raise ValueError(f"non_local: None, 'grouped' or 'embedded', not {non_local!r}")
        conv = partial(self.CONV, adj=adj, **layer_options)
        common = {"conv": conv, "dropout": dropout, "norm_layer": norm_layer}
        grouped = non_local == "grouped"
        stage = [_GroupedNonLocalStage(hid_dim, adj.shape[0]) for _ in range(num_layers + 1)] \
            if grouped else []  # fmt: skip
        self.gconv_input = nn.Sequential(_Block(in_dim, hid_dim, **common), *stage[:1])
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [_ResidualBlock(hid_dim, **common), *stage[index + 1 : index + 2]]
        self.gconv_layers = nn.Sequential(*layers)
        self.non_local = EmbeddedNonLocal(hid_dim) if non_local == "embedded" else nn.Identity()
        self.gconv_output = conv(hid_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        x = self.gconv_layers(self.gconv_input(x))
        return self.gconv_output(self.non_local(x))

    @classmethod
    def describe(cls, weights: dict[str, Tensor]) -> dict[str, Any] | None:
        """The network's arguments as a state dict shows them; None if it is of another network."""
        input_layer, output_layer = (
            {n.removeprefix(f"{p}."): t for n, t in weights.items() if n.startswith(f"{p}.")}
            for p in ("gconv_input.0.gconv", "gconv_output")
        )
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
        """{"joints": J} as a graph convolution's weights show it; {} where they do not."""
        return {}


_PAPER = {
    "weight_modulation": True, "adj_modulation": "add", "adj_symmetric": True,
    "decouple_self": True, "hops": 1,
}  # fmt: skip


def modulated_convolution(
    in_dim: int, out_dim: int, adj: Tensor, modulation_init: str, rank: int, **choices: Any
) -> nn.Module:
    """The paper's layer, or, where a choice is not the paper's, the general one."""
    if choices == _PAPER:
        return ModulatedGraphConv(in_dim, out_dim, adj, modulation_init)
    return GraphConvVariant(in_dim, out_dim, adj, modulation_init, rank=rank, **choices)


class ModulatedGCN(GraphNetwork):
    """Modulated GCN; the published settings of its training are the scripts' own defaults."""

    CONV: ClassVar[Callable[..., nn.Module]] = staticmethod(modulated_convolution)
    LAYER: ClassVar[dict[str, int]] = {"W": 3, "M": 2, "adj2": 2, "bias": 1}

    def __init__(
        self,
        adj: Tensor,
        hid_dim: int = 128,
        num_layers: int = 4,
        in_dim: int = 2,
        out_dim: int = 3,
        dropout: float = 0.0,
        non_local: str | None = None,
        modulation_init: str = "ones",
        norm_layer: str = "batch",
        weight_modulation: bool = True,
        adj_modulation: str = "add",
        rank: int = 4,
        adj_symmetric: bool = True,
        decouple_self: bool = True,
        hops: int = 1,
    ) -> None:
        """
        Args:
            adj, hid_dim, num_layers, in_dim, out_dim, dropout, non_local, norm_layer: see
                ``GraphNetwork``.
            modulation_init, weight_modulation, adj_modulation, rank, adj_symmetric,
                decouple_self, hops: see ``GraphConvVariant``; the defaults are the paper's.
        """
        super().__init__(
            adj, hid_dim, num_layers, in_dim, out_dim, dropout, non_local, norm_layer,
            modulation_init=modulation_init, weight_modulation=weight_modulation,
            adj_modulation=adj_modulation, rank=rank, adj_symmetric=adj_symmetric,
            decouple_self=decouple_self, hops=hops,
        )  # fmt: skip

    def adjacency_offsets(self) -> list[Tensor]:
        """The learned adjacency Q of each layer that has one, (J, J) or (K, J, J)."""
        offsets = []
        for layer in self.modules():
            if isinstance(layer, ModulatedGraphConv):
                offsets.append(layer.adj2)
            elif isinstance(layer, GraphConvVariant) and layer.adj_modulation != "none":
                offsets.append(layer.adjacency_offset())
        return offsets

    def adjacencies(self) -> dict[str, Tensor]:
        """What each layer aggregates with, the adjacency and what was learned of it, (K, J, J), by
        the layer's name: row i, column j is what joint i takes from joint j over hop k. A joint
        takes from itself over the first hop only."""
        kinds = (ModulatedGraphConv, GraphConvVariant)
        layers = {name: layer for name, layer in self.named_modules() if isinstance(layer, kinds)}
        found = {name: layer.adjacencies() for name, layer in layers.items()}
        return {
            name: torch.cat([S[:1], S[1:] - torch.diag_embed(S[1:].diagonal(dim1=1, dim2=2))])
            for name, S in found.items()
        }

    @staticmethod
    def joints_of(layer: dict[str, Tensor]) -> dict[str, int]:
        return {"joints": layer["M"].shape[0]}
