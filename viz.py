#!/usr/bin/env python
"""Draw a sequence of a data set: the 2D joints, and the prediction over the truth.

python viz.py --evaluate CKPT --viz_subject S11 --viz_action Walking --viz_output walking.gif
python viz.py --evaluate CKPT --dataset hdm05 --viz_action squat --viz_output squat.html

The suffix of --viz_output says what is written: gif, mp4, html (to look at in a browser), bvh, or
png, pdf, svg, jpg (a few of the poses).
"""

import common.start  # isort: split

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.clip import Clip, by_number
from common.clip_files import Style, check_clip_name, write_clip
from common.errors import UserError, run_script
from common.extras import require
from common.files import check_writable, refuse_existing
from common.parser import Parser
from common.skeleton import Skeleton
from data.datasets import DATASETS, action_of
from data.pose_dataset import PoseDataset, load_pose_datasets
from training import flag_types as types
from training.acceleration import select_device
from training.lifter import load_lifter
from training.load_data import ROOT
from training.pictures import clip_of_sequence, find_sequence

_FPS = {"h36m": 50.0, "hdm05": 30.0, "mocap": 15.0}
_USUAL_FPS = 25.0
_USUAL_SIZE = 5.0  # of --viz_size, as published
_SMALLEST, _LARGEST = 1, 50


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    out = Path(args.viz_output)
    check_clip_name("--viz_output", out)
    inputs = [path for path in (args.evaluate, args.viz_video) if path]
    refuse_existing([out], args.force, inputs)
    check_writable(out.parent)
    device = select_device(args.device)
    clip = sequence_of(args, device)
    write_clip(out, clip, Style(args.viz_size / _USUAL_SIZE, args.viz_bitrate))
    print(f"{out}: {len(clip):,} images of {clip.title}")


def sequence_of(args: argparse.Namespace, device: torch.device) -> Clip:
    """The images of the sequence that the flags choose.

    Raises:
        UserError: there is no such sequence, or none of its images is left.
    """
    lifter = load_lifter(args.evaluate, flip_test=None)
    dataset, sequence = _find(args, lifter.skeleton)
    lifter.check_data(dataset)
    pose_of, fps = lifter.to(device).tested_pose, _FPS.get(args.dataset, _USUAL_FPS)
    clip = clip_of_sequence(dataset.to(device), pose_of, sequence, args.viz_camera, fps)
    if args.viz_video:
        clip = replace(clip, image=images_of(args.viz_video))
    index = range(args.viz_skip, len(clip), args.viz_downsample)
    index = index if args.viz_limit < 0 else index[: args.viz_limit]
    if not index:
        raise UserError(
            f"--viz_skip {args.viz_skip} --viz_limit {args.viz_limit}: nothing is left of "
            f"{len(clip)} images"
        )
    return replace(clip.part(index), fps=fps / args.viz_downsample)


def _find(args: argparse.Namespace, skeleton: Skeleton) -> tuple[PoseDataset, int]:
    """The action of one subject, and the number of the sequence in it."""
    info = DATASETS[args.dataset]
    subject = args.viz_subject or info.subjects_test[-1]
    action = args.viz_action or ("Walking" if "Walking" in info.actions else None)
    if subject not in info.subjects_train + info.subjects_test:
        known = ", ".join(info.subjects_train + info.subjects_test)
        raise UserError(f"--viz_subject {subject}: {info.name} has {known}")
    folder = Path(args.dataset_dir) if args.dataset_dir else ROOT / "dataset"
    actions = action and [action_of(action)]
    (dataset,) = load_pose_datasets(info, folder, [[subject]], skeleton, args.keypoints, actions)
    sequence, cameras = find_sequence(dataset, action) if action else 0, dataset.up.shape[1]
    if sequence is None or args.viz_camera >= cameras:
        known = ", ".join(name.partition("/")[2] for name in dataset.sequences)
        raise UserError(
            f"give --viz_action and --viz_camera: {subject} has {known}, and cameras 0 to "
            f"{cameras - 1}"
        )
    return dataset, sequence


def images_of(path: str) -> Callable[[int], np.ndarray | None]:
    """The images of a video as :func:`common.clip.by_number` gives them.

    Raises:
        UserError: it cannot be read, or what reads it is not installed.
    """
    if not Path(path).is_file():
        raise UserError(f"--viz_video {path} is not there")
    frames = require("imageio_ffmpeg").read_frames(path)
    try:
        width, height = next(frames)["source_size"]
    except (OSError, StopIteration, KeyError) as error:
        raise UserError(f"--viz_video {path} cannot be read: give a video") from error
    return by_number(np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--evaluate", metavar="CKPT", required=True, help="our checkpoint or a published one")
    add("-a", "--architecture", help="accepted: the checkpoint says its own")
    add("-d", "--dataset", choices=sorted(DATASETS), default="h36m")
    add("-k", "--keypoints", type=types.one_line, default="gt", metavar="NAME")
    add("--dataset_dir", metavar="DIR", help="folder of the npz files (default: dataset/)")
    add("--viz_subject", metavar="NAME", help="default: the last test subject")
    add("--viz_action", metavar="NAME", help="an action, or one sequence of it, such as Walking 1 "
        "(default: Walking in Human3.6M, or else the subject's first)")  # fmt: skip
    add("--viz_camera", type=types.natural, default=0, metavar="N")
    add("--viz_video", metavar="FILE", help="drawn behind the 2D joints")
    add("--viz_skip", type=types.natural, default=0, metavar="N", help="leave out the first N "
        "images")  # fmt: skip
    add("--viz_output", metavar="FILE", default="output.gif")
    add("--viz_bitrate", type=types.positive_int, default=3000, metavar="KBIT", help="of mp4")
    add("--viz_size", type=types.positive, default=_USUAL_SIZE, metavar="S", help="of the picture")
    add("--viz_limit", type=int, default=-1, metavar="N", help="at most N images; -1 is all")
    add("--viz_downsample", type=types.positive_int, default=1, metavar="K", help="each K-th image")
    add("--force", action="store_true", help="replace an existing file")
    add("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")
    args = parser.parse_args(argv)
    if not _SMALLEST <= args.viz_size <= _LARGEST:
        raise UserError(f"--viz_size {args.viz_size:g}: give {_SMALLEST} to {_LARGEST}")
    return args


if __name__ == "__main__":
    run_script(main)
