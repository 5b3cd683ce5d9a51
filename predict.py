#!/usr/bin/env python
"""Lift your own 2D joints to 3D poses with a trained checkpoint.

python predict.py CKPT KEYPOINTS --width 1920 --height 1080                 -> KEYPOINTS_3d.npz
python predict.py CKPT KEYPOINTS --width 1920 --height 1080 --fov 60 --picture poses.png

KEYPOINTS holds the joints of one person in T images: (T, J, 2) pixels, or (T, J, 3) with a
confidence, which is ignored. It is an npy file, an npz file (the array ``keypoints``, or the only
array), or a JSON file of nested lists. J is 17 or 16, in Human3.6M's order. A model of 16 joints
ignores Neck/Nose of 17.

The output has ``poses_3d`` (T, J, 3) in metres, camera space (x right, y down, z forward), relative
to the hip; and ``joints``, the names of the joints.
"""

import common.start  # isort: split

import argparse
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.camera import normalize_screen_coordinates
from common.errors import UserError, run_script
from common.files import atomic_write, check_writable, refuse_existing
from common.input_view import InputView
from common.parser import Parser
from common.progress import follow
from common.skeleton import Skeleton
from common.visualize import check_picture_name, save_predictions
from data.npz_io import load_object_array
from training.acceleration import select_device
from training.flag_types import whole
from training.lifter import Lifter, load_lifter

_BATCH_SIZE = 4096
_DRAWN_POSES = 4


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    source = Path(args.keypoints)
    out = Path(args.out) if args.out else source.with_name(f"{source.stem}_3d.npz")
    out = out if out.suffix == ".npz" else out.with_name(f"{out.name}.npz")  # as numpy does
    outputs = [out, *([Path(args.picture)] if args.picture else [])]
    refuse_existing(outputs, args.force, [args.checkpoint, source])
    for path in outputs:
        check_writable(path.parent)
    device = select_device(args.device)
    lifter = load_lifter(args.checkpoint, args.flip_test)
    intrinsics = _read_intrinsics(args, lifter.input_view)
    pixels = read_keypoints(source, lifter.skeleton)
    screen = normalize_screen_coordinates(pixels, args.width, args.height)
    lifter.network.to(device)
    poses = lift(lifter, screen.to(device), intrinsics).cpu()
    with atomic_write(out) as partial:
        names = np.array(lifter.skeleton.names)
        np.savez_compressed(partial, poses_3d=poses.numpy(), joints=names)
    print(f"{out}: {len(poses):,} poses of {poses.shape[1]} joints")
    if args.picture:
        index = torch.linspace(0, len(poses) - 1, _DRAWN_POSES).long().unique()
        titles = [f"image {i}" for i in index.tolist()]
        save_predictions(Path(args.picture), screen[index], poses[index], titles, lifter.skeleton)
        print(f"{args.picture}: {len(index)} of the poses")


def _build_parser() -> Parser:
    parser = Parser(description="Lift your own 2D joints to 3D poses.")
    parser.add_argument("checkpoint", metavar="CKPT", help="our checkpoint or a published one")
    parser.add_argument(
        "keypoints", metavar="KEYPOINTS", help="npy, npz or JSON file: (T, J, 2) pixels"
    )
    for size in ("width", "height"):
        parser.add_argument(
            f"--{size}", type=whole(1, 10**6), required=True, help=f"{size} of the images in pixels"
        )
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        "--fov",
        type=float,
        metavar="DEG",
        help="horizontal field of view of the whole image in degrees, for models trained with "
        "--camera_rays or --root_view; a focal length wrong by 20%% raised an error of 44 mm by 9 "
        "to 12 mm (docs/accuracy.md)",
    )
    camera.add_argument(
        "--intrinsics",
        type=float,
        nargs="+",
        metavar="X",
        help="instead of --fov: focal length x, y and principal point x, y in pixels; for a lens "
        "with distortion also three radial and two tangential coefficients",
    )
    parser.add_argument(
        "--flip_test",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="average with the prediction for the mirrored input (default: as the checkpoint's "
        "run was tested)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="output npz file (default: KEYPOINTS with _3d before the suffix)",
    )
    parser.add_argument("--picture", metavar="FILE", help="plot a few of the poses to this file")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _build_parser().parse_args(argv)
    if args.picture:
        check_picture_name("--picture", args.picture)
    return args


def _read_intrinsics(args: argparse.Namespace, view: InputView) -> Tensor | None:
    """The intrinsics (9,) in screen units that the flags give; None if the model needs none.

    Raises:
        UserError: the model needs intrinsics and none are given, or they are invalid.
    """
    given = args.fov is not None or args.intrinsics is not None
    if not view.uses_intrinsics:
        if given:
            print("the model does not use the camera: --fov and --intrinsics have no effect")
        return None
    if not given:
        raise UserError(
            f"{args.checkpoint} was trained on camera rays: give --fov DEG or --intrinsics"
        )
    if args.fov is not None:
        if not 0 < args.fov < 180:
            raise UserError(f"--fov: give an angle between 0 and 180 degrees, not {args.fov:g}")
        focal = 1 / math.tan(math.radians(args.fov) / 2)
        return torch.tensor([focal, focal, *7 * [0.0]])
    values = [*args.intrinsics, *(9 - len(args.intrinsics)) * [0.0]]
    if len(args.intrinsics) not in (4, 9) or not all(map(math.isfinite, values)):
        raise UserError(
            "--intrinsics: give 4 or 9 numbers (focal length, principal point, distortion)"
        )
    if min(values[:2]) <= 0:
        raise UserError("--intrinsics: give a focal length above 0 pixels")
    centre = normalize_screen_coordinates(torch.tensor(values[2:4]), args.width, args.height)
    return torch.tensor([*(2 * f / args.width for f in values[:2]), *centre.tolist(), *values[4:]])


def read_keypoints(path: Path, skeleton: Skeleton) -> Tensor:
    """Read a file of 2D joints: (T, J, 2) float32 pixels of the skeleton's joints.

    Raises:
        UserError: the file is missing or damaged, has another shape, or values that are not finite.
    """
    try:
        array = np.asarray(_read_array(path), dtype=np.float32)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # a damaged file can make the readers raise anything
        raise UserError(f"{path} holds no array of numbers: npy, npz or JSON expected") from error
    if array.ndim == 2:
        array = array[None]  # one image
    if array.ndim == 3 and array.shape[2] == 3:
        print(f"{path}: the third number of each joint, its confidence, is ignored")
        array = array[..., :2]
    if array.ndim != 3 or array.shape[2] != 2 or len(array) == 0:
        raise UserError(f"{path}: (T, joints, 2) numbers expected, got {array.shape}")
    try:
        array = array[:, skeleton.indices_in(array.shape[1])]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not np.isfinite(array).all():
        image = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise UserError(f"{path}: image {image} has values that are not numbers")
    return torch.from_numpy(array)


def _read_array(path: Path) -> Any:
    """The array of an npy or npz file, or the nested lists of a JSON file."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix != ".npz":
        return np.load(path, allow_pickle=False)
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if "keypoints" not in names and len(names) != 1:
        raise UserError(
            f"{path} has the arrays {', '.join(names)}: name one of them keypoints"
            if names
            else f"{path} has no array: store one named keypoints"
        )
    return load_object_array(path, "keypoints" if "keypoints" in names else names[0])


@torch.inference_mode()
def lift(lifter: Lifter, screen: Tensor, intrinsics: Tensor | None) -> Tensor:
    """Lift 2D joints (T, J, 2) to poses (T, J, 3), metres, camera space, root at zero.

    Args:
        screen: (T, J, 2) normalised screen coordinates.
        intrinsics: (9,) in screen units, the same for all images; None if the model needs none.
    """
    batches = screen.split(_BATCH_SIZE)
    poses = []
    for batch in follow(batches, "lifting", len(batches), "step"):
        cameras = None if intrinsics is None else intrinsics.to(batch).expand(len(batch), 9)
        pose = lifter.lift(batch, cameras)
        poses.append(pose - pose[:, :1])
    return torch.cat(poses)


if __name__ == "__main__":
    run_script(main)
