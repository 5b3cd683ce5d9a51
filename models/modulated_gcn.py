"""Modulated graph convolutional network (Zou and Tang, ICCV 2021).

Shapes: B poses, J joints, C channels, K hops. ``models.modulated_fast`` has the fast form of the
published layer.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from models import modulated_fast
from models.graph_network import XAVIER_GAIN, GraphNetwork, initialise
from models.layout import aggregate

ADJ_MODULATIONS = ("none", "add", "mul", "lowrank", "full")


class ModulatedGraphConv(nn.Module):
    """Graph convolution with weight modulation and adjacency modulation.

    As published, with X (B, J, in), the skeleton's adjacency A and the learned Q (J, J), the
    weights W (2, in, out) of a joint itself and of its neighbours, and M (J, out), which modulates
    them for each joint:

        S   = A + Q                                adjacency modulation
        S   = (S + S^T) / 2
        out = diag(S) (M o (X W[0])) + offdiag(S) (M o (X W[1])) + b

    Source: the paper's section 3.2, and 3.3 for the self-connection with a weight of its own.

    Each part can be chosen otherwise. ``adj_modulation`` selects S:

        none: A      add: A + Q      mul: A o (1 + Q)      lowrank: A + U V^T      full: Q

    Q and V start so that "add", "mul" and "lowrank" are "none" (but for the published 1e-6 of
    "add"); "full" starts with 1 / J everywhere and does not know the skeleton. Without
    ``adj_symmetric`` S stays as it is. Without ``weight_modulation`` M is one. With more ``hops``
    the joints k bones apart have an A_k, Q_k, M_k and a weight of their own:

        out = diag(S_1) (M_1 o (X W[0])) + sum over k of offdiag(S_k) (M_k o (X W[k])) + b

    Without ``decouple_self`` a joint shares the weight of its neighbours one bone away, and S_1 is
    applied as a whole: S_1 (M_1 o (X W[0])).

    In the state dict b is ``bias``, Q is ``adj2``, U and V are ``adj2_left`` and ``adj2_right``.
    With several hops M, Q, U and V have a first dimension K.

    Attributes:
        fast: compute by ``models.modulated_fast``: true for the paper's choices. Set it to False
            to compute by the formula.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        adj: Tensor,
        modulation_init: str = "ones",
        weight_modulation: bool = True,
        adj_modulation: str = "add",
        rank: int = 4,
        adj_symmetric: bool = True,
        decouple_self: bool = True,
        hops: int = 1,
    ) -> None:
        """
        Args:
            adj: A (J, J), see ``Skeleton.adjacency``; not learned and not in the state dict.
            modulation_init: first values of M: "ones" (published for ground-truth 2D) or "xavier"
                (for detected 2D).
            adj_modulation: of ``ADJ_MODULATIONS``.
            rank: columns of U and V; "lowrank" only.

        Raises:
            ValueError: an unknown choice.
        """
        super().__init__()
        if adj_modulation not in ADJ_MODULATIONS:
            raise ValueError(f"adj_modulation: one of {ADJ_MODULATIONS}, not {adj_modulation!r}")
        if modulation_init not in ("ones", "xavier"):
            raise ValueError(f"modulation_init: 'ones' or 'xavier', not {modulation_init!r}")
        self.in_dim, self.out_dim, self.hops = in_dim, out_dim, hops
        self.weight_modulation, self.adj_modulation = weight_modulation, adj_modulation
        self.adj_symmetric, self.decouple_self = adj_symmetric, decouple_self
        choices = (weight_modulation, adj_modulation, adj_symmetric, decouple_self, hops)
        self.fast = choices == (True, "add", True, True, 1)
        self.register_buffer("adj", hop_adjacencies(adj, hops), persistent=False)
        self._add_weights(rank)
        self._initialise(modulation_init)

    def _add_weights(self, rank: int) -> None:
        num_joints = self.adj.shape[-1]
        each_hop = (self.hops,) if self.hops > 1 else ()
        num_weights = self.hops + self.decouple_self
        self.W = nn.Parameter(torch.empty(num_weights, self.in_dim, self.out_dim))
        if self.weight_modulation:
            self.M = nn.Parameter(torch.empty(*each_hop, num_joints, self.out_dim))
        first = {"add": 1e-6, "mul": 0.0, "full": 1 / num_joints}
        if self.adj_modulation in first:
            value = first[self.adj_modulation]
            self.adj2 = nn.Parameter(self.adj.new_full((*each_hop, num_joints, num_joints), value))
        elif self.adj_modulation == "lowrank":
            U = torch.randn(*each_hop, num_joints, rank) / math.sqrt(num_joints)
            self.adj2_left = nn.Parameter(U)
            self.adj2_right = nn.Parameter(torch.zeros_like(U))
        self.bias = nn.Parameter(torch.empty(self.out_dim))

    def _initialise(self, modulation_init: str) -> None:
        initialise([self.W], self.bias)
        for M in self._modulations() if self.weight_modulation else ():
            if modulation_init == "ones":
                nn.init.ones_(M)
            else:
                nn.init.xavier_uniform_(M, gain=XAVIER_GAIN)

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim).

        Args:
            scale, shift: (out_dim,), the result is scale o out + shift; at test a block passes its
                batch normalisation so.
        """
        num_joints = self.adj.shape[-1]
        if x.dim() != 3 or x.shape[1:] != (num_joints, self.in_dim):
            raise ValueError(f"x: (B, {num_joints}, {self.in_dim}) expected, got {tuple(x.shape)}")
        if self.fast:
            A, Q = self.adj[0], self.adj2
            return modulated_fast.convolve(x, self.W, self.M, A, Q, self.bias, scale, shift)
        X, W, M, S, b = x, self.W, self._modulations(), self.adjacencies(), self.bias
        if self.decouple_self:
            out = S[0].diagonal().unsqueeze(1) * (M[0] * (X @ W[0]))
            out = out + aggregate(_offdiag(S[0]), M[0] * (X @ W[1]))
        else:
            out = aggregate(S[0], M[0] * (X @ W[0]))
        for k in range(1, self.hops):
            out = out + aggregate(_offdiag(S[k]), M[k] * (X @ W[k + self.decouple_self]))
        return out + b if scale is None else scale * (out + b) + shift

    def adjacencies(self) -> Tensor:
        """S of each hop (K, J, J)."""
        A, Q = self.adj, self.adjacency_offset()
        match self.adj_modulation:
            case "none":
                S = A
            case "add" | "lowrank":
                S = A + Q
            case "mul":
                S = A * (1 + Q)
            case "full":
                S = Q.expand_as(A)
        return (S + S.mT) / 2 if self.adj_symmetric else S

    def adjacency_offset(self) -> Tensor | None:
        """Q, or U V^T: (J, J), with several hops (K, J, J); None if the layer learns none."""
        if self.adj_modulation == "lowrank":
            return self.adj2_left @ self.adj2_right.mT
        return None if self.adj_modulation == "none" else self.adj2

    def _modulations(self) -> Sequence[Tensor | float]:
        """M of each hop, (J, out_dim) or 1."""
        if not self.weight_modulation:
            return [1.0] * self.hops
        return self.M.view(self.hops, *self.M.shape[-2:]).unbind()

    def extra_repr(self) -> str:
        return f"{self.in_dim}, {self.out_dim}, joints={self.adj.shape[-1]}"


def hop_adjacencies(adj: Tensor, hops: int) -> Tensor:
    """The adjacency of each hop (K, J, J).

    The first is adj (J, J) itself. The k-th connects the joints that are k bones apart, and each of
    its rows is divided by its sum. A row without such joints is zero.
    """
    edges = (adj > 0).to(adj.dtype)
    reached, found = edges.bool() | torch.eye(len(adj), dtype=torch.bool, device=adj.device), [adj]
    for _ in range(1, hops):
        wider = (reached.to(adj.dtype) @ edges) > 0
        ring = (wider & ~reached).to(adj.dtype)
        found.append(ring / ring.sum(dim=1, keepdim=True).clamp(min=1))
        reached = reached | wider
    return torch.stack(found)


def _offdiag(S: Tensor) -> Tensor:
    """S (..., J, J) with zeros on the diagonal."""
    return S - torch.diag_embed(S.diagonal(dim1=-2, dim2=-1))


class ModulatedGCN(GraphNetwork):
    """Modulated GCN: the network of ``GraphNetwork`` around :class:`ModulatedGraphConv`.

    The published settings of its training stand in ``opt.py``, a table for each script.
    """

    CONV: ClassVar[Callable[..., nn.Module]] = ModulatedGraphConv
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
                decouple_self, hops: see :class:`ModulatedGraphConv`; the defaults are the paper's.

        Raises:
            ValueError: an unknown choice, or grouped blocks for other than 16 joints.
        """
        conv = partial(
            ModulatedGraphConv,
            modulation_init=modulation_init,
            weight_modulation=weight_modulation,
            adj_modulation=adj_modulation,
            rank=rank,
            adj_symmetric=adj_symmetric,
            decouple_self=decouple_self,
            hops=hops,
        )
        super().__init__(
            adj, hid_dim, num_layers, in_dim, out_dim, dropout, non_local, norm_layer, conv=conv
        )

    def adjacency_offsets(self) -> list[Tensor]:
        """Q of each layer that learns one, see ``ModulatedGraphConv.adjacency_offset``."""
        offsets = (layer.adjacency_offset() for layer in self._layers().values())
        return [offset for offset in offsets if offset is not None]

    def adjacencies(self) -> dict[str, Tensor]:
        """S (K, J, J) of each layer, by the layer's name: row i, column j is the weight with which
        joint i takes from joint j, k bones away for hop k. A joint takes from itself in the first
        hop only, so the diagonals of the others are zero."""
        found = {name: layer.adjacencies() for name, layer in self._layers().items()}
        return {name: torch.cat([S[:1], _offdiag(S[1:])]) for name, S in found.items()}

    def _layers(self) -> dict[str, ModulatedGraphConv]:
        modules = self.named_modules()
        return {name: m for name, m in modules if isinstance(m, ModulatedGraphConv)}

    @staticmethod
    def joints_of(layer: dict[str, Tensor]) -> dict[str, int]:
        """{"joints": J}: M has a row for each joint."""
        return {"joints": layer["M"].shape[0]}
