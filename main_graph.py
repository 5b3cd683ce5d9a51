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
from common.acceleration import accelerate
from common.averaging import WeightAverage
from common.camera import back_project_pose, remove_distortion, solve_translation
from common.checkpoint import build_saved, check_model, differences, load_weights
from common.engine import Predictor, Trainer, limit_weights, select_device, step_rate
from common.errors import UserError, run_script
from common.input_view import rotate
from common.lifting import Lifter, check_cameras
from common.losses import pose_loss, sparsity_loss, symmetry_loss
from common.metrics import mpjpe
from common.other_cameras import with_other_cameras
from common.published import ModelFiles, load_model_file, load_model_folder
from common.report import describe_data, describe_network, format_root_errors
from common.skeleton import SKELETONS
from common.workflow import (
    check_results_file,
    load_data,
    open_run,
    report_checkpoint,
    root_errors,
    train,
)
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader
from models.build import build_model, describe_weights
from models.pose_refine import PoseRefine
from training import settings
from training.optimizer import build_optimizer, training_options
from training.published_flags import warning_of_inert_flags

_SCRIPT = "main_graph"


def main(argv: Sequence[str] | None = None) -> None:
    args = opt.parse_graph(argv)
    path, checkpoint = load_source(args)
    testing = bool(args.evaluate) or not (args.pro_train or args.resume)
    if checkpoint and (testing or args.resume):
        resume = bool(args.resume)
        brought = settings.checkpoint_settings(_SCRIPT, path, checkpoint, argv, resume)
        args = opt.parse_graph(argv, brought)
    if message := warning_of_inert_flags(args, _SCRIPT):
        print(f"warning: {message}", file=sys.stderr)
    check_results_file(args.results)
    device = select_device(args.device)
    torch.manual_seed(args.seed)
    arguments = settings.model_arguments(args, _SCRIPT)
    if checkpoint:
        arguments = check_model(path, checkpoint["model"], arguments)
    lifter = build_lifter(args, arguments, path, checkpoint, testing, device)
    *train_set, test_set = load_data(
        **settings.data_options(args), with_training=not testing, device=device
    )
    lifter.check_data(test_set)
    if args.show_root:
        check_cameras(test_set, "leave out --show_root")
    options = checkpoint.get("options") if testing else settings.settings_of(args)
    header = {
        **describe_data(test_set, args.dataset, args.keypoints),
        **describe_network(arguments, lifter.network, lifter.post_refine),
        "departures": settings.departures(options, _SCRIPT),
        "flip_test": args.flip_test,
        "root_depth": lifter.describe_root_depth(),
        "intrinsics": lifter.describe_intrinsics(),
    }
    if testing:
        accelerate(lifter.networks().values(), device, args.compile, args.tf32)
        report_weights(args, lifter, test_set, path, checkpoint, header)
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
    resumed = checkpoint if args.resume else None
    run = open_run(path, resumed, trainer, settings.run_options(args), description)
    files = model_files(args, lifter, trainer, run) if args.save_model else None
    train(trainer, run, loader, test_set, args.epochs, header, args.results, files)


def report_weights(
    args: argparse.Namespace,
    lifter: "RefiningLifter",
    test_set: PoseDataset,
    path: str,
    checkpoint: dict[str, Any],
    header: dict[str, Any],
) -> None:
    """The table of the network's pose and, if there is refinement, of the refined one."""
    readings = {"xyz": Predictor(lifter.networks(), lifter.predict, args.amp)}
    if lifter.post_refine:
        readings["post"] = replace(readings["xyz"], predict=lifter.predict_post)
    test_set, header = with_other_cameras(test_set, args.pan, args.focal_scale, header)
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


@dataclass
class RefiningLifter(Lifter):
    """The network, and pose refinement if there is any.

    Attributes:
        true_root_depth: refinement takes the root's depth from the ground truth.
    """

    post_refine: PoseRefine | None
    true_root_depth: bool

    def networks(self) -> dict[str, nn.Module]:
        refinement = {"post_refine": self.post_refine} if self.post_refine else {}
        return super().networks() | refinement

    def averaged(self, average: WeightAverage | None) -> "RefiningLifter":
        refinement = average.networks.get("post_refine") if average else self.post_refine
        return replace(super().averaged(average), post_refine=refinement)

    def check_data(self, dataset: PoseDataset) -> None:
        if self.post_refine:
            check_cameras(dataset, "use --no-post_refine")
        super().check_data(dataset)

    def describe_root_depth(self) -> str | None:
        """Where refinement has the root's depth from: a figure made with the truth must say so."""
        if self.post_refine is None:
            return None
        if self.true_root_depth:
            return "refinement uses ground-truth root depth"
        return "refinement uses root depth estimated from the prediction"

    def predict_post(self, batch: PoseBatch) -> Tensor:
        """The refined pose (B, J, 3)."""
        return self.refine(self.predict(batch), batch)

    def refine(self, pose: Tensor, batch: PoseBatch) -> Tensor:
        depth = batch.root_3d[:, 2]
        if not self.true_root_depth:
            with torch.no_grad():
                uv = remove_distortion(batch.inputs_2d, batch.intrinsics)
                depth = solve_translation(pose - pose[:, :1], uv, batch.intrinsics)[:, 2]
        lifted = back_project_pose(pose, batch.inputs_2d, depth, batch.intrinsics)
        return self.post_refine(pose, lifted)


def build_lifter(
    args: argparse.Namespace,
    arguments: dict[str, Any],
    path: str | None,
    checkpoint: dict[str, Any] | None,
    testing: bool,
    device: torch.device,
) -> RefiningLifter:
    """The networks, with the weights of the checkpoint if there is one."""
    weights = checkpoint or {}
    refined = args.post_refine
    if testing and refined is None:
        refined = "post_refine" in weights
    if testing and refined and "post_refine" not in weights:
        raise UserError(f"{path} holds no refinement: give a folder that does, or --no-post_refine")
    if args.save_out_type == "post" and not refined:
        raise UserError("--save_out_type post needs --post_refine")
    lifter = RefiningLifter(
        network=build_saved(path, arguments) if weights else build_model(arguments),
        view=settings.view(args),
        skeleton=SKELETONS[args.joints],
        flip_test=args.flip_test,
        post_refine=PoseRefine(args.joints) if refined else None,
        true_root_depth=args.root_depth == "gt",
    )
    for key, network in lifter.networks().items():
        if key in weights:
            load_weights(path, network, weights[key])
        network.to(device)
    return lifter


def build_trainer(lifter: RefiningLifter, args: argparse.Namespace, epoch_steps: int) -> Trainer:
    """Training of the network, or of network and refinement together; tested is what is trained,
    or its running average."""

    def loss(batch: PoseBatch) -> Tensor:
        pose, target, rotation = lifter.in_view(batch)
        total = pose_loss(pose, target, args.loss, args.weight_l1)
        if args.adj_l1:
            total = total + args.adj_l1 * sparsity_loss(lifter.network)
        if args.network_symmetry:
            total = total + symmetry(pose)
        if lifter.post_refine is not None:
            refined = lifter.refine(rotate(pose, rotation, back=True), batch)
            total = total + mpjpe(refined, batch.targets_3d).mean()
            if args.sym_weight:
                total = total + symmetry(refined)
        return total

    def symmetry(pose: Tensor) -> Tensor:
        return args.sym_weight * symmetry_loss(pose, lifter.skeleton, args.sym_signed)

    networks = lifter.networks()
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = build_optimizer(parameters, args, amsgrad=True)
    if args.max_weight_norm:
        limit_weights(optimizer, lifter.network, args.max_weight_norm)
    average = WeightAverage(networks, args.ema) if args.ema else None
    tested = lifter.averaged(average)
    published = step_rate(args.lr, args.lr_decay, args.large_decay_epoch)
    return Trainer(
        networks=tested.networks(),
        predict=tested.predict_post if out_type(args, lifter) == "post" else tested.predict,
        loss=loss,
        optimizer=optimizer,
        average=average,
        **training_options(args, published, epoch_steps),
    )


def out_type(args: argparse.Namespace, lifter: RefiningLifter) -> str:
    """Which of the two poses the best epoch is chosen by."""
    return args.save_out_type or ("post" if lifter.post_refine else "xyz")


def model_files(
    args: argparse.Namespace, lifter: RefiningLifter, trainer: Trainer, run: Any
) -> ModelFiles:
    """Where the best weights go under their published names."""
    folder = Path(args.save_dir) if args.save_dir else run.folder
    shown = describe_weights(lifter.network.state_dict())
    unclear = shown is None or differences(shown, run.description["model"])
    description = run.description if unclear else None
    files = ModelFiles(folder, out_type(args, lifter), trainer.networks, description)
    if run.best:
        files.remember(run.best["epoch"], run.best["mpjpe_mm"])
    return files


if __name__ == "__main__":
    run_script(distributed.joined(main))
