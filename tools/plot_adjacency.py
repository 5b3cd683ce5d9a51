#!/usr/bin/env python
"""What the layers of a Modulated GCN have learned to listen to, as a picture and in figures.

    python tools/plot_adjacency.py CKPT
    python tools/plot_adjacency.py CKPT --out adjacency.png

A panel a layer: row i, column j is what joint i takes from joint j, the skeleton's adjacency with
its learned modulation; dots are bones. The share of joints that no bone connects is of the sum of
magnitudes, without the diagonal; where all are equal, 16 joints have 88%.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.parser import Parser
from common.skeleton import Skeleton
from common.visualize import check_picture_name, save_adjacencies
from models.modulated_gcn import ModulatedGCN
from training.lifter import load_lifter


def share_beside_bones(adjacency: Tensor, skeleton: Skeleton) -> float:
    """Of the sum of magnitudes of an adjacency (J, J) without its diagonal, the share between
    joints that no bone connects; 0 where there is nothing but the diagonal."""
    sizes = adjacency.abs().fill_diagonal_(0.0)
    joints, parents = torch.tensor(skeleton.bones()).T
    bones = sizes[joints, parents].sum() + sizes[parents, joints].sum()
    return max(0.0, float(1 - bones / sizes.sum())) if sizes.any() else 0.0


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    source = Path(args.checkpoint)
    stem = source.name.removesuffix(".tar").removesuffix(".pth")
    out = Path(args.out) if args.out else source.with_name(f"{stem}_adjacency.png")
    refuse_existing([out], args.force)
    lifter = load_lifter(source, flip_test=None)
    if not isinstance(lifter.network, ModulatedGCN):
        raise UserError(f"{source} holds no Modulated GCN: only its adjacencies are drawn")
    panels = {
        f"{layer}, hop {hop}" if len(adjacencies) > 1 else layer: adjacency
        for layer, adjacencies in lifter.network.adjacencies().items()
        for hop, adjacency in enumerate(adjacencies.detach(), 1)
    }
    shares = {name: share_beside_bones(panel, lifter.skeleton) for name, panel in panels.items()}
    print("share between joints that no bone connects")
    width = max(map(len, shares))
    for name, share in shares.items():
        print(f"{name:<{width}}  {share:>4.0%}")
    titles = {f"{name} ({shares[name]:.0%})": panel for name, panel in panels.items()}
    save_adjacencies(out, titles, lifter.skeleton)
    print(out)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT", help="ours or a published one")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="the picture (default: beside CKPT, its name with _adjacency.png)",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    args = parser.parse_args(argv)
    if args.out:
        check_picture_name("--out", args.out)
    return args


if __name__ == "__main__":
    run_script(main)
