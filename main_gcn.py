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
from typing import Any

import torch

import opt
from common import distributed
from common.acceleration import accelerate, adam
from common.checkpoint import check_model, load_checkpoint, load_weights
from common.engine import Trainer, exponential_rate, select_device
from common.errors import UserError, run_script
from common.losses import pose_loss
from common.report import describe_data
from common.workflow import load_data, open_run, report_checkpoint, train
from data.pose_dataset import PoseLoader
from models.build import build_model, count_parameters
from models.modulated_gcn import ModulatedGCN


def main(argv: Sequence[str] | None = None) -> None:
    args = opt.parse_gcn(argv)
    path = args.evaluate or args.resume
    checkpoint = load_checkpoint(path) if path else None
    if args.resume:
        args = opt.parse_gcn(argv, defaults=checkpoint.get("options"))
    if message := opt.ignored(args):
        print(f"warning: {message}", file=sys.stderr)
    device = select_device(args.device)
    torch.manual_seed(args.seed)
    arguments = model_arguments(args)
    model = build_model(arguments)
    if checkpoint:
        check_model(path, checkpoint["model"], arguments)
        load_weights(path, model, checkpoint["state_dict"])
    trainer = build_trainer(model.to(device), args)
    accelerate(trainer.networks.values(), device, args.compile, args.tf32)
    *train_set, test_set = load_data(
        **opt.data_options(args), with_training=not args.evaluate, device=device
    )
    header = {
        **describe_data(test_set, args.dataset, args.keypoints),
        "model": arguments,
        "parameters": count_parameters(model),
    }
    if args.evaluate:
        readings = {"evaluated": trainer}
        report_checkpoint(readings, test_set, path, checkpoint, header, args.results)
        return
    description = {
        "model": arguments,
        "dataset": opt.describe_training_data(args, train_set[0].subjects),
        "options": opt.settings(args),
    }
    run = open_run(path, checkpoint, trainer, opt.run_options(args), description)
    loader = PoseLoader(train_set[0], args.batch_size, args.seed, part=distributed.part())
    train(trainer, run, loader, test_set, args.epochs, header, args.results)


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The network's arguments, as checkpoints carry them."""
    if args.non_local and args.joints != 16:
        raise UserError("--non_local pools pairs of 16 joints: use it with --joints 16")
    return {
        "joints": args.joints,
        "hid_dim": args.hid_dim,
        "num_layers": args.num_layers,
        "in_dim": 2,
        "out_dim": 3,
        "dropout": args.dropout,
        "non_local": "grouped" if args.non_local else None,
        "modulation_init": "ones",
    }


def build_trainer(model: ModulatedGCN, args: argparse.Namespace) -> Trainer:
    return Trainer(
        networks={"state_dict": model},
        loss=lambda batch: pose_loss(
            model(batch.inputs_2d), batch.targets_3d, args.loss, args.weight_l1
        ),
        predict=lambda batch: model(batch.inputs_2d),
        optimizer=adam(model.parameters(), args.lr),
        rate=exponential_rate(args.lr, args.lr_gamma, args.lr_decay),
        max_norm=1.0 if args.max_norm else None,
        amp=args.amp,
    )


if __name__ == "__main__":
    run_script(distributed.joined(main))
