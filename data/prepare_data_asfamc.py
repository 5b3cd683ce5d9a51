#!/usr/bin/env python
"""Motion capture in ASF/AMC form (HDM05, CMU) -> an npz file in Human3.6M's layout, 17 joints.

    python data/prepare_data_asfamc.py hdm05.zip --output dataset/data_3d_hdm05.npz

An ASF file describes a skeleton, an AMC file its joint angles frame by frame. Forward kinematics
gives the end of every bone; the 17 that match Human3.6M's joints are kept, in metres, z up. Writes
{subject: {"action trial": (T, 17, 3) float32}} under the key ``positions_3d``.
"""

import argparse
import re
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import UserError, run_script
from common.files import refuse_existing
from common.parser import Parser
from common.progress import follow
from data.npz_io import save_object_arrays

# The bone whose end is each of the 17 joints, in Human3.6M's order ("root" is the root itself).
JOINT_BONES = (
    "root", "rhipjoint", "rfemur", "rtibia", "lhipjoint", "lfemur", "ltibia", "upperback", "thorax",
    "upperneck", "head", "lclavicle", "lhumerus", "lwrist", "rclavicle", "rhumerus", "rwrist",
)  # fmt: skip
_INCH = 0.0254
_HDM05_NAME = re.compile(r"HDM_(?P<subject>[a-z]+)_(?P<motion>\w+?)_(?P<trial>\d+)_(?P<rate>\d+)")
_CMU_NAME = re.compile(r"(?P<subject>\w+)_(?P<trial>\d+)")
# "squat1Reps", "sneak2StepsLStart", "hopBothLegs1hops": the repetitions are not the action.
_REPETITIONS = re.compile(r"\d+(Reps|Steps|hops).*$")


@dataclass(frozen=True)
class Bone:
    """A bone at rest: parent's name, axis rotation C (3, 3), end minus start (3,) in metres, and
    the axes (0 x, 1 y, 2 z) of the angles that an AMC file gives for it, in order."""

    parent: str
    axis: np.ndarray
    offset: np.ndarray
    dof: tuple[int, ...]


@dataclass(frozen=True)
class Asf:
    """A skeleton: its bones, parents before children, and metres per unit of its lengths."""

    bones: dict[str, Bone]
    scale: float


def rotation(angles: np.ndarray) -> np.ndarray:
    """Euler angles (..., 3) about x, y, z in degrees -> Rz Ry Rx (..., 3, 3)."""
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
    """Read a skeleton.

    Raises:
        UserError: a section or a value is missing, or an angle's unit is not degrees.
    """
    try:
        sections = _sections(text)
        units = dict(line.split()[:2] for line in sections["units"])
        if not units.get("angle", "deg").startswith("deg"):
            raise ValueError("angles are not in degrees")
        _check_root(sections["root"])
        scale = _INCH / float(units["length"])
        parents = {
            child: words[0]
            for words in map(str.split, sections["hierarchy"])
            for child in words[1:]
        }
        bones = {}
        for fields in _blocks(sections["bonedata"]):
            bone = fields["name"][0]
            direction = np.array(fields["direction"][:3], dtype=float)
            bones[bone] = Bone(
                parent=parents[bone],
                axis=rotation(np.array(fields["axis"][:3], dtype=float)),
                offset=direction * float(fields["length"][0]) * scale,
                dof=tuple("xyz".index(word.lower()[1]) for word in fields.get("dof", [])),
            )
        return Asf(_parents_first(bones), scale)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{name} is not a skeleton this program reads (ASF): {error!r}") from error


def _sections(text: str) -> dict[str, list[str]]:
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
    """The root must move by translation then Euler xyz, from a rest pose of zero."""
    root = {words[0]: words[1:] for words in map(str.split, lines)}
    if [word.upper() for word in root["order"]] != ["TX", "TY", "TZ", "RX", "RY", "RZ"]:
        raise ValueError(f"root order {' '.join(root['order'])}")
    if any(float(value) for value in root["position"] + root["orientation"]):
        raise ValueError("a root that does not rest at zero")


def _blocks(lines: list[str]) -> Iterable[dict[str, list[str]]]:
    """The begin ... end blocks of the bone section, each as {field: words}."""
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
    ordered: dict[str, Bone] = {}
    while len(ordered) < len(bones):
        ready = {
            name: bone
            for name, bone in bones.items()
            if name not in ordered and (bone.parent == "root" or bone.parent in ordered)
        }
        if not ready:
            raise ValueError("bones that do not hang on the root")
        ordered.update(ready)
    return ordered


def parse_amc(text: str, name: str) -> dict[str, np.ndarray]:
    """Read a motion: {bone: (T, values)}, translations in file units and angles in degrees.

    Raises:
        UserError: no frames, a frame without its bones, a value that is not a finite number.
    """
    lines = [line for line in text.splitlines() if line.strip() and line.strip()[0] not in "#:"]
    starts = [i for i, line in enumerate(lines) if line.strip().isdigit()]
    if not starts or starts[0] != 0:
        raise UserError(f"{name} is not a motion this program reads (AMC): no frames")
    height = starts[1] if len(starts) > 1 else len(lines)
    table = [line.split() for line in lines]
    first = table[1:height]
    values: list[list[str]] = []
    for number, start in enumerate(starts, 1):
        frame = table[start + 1 : start + height]
        whole = [(w[0], len(w)) for w in frame] == [(w[0], len(w)) for w in first]
        if not whole or (start + height < len(table) and number * height != starts[number]):
            raise UserError(f"{name}: frame {number} of {len(starts)} does not match the first")
        values.append([value for words in frame for value in words[1:]])
    try:
        array = np.array(values, dtype=float)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if not np.isfinite(array).all():
        raise UserError(f"{name}: frame {np.argwhere(~np.isfinite(array))[0, 0] + 1} is not finite")
    ends = np.cumsum([len(words) - 1 for words in first])
    return dict(zip([w[0] for w in first], np.split(array, ends[:-1], axis=1), strict=True))


def forward_kinematics(asf: Asf, motion: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Joint positions (T, 17, 3) float32, world metres, z up; all frames at once.

    G[bone] = G[parent] (C R(motion) C^-1); end of bone = end of parent + G[bone] offset.

    Raises:
        UserError: skeleton and motion do not belong together.
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
                angles = np.zeros((len(root), 3))
                angles[:, bone.dof] = motion[bone_name]
                turn = turn @ (bone.axis @ rotation(angles) @ bone.axis.T)
            turns[bone_name] = turn
            ends[bone_name] = ends[bone.parent] + turn @ bone.offset
        joints = np.stack([ends[bone_name] for bone_name in JOINT_BONES], axis=1)
    except (KeyError, ValueError) as error:
        raise UserError(f"{name} does not fit its skeleton: {error}") from error
    return joints[:, :, [2, 0, 1]].astype(np.float32)  # y up -> z up


def clip_name(stem: str) -> tuple[str, str, int | None]:
    """A file's stem -> subject, sequence name ("action trial"), frame rate if the name tells.

    HDM05: ``HDM_bd_squat1Reps_009_120`` -> bd, "squat 9", 120. CMU's names carry no action:
    ``02_01`` -> 02, "clip 1".

    Raises:
        UserError: neither form.
    """
    if match := _HDM05_NAME.fullmatch(stem):
        action = _REPETITIONS.sub("", match["motion"])
        return match["subject"], f"{action} {int(match['trial'])}", int(match["rate"])
    if match := _CMU_NAME.fullmatch(stem):
        return match["subject"], f"clip {int(match['trial'])}", None
    raise UserError(f"{stem}: neither HDM05's nor CMU's form of name (HDM_bd_squat_009_120, 02_01)")


def read_texts(source: Path) -> dict[str, str]:
    """The ASF and AMC files of a zip archive or a folder: {path: text}, sorted by path.

    Raises:
        UserError: the source is missing, damaged, or has no such files.
    """
    if source.is_dir():
        paths = [path for path in source.rglob("*") if path.is_file()]
        texts = {path.relative_to(source).as_posix(): path.read_bytes for path in paths}
    elif source.is_file():
        try:
            archive = zipfile.ZipFile(source)
        except zipfile.BadZipFile as error:
            raise UserError(f"{source} is not a whole zip archive: download it again") from error
        texts = {name: (lambda n=name: archive.read(n)) for name in archive.namelist()}
    else:
        raise UserError(f"{source} is not there: give an archive (.zip) or a folder")
    wanted = sorted(name for name in texts if name.lower().endswith((".asf", ".amc")))
    if not wanted:
        raise UserError(f"{source} holds no .asf and .amc files")
    # latin-1: first lines quote Windows paths in unknown encodings.
    return {name: texts[name]().decode("latin-1") for name in wanted}


def convert(source: Path, rate_in: int, rate_out: int) -> dict[str, dict[str, np.ndarray]]:
    """All clips of an archive or folder: {subject: {"action trial": (T, 17, 3) float32}}.

    Every (rate_in / rate_out)-th frame is kept, the first included.

    Raises:
        UserError: see the parsers; also two clips of one name, or rates that do not divide.
    """
    texts = read_texts(source)
    skeletons = {}
    for name in texts:
        path = PurePosixPath(name)
        if path.suffix.lower() == ".asf":
            skeletons[path.stem.removeprefix("HDM_")] = parse_asf(texts[name], name)
    positions: dict[str, dict[str, np.ndarray]] = {}
    clips = [name for name in texts if name.lower().endswith(".amc")]
    for name in follow(clips, "clips", len(clips), "clip"):
        subject, sequence, rate = clip_name(PurePosixPath(name).stem)
        if subject not in skeletons:
            raise UserError(f"{name}: its skeleton {subject}.asf is not in {source}")
        step, rest = divmod(rate or rate_in, rate_out)
        if rest or not step:
            raise UserError(f"{name}: {rate or rate_in} Hz cannot be cut down to {rate_out} Hz")
        if sequence in positions.setdefault(subject, {}):
            raise UserError(f"{name}: a second clip {sequence!r} of subject {subject}")
        motion = {bone: v[::step] for bone, v in parse_amc(texts[name], name).items()}
        positions[subject][sequence] = forward_kinematics(skeletons[subject], motion, name)
    return positions


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="zip archive or folder of .asf and .amc files")
    parser.add_argument("--output", type=Path, required=True, help="npz file to write")
    parser.add_argument(
        "--rate_in", type=int, default=120, metavar="HZ",
        help="frame rate where the file name does not tell (default: 120)",
    )  # fmt: skip
    parser.add_argument(
        "--rate_out", type=int, default=30, metavar="HZ", help="frame rate to keep (default: 30)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args(argv)
    refuse_existing([args.output], args.force)
    if args.rate_in < 1 or args.rate_out < 1:
        raise UserError("frame rates are positive numbers of Hz")
    positions = convert(args.source, args.rate_in, args.rate_out)
    save_object_arrays(args.output, positions_3d=positions)
    frames = sum(len(clip) for clips in positions.values() for clip in clips.values())
    clips = sum(map(len, positions.values()))
    print(f"{args.output}: {len(positions)} subjects, {clips} sequences, {frames:,} frames")


if __name__ == "__main__":
    run_script(main)
