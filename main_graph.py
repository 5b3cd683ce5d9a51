#!/usr/bin/env python
"""Modulated GCN on detected 2D joints, optionally with pose refinement.

python main_graph.py                                    test the weights of ./ckpt
python main_graph.py --eva CKPT                         test a checkpoint, a model file or a folder
python main_graph.py --pro_train 1 --save_model 1 --save_dir ./ckpt          train the network
python main_graph.py --pro_train 1 --post_refine --module_gcn_reload 1 --previous_dir ./ckpt \
    --save_model 1 --save_dir ./ckpt_refined --nepoch 2 train network and refinement from there
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import opt
from common import distributed
from common.acceleration import accelerate, adam
from common.camera import lift_again, remove_distortion, solve_translation
from common.checkpoint import check_model, load_weights
from common.engine import Trainer, select_device, step_rate
from common.errors import UserError, run_script
from common.losses import pose_loss, symmetry_loss
from common.metrics import mpjpe
from common.published import ModelFiles, load_model_file, load_model_folder
from common.report import describe_data, format_root_errors
from common.skeleton import SKELETONS, Skeleton
from common.workflow import load_data, open_run, report_checkpoint, root_errors, train
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader
from models.build import build_model, count_parameters
from models.modulated_gcn import ModulatedGCN
from models.pose_refine import PoseRefine

_SYMMETRY_WEIGHT = 0.01


def main(argv: Sequence[str] | None = None) -> None:
    args = opt.parse_graph(argv)
    path, checkpoint = load_source(args)
    if args.resume:
        args = opt.parse_graph(argv, defaults=checkpoint.get("options"))
    if message := opt.ignored(args):
        print(f"warning: {message}", file=sys.stderr)
    testing = bool(args.evaluate) or not (args.pro_train or args.resume)
    device = select_device(args.device)
    torch.manual_seed(args.seed)
    arguments = model_arguments(args)
    lifter = build_lifter(args, arguments, path, checkpoint, testing, device)
    trainer = build_trainer(lifter, args)
    accelerate(trainer.networks.values(), device, args.compile, args.tf32)
    *train_set, test_set = load_data(
        **opt.data_options(args), with_training=not testing, device=device
    )
    if (lifter.post_refine or args.show_root) and not test_set.intrinsics.isfinite().all():
        raise UserError(f"the cameras of {args.dataset} are not known: use --no-post_refine")
    header = {
        **describe_data(test_set, args.dataset, args.keypoints),
        "model": arguments,
        "parameters": sum(map(count_parameters, lifter.networks().values())),
        "test_augmentation": args.test_augmentation,
        "root_depth": lifter.describe_root_depth(),
    }
    if testing:
        report_weights(args, lifter, trainer, test_set, path, checkpoint, header)
        return
    description = {
        "model": arguments,
        "dataset": opt.describe_training_data(args, train_set[0].subjects),
        "options": opt.settings(args),
    }
    resumed = checkpoint if args.resume else None
    run = open_run(path, resumed, trainer, opt.run_options(args), description)
    files = model_files(args, lifter, run) if args.save_model else None
    loader = PoseLoader(
        train_set[0], args.batch_size, args.seed, args.data_augmentation, distributed.part()
    )
    train(trainer, run, loader, test_set, args.epochs, header, args.results, files)


def report_weights(
    args: argparse.Namespace,
    lifter: "Lifter",
    trainer: Trainer,
    test_set: PoseDataset,
    path: str,
    checkpoint: dict[str, Any],
    header: dict[str, Any],
) -> None:
    """The table of the network's pose and, if there is refinement, of the refined one."""
    readings = {"xyz": replace(trainer, predict=lifter.predict_xyz)}
    if lifter.post_refine:
        readings["post"] = replace(trainer, predict=lifter.predict_post)
    if args.show_root:
        header["root_position_error_mm"] = root_errors(readings["xyz"], test_set)
        print(format_root_errors(header["root_position_error_mm"]))
    report_checkpoint(readings, test_set, path, checkpoint, header, args.results)


def load_source(args: argparse.Namespace) -> tuple[str | None, dict[str, Any] | None]:
    """The weights to test, to resume or to start from, and where they lie."""
    path = args.evaluate or args.resume
    if path and not Path(path).is_dir():
        return path, load_model_file(path)
    if path or args.module_gcn_reload or not args.pro_train:
        path = path or args.previous_dir
        starting = args.pro_train and not args.evaluate
        with_refinement = bool(args.post_refine_reload) if starting else args.post_refine
        names = (args.module_gcn_model, args.post_refine_model)
        return path, load_model_folder(path, with_refinement, *names)
    if args.post_refine_reload:
        raise UserError("--post_refine_reload 1 goes with --module_gcn_reload 1: they match")
    return None, None


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The network's arguments, as checkpoints carry them."""
    return {
        "joints": args.joints,
        "hid_dim": args.hid_dim,
        "num_layers": args.num_layers,
        "in_dim": 2,
        "out_dim": 3,
        "dropout": args.dropout,
        "non_local": "embedded" if args.non_local else None,
        "modulation_init": "xavier",
    }


@dataclass
class Lifter:
    """The network, with what detected 2D adds to it: mirrored twins at test, and refinement."""

    network: ModulatedGCN
    post_refine: PoseRefine | None
    skeleton: Skeleton
    flip_test: bool
    true_root_depth: bool

    def networks(self) -> dict[str, nn.Module]:
        """By the keys of their weights in a checkpoint."""
        both = {"state_dict": self.network, "post_refine": self.post_refine}
        return {key: network for key, network in both.items() if network is not None}

    def describe_root_depth(self) -> str | None:
        """Where refinement has the root's depth from: a figure made with the truth must say so."""
        if self.post_refine is None:
            return None
        if self.true_root_depth:
            return "refinement uses ground-truth root depth"
        return "refinement uses root depth estimated from the prediction"

    def predict_xyz(self, batch: PoseBatch) -> Tensor:
        """The network's pose (B, J, 3); with ``flip_test`` the mean with its mirrored twin."""
        pose = self.network(batch.inputs_2d)
        if not self.flip_test:
            return pose
        twin = self.network(self.skeleton.flip(batch.inputs_2d))
        return (pose + self.skeleton.flip(twin)) / 2

    def predict_post(self, batch: PoseBatch) -> Tensor:
        """The refined pose (B, J, 3)."""
        return self.refine(self.predict_xyz(batch), batch)

    def refine(self, pose: Tensor, batch: PoseBatch) -> Tensor:
        depth = batch.root_3d[:, 2]
        if not self.true_root_depth:
            with torch.no_grad():
                uv = remove_distortion(batch.inputs_2d, batch.intrinsics)
                depth = solve_translation(pose - pose[:, :1], uv, batch.intrinsics)[:, 2]
        lifted = lift_again(pose, batch.inputs_2d, depth, batch.intrinsics)
        return self.post_refine(pose, lifted)


def build_lifter(
    args: argparse.Namespace,
    arguments: dict[str, Any],
    path: str | None,
    checkpoint: dict[str, Any] | None,
    testing: bool,
    device: torch.device,
) -> Lifter:
    """The networks, with the weights of the checkpoint if there is one."""
    weights = checkpoint or {}
    refined = args.post_refine
    if testing and refined is None:
        refined = "post_refine" in weights
    if testing and refined and "post_refine" not in weights:
        raise UserError(f"{path} holds no refinement: give a folder that does, or --no-post_refine")
    if args.save_out_type == "post" and not refined:
        raise UserError("--save_out_type post needs --post_refine")
    lifter = Lifter(
        network=build_model(arguments),
        post_refine=PoseRefine(args.joints) if refined else None,
        skeleton=SKELETONS[args.joints],
        flip_test=args.test_augmentation,
        true_root_depth=args.root_depth == "gt",
    )
    if weights:
        check_model(path, weights["model"], arguments)
    for key, network in lifter.networks().items():
        if key in weights:
            load_weights(path, network, weights[key])
        network.to(device)
    return lifter


def build_trainer(lifter: Lifter, args: argparse.Namespace) -> Trainer:
    """The published training: of the network, or of network and refinement together."""

    def loss(batch: PoseBatch) -> Tensor:
        pose, target = lifter.network(batch.inputs_2d), batch.targets_3d
        total = pose_loss(pose, target, args.loss, args.weight_l1)
        if lifter.post_refine is not None:
            refined = lifter.refine(pose, batch)
            total = total + mpjpe(refined, target).mean()
            if args.sym_penalty:
                symmetry = symmetry_loss(refined, lifter.skeleton, args.sym_signed)
                total = total + _SYMMETRY_WEIGHT * symmetry
        return total

    networks = lifter.networks()
    parameters = [p for network in networks.values() for p in network.parameters()]
    post = out_type(args, lifter) == "post"
    return Trainer(
        networks=networks,
        loss=loss,
        predict=lifter.predict_post if post else lifter.predict_xyz,
        optimizer=adam(parameters, args.lr, amsgrad=True),
        rate=step_rate(args.lr, args.lr_decay, args.large_decay_epoch),
        max_norm=None,
        amp=args.amp,
    )


def out_type(args: argparse.Namespace, lifter: Lifter) -> str:
    """Which of the two poses the best epoch is chosen by."""
    return args.save_out_type or ("post" if lifter.post_refine else "xyz")


def model_files(args: argparse.Namespace, lifter: Lifter, run: Any) -> ModelFiles:
    """Where the best weights go under their published names."""
    folder = Path(args.save_dir) if args.save_dir else run.folder
    files = ModelFiles(folder, out_type(args, lifter), lifter.networks())
    if run.best:
        files.remember(run.best["epoch"], run.best["mpjpe_mm"])
    return files


if __name__ == "__main__":
    run_script(distributed.joined(main))
