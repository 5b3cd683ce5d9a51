#!/usr/bin/env python
"""Convert the test set of MPI-INF-3DHP to npz files in Human3.6M's layout, 17 joints.

    python data/prepare_data_3dhp.py mpi_inf_3dhp_test_set

Reads TS1 ... TS6/annot_data.mat (MATLAB v7.3) from the unpacked folder or the zip archive, keeps
the frames marked as valid, and writes into ``dataset/``

    data_3d_3dhp.npz      {subject: {scene: (T, 17, 3) float32}}, camera space, metres
    data_2d_3dhp_gt.npz   {subject: {scene: [(T, 17, 2) float32]}}, pixels
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.parser import Parser
from common.progress import follow
from common.skeleton import H36M_17
from data.archive import read_h5, read_members
from data.datasets import MPI_INF_3DHP, SCENES_3DHP
from data.npz_io import save_object_arrays
from data.prepare_data_h36m import metadata

# Index of each of our 17 joints among the 17 annotated joints. These are: 0 head top, 1 neck,
# 2-4 right arm, 5-7 left arm (shoulder, elbow, wrist), 8-10 right leg, 11-13 left leg (hip, knee,
# ankle), 14 pelvis, 15 spine, 16 head.
JOINTS = (14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
# Number of valid frames of the official test set, 2929 in total.
FRAMES = {"TS1": 603, "TS2": 540, "TS3": 505, "TS4": 553, "TS5": 276, "TS6": 452}
# "univ" is scaled to the same height for all people. The official evaluation uses it.
ANNOTATIONS = {"univ": "univ_annot3", "camera": "annot3"}
_FILE = re.compile(rf"(?:^|/)(?P<subject>{'|'.join(SCENES_3DHP)})/annot_data\.mat$")
_DATASET = Path(__file__).resolve().parents[1] / "dataset"


def read_files(source: Path) -> dict[str, bytes]:
    """Read the annotation file of each test subject from a folder or an archive.

    Raises:
        UserError: the source is missing or damaged, or lacks a subject.
    """
    if not source.exists():
        raise UserError(f"{source} is not there: {MPI_INF_3DHP.advice}")
    files: dict[str, bytes] = {}
    for match, where, content in read_members(source, _FILE):
        if match["subject"] in files:
            raise UserError(f"{where} is a second file of {match['subject']}: give one test set")
        files[match["subject"]] = content
    if absent := [subject for subject in SCENES_3DHP if subject not in files]:
        raise UserError(
            f"{source} has no annot_data.mat of {', '.join(absent)}: give the folder or the zip "
            "of the official test set"
        )
    return files


def read_sequence(content: bytes, where: str, annotation: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the valid frames of an annotation file.

    Args:
        content: the MATLAB v7.3 (HDF5) file.
        where: its name, for messages.
        annotation: a key of :data:`ANNOTATIONS`.

    Returns:
        (T, 17, 3) float32 metres in camera space, and (T, 17, 2) float32 pixels, in our order.

    Raises:
        UserError: h5py is not installed; the file is damaged or of another kind; an array is
            missing or has another shape; there are no valid frames, or values that are not finite.
    """
    valid = _array(content, "valid_frame", where, (None, 1))[:, 0] != 0
    joints = _array(content, ANNOTATIONS[annotation], where, (len(valid), 1, 17, 3))
    pixels = _array(content, "annot2", where, (len(valid), 1, 17, 2))
    if not valid.any():
        raise UserError(f"{where} marks no frame as valid: get the official test set again")
    joints, pixels = joints[valid, 0][:, JOINTS], pixels[valid, 0][:, JOINTS]
    if not (np.isfinite(joints).all() and np.isfinite(pixels).all()):
        raise UserError(f"{where} has valid frames with values that are not numbers")
    return (joints / 1000).astype(np.float32), pixels.astype(np.float32)


def _array(content: bytes, name: str, where: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Read one array and check its shape; None stands for any number of frames."""
    array = read_h5(content, name, where, kinds="fiub")
    expected = (len(array), *shape[1:]) if shape[0] is None and array.ndim else shape
    if array.shape != expected:
        raise UserError(f"{where}: {name!r} has shape {array.shape}, {shape} expected")
    return array


def convert(source: Path, annotation: str) -> tuple[dict[str, dict], dict[str, dict]]:
    """Read all test subjects: {subject: {scene: (T, 17, 3) metres}}, and {subject: {scene:
    [(T, 17, 2) pixels]}}.

    If a subject has another number of frames than the official one, a warning goes to stderr.

    Raises:
        UserError: see :func:`read_files` and :func:`read_sequence`.
    """
    positions, pixels = {}, {}
    files = sorted(read_files(source).items())
    for subject, content in follow(files, "sequences", len(files), "file"):
        scene = SCENES_3DHP[subject]
        points, image = read_sequence(content, f"{source}, {subject}", annotation)
        positions[subject], pixels[subject] = {scene: points}, {scene: [image]}
        if len(points) != FRAMES[subject]:
            print(
                f"warning: {subject} has {len(points)} valid frames, the official test set has "
                f"{FRAMES[subject]}: results are not comparable with published ones",
                file=sys.stderr,
            )
    return positions, pixels


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder or zip archive of the official test set")
    parser.add_argument(
        "--annotation", choices=ANNOTATIONS, default="univ",
        help="univ: 3D joints scaled to the same height for all people, as in the official "
        "evaluation; camera: 3D joints as measured, in camera space (default: univ)",
    )  # fmt: skip
    parser.add_argument(
        "--output_dir", type=Path, default=_DATASET, metavar="DIR",
        help="folder of the npz files (default: the dataset/ folder of the repository)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace existing files")
    args = parser.parse_args()
    path_3d = args.output_dir / MPI_INF_3DHP.file_3d()
    path_2d = args.output_dir / MPI_INF_3DHP.file_2d("gt")
    refuse_existing((path_3d, path_2d), args.force, [args.source])
    positions, pixels = convert(args.source, args.annotation)
    origin = {"annotation": ANNOTATIONS[args.annotation]}
    save_object_arrays(path_3d, positions_3d=positions, metadata=origin)
    save_object_arrays(path_2d, positions_2d=pixels, metadata=metadata(H36M_17))
    _print_frames(positions)
    print(f"{path_3d} and {path_2d.name} written")


def _print_frames(positions: dict[str, dict]) -> None:
    """Print the number of frames of each subject beside the official one."""
    total = 0
    for subject, scene in SCENES_3DHP.items():
        frames = len(positions[subject][scene])
        total += frames
        print(f"{subject} {scene:<19} {frames:>5} frames, official {FRAMES[subject]:>5}")
    print(f"all {'':<19} {total:>5} frames, official {sum(FRAMES.values()):>5}")


if __name__ == "__main__":
    run_script(main)
