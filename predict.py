#!/usr/bin/env python
"""Lift your own 2D joints to 3D poses with a trained checkpoint.

python predict.py KEYPOINTS --weights CKPT --size 1920 1080                 -> KEYPOINTS_3d.npz
python predict.py KEYPOINTS --weights CKPT --size 1920 1080 --fov 60 --picture poses.png

KEYPOINTS is what a detector wrote: a file of JSON, npy, npz, csv or Ultralytics' txt, or a folder
of files of an image each. Its format is recognised, or given by --format; ``docs/own-data.md``
shows all of them.

The output has, for the T images in which the person is seen:

    poses_3d      (T, J, 3)  metres, camera space (x right, y down, z forward), relative to the hip
    joints        (J,)       names of the joints
    keypoints_2d  (T, J, 2)  the joints that were lifted, pixels
    scores        (T, J)     the detector's; NaN where there is none
    interpolated  (T, J)     the joint was not seen in this image, and filled in between others
    frames        (T,)       numbers of the images
    person, size (width and height of the images), fps (if it is known), axes, units
"""

import common.start  # isort: split

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.camera import normalize_screen_coordinates
from common.errors import UserError, run_script
from common.files import atomic_write, check_writable, refuse_existing
from common.input_view import InputView
from common.parser import Parser
from common.progress import follow
from common.visualize import check_picture_name, save_predictions
from data.keypoint_formats import FORMATS
from data.keypoints import Keypoints, Size, Track, load_keypoints
from training.acceleration import select_device
from training.flag_types import whole
from training.lifter import Lifter, load_lifter

_BATCH_SIZE = 4096
_DRAWN_POSES = 4
_NAMED_PERSONS = 10
_PIXELS = whole(1, 10**6)
_AXES = "camera space: x right, y down, z forward"
_UNITS = "poses_3d: metres relative to the hip; keypoints_2d and size: pixels; fps: images a second"


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    source = Path(args.keypoints)
    device = select_device(args.device)
    lifter = load_lifter(args.weights, args.flip_test)
    found = load_keypoints(source, lifter.skeleton, args.format, args.size, args.person)
    _say_what_was_found(source, found)
    outputs = [_outputs(args, source, track) for track in found.tracks]
    every = [path for paths in outputs for path in paths if path]
    refuse_existing(every, args.force, [args.weights, source])
    for path in every:
        check_writable(path.parent)
    intrinsics = _read_intrinsics(args, lifter.input_view, found.size)
    lifter.network.to(device)
    for track, (out, picture) in zip(found.tracks, outputs, strict=True):
        screen = normalize_screen_coordinates(torch.from_numpy(track.keypoints), *found.size)
        poses = lift(lifter, screen.to(device), intrinsics).cpu()
        _save(out, poses, track, found, lifter)
        print(f"{out}: {len(poses):,} poses of {poses.shape[1]} joints")
        if picture:
            index = torch.linspace(0, len(poses) - 1, _DRAWN_POSES).long().unique()
            titles = [f"image {i}" for i in track.frames[index].tolist()]
            save_predictions(picture, screen[index], poses[index], titles, lifter.skeleton)
            print(f"{picture}: {len(index)} of the poses")


def _say_what_was_found(source: Path, found: Keypoints) -> None:
    """Print the format, the persons, and what was filled in."""
    width, height = found.size
    print(f"{source}: {found.form.title} ({found.why}), images of {width} x {height} pixels")
    if len(found.images) > 1:
        some = list(found.images.items())[:_NAMED_PERSONS]
        named = ", ".join(f"{person} ({count:,} images)" for person, count in some)
        more = ", ..." if len(found.images) > len(some) else ""
        taken = ", ".join(str(track.person) for track in found.tracks[:_NAMED_PERSONS])
        print(f"persons: {named}{more}; lifted: {taken}; --person takes others, or all")
    for track in found.tracks:
        if count := int(track.interpolated.sum()):
            share = track.interpolated.mean()
            print(
                f"person {track.person}: {count:,} joints ({share:.1%}) were not seen and are "
                "filled in between other images"
            )
        left_out = int(track.frames[-1] - track.frames[0] + 1 - len(track.frames))
        if left_out:
            print(f"person {track.person}: {left_out:,} images of long gaps are left out")
    for reason in found.left_out:
        print(f"left out: {reason}")


def _outputs(args: argparse.Namespace, source: Path, track: Track) -> tuple[Path, Path | None]:
    """The npz file and the picture of a person."""
    source = source.resolve() if source.name in ("", "..") else source
    stem = source.name if source.is_dir() else source.stem
    out = Path(args.out) if args.out else source.with_name(f"{stem}_3d.npz")
    out = out if out.suffix == ".npz" else out.with_name(f"{out.name}.npz")  # as numpy does
    picture = Path(args.picture) if args.picture else None
    if args.person == "all":
        out = out.with_stem(f"{out.stem}_person{track.person}")
        picture = picture and picture.with_stem(f"{picture.stem}_person{track.person}")
    return out, picture


def _save(path: Path, poses: Tensor, track: Track, found: Keypoints, lifter: Lifter) -> None:
    fps = {} if found.fps is None else {"fps": np.array(found.fps)}
    with atomic_write(path) as partial:
        np.savez_compressed(
            partial,
            poses_3d=poses.numpy(),
            joints=np.array(lifter.skeleton.names),
            keypoints_2d=track.keypoints,
            scores=track.scores,
            interpolated=track.interpolated,
            frames=track.frames,
            person=np.array(track.person),
            size=np.array(found.size),
            axes=np.array(_AXES),
            units=np.array(_UNITS),
            **fps,
        )


def _build_parser() -> Parser:
    parser = Parser(description="Lift your own 2D joints to 3D poses.")
    parser.add_argument(
        "keypoints", metavar="KEYPOINTS", help="file or folder of 2D joints, as a detector wrote it"
    )
    parser.add_argument("surplus", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--weights", metavar="CKPT", help="our checkpoint or a published one")
    _add_input_flags(parser)
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
        help="output npz file (default: KEYPOINTS with _3d before the suffix; "
        "with --person all also _personN)",
    )
    parser.add_argument("--picture", metavar="FILE", help="plot a few of the poses to this file")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")
    return parser


def _add_input_flags(parser: Parser) -> None:
    parser.add_argument(
        "--format",
        choices=["auto", *FORMATS],
        default="auto",
        help="order of the points (default: auto, by names, number and the limbs): "
        + "; ".join(f"{form.word} is {form.title}" for form in FORMATS.values()),
    )
    parser.add_argument(
        "--size", type=_PIXELS, nargs=2, metavar=("W", "H"), help="size of the images in pixels, "
        "if the file does not say it"
    )  # fmt: skip
    for side in ("width", "height"):
        parser.add_argument(f"--{side}", type=_PIXELS, help="both together are --size")
    parser.add_argument(
        "--person",
        type=lambda text: text if text == "all" else whole(0, 2**53)(text),
        metavar="N|all",
        help="the person of this number, or a file for each (default: who is seen most and "
        "largest)",
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _build_parser().parse_args(argv)
    if args.surplus is not None or not args.weights:
        raise UserError(
            "give the keypoints, and the checkpoint by --weights: python predict.py KEYPOINTS "
            "--weights CKPT"
        )
    sides = (args.width, args.height)
    if any(sides) and (not all(sides) or args.size):
        raise UserError("give --size W H alone, or --width and --height together")
    args.size = tuple(args.size or sides) if args.size or any(sides) else None
    if args.picture:
        check_picture_name("--picture", args.picture)
    return args


def _read_intrinsics(args: argparse.Namespace, view: InputView, size: Size) -> Tensor | None:
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
            f"{args.weights} was trained on camera rays: give --fov DEG or --intrinsics"
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
    centre = normalize_screen_coordinates(torch.tensor(values[2:4]), *size)
    return torch.tensor([*(2 * f / size[0] for f in values[:2]), *centre.tolist(), *values[4:]])


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
