#!/usr/bin/env python
"""Modulated GCN on ground-truth 2D joints: train, or test a checkpoint.

python main_gcn.py                        train with the published settings
python main_gcn.py --evaluate CKPT        test a checkpoint, ours or the published one
python main_gcn.py --resume CKPT          go on where a run stopped
torchrun --nproc_per_node=N main_gcn.py   the same on N devices, see docs/scaling.md
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import opt
from common import distributed
from common.acceleration import accelerate
from common.averaging import WeightAverage
from common.checkpoint import build_saved, check_model, load_checkpoint, load_weights
from common.engine import Predictor, Trainer, exponential_rate, limit_weights, select_device
from common.errors import run_script
from common.lifting import Lifter
from common.losses import pose_loss, sparsity_loss
from common.other_cameras import with_other_cameras
from common.report import describe_data, describe_network
from common.skeleton import SKELETONS
from common.workflow import (
    check_results_file,
    load_data,
    open_run,
    report_checkpoint,
    train,
)
from data.pose_dataset import PoseBatch, PoseLoader
from models.build import build_model
from training import settings
from training.optimizer import build_optimizer, training_options
from training.published_flags import warning_of_inert_flags

_SCRIPT = "main_gcn"


def main(argv: Sequence[str] | None = None) -> None:
    args = opt.parse_gcn(argv)
    path = args.evaluate or args.resume
    checkpoint = load_checkpoint(path) if path else None
    if checkpoint:
        resume = bool(args.resume)
        brought = settings.checkpoint_settings(_SCRIPT, path, checkpoint, argv, resume)
        args = opt.parse_gcn(argv, brought)
    if message := warning_of_inert_flags(args, _SCRIPT):
        print(f"warning: {message}", file=sys.stderr)
    check_results_file(args.results)
    device = select_device(args.device)
    torch.manual_seed(args.seed)
    arguments = settings.model_arguments(args, _SCRIPT)
    if checkpoint:
        arguments = check_model(path, checkpoint["model"], arguments)
    network = build_saved(path, arguments) if checkpoint else build_model(arguments)
    lifter = Lifter(network.to(device), settings.view(args), SKELETONS[args.joints], args.flip_test)
    if checkpoint:
        load_weights(path, network, checkpoint["state_dict"])
    *train_set, test_set = load_data(
        **settings.data_options(args), with_training=not args.evaluate, device=device
    )
    lifter.check_data(test_set)
    options = checkpoint.get("options") if args.evaluate else settings.settings_of(args)
    header = {
        **describe_data(test_set, args.dataset, args.keypoints),
        **describe_network(arguments, lifter.network),
        "departures": settings.departures(options, _SCRIPT),
        "flip_test": args.flip_test,
        "intrinsics": lifter.describe_intrinsics(),
    }
    if args.evaluate:
        accelerate([lifter.network], device, args.compile, args.tf32)
        readings = {"evaluated": Predictor(lifter.networks(), lifter.predict, args.amp)}
        test_set, header = with_other_cameras(test_set, args.pan, args.focal_scale, header)
        report_checkpoint(readings, test_set, path, checkpoint, header, args.results)
        return
    loader = PoseLoader(
        train_set[0],
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        **settings.loader_options(args),
    )
    trainer = build_trainer(lifter, args, loader.epoch_steps)
    accelerate(trainer.every_network(), device, args.compile, args.tf32)
    description = settings.describe_run(args, arguments, train_set[0].subjects)
    run = open_run(path, checkpoint, trainer, settings.run_options(args), description)
    train(trainer, run, loader, test_set, args.epochs, header, args.results)


def build_trainer(lifter: Lifter, args: argparse.Namespace, epoch_steps: int) -> Trainer:
    """Training of the network; tested is what is trained, or its running average."""

    def loss(batch: PoseBatch) -> Tensor:
        pose, target, _ = lifter.in_view(batch)
        total = pose_loss(pose, target, args.loss, args.weight_l1)
        return total + args.adj_l1 * sparsity_loss(lifter.network) if args.adj_l1 else total

    optimizer = build_optimizer(lifter.network.parameters(), args)
    if args.max_weight_norm:
        limit_weights(optimizer, lifter.network, args.max_weight_norm)
    average = WeightAverage(lifter.networks(), args.ema) if args.ema else None
    tested = lifter.averaged(average)
    published = exponential_rate(args.lr, args.lr_gamma, args.lr_decay)
    return Trainer(
        networks=tested.networks(),
        predict=tested.predict,
        loss=loss,
        optimizer=optimizer,
        average=average,
        **training_options(args, published, epoch_steps),
    )


if __name__ == "__main__":
    run_script(distributed.joined(main))
