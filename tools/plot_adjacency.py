#!/usr/bin/env python
"""Plot the learned adjacencies of a Modulated GCN, and print the weight between unconnected joints.

    python tools/plot_adjacency.py CKPT
    python tools/plot_adjacency.py CKPT --out adjacency.png

There is one panel for each layer. Row i, column j is the weight with which joint i receives the
features of joint j, including the learned modulation. Dots mark bones. The printed percentage is
the share of pairs of joints without a bone in the sum of absolute values off the diagonal. If all
entries are equal, it is 88% for 16 joints.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import torch
from torch import Tensor

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.parser import Parser
from common.skeleton import Skeleton
from common.visualize import check_picture_name, save_adjacencies
from models.modulated_gcn import ModulatedGCN
from training.lifter import load_lifter


def share_without_bone(adjacency: Tensor, skeleton: Skeleton) -> float:
    """Share of pairs of joints without a bone in the sum of absolute values of an adjacency (J, J).

    The diagonal is left out. The share is 0 if all other entries are zero.
    """
    sizes = adjacency.abs().fill_diagonal_(0.0)
    joints, parents = torch.tensor(skeleton.bones()).T
    bones = sizes[joints, parents].sum() + sizes[parents, joints].sum()
    return max(0.0, float(1 - bones / sizes.sum())) if sizes.any() else 0.0


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    source = Path(args.checkpoint)
    stem = source.name.removesuffix(".tar").removesuffix(".pth")
    out = Path(args.out) if args.out else source.with_name(f"{stem}_adjacency.png")
    refuse_existing([out], args.force, [source])
    lifter = load_lifter(source, flip_test=None)
    if not isinstance(lifter.network, ModulatedGCN):
        raise UserError(f"{source} has no Modulated GCN: give a checkpoint of one")
    panels = {
        f"{layer}, hop {hop}" if len(adjacencies) > 1 else layer: adjacency
        for layer, adjacencies in lifter.network.adjacencies().items()
        for hop, adjacency in enumerate(adjacencies.detach(), 1)
    }
    shares = {name: share_without_bone(panel, lifter.skeleton) for name, panel in panels.items()}
    print("share between joints that no bone connects")
    width = max(map(len, shares))
    for name, share in shares.items():
        print(f"{name:<{width}}  {share:>4.0%}")
    titles = {f"{name} ({shares[name]:.0%})": panel for name, panel in panels.items()}
    save_adjacencies(out, titles, lifter.skeleton)
    print(out)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT", help="our checkpoint or a published one")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="image file (default: beside CKPT, its name with _adjacency.png)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)
    if args.out:
        check_picture_name("--out", args.out)
    return args


if __name__ == "__main__":
    run_script(main)
