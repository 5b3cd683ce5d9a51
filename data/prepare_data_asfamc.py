#!/usr/bin/env python
"""Convert motion capture in ASF/AMC files (HDM05, CMU) to Human3.6M's layout, 17 joints.

    python data/prepare_data_asfamc.py hdm05.zip --output dataset/data_3d_hdm05.npz

Several archives make one data set. ``dataset/README.md`` has the commands of the bundled files.

An ASF file describes a skeleton, an AMC file has its joint angles in each frame. Forward kinematics
computes the end of every bone. The 17 ends that match Human3.6M's joints are kept, in metres, z up.
The output npz file has {subject: {"action trial": (T, 17, 3) float32}} under ``positions_3d``.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.parser import Parser
from common.progress import follow
from data.archive import read_members
from data.npz_io import save_object_arrays

# For each of the 17 joints the bone that ends there, in Human3.6M's order ("root" is the root).
JOINT_BONES = (
    "root", "rhipjoint", "rfemur", "rtibia", "lhipjoint", "lfemur", "ltibia", "upperback", "thorax",
    "upperneck", "head", "lclavicle", "lhumerus", "lwrist", "rclavicle", "rhumerus", "rwrist",
)  # fmt: skip
_INCH = 0.0254
_DOFS = ("rx", "ry", "rz")
_MAX_DISTANCE = 1e3  # metres: a joint beyond this is the result of damage or of another unit
# Names that begin with "_" or "." do not match: they are hidden files of macOS.
_FILE = re.compile(r"(?:^|/)(?P<stem>[^/_.][^/]*)\.(?P<kind>asf|amc)$", re.IGNORECASE)
_HDM05_NAME = re.compile(
    r"HDM_(?P<subject>[a-z]+)_(?P<motion>\w+?)_(?P<trial>\d{1,9})_(?P<rate>\d{1,9})"
)
_CMU_NAME = re.compile(r"(?P<subject>\w+)_(?P<trial>\d{1,9})")
# The part of a name that does not belong to the action: "squat1Reps", "sneak2StepsLStart",
# "hopBothLegs1hops".
_REPETITIONS = re.compile(r"\d+(Reps|Steps|hops).*$")


@dataclass(frozen=True)
class Bone:
    """A bone in the rest pose.

    Attributes:
        parent: name of the parent bone.
        axis: (3, 3) rotation C of the bone's local axes.
        offset: (3,) vector from the start to the end of the bone, metres.
        dof: rotation axes (0 x, 1 y, 2 z) of the angles in an AMC file, in its order.
    """

    parent: str
    axis: np.ndarray
    offset: np.ndarray
    dof: tuple[int, ...]


@dataclass(frozen=True)
class Asf:
    """A skeleton: its bones, parents before children, and the length unit of the file in metres."""

    bones: dict[str, Bone]
    scale: float


def rotation(angles: np.ndarray) -> np.ndarray:
    """Euler angles (..., 3) about x, y, z in degrees -> rotation matrices Rz Ry Rx (..., 3, 3)."""
    radians = np.radians(angles)
    cx, cy, cz = np.moveaxis(np.cos(radians), -1, 0)
    sx, sy, sz = np.moveaxis(np.sin(radians), -1, 0)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def parse_asf(text: str, name: str) -> Asf:
    """Parse the text of an ASF file.

    Args:
        name: the name of the file, for messages.

    Raises:
        UserError: a section or a value is missing, a value is not finite, a length is not
            positive, or angles are not in degrees.
    """
    try:
        sections = _sections(text)
        units = dict(line.split()[:2] for line in sections["units"])
        if not units.get("angle", "deg").startswith("deg"):
            raise ValueError("angles are not in degrees")
        _check_root(sections["root"])
        scale = _INCH / _positive(units["length"])
        parents = {
            child: words[0]
            for words in map(str.split, sections["hierarchy"])
            for child in words[1:]
        }
        bones = {}
        for fields in _blocks(sections["bonedata"]):
            bone = fields["name"][0]
            is_joint = bone in JOINT_BONES  # other bones may have the length 0
            length = _positive(fields["length"][0], or_zero=not is_joint)
            bones[bone] = Bone(
                parent=parents[bone],
                axis=rotation(_finite(fields["axis"][:3])),
                offset=_finite(fields["direction"][:3]) * length * scale,
                dof=tuple(_DOFS.index(word.lower()) for word in fields.get("dof", [])),
            )
        return Asf(_parents_first(bones), scale)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{name} is not a skeleton this program reads (ASF): {error!r}") from error


def _finite(words: Sequence[str]) -> np.ndarray:
    """Numbers in words.

    Raises:
        ValueError: a word is not a finite number.
    """
    values = np.array(words, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(f"{' '.join(words)}: finite numbers expected")
    return values


def _positive(word: str, or_zero: bool = False) -> float:
    """A length.

    Raises:
        ValueError: it is not finite, is negative, or is 0 and ``or_zero`` is false.
    """
    (value,) = _finite([word])
    if value < 0 or (value == 0 and not or_zero):
        raise ValueError(f"length {word}: a length above 0 expected")
    return float(value)


def _sections(text: str) -> dict[str, list[str]]:
    """The lines of each section of an ASF file, without comments and empty lines."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith(":"):
            current = sections.setdefault(line[1:].split()[0], [])
        elif line and not line.startswith("#"):
            current.append(line)
    return sections


def _check_root(lines: list[str]) -> None:
    """Check that the root has the order TX TY TZ RX RY RZ and rests at zero.

    Raises:
        ValueError: it does not.
    """
    root = {words[0]: words[1:] for words in map(str.split, lines)}
    if [word.upper() for word in root["order"]] != ["TX", "TY", "TZ", "RX", "RY", "RZ"]:
        raise ValueError(f"root order {' '.join(root['order'])}")
    if any(float(value) for value in root["position"] + root["orientation"]):
        raise ValueError("a root that does not rest at zero")


def _blocks(lines: list[str]) -> Iterable[dict[str, list[str]]]:
    """Yield each ``begin ... end`` block of the bone section as {field: words}."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        if line == "begin":
            fields = {}
        elif line == "end":
            yield fields
        else:
            words = line.split()
            fields[words[0]] = words[1:]


def _parents_first(bones: dict[str, Bone]) -> dict[str, Bone]:
    """Sort bones so that parents come before their children.

    Raises:
        ValueError: a bone is not connected to the root.
    """
    ordered: dict[str, Bone] = {}
    while len(ordered) < len(bones):
        ready = {
            name: bone
            for name, bone in bones.items()
            if name not in ordered and (bone.parent == "root" or bone.parent in ordered)
        }
        if not ready:
            raise ValueError("bones that are not connected to the root")
        ordered.update(ready)
    return ordered


def parse_amc(text: str, name: str) -> dict[str, np.ndarray]:
    """Parse the text of an AMC file: {bone: (T, values)}.

    Angles are in degrees, also where the file has radians; the translation of the root is in the
    length unit of the ASF file.

    Args:
        name: the name of the file, for messages.

    Raises:
        UserError: there are no frames, a frame has other bones than the first, or a value is not a
            finite number; or the file says both :DEGREES and :RADIANS.
    """
    stripped = [line.strip() for line in text.splitlines()]
    lines = [line for line in stripped if line and line[0] not in "#:"]
    units = {":DEGREES", ":RADIANS"}.intersection(line.upper() for line in stripped)
    if len(units) > 1:
        raise UserError(f"{name} has both {' and '.join(sorted(units))}: remove one")
    starts = [i for i, line in enumerate(lines) if line.isdigit()]
    table = [line.split() for line in lines]
    first = table[1 : [*starts[1:], len(lines)][0]]
    if not first or starts[:1] != [0]:
        raise UserError(f"{name} is not a motion this program reads (AMC): no frames")
    if len({words[0] for words in first}) < len(first):
        raise UserError(f"{name} has a bone twice in a frame")
    values: list[list[str]] = []
    for number, (start, end) in enumerate(itertools.pairwise([*starts, len(table)]), 1):
        frame = table[start + 1 : end]
        if [(w[0], len(w)) for w in frame] != [(w[0], len(w)) for w in first]:
            raise UserError(f"{name}: frame {number} of {len(starts)} does not match the first")
        values.append([value for words in frame for value in words[1:]])
    try:
        array = np.array(values, dtype=float)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if not np.isfinite(array).all():
        raise UserError(f"{name}: frame {np.argwhere(~np.isfinite(array))[0, 0] + 1} is not finite")
    ends = np.cumsum([len(words) - 1 for words in first])
    motion = dict(zip([w[0] for w in first], np.split(array, ends[:-1], axis=1), strict=True))
    if ":RADIANS" in units:
        for bone, bone_values in motion.items():
            angles = bone_values[:, 3:] if bone == "root" else bone_values
            angles[:] = np.degrees(angles)
    return motion


def forward_kinematics(asf: Asf, motion: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Joint positions (T, 17, 3) float32, world metres, z up.

    G[bone] = G[parent] (C R(motion) C^-1); end of bone = end of parent + G[bone] offset.

    Args:
        asf: the skeleton.
        motion: its motion, as :func:`parse_amc` returns it.
        name: the name of the motion's file, for messages.

    Raises:
        UserError: the motion is not one of this skeleton, or a joint is beyond 1 km.
    """
    moving = {bone_name for bone_name, bone in asf.bones.items() if bone.dof} | {"root"}
    if stray := moving.symmetric_difference(motion):
        raise UserError(f"{name} does not fit its skeleton: {', '.join(sorted(stray))}")
    try:
        root = motion["root"]
        turns, ends = {"root": rotation(root[:, 3:6])}, {"root": root[:, :3] * asf.scale}
        for bone_name, bone in asf.bones.items():
            turn = turns[bone.parent]
            if bone.dof:
                if motion[bone_name].shape[1] != len(bone.dof):  # one would be taken for all
                    raise ValueError(f"{bone_name} has {motion[bone_name].shape[1]} angles")
                angles = np.zeros((len(root), 3))
                angles[:, bone.dof] = motion[bone_name]
                turn = turn @ (bone.axis @ rotation(angles) @ bone.axis.T)
            turns[bone_name] = turn
            ends[bone_name] = ends[bone.parent] + turn @ bone.offset
        joints = np.stack([ends[bone_name] for bone_name in JOINT_BONES], axis=1)
    except (KeyError, ValueError) as error:
        raise UserError(f"{name} does not fit its skeleton: {error}") from error
    if not (np.abs(joints) <= _MAX_DISTANCE).all():
        raise UserError(f"{name} and its skeleton put a joint beyond {_MAX_DISTANCE:,.0f} m")
    return joints[:, :, [2, 0, 1]].astype(np.float32)  # y up -> z up


def clip_name(stem: str) -> tuple[str, str, int | None]:
    """Subject, sequence name ("action trial") and frame rate in Hz, from the stem of a file name.

    HDM05: ``HDM_bd_squat1Reps_009_120`` -> bd, "squat 9", 120. CMU's names have no action and no
    frame rate: ``02_01`` -> 02, "clip 1", None.

    Raises:
        UserError: the stem has neither form.
    """
    if match := _HDM05_NAME.fullmatch(stem):
        action = _REPETITIONS.sub("", match["motion"])
        return match["subject"], f"{action} {int(match['trial'])}", int(match["rate"])
    if match := _CMU_NAME.fullmatch(stem):
        return match["subject"], f"clip {int(match['trial'])}", None
    raise UserError(
        f"{stem} is neither a name of HDM05's form nor of CMU's: rename it like "
        "HDM_bd_squat_009_120 or 02_01"
    )


def read_source(source: Path) -> tuple[dict[str, Asf], dict[str, tuple[str, str]]]:
    """Read the ASF and AMC files of an archive or a folder.

    Returns:
        {subject: skeleton}, and {"source: path inside": (stem, text)} of the AMC files, sorted.

    Raises:
        UserError: see ``data.archive`` and :func:`parse_asf`; also if the source has no such files.
    """
    found = {where: (match, content) for match, where, content in read_members(source, _FILE)}
    if not found:
        raise UserError(f"{source} has no .asf and .amc files: give the archive or folder of them")
    skeletons, motions = {}, {}
    for where, (match, content) in sorted(found.items()):
        # latin-1 decodes any byte: the first lines have Windows paths in unknown encodings.
        text = content.decode("latin-1")
        if match["kind"].lower() == "asf":
            skeletons[match["stem"].removeprefix("HDM_")] = parse_asf(text, where)
        else:
            motions[where] = match["stem"], text
    return skeletons, motions


def convert(
    source: Path, rate_in: int, rate_out: int, left_out: Sequence[str] = ()
) -> dict[str, dict[str, np.ndarray]]:
    """Convert the clips of an archive or folder: {subject: {"action trial": (T, 17, 3) float32}}.

    Args:
        rate_in: frame rate in Hz of files whose name does not have it.
        rate_out: frame rate in Hz of the result. Every (rate_in / rate_out)-th frame is kept,
            beginning with the first.
        left_out: patterns of the stems of AMC files that are not converted, as of a shell.

    Raises:
        UserError: see the parsers; also if two clips have the same name, a skeleton is missing, or
            ``rate_out`` does not divide the frame rate of a file.
    """
    skeletons, motions = read_source(source)
    motions = {
        name: (stem, text)
        for name, (stem, text) in motions.items()
        if not any(fnmatchcase(stem, pattern) for pattern in left_out)
    }
    positions: dict[str, dict[str, np.ndarray]] = {}
    for name, (stem, text) in follow(motions.items(), "clips", len(motions), "clip"):
        subject, sequence, rate = clip_name(stem)
        if subject not in skeletons:
            raise UserError(f"{name}: its skeleton {subject}.asf is not in {source}: add it")
        step, rest = divmod(rate or rate_in, rate_out)
        if rest or not step:
            raise UserError(
                f"{name}: {rate or rate_in} Hz is no multiple of {rate_out} Hz: change --rate_out"
            )
        if sequence in positions.setdefault(subject, {}):
            raise UserError(f"{name}: a second clip {sequence!r} of subject {subject}: remove one")
        motion = {bone: v[::step] for bone, v in parse_amc(text, name).items()}
        positions[subject][sequence] = forward_kinematics(skeletons[subject], motion, name)
    return positions


def convert_all(
    sources: Sequence[Path], rate_in: int, rate_out: int, left_out: Sequence[str] = ()
) -> dict[str, dict[str, np.ndarray]]:
    """The clips of several archives or folders, as :func:`convert` gives them.

    Raises:
        UserError: see there; also if two of them have a subject of the same name, who may be two
            persons.
    """
    positions: dict[str, dict[str, np.ndarray]] = {}
    for source in sources:
        found = convert(source, rate_in, rate_out, left_out)
        if both := sorted(positions.keys() & found.keys()):
            raise UserError(f"{source}: subject {both[0]} is in another source too: rename one")
        positions |= found
    return positions


def cut(clips: dict[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """Cut clips (T, 17, 3) of more than ``most`` frames into parts of nearly equal length.

    "walk 3" becomes "walk 3 part 1", "walk 3 part 2", ...; shorter clips keep their name.
    """
    parts = {}
    for name, clip in clips.items():
        pieces = np.array_split(clip, -(-len(clip) // most))
        for number, piece in enumerate(pieces, 1):
            parts[f"{name} part {number}" if len(pieces) > 1 else name] = piece
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    args = _build_parser().parse_args(argv)
    refuse_existing([args.output], args.force, args.sources)
    if args.rate_in < 1 or args.rate_out < 1:
        raise UserError("--rate_in and --rate_out: give frame rates of at least 1 Hz")
    if args.longest < 0:
        raise UserError("--longest: give a number of frames, or 0")
    positions = convert_all(args.sources, args.rate_in, args.rate_out, args.leave_out)
    if args.longest:
        positions = {subject: cut(clips, args.longest) for subject, clips in positions.items()}
    if args.decimals is not None:
        positions = {
            subject: {name: clip.round(args.decimals) for name, clip in clips.items()}
            for subject, clips in positions.items()
        }
    save_object_arrays(args.output, positions_3d=positions)
    frames = sum(len(clip) for clips in positions.values() for clip in clips.values())
    clips = sum(map(len, positions.values()))
    print(f"{args.output}: {len(positions)} subjects, {clips} sequences, {frames:,} frames")


def _build_parser() -> Parser:
    # fmt: off
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sources", type=Path, nargs="+", metavar="source",
        help="folders or archives (zip, tar, tgz) of .asf and .amc files")
    add("--output", type=Path, required=True, help="npz file to write")
    add("--rate_in", type=int, default=120, metavar="HZ",
        help="frame rate of files whose name does not have it (default: 120)")
    add("--rate_out", type=int, default=30, metavar="HZ",
        help="frame rate of the output (default: 30)")
    add("--leave_out", nargs="+", default=[], metavar="PATTERN",
        help="clips to leave out, by the names of their .amc files, such as 01_0[2-4] or 'tea*'")
    add("--longest", type=int, default=0, metavar="FRAMES",
        help="cut clips of more frames of the output into parts; 0 does not (default)")
    add("--decimals", type=int, choices=range(2, 7), metavar="N",
        help="round metres to N decimals, which makes the file smaller: 2 to 6")
    add("--force", action="store_true", help="replace an existing output")
    return parser


if __name__ == "__main__":
    run_script(main)
