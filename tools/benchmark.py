#!/usr/bin/env python
"""Speed of training and testing on this machine, compared with a textbook implementation.

python tools/benchmark.py                         the network of the published size
python tools/benchmark.py --hid_dim 384 --embedded  the network for detected 2D
python tools/benchmark.py --memory 527000         also loading time and peak memory at full size
python tools/benchmark.py --scaling               speed against data, width, depth, joints, batch
python tools/benchmark.py --recipe                cost of the components of --recipe strong
python tools/benchmark.py --to 65 -- --dataset hdm05 --epochs 10  poses and seconds to 65 mm
python tools/benchmark.py --deploy                an exported network beside torch's, gif and page
python tools/benchmark.py --predict               predict.py beside the least that it could take

Both implementations run alternately in one process, on synthetic poses. Each figure is the median
over the turns.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import main_gcn
import opt
from common.errors import UserError, run_script
from common.losses import pose_loss
from common.own_json import marked, refuse_other_json, write_json
from common.parser import Parser
from common.skeleton import H36M_16, H36M_17, SKELETONS, Skeleton
from data.datasets import H36M, HDM05
from data.npz_io import load_object_array, save_object_arrays
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader, load_pose_datasets
from models.build import build_model
from tools.deploy_speed import measure_deploy, print_figures
from tools.made_bodies import made_motion
from tools.predict_speed import measure_predict
from tools.textbook import (
    TextbookDataset,
    TextbookGCN,
    textbook_arrays,
    textbook_epoch,
    textbook_evaluate,
)
from training.acceleration import accelerate
from training.engine import Position, Training, evaluate, train_one_epoch
from training.lifter import build_lifter
from training.load_data import evaluation_loader, training_loader

_ACTIONS = 15
_SIDES = ("textbook", "ours")

# --scaling changes one of these settings at a time, to the values below.
_PUBLISHED = {"poses": 20_000, "channels": 128, "layers": 4, "joints": 16, "batch": 256}
_SCALES = {
    "poses": (20_000, 200_000, 2_000_000),
    "channels": (64, 128, 256, 384),
    "layers": (2, 4, 8),
    "joints": (16, 17),
    "batch": (32, 64, 256, 1024),
}
# The components of the strong recipe that take time in a step; each row adds one.
_STRONG = ["--recipe", "strong", "--warmup", "0"]  # an epoch has few steps here
_RECIPES = {
    "screen coordinates": [*_STRONG, "--no-camera_rays", "--no-root_view", "--no-augment"],
    "and rays, root view": [*_STRONG, "--no-augment"],
    "and augmentation": _STRONG,
}


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    torch.manual_seed(0)
    if args.side:
        print(json.dumps(_load_and_train(args.side[0], Path(args.side[1]))))
        return
    result = {
        "machine": _machine(),
        "options": {key: value for key, value in vars(args).items() if key != "side"},
    }
    if args.scaling:
        result |= measure_scaling(args)
        _print_scaling(result)
    elif args.to is not None:
        result["to"] = time_to_error(args.to, args.flags)
        _print_time_to_error(result["to"])
    elif args.deploy:
        result["deploy"] = measure_deploy(args.hid_dim, args.turns, _clock(args))
        print_figures(result["deploy"])
    elif args.predict:
        result["predict"] = measure_predict(args.turns, _clock(args))
        print_figures(result["predict"])
    elif args.recipe:
        result |= measure_recipe(args)
        _print_recipe(result)
    else:
        result |= _side_by_side(args)
        _print_comparison(result)
    if args.json:
        write_json(Path(args.json), marked("benchmark", result))


def _side_by_side(args: argparse.Namespace) -> dict[str, Any]:
    bench = Benchmark(args)
    figures = bench.run()
    if args.memory:
        figures |= _memory_figures(args)
    return {
        "gemm_gflops": bench.gemm,
        "mflop_a_pose": training_flop(bench.skeleton.num_joints, args.hid_dim) / 1e6,
        "figures": figures,
    }


def _build_parser() -> Parser:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("-z", "--hid_dim", type=int, default=128, help="channels")
    parser.add_argument("--embedded", action="store_true", help="17 joints and a non-local block")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256], metavar="B")
    parser.add_argument("--compile", action="store_true", help="use torch.compile for our network")
    parser.add_argument(
        "--turns", type=int, default=15, help="number of turns of each implementation"
    )
    parser.add_argument("--poses", type=int, default=1024, help="poses in a turn of training")
    parser.add_argument("--test_poses", type=int, default=4096, help="poses in a turn of testing")
    parser.add_argument(
        "--memory",
        type=int,
        default=0,
        metavar="FRAMES",
        help="also load a synthetic file of this many frames (Human3.6M has 527,000) and train on "
        "its four views, each implementation in its own process",
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead: measure our training for several sizes of the data set, channels, layers, "
        "joints and batch, one at a time (needs 2 GB)",
    )
    parser.add_argument(
        "--recipe",
        action="store_true",
        help="instead: measure training steps of --recipe strong by component, and estimate the "
        "time of the whole training",
    )
    parser.add_argument(
        "--to",
        type=float,
        metavar="MM",
        help="instead: train main_gcn.py with the flags after --, and say after how many poses and "
        "seconds its test has an MPJPE of at most MM",
    )
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="of main_gcn.py, for --to")
    parser.add_argument(
        "--deploy",
        action="store_true",
        help="instead: measure the network in onnxruntime beside torch (requirements-export.txt), "
        "and the writing of a clip",
    )
    parser.add_argument(
        "--predict",
        action="store_true",
        help="instead: measure predict.py on 10 s of keypoints beside import torch, and one pose "
        "with its mirrored twin beside the network alone, with the bundled weights",
    )
    parser.add_argument(
        "--threads", type=int, default=None, help="threads of torch (default: torch's choice)"
    )
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="measure the CPU time of the process, with one thread: for a machine with other load",
    )
    parser.add_argument(
        "--json", default=None, metavar="FILE", help="write the figures to this file"
    )
    parser.add_argument("--side", nargs=2, default=None, help=argparse.SUPPRESS)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _build_parser().parse_args(argv)
    if args.side:
        return args
    numbers = [args.hid_dim, args.turns, args.poses, args.test_poses, *args.batch_sizes]
    if min(numbers) < 1 or args.poses < max(args.batch_sizes) or args.test_poses < _ACTIONS:
        raise UserError(
            "sizes must be at least 1, --poses at least the batch size, --test_poses at least "
            f"{_ACTIONS}"
        )
    if args.flags and args.to is None:
        raise UserError(f"{args.flags[0]}: flags of main_gcn.py go with --to MM")
    if args.json:
        refuse_other_json(Path(args.json), "benchmark", ("machine", "options"))
    if args.threads or args.cpu_time:
        torch.set_num_threads(1 if args.cpu_time else args.threads)
    return args


def made_poses(count: int, skeleton: Skeleton) -> PoseDataset:
    """A data set of ``count`` random poses of plausible size, with equally frequent actions."""
    targets = 0.3 * torch.randn(count, skeleton.num_joints, 3)
    targets[:, 0] = 0
    zeros = torch.zeros(count, dtype=torch.int16)
    camera = H36M.cameras("S9")[0]
    return PoseDataset(
        info=HDM05,
        inputs_2d=targets[..., :2] + 0.05 * torch.randn(count, skeleton.num_joints, 2),
        targets_3d=targets,
        root_3d=torch.tensor([0.0, 0.0, 5.0]).repeat(count, 1),
        subject=zeros,
        sequence=zeros,
        action=(torch.arange(count) % _ACTIONS).short(),
        camera=zeros,
        subjects=("made",),
        sequences=("made/poses",),
        actions=tuple(f"action {number}" for number in range(_ACTIONS)),
        intrinsics=camera.intrinsics.float().view(1, 1, 9),
        up=camera.up.float().view(1, 1, 3),
        camera_height=camera.translation[2].float().view(1, 1),
        image_size=torch.tensor([[[camera.width, camera.height]]]).float(),
        skeleton=skeleton,
    )


def training_flop(joints: int, dim: int, layers: int = 4) -> int:
    """Floating-point operations of a training step, for one pose.

    Each graph convolution has two products with weights and one with the adjacency. Each product
    counts three times, once forward and twice backward; in the input layer it counts twice, since
    the input needs no gradient.
    """

    def layer(in_dim: int, out_dim: int) -> int:
        return 2 * joints * out_dim * (2 * in_dim + joints)

    inner = 2 * layers * layer(dim, dim) + layer(dim, 3)
    return 3 * inner + 2 * layer(2, dim)


class Benchmark:
    """Both implementations, with the same initial weights, on the same synthetic poses.

    Attributes:
        gemm: GFLOP/s of a large matrix product, measured between the turns: the median over the
            turns, and the maximum over the figures.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.skeleton = H36M_17 if args.embedded else H36M_16
        self.train = made_poses(args.poses, self.skeleton)
        self.test = made_poses(args.test_poses, self.skeleton)
        self.gemm = 0.0
        self.textbook = TextbookGCN(self.skeleton.adjacency(), args.hid_dim, 4, args.embedded)
        self.textbook_optimizer = torch.optim.Adam(self.textbook.parameters(), lr=1e-3)
        self.ours = our_training(self.skeleton.num_joints, args.hid_dim, args.embedded)
        for network in self.ours.networks.values():
            network.load_state_dict(self.textbook.state_dict())
        accelerate(self.ours.networks.values(), torch.device("cpu"), args.compile, tf32=False)

    def run(self) -> dict[str, dict[str, float]]:
        """Measure all figures: {figure: {implementation: poses/s}}."""
        figures = {}
        for batch_size in self.args.batch_sizes:
            figures[f"training, batch {batch_size}"] = self._compare(
                self.args.poses,
                lambda size=batch_size: textbook_epoch(
                    self.textbook,
                    self.textbook_optimizer,
                    DataLoader(_textbook_dataset(self.train), size, shuffle=True),
                ),
                lambda size=batch_size: train_one_epoch(
                    self.ours, PoseLoader(self.train, size), Position(1, 0)
                ),
            )
        figures["testing"] = self._compare(
            self.args.test_poses,
            lambda: textbook_evaluate(self.textbook, self.test, 64),
            lambda: evaluate(plain_poses(self.ours), evaluation_loader(self.test)),
        )
        figures["loading, batch 64"] = self._compare(
            self.args.poses,
            lambda: list(DataLoader(_textbook_dataset(self.train), 64, shuffle=True)),
            lambda: list(_tensors_of_epoch(PoseLoader(self.train, 64))),
        )
        return figures

    def _compare(self, poses: int, *sides: Callable[[], Any]) -> dict[str, float]:
        clock = _clock(self.args)
        seconds, rate = time_in_turns(sides, self.args.turns, clock)
        self.gemm = max(self.gemm, rate)
        return {side: poses / s for side, s in zip(_SIDES, seconds, strict=True)}


def _clock(args: argparse.Namespace) -> Callable[[], float]:
    """The clock that the flags select, in seconds."""
    return time.process_time if args.cpu_time else time.perf_counter


def our_training(joints: int, dim: int, embedded: bool = False, layers: int = 4) -> Training:
    """The training of ``main_gcn.py``, with a constant learning rate."""
    arguments = {"joints": joints, "hid_dim": dim, "num_layers": layers}
    model = build_model(arguments | {"non_local": "embedded" if embedded else None})
    return Training(
        networks={"state_dict": model},
        loss=lambda batch: pose_loss(model(batch.inputs_2d), batch.targets_3d, "mse", 0.1),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3, fused=True),
        rate=lambda step, epoch: 1e-3,
        max_norm=1.0,
    )


def plain_poses(training: Training) -> Callable[[PoseBatch], Tensor]:
    """A function that gives the poses of the network as they are tested, without flips."""
    (network,) = training.networks.values()

    @torch.inference_mode()
    def pose_of(batch: PoseBatch) -> Tensor:
        return network.eval()(batch.inputs_2d)

    return pose_of


def _textbook_dataset(data: PoseDataset) -> TextbookDataset:
    return TextbookDataset(data.inputs_2d.numpy(), data.targets_3d.numpy())


def _tensors_of_epoch(loader: PoseLoader) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader.shuffled_batches(1):
        yield batch.inputs_2d, batch.targets_3d


@dataclass
class _Stream(PoseLoader):
    """Gives ``steps`` batches a call, and goes through the epochs over several calls.

    So the permutation is computed once an epoch and not once a turn.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        epochs = map(super().shuffled_batches, itertools.count(1))
        self._batches = itertools.chain.from_iterable(epochs)

    def shuffled_batches(self, epoch: int, done: int = 0) -> Iterator[PoseBatch]:
        """The next ``steps`` batches; ``epoch`` and ``done`` are ignored."""
        return itertools.islice(self._batches, self.steps)


def measure_scaling(args: argparse.Namespace) -> dict[str, Any]:
    """Measure poses/s of our training for all values in ``_SCALES``.

    The values of one setting are measured in turns, so that a slower period of the machine affects
    all of them equally.
    """
    accelerate([], torch.device("cpu"), compiled=False, tf32=False)
    rows, gemm = {}, 0.0
    for what, values in _SCALES.items():
        cases = [_PUBLISHED | {what: value} for value in values]
        seconds, rate = time_in_turns(
            [_training_turn(case, args.poses) for case in cases], args.turns, _clock(args)
        )
        gemm = max(gemm, rate)
        for case, taken in zip(cases, seconds, strict=True):
            flop = training_flop(case["joints"], case["channels"], case["layers"])
            poses = max(1, args.poses // case["batch"]) * case["batch"]
            rows[f"{what} {case[what]:,}"] = {
                "poses_per_s": poses / taken,
                "mflop_a_pose": flop / 1e6,
            }
    return {"gemm_gflops": gemm, "scaling": rows}


def _training_turn(case: dict[str, int], poses: int) -> Callable[[], Any]:
    """A function that trains in the given setting, on about ``poses`` poses a call."""
    data = made_poses(case["poses"], SKELETONS[case["joints"]])
    trainer = our_training(case["joints"], case["channels"], layers=case["layers"])
    loader = _Stream(data, case["batch"], steps=max(1, poses // case["batch"]))
    return lambda: train_one_epoch(trainer, loader, Position(1, 0))


def measure_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """Measure poses/s of the strong recipe's training as its components are added."""
    accelerate([], torch.device("cpu"), compiled=False, tf32=False)
    data = made_poses(args.poses, H36M_16)
    sides = [_recipe_turn(flags, data) for flags in _RECIPES.values()]
    seconds, gemm = time_in_turns(sides, args.turns, _clock(args))
    rates = [args.poses / taken for taken in seconds]
    return {"gemm_gflops": gemm, "recipe": dict(zip(_RECIPES, rates, strict=True))}


def _recipe_turn(flags: Sequence[str], data: PoseDataset) -> Callable[[], Any]:
    """A function that trains an epoch as ``main_gcn.py`` does with these flags."""
    args = opt.parse_gcn(flags)
    loader = training_loader(args, data)
    training = main_gcn.build_training(
        args, build_lifter(args, main_gcn.SCRIPT, None), loader.epoch_steps
    )
    return lambda: train_one_epoch(training, loader, Position(1, 0))


def time_in_turns(
    sides: Sequence[Callable[[], Any]], turns: int, clock: Callable[[], float]
) -> tuple[list[float], float]:
    """Time functions in turns, after one call of each for warm-up.

    Returns:
        The median seconds of each function; and the median GFLOP/s of a large matrix product,
        measured in the same turns.
    """
    for side in sides:
        side()
    taken: list[list[float]] = [[] for _ in sides]
    rates = []
    for _ in range(turns):
        rates.append(gemm_rate(clock))
        for side, seconds in zip(sides, taken, strict=True):
            start = clock()
            side()
            seconds.append(clock() - start)
    return [_median(seconds) for seconds in taken], _median(rates)


def gemm_rate(clock: Callable[[], float], size: int = 1024) -> float:
    """GFLOP/s of a float32 matrix product."""
    a = torch.ones(size, size)
    start = clock()
    a @ a
    return 2e-9 * size**3 / (clock() - start)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _memory_figures(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Loading time and peak memory. Peak memory is a figure of a whole process, so each
    implementation runs in its own."""
    with tempfile.TemporaryDirectory() as folder:
        _write_made_motion(Path(folder) / H36M.file_3d(), args.memory)
        found = {side: _in_process(side, folder) for side in _SIDES}
    return {
        f"{what}, {args.memory:,} frames": {side: found[side][key] for side in _SIDES}
        for what, key in (("seconds to load", "seconds"), ("peak MB", "peak_mb"))
    }


def _write_made_motion(path: Path, frames: int) -> None:
    """Write a synthetic Human3.6M file with about ``frames`` frames in the usual sequences."""
    rng = np.random.default_rng(0)
    names = [f"{action}{trial}" for action in H36M.actions for trial in ("", " 1")]
    subjects = H36M.subjects_train + H36M.subjects_test
    motion = made_motion(rng, max(1, frames // (len(names) * len(subjects))))
    # The same motion under all names: generated once, but written and read every time.
    made = {subject: {name: motion.copy() for name in names} for subject in subjects}
    save_object_arrays(path, positions_3d=made)


def _in_process(side: str, folder: str) -> dict[str, float]:
    """Run :func:`_load_and_train` in a new process."""
    command = [sys.executable, __file__, "--side", side, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"measuring the memory of {side} failed: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def _load_and_train(side: str, folder: Path) -> dict[str, float]:
    """Load the training subjects and train the first three steps of an epoch."""
    start = time.perf_counter()
    if side == "ours":
        (data,) = load_pose_datasets(H36M, folder, [H36M.subjects_train], H36M_16)
    else:
        positions = load_object_array(folder / H36M.file_3d(), "positions_3d")
        data = TextbookDataset(*textbook_arrays(positions, H36M_16))
    seconds = time.perf_counter() - start
    if side == "ours":
        trainer = our_training(16, 128)
        for batch in itertools.islice(PoseLoader(data, 64).shuffled_batches(1), 3):
            trainer.loss(batch).backward()
            trainer.optimizer.step()
    else:
        model = TextbookGCN(H36M_16.adjacency())
        batches = itertools.islice(DataLoader(data, 64, shuffle=True), 3)
        textbook_epoch(model, torch.optim.Adam(model.parameters()), batches)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak}


def time_to_error(wanted: float, flags: Sequence[str]) -> dict[str, Any]:
    """Train ``main_gcn.py``, and find the first epoch with an MPJPE of at most ``wanted`` mm.

    Returns:
        Of that epoch, or of the last one if none is as good: its number, its MPJPE in mm, the poses
        and seconds of training until then, and the seconds of the tests after each epoch.
    """
    with tempfile.TemporaryDirectory() as folder:
        main_gcn.main([*flags, "-c", folder, "--name", "run"])
        run = Path(folder, "run")
        options = json.loads((run / "options.json").read_text(encoding="utf-8"))
        with (run / "log.csv").open(encoding="utf-8") as file:
            rows = [{key: float(row[key]) for key in row} for row in csv.DictReader(file)]
    reached = [row for row in rows if row["mpjpe_mm"] <= wanted]
    end = (reached or rows)[0 if reached else -1]
    until = rows[: int(end["epoch"])]
    return {
        "wanted_mm": wanted,
        "reached": bool(reached),
        "mpjpe_mm": end["mpjpe_mm"],
        "epoch": int(end["epoch"]),
        "poses": int(end["step"]) * options["batch_size"],
        "train_seconds": sum(row["train_seconds"] for row in until),
        "test_seconds": sum(row["test_seconds"] for row in until),
    }


def _print_time_to_error(found: dict[str, Any]) -> None:
    said = "reached" if found["reached"] else "not reached; the last epoch"
    print(
        f"{found['wanted_mm']:g} mm: {said}: {found['mpjpe_mm']:.2f} mm after epoch "
        f"{found['epoch']}, {found['poses']:,} poses, {found['train_seconds']:,.0f} s of training "
        f"and {found['test_seconds']:,.0f} s of tests"
    )


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": list(os.getloadavg()),
    }


def _heading(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"torch {machine['torch']}, {machine['threads']} threads, load {machine['load'][0]:.1f}; "
        f"matrix products {result['gemm_gflops']:.0f} GFLOP/s"
    )


def _print_comparison(result: dict[str, Any]) -> None:
    limit = 1e3 * result["gemm_gflops"] / result["mflop_a_pose"]
    print(f"{_heading(result)}: at most {limit:,.0f} poses/s of training")
    print(f"{'poses/s':32}{'textbook':>12}{'ours':>12}{'ratio':>8}{'of limit':>10}")
    for name, row in result["figures"].items():
        share = f"{row['ours'] / limit:10.0%}" if name.startswith("training") else ""
        ratio = row["ours"] / row["textbook"]
        print(f"{name:32}{row['textbook']:12,.4g}{row['ours']:12,.4g}{ratio:8.2f}{share}")


def _print_scaling(result: dict[str, Any]) -> None:
    print(_heading(result))
    print(f"{'training':20}{'MFLOP a pose':>14}{'poses/s':>12}{'of limit':>10}")
    for name, row in result["scaling"].items():
        share = row["poses_per_s"] * row["mflop_a_pose"] / (1e3 * result["gemm_gflops"])
        print(f"{name:20}{row['mflop_a_pose']:14.1f}{row['poses_per_s']:12,.4g}{share:10.0%}")


def _print_recipe(result: dict[str, Any]) -> None:
    print(_heading(result))
    print(f"{'training, --recipe strong':28}{'poses/s':>12}{'a step takes':>14}")
    first, *_, whole = result["recipe"].values()
    for name, rate in result["recipe"].items():
        print(f"{name:28}{rate:12,.4g}{first / rate - 1:+14.1%}")
    poses = opt.RECIPES["strong"]["epochs"] * H36M.pose_counts["train"]
    print(f"Human3.6M: {poses:,} poses, {poses / whole / 60:.0f} minutes of training here")


if __name__ == "__main__":
    run_script(main)
