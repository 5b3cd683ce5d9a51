#!/usr/bin/env python
"""Modulated GCN on detected 2D joints, optionally with pose refinement.

python main_graph.py                                    test the weights of ./ckpt
python main_graph.py --eva CKPT                         test a checkpoint, a model file or a folder
python main_graph.py --pro_train 1 --save_model 1 --save_dir ./ckpt          train the network
python main_graph.py --pro_train 1 --post_refine --module_gcn_reload 1 --previous_dir ./ckpt \
    --save_model 1 --save_dir ./ckpt_refined --nepoch 2 train network and refinement from there
"""

import common.start  # isort: split

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import opt
from common.errors import UserError, run_script
from common.input_view import rotate
from common.losses import pose_loss, sparsity_loss, symmetry_loss
from common.metrics import mpjpe
from data.pose_dataset import PoseBatch, PoseDataset
from training import distributed
from training.acceleration import accelerate, select_device
from training.between_steps import BetweenSteps
from training.checkpoint import Source
from training.engine import Outlook, Training, evaluate, train_one_epoch
from training.known_at_test import check_known_flags, known_at_test
from training.lifter import Lifter, build_lifter, check_cameras
from training.load_data import evaluation_loader, load_data, training_loader
from training.memory_need import check_step_fits, check_weights_fit
from training.optimizer import build_optimizer
from training.other_cameras import with_other_cameras
from training.person_statistics import person_statistics, with_errors
from training.published_files import ModelFiles, load_model_file, load_model_folder
from training.report import (
    check_outputs,
    describe,
    format_epoch,
    format_network,
    format_root_errors,
    ray_fit_remark,
    report_test,
    report_training,
    root_errors,
    test_resumed_file,
)
from training.resume import source_to_resume
from training.run_flags import script_and_call_flags
from training.run_folder import RunDescription, RunFolder
from training.schedule import learning_rate
from training.settings import departures, read_flags, settings_of
from training.training_state import training_state
from training.weight_average import WeightAverage

SCRIPT = "main_graph"


def main(argv: Sequence[str] | None = None) -> None:
    args, source = read_flags(SCRIPT, opt.parse_graph, load_source, argv)
    trains = not is_test(args)
    check_outputs(args, trains)
    device = select_device(args.device, args.deterministic)
    check_weights_fit(args, SCRIPT, source, trains, device)
    torch.manual_seed(args.seed)
    refined = uses_refinement(args, source)
    lifter = build_lifter(args, SCRIPT, source, refined).to(device)
    *train_set, test_set = load_data(args, with_training=trains, device=device)
    lifter.check_data(test_set)
    check_known_flags(args, lifter, test_set)
    if args.show_root:
        check_cameras(test_set, "leave out --show_root")
    if is_test(args):
        test(args, lifter, test_set, source)
    else:
        train(args, lifter, *train_set, test_set, source)


def is_test(args: argparse.Namespace) -> bool:
    """Whether the call tests weights; without flags it tests those of --previous_dir."""
    return bool(args.evaluate) or not (args.pro_train or args.resume)


def load_source(args: argparse.Namespace) -> Source | None:
    """The weights to test, to resume or to start from."""
    if args.resume:
        return source_to_resume(args.resume, load_model_file)
    path = args.evaluate
    if path and not Path(path).is_dir():
        return Source(path, load_model_file(path))
    if path or args.module_gcn_reload or not args.pro_train:
        path = path or args.previous_dir
        starts_anew = args.pro_train and not args.evaluate
        refined = bool(args.post_refine_reload) if starts_anew else args.post_refine
        names = (args.module_gcn_model, args.post_refine_model)
        return Source(path, load_model_folder(path, refined, *names))
    if args.post_refine_reload:
        raise UserError("--post_refine_reload 1 goes with --module_gcn_reload 1: they match")
    return None


def uses_refinement(args: argparse.Namespace, source: Source | None) -> bool:
    """Whether poses are refined: as --post_refine says, or at test where there is a refinement.

    Raises:
        UserError: refinement is asked for and the weights have none, or the other way round.
    """
    refined = args.post_refine
    if is_test(args):
        there = "post_refine" in source.checkpoint
        if refined and not there:
            raise UserError(
                f"{source.path} holds no refinement: give a folder that does, or --no-post_refine"
            )
        refined = there if refined is None else refined
    if args.save_out_type == "post" and not refined:
        raise UserError("--save_out_type post needs --post_refine")
    return bool(refined)


def test(args: argparse.Namespace, lifter: Lifter, test_set: PoseDataset, source: Source) -> None:
    """Report the network's poses and, if there is refinement, the refined ones."""
    accelerate(lifter.networks().values(), test_set.inputs_2d.device, args.compile, args.tf32)
    departing = departures(source.checkpoint.get("options"), SCRIPT)
    header = describe(lifter, test_set, args.keypoints, departing)
    test_set, remarks = with_other_cameras(test_set, args, lifter)
    vars(header).update(remarks)
    if args.ray_fit:
        header.ray_fit = ray_fit_remark(lifter, args.keypoints)
    if args.show_root:
        header.root_position_error_mm = root_errors(lifter.tested_pose, test_set)
        print(format_root_errors(header.root_position_error_mm))
    poses_of = {"xyz": lifter.tested_pose}
    if lifter.post_refine:
        poses_of["post"] = lifter.refined_pose
    known = known_at_test(args, lifter, test_set)
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
    accelerate(training.all_networks(), test_set.inputs_2d.device, args.compile, args.tf32)
    of_data = (train_set.subjects, lifter.persons)
    description = RunDescription.of(args, lifter.arguments, *of_data)
    run = RunFolder.open(args, description, training, source if args.resume else None)
    print(f"{format_network(header)}\nrun folder: {run.folder}")
    tested = lifter.with_networks(training.tested_networks())
    chosen = args.save_out_type or ("post" if lifter.post_refine else "xyz")
    pose_of = {"xyz": tested.tested_pose, "post": tested.refined_pose}[chosen]
    saved = training.tested_networks()
    files = ModelFiles.of_run(run, args.save_dir, chosen, saved) if args.save_model else None

    outlook = Outlook(args.epochs)
    with run:
        if run.untested:
            test_resumed_file(run, training, pose_of, test_loader)
            if files:
                files.keep_best(run, is_new=True)
        networks = training.networks.values()
        training.loss = distributed.with_averaged_gradients(networks, training.loss)
        command = script_and_call_flags(args, SCRIPT)
        with BetweenSteps(run, training, args.save_every, command) as between:
            for epoch in range(run.epoch + 1, args.epochs + 1):
                start = run.start_of(epoch)
                trained = train_one_epoch(training, loader, start, outlook, between.after_step)
                what = f"epoch {epoch}/{args.epochs}, testing"
                summary = evaluate(pose_of, test_loader, outlook.progress, what, between.in_test)
                of_network = with_errors(lifter.persons, tested.tested_pose, train_set)
                run.describe_persons(of_network)
                is_best = run.finish_epoch(trained, summary, training_state(training))
                if files:
                    files.keep_best(run, is_new=is_best)
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
        optimizer=build_optimizer(networks.values(), args, amsgrad=True),
        rate=learning_rate(args, epoch_steps),
        max_norm=args.max_norm or None,
        amp=args.amp,
        average=WeightAverage(networks, args.ema) if args.ema else None,
        skips_not_finite=args.on_nan == "skip",
    )


def loss_of(args: argparse.Namespace, lifter: Lifter) -> Callable[[PoseBatch], Tensor]:
    """The loss of a batch: by default 0.99 MPJPE + 0.01 L1, the published one; with refinement
    also the MPJPE of the refined pose and 0.01 times its symmetry term."""

    def symmetry(pose: Tensor) -> Tensor:
        return args.sym_weight * symmetry_loss(pose, lifter.skeleton, args.sym_signed)

    def loss(batch: PoseBatch) -> Tensor:
        pose, target, rotation = lifter.pose_and_target(batch)
        total = pose_loss(pose, target, args.loss, args.weight_l1)
        if args.adj_l1:
            total = total + args.adj_l1 * sparsity_loss(lifter.network.adjacency_offsets())
        if args.network_symmetry:
            total = total + symmetry(pose)
        if lifter.post_refine is not None:
            refined = lifter.refine(rotate(pose, rotation, back=True), batch)
            total = total + mpjpe(refined, batch.targets_3d).mean()
            if args.sym_weight:
                total = total + symmetry(refined)
        return total

    return loss


if __name__ == "__main__":
    run_script(distributed.as_process_of_job(main))
