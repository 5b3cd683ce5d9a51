"""The choices of the modulated graph convolution, each open: what ablations of the paper need.

The paper's own layer is ``models.modulated_gcn.ModulatedGraphConv``, with a gradient by hand; this
one is written for reading and differs from it in nothing but rounding where the choices agree.
Shapes: B poses, J joints, C channels, K hops, H = K + 1 weights (K where self is not decoupled).
"""

import math

import torch
from torch import Tensor, nn

from models.layout import aggregate

ADJ_MODULATIONS = ("none", "add", "mul", "lowrank", "full")
_GAIN = 1.414


def hop_adjacencies(adj: Tensor, hops: int) -> Tensor:
    """The adjacency of each hop (K, J, J).

    The first is adj (J, J) itself. The k-th joins joints k bones apart, each row divided by its
    sum; a row without such joints is zero.
    """
    edges = (adj > 0).to(adj.dtype)
    reached, found = edges.bool() | torch.eye(len(adj), dtype=torch.bool, device=adj.device), [adj]
    for _ in range(1, hops):
        wider = (reached.to(adj.dtype) @ edges) > 0
        ring = (wider & ~reached).to(adj.dtype)
        found.append(ring / ring.sum(dim=1, keepdim=True).clamp(min=1))
        reached = reached | wider
    return torch.stack(found)


class GraphConvVariant(nn.Module):
    """Graph convolution over K hops with a choice of modulations.

        S_k = A_k (none)      A_k + Q_k (add)      A_k o (1 + Q_k) (mul)
              A_k + U_k V_k^T (lowrank)            Q_k (full)
        S_k = (S_k + S_k^T) / 2                    if symmetric
        out = diag(S_1) (M_1 o (X W[0])) + sum over k of offdiag(S_k) (M_k o (X W[k])) + bias

    Not decoupled, S_1 has one weight for both: S_1 (M_1 o (X W[0])). Without weight modulation M
    is one. Q, U V^T start so that "add", "mul" and "lowrank" are "none" (but for the 1e-6 that the
    paper's "add" has); "full" starts with 1 / J everywhere and knows nothing of the skeleton.
    In the state dict Q is ``adj2``; U and V are ``adj2_left`` and ``adj2_right``. With one hop M
    and Q have no dimension of hops, as in the paper's layer.
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
            adj: (J, J) adjacency, see ``Skeleton.adjacency``; not in the state dict.
            modulation_init: of M, "ones" or "xavier".
            adj_modulation: of ``ADJ_MODULATIONS``.
            rank: of U V^T; "lowrank" only.

        Raises:
            ValueError: an unknown choice.
        """
        super().__init__()
        if adj_modulation not in ADJ_MODULATIONS:
            raise ValueError(f"adj_modulation: one of {ADJ_MODULATIONS}, not {adj_modulation!r}")
        self.adj_modulation, self.adj_symmetric = adj_modulation, adj_symmetric
        self.decouple_self, self.hops = decouple_self, hops
        self.register_buffer("adj", hop_adjacencies(adj, hops), persistent=False)
        self.W = nn.Parameter(torch.empty(hops + decouple_self, in_dim, out_dim))
        each_hop = (hops,) if hops > 1 else ()
        if weight_modulation:
            self.M = nn.Parameter(torch.empty(*each_hop, len(adj), out_dim))
        self._add_adj_modulation(each_hop, len(adj), rank)
        self.bias = nn.Parameter(torch.empty(out_dim))
        self._initialise(modulation_init)

    def _add_adj_modulation(self, each_hop: tuple[int, ...], num_joints: int, rank: int) -> None:
        first = {"add": 1e-6, "mul": 0.0, "full": 1 / num_joints}
        if self.adj_modulation in first:
            value = first[self.adj_modulation]
            self.adj2 = nn.Parameter(torch.full((*each_hop, num_joints, num_joints), value))
        elif self.adj_modulation == "lowrank":
            left = torch.randn(*each_hop, num_joints, rank) / math.sqrt(num_joints)
            self.adj2_left = nn.Parameter(left)
            self.adj2_right = nn.Parameter(torch.zeros_like(left))

    def _initialise(self, modulation_init: str) -> None:
        nn.init.xavier_uniform_(self.W, gain=_GAIN)
        bound = 1 / math.sqrt(self.W.shape[-1])
        nn.init.uniform_(self.bias, -bound, bound)
        if modulation_init not in ("ones", "xavier"):
            raise ValueError(f"modulation_init: 'ones' or 'xavier', not {modulation_init!r}")
        if not hasattr(self, "M"):
            return
        for M in self.M.view(self.hops, *self.M.shape[-2:]).unbind():
            nn.init.ones_(M) if modulation_init == "ones" else nn.init.xavier_uniform_(M, _GAIN)

    def adjacency_offset(self) -> Tensor | None:
        """Q, of all hops; None where there is none."""
        if self.adj_modulation == "lowrank":
            return self.adj2_left @ self.adj2_right.mT
        return None if self.adj_modulation == "none" else self.adj2

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        S = self.adjacencies()
        if self.decouple_self:
            diagonal = S[0].diagonal().unsqueeze(1)
            out = diagonal * self._sent(x, weight=0, hop=0)
        else:
            out = aggregate(S[0], self._sent(x, weight=0, hop=0))
        for hop in range(0 if self.decouple_self else 1, self.hops):
            neighbours = S[hop] - torch.diag_embed(S[hop].diagonal())
            out = out + aggregate(neighbours, self._sent(x, hop + self.decouple_self, hop))
        return out + self.bias

    def adjacencies(self) -> Tensor:
        """S (K, J, J)."""
        Q = self.adjacency_offset()
        if Q is None:
            S = self.adj
        elif self.adj_modulation == "mul":
            S = self.adj * (1 + Q)
        else:
            S = Q.expand_as(self.adj) if self.adj_modulation == "full" else self.adj + Q
        return (S + S.mT) / 2 if self.adj_symmetric else S

    def _sent(self, x: Tensor, weight: int, hop: int) -> Tensor:
        """M_k o (X W): (B, J, in_dim) -> (B, J, out_dim)."""
        sent = x @ self.W[weight]
        if not hasattr(self, "M"):
            return sent
        return sent * self.M.view(self.hops, *self.M.shape[-2:])[hop]

    def extra_repr(self) -> str:
        return f"{self.W.shape[1]}, {self.W.shape[2]}, joints={self.adj.shape[-1]}"
