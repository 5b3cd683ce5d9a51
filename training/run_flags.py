"""The flags of one call that are no choices of the method, the same in both scripts: speed, files,
device."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.shifts import DETECTORS
from training import flag_types as types
from training.flag_types import Add, Switch

# Those that belong to one call and not to a run's settings: a resumed run does not take them over.
CALL_FLAGS = (
    "evaluate", "resume", "results", "device", "checkpoint", "name", "pan", "focal_scale",
    "keypoint_noise", "ray_fit", "joints_of", "body", "gravity", "body_size", "check_data",
    "save_every", "on_nan", "fallback_dir", "deterministic", "draw",
)  # fmt: skip
# What only a training uses; beside --evaluate it changes nothing.
_OF_TRAINING = {
    "batch_size", "epochs", "epoch_poses", "lr", "loss", "weight_l1", "adj_l1", "schedule",
    "lr_decay", "lr_gamma", "large_decay_epoch", "optimizer", "weight_decay", "max_norm",
    "max_weight_norm", "warmup", "ema", "augment", "bone_sigma", "size_sigma", "turn", "tilt",
    "keep_ground", "keypoint_shift", "focal_sigma", "snapshot", "data_augmentation",
    "network_symmetry", "sym_weight", "sym_signed", "save_model", "save_dir",
}  # fmt: skip


def warn_of_training_flags(
    args: argparse.Namespace, typed: set[str], usual: dict[str, Any]
) -> None:
    """Say which flags are in vain beside --evaluate, but for those that are as published.

    Args:
        typed: the names of the values that were given.
        usual: the published settings.
    """
    given = {key for key in typed & _OF_TRAINING if getattr(args, key) != usual.get(key)}
    names = {"weight_l1": "weight_L1_norm"}
    if in_vain := ", ".join(f"--{names.get(key, key)}" for key in sorted(given)):
        print(f"warning: without effect beside --evaluate: {in_vain}", file=sys.stderr)


def script_and_call_flags(args: argparse.Namespace, script: str) -> list[str]:
    """The start of the command that goes on with a run: what --resume does not take over."""
    parser, group = types.flag_groups("", {})
    add_run_flags(group)
    words = [f"{script}.py"]
    for name in ("device", "results", "save_every", "on_nan", "fallback_dir", "deterministic"):
        value = getattr(args, name)
        if value != parser.get_default(name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def warn_of_unused_place(args: argparse.Namespace, folder: Path) -> None:
    """Say that --name and --checkpoint are in vain where a run goes on in its own folder."""
    given = {
        f"--name {args.name}": args.name and args.name != folder.name,
        f"--checkpoint {args.checkpoint}": args.checkpoint
        and Path(args.checkpoint).resolve() != folder.parent.resolve(),
    }
    if in_vain := ", ".join(flag for flag, differs in given.items() if differs):
        print(f"warning: without effect: {in_vain} (the run goes on in {folder})", file=sys.stderr)


# fmt: off
def add_run_flags(group: Callable[[str], Add]) -> None:
    """Add the groups "speed" and "run" to a parser, see ``flag_types.flag_groups``."""
    add = group("speed")
    add("--compile", action=Switch, default=False,
        help="torch.compile, meant for CUDA: takes about a minute at the start")
    add("--amp", action=Switch, default=False,
        help="compute in bfloat16 where that is safe; changes the error a little")
    add("--tf32", action=Switch, default=False,
        help="CUDA: matrix products of 10 mantissa bits; changes the error a little")
    add("--deterministic", action=Switch, default=False,
        help="CUDA: the same bits in each run (docs/determinism.md); cost: untried")
    add = group("run")
    add("--evaluate", "--eva", type=types.one_line, metavar="CKPT",
        help="test this checkpoint, ours or a published one; do not train")
    add("--pan", type=types.finite, default=0.0, metavar="DEG",
        help="test: turn the cameras so far to the right (below 0: left)")
    add("--focal_scale", type=types.positive, default=1.0, metavar="F",
        help="test: a focal length wrong by this factor (networks on rays, or refinement)")
    add("--keypoint_noise", type=types.non_negative, default=0.0, metavar="PX",
        help="test: add Gaussian noise of this standard deviation along x and y to the 2D joints, "
        "in pixels at width 1,000; --ray_fit and --body know it")
    add("--ray_fit", action=Switch, default=False,
        help="test: put the poses on the rays of their 2D joints (gt or noisy); needs the cameras")
    add("--body", choices=("unknown", "medians", "calibrate", "oracle"), default="unknown",
        help="last test: the proportions of each person: medians of the poses or calibrated, both "
        "from the person's 2D; or the true ones")
    add("--gravity", choices=("unknown", "camera"), default="unknown",
        help="last test: the network is told the camera's vertical")
    add("--body_size", choices=("unknown", "camera_height", "oracle"), default="unknown",
        help="last test: the size of each person, from the camera height, or the true one")
    add("--joints_of", choices=tuple(DETECTORS), metavar="DETECTOR",
        help="test: move the 2D joints to where this detector sees them: "
        + ", ".join(DETECTORS) + " (an estimate, data/shifts.py)")
    add("-r", "--resume", type=types.one_line, metavar="CKPT",
        help="go on exactly where this checkpoint stopped, with its run's flags; a run's folder "
        "stands for its newest checkpoint, auto for the folder of --name or the newest run")
    add("-c", "--checkpoint", type=types.one_line, metavar="DIR",
        help="folder of run folders (default: checkpoint/ beside the scripts)")
    add("--name", type=types.file_name, help="name of the run's folder (default: the time)")
    add("--save_every", type=types.non_negative, default=10.0, metavar="MINUTES",
        help="save inside an epoch too, so often; 0 does so only after Ctrl-C or SIGTERM")
    add("--on_nan", choices=("stop", "skip"), default="stop",
        help="a step whose loss or gradient is not finite: stop, and save what reproduces it; or "
        "skip it")
    add("--snapshot", type=types.natural, metavar="N",
        help="keep a checkpoint every N epochs beside best and last; 0 keeps none")
    add("--fallback_dir", type=types.one_line, metavar="DIR",
        help="a copy while the run's folder cannot be written")
    add("--results", type=types.one_line, metavar="FILE",
        help="write the results as JSON here too")
    add("--draw", type=types.whole(0, 100), default=0, metavar="N",
        help="draw the N best, N median and N worst test poses, into the run's folder, or beside "
        "the weights that are tested")
    add("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")
