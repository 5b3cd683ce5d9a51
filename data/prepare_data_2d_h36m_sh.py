#!/usr/bin/env python
"""Convert Stacked Hourglass detections on Human3.6M to npz files, in the order of our 16 joints.

    python data/prepare_data_2d_h36m_sh.py -pt h36m.zip
    python data/prepare_data_2d_h36m_sh.py -ft stacked_hourglass_fined_tuned_240.tar.gz

The first writes dataset/data_2d_h36m_sh_pt_mpii.npz (detector pretrained on MPII), the second
dataset/data_2d_h36m_sh_ft_h36m.npz (fine-tuned). Archives are read without unpacking them; unpacked
folders are read too. The output has {subject: {sequence: [4 x (T, 16, 2) float32, pixels]}} under
``positions_2d``, with the cameras in the order of ``data.cameras``; and ``metadata``.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.parser import Parser
from common.progress import follow
from common.skeleton import H36M_16
from data.archive import read_h5, read_members
from data.datasets import H36M
from data.joint_order import SH_TO_OURS
from data.npz_io import save_object_arrays
from data.prepare_data_h36m import (
    SUBJECTS,
    add_output_options,
    metadata,
    sequence_name,
    stop_if_missing,
)

# Flag: folder in the archive, and name of the detector in the output's file name.
SOURCES = {
    "pt": ("StackedHourglass", "sh_pt_mpii"),
    "ft": ("StackedHourglassFineTuned240", "sh_ft_h36m"),
}

Detections = dict[str, dict[str, list[np.ndarray]]]


def read_detections(source: Path, folder: str) -> Detections:
    """Read the detections of the protocol's subjects, in our joint order.

    Args:
        source: archive or unpacked folder.
        folder: the files are ``<subject>/<folder>/<sequence>.<camera>.h5``.

    Returns:
        {subject: {sequence: [(T, 16, 2) pixels of each of the four cameras]}}.

    Raises:
        UserError: see ``data.archive``; also if there are no files, a shape is wrong, or a camera
            of a sequence is unknown, missing, or there twice.
    """
    pattern = re.compile(
        rf"(?:^|/)(?P<subject>S\d+)/{folder}/(?P<sequence>[^/_.][^/.]*)\.(?P<camera>\d+)\.h5$"
    )
    views: dict[str, dict[str, dict[str, np.ndarray]]] = {subject: {} for subject in SUBJECTS}
    files = follow(read_members(source, pattern), "detections", unit="file")
    for match, where, content in files:
        subject, camera = match["subject"], match["camera"]
        name = sequence_name(match["sequence"].replace("_", " "), where)
        if subject not in views or (subject, name) in H36M.excluded:
            continue
        clip = views[subject].setdefault(name, {})
        if camera in clip:
            raise UserError(f"{where}: a second file of {subject}/{name}, camera {camera}")
        clip[camera] = to_pixels(read_h5(content, "poses", where), where)
    if not any(views.values()):
        raise UserError(f"{source} has no files like S1/{folder}/Directions_1.54138969.h5")
    return {
        subject: {name: _in_camera_order(clips[name], subject, name) for name in sorted(clips)}
        for subject, clips in views.items()
        if clips
    }


def to_pixels(poses: np.ndarray, where: str) -> np.ndarray:
    """Pixels (T, 16, 2) in the detector's joint order -> pixels (T, 16, 2) float32 in ours.

    Raises:
        UserError: wrong shape, no frames, or values that are not finite.
    """
    if poses.ndim != 3 or poses.shape[1:] != (16, 2) or not len(poses):
        raise UserError(f"{where}: (T, 16, 2) expected, got {poses.shape}")
    pixels = poses[:, SH_TO_OURS].astype(np.float32)
    if not np.isfinite(pixels).all():
        raise UserError(f"{where} has values that are not numbers: get the file again")
    return pixels


def _in_camera_order(views: dict[str, np.ndarray], subject: str, name: str) -> list[np.ndarray]:
    """The views of a sequence in the order of the subject's cameras."""
    cameras = [camera.id for camera in H36M.cameras(subject)]
    if set(views) != set(cameras):
        raise UserError(
            f"{subject}/{name} has the cameras {', '.join(sorted(views))}, but the four "
            f"{', '.join(cameras)} are expected: get the archive again"
        )
    return [views[camera] for camera in cameras]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-pt", type=Path, metavar="PATH", help="h36m.zip, or the folder it unpacks to"
    )
    parser.add_argument(
        "-ft", type=Path, metavar="PATH",
        help="stacked_hourglass_fined_tuned_240.tar.gz, or the folder it unpacks to",
    )  # fmt: skip
    add_output_options(parser)
    args = parser.parse_args(argv)
    jobs = [
        (source, folder, args.output_dir / H36M.file_2d(keypoints))
        for flag, (folder, keypoints) in SOURCES.items()
        if (source := getattr(args, flag))
    ]
    if not jobs:
        parser.error("give -pt or -ft, or both")
    refuse_existing((output for *_, output in jobs), args.force, [job[0] for job in jobs])
    for source, folder, output in jobs:
        detections = read_detections(source, folder)
        stop_if_missing(detections, args.allow_missing)
        save_object_arrays(output, positions_2d=detections, metadata=metadata(H36M_16))
        clips = [views for names in detections.values() for views in names.values()]
        frames = sum(len(view) for views in clips for view in views)
        print(f"{output}: {len(clips)} sequences, {frames:,} frames over the cameras")


if __name__ == "__main__":
    run_script(main)
