#!/usr/bin/env python
"""Convert Human3.6M's 3D joints to dataset/data_3d_h36m.npz and dataset/data_2d_h36m_gt.npz.

    python data/prepare_data_h36m.py --from-archive h36m.zip
    python data/prepare_data_h36m.py --from-source FOLDER_OF_CDF_MAT
    python data/prepare_data_h36m.py --from-source-cdf Poses_D3_Positions_S*.tgz

The input is the preprocessed archive, the official .cdf.mat files, or the official .cdf files.
Archives are read without unpacking them. The first output file holds the 3D joints under
``positions_3d``: {subject: {sequence: (T, 32, 3) float32, world metres}}. The second holds their
projections into the four cameras under ``positions_2d``: {subject: {sequence: [4 x (T, 16, 2)
float32, pixels]}}; and ``metadata``.
"""

import argparse
import hashlib
import io
import math
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np
import torch

from common.camera import image_coordinates, project, world_to_camera
from common.errors import UserError, run_script
from common.extras import require
from common.files import refuse_existing
from common.parser import Parser
from common.progress import follow
from common.skeleton import SKELETONS, Skeleton
from data.archive import MAX_MEMBER, MAX_VALUES, errors_about, read_h5, read_members
from data.datasets import H36M
from data.mat5 import read_mat5
from data.npz_io import save_object_arrays
from data.pose_dataset import one_thread

DATASET_DIR = Path(__file__).resolve().parents[1] / "dataset"
SUBJECTS = H36M.subjects_train + H36M.subjects_test
# The official files have longer names for two actions than other sources.
_RENAMED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
# MD5 of Poses_D3_Positions_<subject>.tgz. The list is a third party's, so a mismatch only warns.
_MD5 = {
    "S1": "d4ae2827d0227dea8c88e6a082763d0a",
    "S5": "7a0bd0f458612decc9de0a04e0b589cc",
    "S6": "0970a30cbc947c3c0454c834db9b84e0",
    "S7": "abeea2a40650517cefb7cd911caa6472",
    "S8": "5695796fe478579ffe9b9ff09203dd27",
    "S9": "fce28bb66bf9908016e2d9738e5cb2db",
    "S11": "729e93d4e50c806f4a55fd1b87e2ff52",
}
# Metres. No joint is farther from the world's origin, unless the unit is wrong or the file damaged.
_MAX_DISTANCE = 50.0
_MIN_SIZE = 0.1  # metres between the outermost joints of a pose: no person is smaller
_MAX_STEPS = 100_000  # of cdflib's loops in a file; a file of one variable takes a few hundred

Positions = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Form:
    """One file format of the data set.

    Attributes:
        pattern: matches the path of a pose file; groups ``subject`` and ``sequence``. Names that
            begin with "_" or "." do not match: the official "_ALL.cdf", and hidden files of macOS.
        example: a path that matches, for messages.
        read: (content, name for messages) -> (T, 96) millimetres, x y z of 32 joints.
    """

    pattern: re.Pattern[str]
    example: str
    read: Callable[[bytes, str], np.ndarray]


def read_archive_h5(content: bytes, where: str) -> np.ndarray:
    """Read an h5 file of the preprocessed archive: ``3D_positions`` (96, T) -> (T, 96)."""
    return read_h5(content, "3D_positions", where).T


def read_mat(content: bytes, where: str) -> np.ndarray:
    """Read an official .cdf.mat file: a MATLAB cell ``data`` with one matrix -> (T, 96).

    Files of MATLAB v5 and v7.3 are read. A v7.3 file is HDF5 after a header of 512 bytes, and its
    matrices are transposed.
    """
    if b"\x89HDF\r\n\x1a\n" in content[:1024]:
        return read_h5(content, "data", where).T
    return read_mat5(content, "data", where)


def read_cdf(content: bytes, where: str) -> np.ndarray:
    """Read an official .cdf file: the variable ``Pose`` (1, T, 96) -> (T, 96)."""
    cdflib = require("cdflib")
    # cdflib reads files only by name.
    with errors_about(where), tempfile.TemporaryDirectory() as folder, _bounded(cdflib.cdfread):
        path = Path(folder, "poses.cdf")
        path.write_bytes(content)
        file = cdflib.CDF(path)
        about = file.varinq("Pose")
        if math.prod(about.Dim_Sizes) > MAX_VALUES or about.Num_Elements != 1:
            raise UserError(f"{where}: Pose holds no sequence but {about.Dim_Sizes} numbers")
        return np.asarray(file.varget("Pose", endrec=0))[0]


@contextmanager
def _bounded(cdfread: ModuleType) -> Iterator[None]:
    """Limit the loops and the decompression of cdflib, which trusts the counts in a file: a few
    damaged bytes would make it count to 2^31, or fill the memory."""
    left = _MAX_STEPS

    def bounded_range(*limits: int) -> range:
        nonlocal left
        steps = range(*limits)
        left -= len(steps) + 1
        if left < 0:
            raise ValueError("a count in the file is far too large")
        return steps

    def inflate(packed: bytes) -> bytes:
        content = zlib.decompressobj(wbits=31).decompress(packed, MAX_MEMBER)
        if len(content) == MAX_MEMBER:
            raise ValueError(f"a part unpacks to {MAX_MEMBER:,} bytes or more")
        return content

    def in_memory(path: str, mode: str) -> io.BytesIO:
        return io.BytesIO(Path(path).read_bytes())  # a file would take memory for any size asked

    bounds = {"range": bounded_range, "gzip_inflate": inflate, "open": in_memory}
    with mock.patch.multiple(cdfread, create=True, **bounds):
        yield


def _official(suffix: str) -> re.Pattern[str]:
    """Pattern of the paths of the official pose files with this suffix."""
    folder = r"(?:^|/)(?P<subject>S\d+)/(?:MyPoseFeatures/)?(?:Poses_)?D3_Positions/"
    return re.compile(folder + r"(?P<sequence>[^/_.][^/]*)" + re.escape(suffix) + "$")


FORMS = {
    "from_archive": Form(
        re.compile(r"(?:^|/)(?P<subject>S\d+)/MyPoses/3D_positions/(?P<sequence>[^/_.][^/]*)\.h5$"),
        "S1/MyPoses/3D_positions/Directions 1.h5",
        read_archive_h5,
    ),
    "from_source": Form(
        _official(".cdf.mat"), "S1/MyPoseFeatures/D3_Positions/Directions 1.cdf.mat", read_mat
    ),
    "from_source_cdf": Form(
        _official(".cdf"), "S1/MyPoseFeatures/D3_Positions/Directions 1.cdf", read_cdf
    ),
}


def sequence_name(stem: str, where: str) -> str:
    """The sequence name in the npz files for the stem of a file: "TakingPhoto 1" -> "Photo 1".

    Raises:
        UserError: the stem is not "Action" or "Action k" with an action of the data set.
    """
    action, space, trial = stem.partition(" ")
    action = _RENAMED.get(action, action)
    if action not in H36M.actions or not (trial.isdecimal() if space else True):
        raise UserError(f"{where}: {stem!r} is no sequence of Human3.6M: remove or rename the file")
    return action + space + trial


def to_positions(values: np.ndarray, where: str) -> np.ndarray:
    """(T, 96) millimetres -> (T, 32, 3) float32 metres.

    Raises:
        UserError: another shape or type, no frames, a joint that is not finite or beyond 50 m, or
            a pose smaller than any person: all joints at zero, or in metres.
    """
    if values.ndim != 2 or values.shape[1] != 96 or values.dtype.kind != "f" or not len(values):
        raise UserError(f"{where}: frames of 96 numbers expected, got {values.shape}")
    metres = np.ascontiguousarray(values, dtype=np.float64).reshape(-1, 32, 3) / 1000
    outside = ~(np.abs(metres) < _MAX_DISTANCE).all(axis=(1, 2))  # True for NaN too
    if outside.any():
        raise UserError(
            f"{where}: frame {int(outside.argmax())} has a joint that is not a number or is beyond "
            f"{_MAX_DISTANCE:.0f} m: the file is damaged or not in millimetres, get it again"
        )
    sizes = np.ptp(metres, axis=1).max(axis=1)
    if (sizes == 0).any():
        raise UserError(
            f"{where}: frame {int((sizes == 0).argmax())} has all joints in one place: the file is "
            "damaged, get it again"
        )
    if (size := float(np.median(sizes))) < _MIN_SIZE:
        raise UserError(
            f"{where}: the poses are {size * 1000:.3g} mm in size: the file is not in millimetres; "
            "multiply metres by 1000"
        )
    return metres.astype(np.float32)


def read_positions(sources: Iterable[Path], form: Form) -> Positions:
    """Read all sequences of the protocol's subjects, sorted by subject and name.

    Raises:
        UserError: see ``data.archive`` and the functions above; also if a sequence is there twice,
            or if there is no sequence.
    """
    found: Positions = {subject: {} for subject in SUBJECTS}
    files = (file for source in sources for file in read_members(source, form.pattern))
    for match, where, content in follow(files, "sequences", unit="file"):
        subject, name = match["subject"], sequence_name(match["sequence"], where)
        if subject not in found or (subject, name) in H36M.excluded:
            continue
        if name in found[subject]:
            raise UserError(f"{where}: a second file of {subject}/{name}: remove one")
        found[subject][name] = to_positions(form.read(content, where), where)
    if not any(found.values()):
        raise UserError(f"no pose files found: they are named like {form.example}")
    return {who: dict(sorted(clips.items())) for who, clips in found.items() if clips}


def project_positions(positions: Positions, skeleton: Skeleton) -> dict[str, dict[str, list]]:
    """Project motions (T, 32, 3), world metres, into each of the subject's cameras.

    Returns:
        {subject: {sequence: [(T, J, 2) float32 pixels of each camera]}}.
    """
    kept = skeleton.indices_in(32)
    return {
        subject: {
            name: _project(torch.from_numpy(motion[:, kept]).double(), subject)
            for name, motion in follow(clips.items(), f"projecting {subject}", len(clips), "clip")
        }
        for subject, clips in positions.items()
    }


def _project(motion: torch.Tensor, subject: str) -> list[np.ndarray]:
    views = []
    for camera in H36M.cameras(subject):
        points = world_to_camera(motion, camera.rotation, camera.translation)
        screen = project(points, camera.intrinsics)
        views.append(image_coordinates(screen, camera.width, camera.height).float().numpy())
    return views


def metadata(skeleton: Skeleton) -> dict:
    """The metadata of a file of 2D joints: number of joints, and the left and right joints."""
    symmetry = [list(skeleton.joints_left), list(skeleton.joints_right)]
    return {"num_joints": skeleton.num_joints, "keypoints_symmetry": symmetry}


def stop_if_missing(found: dict[str, dict], allow: bool) -> None:
    """Report all sequences of the protocol that are missing.

    Args:
        found: {subject: {sequence: ...}}.
        allow: print a warning to stderr instead of raising.

    Raises:
        UserError: sequences are missing, and ``allow`` is false.
    """
    missing = [
        line
        for subject in SUBJECTS
        for line in H36M.missing_sequences(subject, found.get(subject, ()))
    ]
    if missing and not allow:
        raise UserError(
            f"sequences are missing: {', '.join(missing)}. Get these files, or continue without "
            "them with --allow-missing"
        )
    if missing:
        print(f"warning: sequences are missing: {', '.join(missing)}", file=sys.stderr)


def warn_of_md5(path: Path) -> None:
    """Compare the MD5 of an official archive with the third party's list; warn if it differs.

    Raises:
        UserError: the archive cannot be read.
    """
    match = re.fullmatch(r"Poses_D3_Positions_(S\d+)\.tgz", path.name)
    if match is None or match[1] not in _MD5 or not path.is_file():
        return
    digest = hashlib.md5(usedforsecurity=False)
    with errors_about(path), path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    if digest.hexdigest() != _MD5[match[1]]:
        print(
            f"warning: {path} has MD5 {digest.hexdigest()}, {_MD5[match[1]]} expected: "
            "it may be truncated or of another release",
            file=sys.stderr,
        )


def find_archives(paths: Iterable[Path]) -> list[Path]:
    """Replace each folder that holds official archives by the archives in it."""
    sources = []
    for path in paths:
        archives = sorted(path.glob("Poses_D3_Positions_S*.tgz")) if path.is_dir() else []
        sources += archives or [path]
    return sources


def report_frames(positions: Positions) -> None:
    """Print the numbers of sequences and frames, and compare them with the protocol."""
    for subject, clips in positions.items():
        frames = sum(map(len, clips.values()))
        print(f"{subject:>5}: {len(clips)} sequences, {frames:,} frames")
    for split, subjects in (("train", H36M.subjects_train), ("test", H36M.subjects_test)):
        frames = sum(
            len(clip) * len(H36M.cameras(subject))
            for subject in subjects
            for clip in positions.get(subject, {}).values()
        )
        verdict = H36M.compare_with_protocol(split, frames)
        print(f"{split:>5}: {frames:,} frames over the cameras, {verdict}")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all scripts share that prepare files of Human3.6M."""
    parser.add_argument(
        "--allow-missing", "--allow_missing", action="store_true",
        help="continue if sequences are missing; every result made with the files names them",
    )  # fmt: skip
    parser.add_argument(
        "--output_dir", type=Path, default=DATASET_DIR, metavar="DIR",
        help="folder of the npz files (default: the dataset/ folder of the repository)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace existing outputs")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("archive", "h36m.zip, or the folder it unpacks to"),
        ("source", "folders of the official .cdf.mat files (S1/MyPoseFeatures/D3_Positions/...)"),
        ("source-cdf", "the official Poses_D3_Positions_S*.tgz, or folders of these or of .cdf"),
    ):
        flags = dict.fromkeys([f"--from-{name}", f"--from_{name.replace('-', '_')}"])
        sources.add_argument(*flags, nargs="+", type=Path, metavar="PATH", help=text)
    parser.add_argument(
        "--joints", type=int, choices=sorted(SKELETONS), default=16,
        help="number of joints in the 2D file (default: 16)",
    )  # fmt: skip
    add_output_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    output_3d = args.output_dir / H36M.file_3d()
    output_2d = args.output_dir / H36M.file_2d("gt")
    name = next(name for name in FORMS if getattr(args, name))
    sources = getattr(args, name)
    refuse_existing((output_3d, output_2d), args.force, sources)
    if name == "from_source_cdf":
        sources = find_archives(sources)
        for source in sources:
            warn_of_md5(source)
    positions = read_positions(sources, FORMS[name])
    stop_if_missing(positions, args.allow_missing)
    skeleton = SKELETONS[args.joints]
    with one_thread():
        pixels = project_positions(positions, skeleton)
    save_object_arrays(output_3d, positions_3d=positions)
    save_object_arrays(output_2d, positions_2d=pixels, metadata=metadata(skeleton))
    report_frames(positions)
    print(f"wrote {output_3d} and {output_2d}")


if __name__ == "__main__":
    run_script(main)
