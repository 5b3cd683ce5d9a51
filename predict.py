#!/usr/bin/env python
"""Lift a person in your own keypoints, image or video to 3D poses.

python predict.py INPUT                                 -> INPUT_3d.npz
python predict.py INPUT --size 1920 1080 --fov 60 -o poses.json
python predict.py INPUT --render poses.gif --render poses.html
python predict.py --stream --format coco17 --size 640 480 < lines > poses

INPUT is what a detector wrote: a file of JSON, npy, npz, csv or Ultralytics' txt, or a folder of
files of an image each. Its format is recognised, or given by --format. It is an image or a video
where MediaPipe is installed (``make video VIDEO=...``). ``docs/own-data.md`` shows all of them.

The output has the fields of :class:`common.prediction.Prediction`, which ``Lifter`` gives in
Python::

    lifter = Lifter.load()
    prediction = lifter(keypoints, size=(1920, 1080), format="coco17", fov=60)
"""

import common.start  # isort: split

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.body import Body, read_body, refuse_other_body
from common.clip import LEVEL_UP, Clip, by_number
from common.clip_files import check_clip_name, write_clip
from common.errors import UserError, run_script
from common.files import check_writable, refuse_existing
from common.parser import Parser
from common.prediction import Prediction, check_prediction_name, write_prediction
from common.progress import follow
from data.detect import images_of
from data.keypoint_files import IMAGES, VIDEOS
from data.keypoint_formats import FORMATS
from data.keypoints import Keypoints, Track, load_keypoints
from training.flag_types import positive, whole
from training.given import Given, add_given_flags, given_of
from training.lifter import BUNDLED_WEIGHTS, Lifter
from training.predicting import FILTERS, calibrated, check_fps, predict_track, smoothed
from training.stream import Stream, lift_lines

_NAMED_PERSONS = 10
_PIXELS = whole(1, 10**6)


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    told = given_of(args)
    lifter = Lifter.load(args.weights, args.flip_test, args.device)
    if args.body:
        told = replace(told, body=_known_body(Path(args.body), lifter))
    told.check_network(lifter, args.calibrate)
    told.check_keypoint_error(lifter, args.calibrate)
    if args.stream:
        stream = Stream(lifter, args.format, args.size, told, args.smooth is not None)
        lift_lines(sys.stdin.buffer, _write_at_once, stream)
    else:
        _lift_input(args, lifter, told)


def _lift_input(args: argparse.Namespace, lifter: Lifter, told: Given) -> None:
    """Lift the persons that are asked for, and write their files.

    Raises:
        UserError: the input cannot be lifted, or a file cannot be written.
    """
    for line in told.without_effect(lifter):
        print(line)
    source = Path(args.input)
    found = load_keypoints(source, lifter.skeleton, args.format, args.size, args.person)
    if args.smooth:
        check_fps(told.fps or found.fps)
    _say_what_was_found(source, found)
    outputs = [_outputs(args, source, track) for track in found.tracks]
    _check_outputs(args, source, outputs)
    for track, (out, *others) in zip(found.tracks, outputs, strict=True):
        if args.calibrate:
            told = replace(told, body=_calibrate(others.pop(0), lifter, track, found, told))
        prediction = predict_track(lifter, track, found, told, _follow)
        prediction = smoothed(prediction, args.smooth)
        write_prediction(out, prediction)
        _say_what_was_written(out, prediction)
        for picture in others:
            write_clip(picture, _clip_of(prediction, source))
            print(picture)


def _check_outputs(
    args: argparse.Namespace, source: Path, outputs: Sequence[Sequence[Path]]
) -> None:
    """
    Raises:
        UserError: a file of a person, of :func:`_outputs`, cannot be written or is to be kept.
    """
    every = [path for paths in outputs for path in paths]
    inputs = [args.weights, source, *([args.body] if args.body else [])]
    refuse_existing(every, args.force, inputs)
    for path in every:
        check_writable(path.parent)
    for body in (paths[1] for paths in outputs if args.calibrate):
        refuse_other_body(body)


def _calibrate(path: Path, lifter: Lifter, track: Track, found: Keypoints, told: Given) -> Body:
    """Find the body of a person, and write it."""
    print(f"person {track.person}: calibrating, which takes a minute or two", flush=True)
    body = calibrated(lifter, track, found, told)
    body.save(path)
    print(f"{path}: {body.how}")
    return body


def _clip_of(prediction: Prediction, source: Path) -> Clip:
    """What is drawn of a prediction: over the images, if the input is an image or a video."""
    clip = prediction.clip(source.name)
    if source.is_dir() or source.suffix.lower() not in IMAGES + VIDEOS:
        return clip
    image = by_number(images_of(source))
    return replace(clip, image=lambda index: image(clip.number(index)))


def _known_body(path: Path, lifter: Lifter) -> Body:
    """
    Raises:
        UserError: the file is no body for this network, or says nothing of it.
    """
    body = read_body(path, lifter.skeleton)
    if body.proportions is None and body.size is None:
        raise UserError(f"{path} says nothing of the body ({body.how}): leave out --body")
    return body


def _write_at_once(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _follow(batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    return follow(batches, "lifting", len(batches), "step")


def _count(number: int, what: str) -> str:
    """ "1 pose", "2 poses"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _say_what_was_found(source: Path, found: Keypoints) -> None:
    """Print the format, the persons, and what was filled in."""
    width, height = found.size
    print(f"{source}: {found.form.title} ({found.why}), images of {width} x {height} pixels")
    if len(found.images) > 1:
        some = list(found.images.items())[:_NAMED_PERSONS]
        named = ", ".join(f"{person} ({_count(images, 'image')})" for person, images in some)
        more = ", ..." if len(found.images) > len(some) else ""
        taken = ", ".join(str(track.person) for track in found.tracks[:_NAMED_PERSONS])
        print(f"persons: {named}{more}; lifted: {taken}; --person takes others, or all")
    for track in found.tracks:
        if filled := int(track.interpolated.sum()):
            share = track.interpolated.mean()
            print(
                f"person {track.person}: not seen, and filled in between other images: "
                f"{_count(filled, 'joint')} ({share:.1%})"
            )
        left_out = int(track.frames[-1] - track.frames[0] + 1 - len(track.frames))
        if left_out:
            print(f"person {track.person}: left out: {_count(left_out, 'image')} of long gaps")
    for reason in found.left_out:
        print(f"left out: {reason}")


def _say_what_was_written(out: Path, prediction: Prediction) -> None:
    for assumed in prediction.assumed:
        print(f"assumed: {assumed}")
    absolute = prediction.absolute_3d
    if absolute is not None and (lost := int(np.isnan(absolute[:, 0, 2]).sum())):
        print(f"the place of the person is not found in {_count(lost, 'image')}")
    if line := _of_upside_down(prediction):
        print(line)
    print(f"{out}: {_count(len(prediction), 'pose')} of {len(prediction.joints)} joints")


def _of_upside_down(prediction: Prediction) -> str:
    """What is said of a person who is upside down; nothing of others."""
    if prediction.up is None and prediction.has_ankles_above_head:
        return "warning: the person is upside down in most images: y of keypoints points down"
    if not prediction.is_upside_down:
        return ""
    if prediction.up == LEVEL_UP:
        return "the person is upside down: y of the keypoints may point up, and has to point down"
    return (
        "the person is upside down: --gravity is the upward direction, 0 -1 0 for a camera held "
        "level"
    )


def _outputs(args: argparse.Namespace, source: Path, track: Track) -> list[Path]:
    """The file of a person, that of the body if it is calibrated, and the pictures."""
    source = source.resolve() if source.name in ("", "..") else source
    stem = source.name if source.is_dir() else source.stem
    out = args.out or source.with_name(f"{stem}_3d.npz")
    body = [out.with_name(f"{stem}_body.json")] if args.calibrate else []
    paths = [out, *body, *map(Path, args.render)]
    if args.person == "all":
        paths = [path.with_stem(f"{path.stem}_person{track.person}") for path in paths]
    return paths


def _build_parser() -> Parser:
    parser = Parser(description="Lift a person in keypoints, an image or a video to 3D poses.")
    parser.add_argument(
        "input", metavar="INPUT", nargs="?",
        help="file or folder of 2D joints, as a detector wrote it; an image or a video",
    )  # fmt: skip
    parser.add_argument("surplus", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument(
        "--weights", metavar="CKPT", help=f"our checkpoint or a published one (default: the "
        f"bundled {BUNDLED_WEIGHTS.parent.name}/{BUNDLED_WEIGHTS.name})"
    )  # fmt: skip
    _add_input_flags(parser)
    add_given_flags(parser)
    _add_output_flags(parser)
    parser.add_argument(
        "--flip_test",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="average with the prediction for the mirrored input (default: as the checkpoint's "
        "run was tested)",
    )
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
        "--fps", type=positive, help="images a second, if the file does not say it; for --smooth"
    )
    parser.add_argument(
        "--person",
        type=lambda text: text if text == "all" else whole(0, 2**53)(text),
        metavar="N|all",
        help="the person of this number, or a file for each (default: who is seen most and "
        "largest)",
    )


def _add_output_flags(parser: Parser) -> None:
    parser.add_argument(
        "-o",
        "--out",
        action="append",  # so that a second one is not dropped unsaid
        metavar="FILE",
        help="output file, npz, JSON, csv or BVH by its suffix (default: INPUT_3d.npz; with "
        "--person all also _personN)",
    )
    parser.add_argument(
        "--smooth", choices=FILTERS, help="filter the poses over time; needs the images a second"
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help='read {"keypoints": [[x, y, score], ...], "size": [W, H]} a line from the standard '
        "input, and write a pose a line",
    )
    parser.add_argument(
        "--render",
        "--picture",
        action="append",
        default=[],
        metavar="FILE",
        help="draw a few poses in a picture (png, pdf, svg), all in an animation (gif, mp4) or in "
        "a page for the browser (html); may be given several times. The 2D joints lie over the "
        "image or the video, but for html",
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _build_parser().parse_args(argv)
    if args.surplus is not None:
        raise UserError(
            "give one INPUT, and a checkpoint of your own by --weights: python predict.py INPUT "
            "--weights CKPT"
        )
    if args.input is None and not args.stream:
        raise UserError("give the keypoints: python predict.py INPUT (--help lists the flags)")
    if args.stream and (args.input or args.out or args.render or args.person is not None):
        raise UserError(
            "--stream reads the standard input and writes the standard output, of one person: "
            "leave INPUT, --out, --render and --person out"
        )
    sides = (args.width, args.height)
    if any(sides) and (not all(sides) or args.size):
        raise UserError("give --size W H alone, or --width and --height together")
    args.size = tuple(args.size or sides) if args.size or any(sides) else None
    args.out = _one_output(args.out) if args.out else None
    for path in args.render:
        check_clip_name("--render", path)
    if not args.weights:
        if not BUNDLED_WEIGHTS.exists():
            raise UserError(
                f"the bundled weights {BUNDLED_WEIGHTS} are not there: give --weights CKPT"
            )
        args.weights = BUNDLED_WEIGHTS
    return args


def _one_output(names: Sequence[str]) -> Path:
    """The file of --out. A name without a suffix is that of an npz file, as numpy takes it.

    Raises:
        UserError: there are several, it is a folder, or no writer has its suffix.
    """
    if len(names) > 1:
        raise UserError(f"--out is given {len(names)} times: give one file for each call")
    path = Path(names[0])
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give the name of a file")
    path = path if path.suffix else path.with_name(f"{path.name}.npz")
    check_prediction_name("--out", path)
    return path


if __name__ == "__main__":
    run_script(main)
