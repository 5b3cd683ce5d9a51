#!/usr/bin/env python
"""Modulated GCN on ground-truth 2D joints: train, or test a checkpoint.

python main_gcn.py                        train with the published settings
python main_gcn.py --evaluate CKPT        test a checkpoint, ours or a published one
python main_gcn.py --resume CKPT          go on where a run stopped
torchrun --nproc_per_node=N main_gcn.py   the same on N devices, see docs/scaling.md
"""

import common.start  # isort: split

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import opt
from common.errors import run_script
from common.losses import pose_loss, sparsity_loss
from data.pose_dataset import PoseBatch, PoseDataset
from training import distributed
from training.acceleration import accelerate, select_device
from training.between_steps import BetweenSteps
from training.checkpoint import Source, load_checkpoint
from training.engine import Outlook, Training, evaluate, train_one_epoch
from training.known_at_test import check_known_flags, known_at_test
from training.lifter import Lifter, build_lifter
from training.load_data import evaluation_loader, load_data, training_loader
from training.memory_need import check_step_fits, check_weights_fit
from training.optimizer import build_optimizer
from training.other_cameras import with_other_cameras
from training.person_statistics import person_statistics, with_errors
from training.report import (
    check_outputs,
    describe,
    format_epoch,
    format_network,
    ray_fit_remark,
    report_test,
    report_training,
    test_resumed_file,
)
from training.resume import source_to_resume
from training.run_flags import script_and_call_flags
from training.run_folder import RunDescription, RunFolder
from training.schedule import learning_rate
from training.settings import departures, read_flags, settings_of
from training.training_state import training_state
from training.weight_average import WeightAverage

SCRIPT = "main_gcn"


def main(argv: Sequence[str] | None = None) -> None:
    args, source = read_flags(SCRIPT, opt.parse_gcn, load_source, argv)
    trains = not args.evaluate
    check_outputs(args, trains)
    device = select_device(args.device, args.deterministic)
    check_weights_fit(args, SCRIPT, source, trains, device)
    torch.manual_seed(args.seed)
    lifter = build_lifter(args, SCRIPT, source).to(device)
    *train_set, test_set = load_data(args, with_training=trains, device=device)
    lifter.check_data(test_set)
    check_known_flags(args, lifter, test_set)
    if args.evaluate:
        test(args, lifter, test_set, source)
    else:
        train(args, lifter, *train_set, test_set, source)


def load_source(args: argparse.Namespace) -> Source | None:
    """The checkpoint to test or to resume."""
    if args.resume:
        return source_to_resume(args.resume)
    return Source(args.evaluate, load_checkpoint(args.evaluate)) if args.evaluate else None


def test(args: argparse.Namespace, lifter: Lifter, test_set: PoseDataset, source: Source) -> None:
    accelerate(lifter.networks().values(), test_set.inputs_2d.device, args.compile, args.tf32)
    header = describe(
        lifter, test_set, args.keypoints, departures(source.checkpoint.get("options"), SCRIPT)
    )
    test_set, remarks = with_other_cameras(test_set, args, lifter)
    vars(header).update(remarks)
    if args.ray_fit:
        header.ray_fit = ray_fit_remark(lifter, args.keypoints)
    known = known_at_test(args, lifter, test_set)
    poses_of = {"evaluated": lifter.tested_pose}
    report_test(poses_of, test_set, source, header, args.results, args.draw, known)


def train(
    args: argparse.Namespace,
    lifter: Lifter,
    train_set: PoseDataset,
    test_set: PoseDataset,
    source: Source | None,
) -> None:
    """Train to the last epoch, test after each one, and report."""
    lifter.persons = lifter.persons or person_statistics(train_set)
    header = describe(lifter, test_set, args.keypoints, departures(settings_of(args), SCRIPT))
    loader = training_loader(args, train_set, lifter.input_sigma)
    test_loader = evaluation_loader(test_set)
    check_step_fits(args, SCRIPT, lifter, loader)
    training = build_training(args, lifter, loader.epoch_steps)
    tested = lifter.with_networks(training.tested_networks())
    pose_of = tested.tested_pose
    accelerate(training.all_networks(), test_set.inputs_2d.device, args.compile, args.tf32)
    of_data = (train_set.subjects, lifter.persons)
    description = RunDescription.of(args, lifter.arguments, *of_data)
    run = RunFolder.open(args, description, training, source)
    print(f"{format_network(header)}\nrun folder: {run.folder}")

    outlook = Outlook(args.epochs)
    with run:
        if run.untested:
            test_resumed_file(run, training, pose_of, test_loader)
        networks = training.networks.values()
        training.loss = distributed.with_averaged_gradients(networks, training.loss)
        command = script_and_call_flags(args, SCRIPT)
        with BetweenSteps(run, training, args.save_every, command) as between:
            for epoch in range(run.epoch + 1, args.epochs + 1):
                start = run.start_of(epoch)
                trained = train_one_epoch(training, loader, start, outlook, between.after_step)
                what = f"epoch {epoch}/{args.epochs}, testing"
                summary = evaluate(pose_of, test_loader, outlook.progress, what, between.in_test)
                run.describe_persons(with_errors(lifter.persons, pose_of, train_set))
                run.finish_epoch(trained, summary, training_state(training))
                outlook.update(run.history[-1])
                print(format_epoch(run.history[-1], args.epochs), flush=True)
                between.after_epoch()
        known = known_at_test(args, tested, test_set)
        report_training(run, pose_of, test_set, header, args.results, args.draw, known)


def build_training(args: argparse.Namespace, lifter: Lifter, epoch_steps: int) -> Training:
    """Optimiser, learning rate and running average of the flags, and the loss below."""
    networks = lifter.networks()
    return Training(
        networks,
        loss=loss_of(args, lifter),
        optimizer=build_optimizer(networks.values(), args),
        rate=learning_rate(args, epoch_steps),
        max_norm=args.max_norm or None,
        amp=args.amp,
        average=WeightAverage(networks, args.ema) if args.ema else None,
        skips_not_finite=args.on_nan == "skip",
    )


def loss_of(args: argparse.Namespace, lifter: Lifter) -> Callable[[PoseBatch], Tensor]:
    """The loss of a batch: by default 0.9 MSE + 0.1 L1, the published one."""

    def loss(batch: PoseBatch) -> Tensor:
        pose, target, _ = lifter.pose_and_target(batch)
        total = pose_loss(pose, target, args.loss, args.weight_l1)
        if args.adj_l1:
            total = total + args.adj_l1 * sparsity_loss(lifter.network.adjacency_offsets())
        return total

    return loss


if __name__ == "__main__":
    run_script(distributed.as_process_of_job(main))
