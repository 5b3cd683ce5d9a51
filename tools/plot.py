#!/usr/bin/env python
"""Plots of networks and runs.

    python tools/plot.py errors CKPT --dataset hdm05     by action and joint, and their distribution
    python tools/plot.py ray_fit CKPT --dataset hdm05    poses before and after --ray_fit
    python tools/plot.py curves RUN RUN ...              test error by epoch
    python tools/plot.py adjacency CKPT                  what each joint takes from each other
    python tools/plot.py modulation CKPT                 the weight modulation M of each layer

RUN is the folder of a run, or a folder of such folders (as tools/sweep.py makes), which is drawn
with mean and spread.

ray_fit: of all tested poses, those whose error falls least, as the median and most, but for 5% at
both ends.

adjacency: there is one panel for each layer. Row i, column j is the weight with which joint i
receives the features of joint j, including the learned modulation. Dots mark bones. The printed
percentage is the share of pairs of joints without a bone in the sum of absolute values off the
diagonal. If all entries are equal, it is 88% for 16 joints.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import torch
from torch import Tensor

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.metrics import mpjpe
from common.parser import Parser
from common.skeleton import Skeleton
from common.visualize import (
    check_picture_name,
    save_adjacencies,
    save_errors,
    save_learning_curves,
    save_modulations,
    save_poses,
)
from data.datasets import DATASETS
from data.pose_dataset import PoseDataset, load_pose_datasets
from models.modulated_gcn import ModulatedGCN
from training import flag_types as types
from training.find_run import LOG
from training.lifter import SCREEN_SIGMAS, Lifter, check_cameras, load_lifter
from training.load_data import ROOT
from training.pictures import tested_poses, title_of
from training.report import ray_fit_remark

_MOST = 10**9  # epochs, millimetres
_SHARES = (0.05, 0.5, 0.95)  # of the poses, by what --ray_fit gains


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    sources = [Path(source) for source in args.sources]
    out = Path(args.out) if args.out else _beside(sources[0], args.plot)
    refuse_existing([out], args.force, sources)
    PLOTS[args.plot](args, sources, out)
    print(out)


def _beside(source: Path, plot: str) -> Path:
    stem = source.absolute().name.removesuffix(".tar").removesuffix(".pth")
    return source.absolute().with_name(f"{stem}_{plot}.png")


def plot_errors(args: argparse.Namespace, sources: Sequence[Path], out: Path) -> None:
    lifter, data = _on_data(args, sources[0])
    poses = tested_poses(lifter.tested_pose, data)
    errors = 1000 * (poses - data.targets_3d).norm(dim=-1)
    save_errors(out, errors, data.action, data.actions, lifter.skeleton)
    by_joint = dict(zip(lifter.skeleton.names, errors.mean(dim=0).tolist(), strict=True))
    print("mean error in mm by joint, over all poses")
    for name, error in by_joint.items():
        print(f"{name:<10}  {error:>6.1f}")


def plot_ray_fit(args: argparse.Namespace, sources: Sequence[Path], out: Path) -> None:
    lifter, data = _on_data(args, sources[0])
    if args.keypoints not in SCREEN_SIGMAS:
        raise UserError(
            f"--keypoints {args.keypoints}: the error of these 2D joints is not known, which "
            f"--ray_fit needs: {' or '.join(SCREEN_SIGMAS)}"
        )
    check_cameras(data, "give another data set")
    fitted = replace(lifter, screen_sigma=SCREEN_SIGMAS[args.keypoints], ray_fit=True)
    if not fitted.fits:
        raise UserError(f"{ray_fit_remark(fitted, args.keypoints)}: give --keypoints gt")
    before, after = (tested_poses(each.tested_pose, data) for each in (lifter, fitted))
    gain = mpjpe(before, data.targets_3d) - mpjpe(after, data.targets_3d)
    index = gain.argsort()[[int(share * (len(gain) - 1)) for share in _SHARES]]
    batch = data.batch(index.repeat_interleave(2))
    poses = torch.stack([before[index], after[index]], dim=1).flatten(0, 1)
    titles = [f"{step}, {title_of(data, i)}" for i in index for step in ("network", "on its rays")]
    save_poses(out, batch.inputs_2d, poses, batch.targets_3d, titles, lifter.skeleton, batch.up)


def _on_data(args: argparse.Namespace, source: Path) -> tuple[Lifter, PoseDataset]:
    """The network of a checkpoint, and the test subjects of the flags' data set."""
    lifter, info = load_lifter(source, flip_test=None), DATASETS[args.dataset]
    folder = Path(args.dataset_dir) if args.dataset_dir else ROOT / "dataset"
    (data,) = load_pose_datasets(
        info, folder, [info.subjects_test], lifter.skeleton, args.keypoints, None, args.downsample
    )
    lifter.check_data(data)
    return lifter, data


def plot_curves(args: argparse.Namespace, sources: Sequence[Path], out: Path) -> None:
    groups = {}
    for source in sources:
        logs = [source / LOG] if (source / LOG).is_file() else sorted(source.glob(f"*/{LOG}"))
        if not logs:
            raise UserError(f"{source} is no folder of a run, nor of runs: it has no {LOG}")
        groups[str(source)] = [read_log(log) for log in logs]
    save_learning_curves(out, groups)


def read_log(path: Path) -> dict[int, float]:
    """{epoch: MPJPE in mm} of a run's log.

    Raises:
        UserError: it is not one, or there is no epoch in it.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {int(row["epoch"]): float(row["mpjpe_mm"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error!r:.80}): give folders of runs") from error
    if not rows or not all(0 < n <= _MOST and 0 <= e <= _MOST for n, e in rows.items()):
        raise UserError(f"{path} has no tested epochs: give folders of runs that were tested")
    return rows


def plot_adjacency(args: argparse.Namespace, sources: Sequence[Path], out: Path) -> None:
    lifter, network = _modulated(sources[0])
    panels = {
        f"{layer}, hop {hop}" if len(adjacencies) > 1 else layer: adjacency
        for layer, adjacencies in network.adjacencies().items()
        for hop, adjacency in enumerate(adjacencies.detach(), 1)
    }
    shares = {name: share_without_bone(panel, lifter.skeleton) for name, panel in panels.items()}
    print("share between joints that no bone connects")
    width = max(map(len, shares))
    for name, share in shares.items():
        print(f"{name:<{width}}  {share:>4.0%}")
    titles = {f"{name} ({shares[name]:.0%})": panel for name, panel in panels.items()}
    save_adjacencies(out, titles, lifter.skeleton)


def plot_modulation(args: argparse.Namespace, sources: Sequence[Path], out: Path) -> None:
    lifter, network = _modulated(sources[0])
    found = {name: M.detach() for name, M in network.named_parameters() if name.endswith(".M")}
    if not found:
        raise UserError(f"{sources[0]} has no weight modulation: its M is one everywhere")
    panels = {
        name.removesuffix(".M") + (f", hop {hop}" if M.dim() > 2 else ""): panel
        for name, M in found.items()
        for hop, panel in enumerate(M.view(-1, *M.shape[-2:]), 1)
    }
    save_modulations(out, panels, lifter.skeleton)


def _modulated(source: Path) -> tuple[Lifter, ModulatedGCN]:
    lifter = load_lifter(source, flip_test=None)
    if not isinstance(lifter.network, ModulatedGCN):
        raise UserError(f"{source} has no Modulated GCN: give a checkpoint of one")
    return lifter, lifter.network


PLOTS = {
    "errors": plot_errors,
    "ray_fit": plot_ray_fit,
    "curves": plot_curves,
    "adjacency": plot_adjacency,
    "modulation": plot_modulation,
}


def share_without_bone(adjacency: Tensor, skeleton: Skeleton) -> float:
    """Share of pairs of joints without a bone in the sum of absolute values of an adjacency (J, J).

    The diagonal is left out. The share is 0 if all other entries are zero.
    """
    sizes = adjacency.abs().fill_diagonal_(0.0)
    joints, parents = torch.tensor(skeleton.bones()).T
    bones = sizes[joints, parents].sum() + sizes[parents, joints].sum()
    return max(0.0, float(1 - bones / sizes.sum())) if sizes.any() else 0.0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plots = parser.add_subparsers(dest="plot", required=True, parser_class=Parser)
    for plot in PLOTS:
        add = plots.add_parser(plot).add_argument
        many = plot == "curves"
        add("sources", metavar="RUN" if many else "CKPT", nargs="+" if many else 1)
        add("-o", "--out", metavar="FILE", help="image file (default: beside the first input)")
        add("--force", action="store_true", help="replace an existing file")
        if plot in ("errors", "ray_fit"):
            add("-d", "--dataset", choices=sorted(DATASETS), default="h36m")
            add("-k", "--keypoints", type=types.one_line, default="gt", metavar="NAME")
            add("--downsample", type=types.positive_int, default=1, metavar="K")
            add("--dataset_dir", metavar="DIR", help="folder of the npz files")
    args = parser.parse_args(argv)
    if args.out:
        check_picture_name("--out", args.out)
    return args


if __name__ == "__main__":
    run_script(main)
