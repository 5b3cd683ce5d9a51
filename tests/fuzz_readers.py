"""Every reader of files, command lines and specs, with whole and hostile input for it.

A new reader is a line of READERS: what makes its files, what reads one, and how many damaged ones
``make fuzz`` tries.
"""

import functools
import io
import json
import pickle
import re
import struct
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import opt
import predict
from common.body import Body, bone_names, read_body
from common.errors import UserError
from common.own_json import marked
from common.skeleton import H36M_16, H36M_17
from data import download, prepare_data_asfamc, prepare_data_h36m
from data.archive import read_h5, read_members
from data.datasets import HDM05
from data.keypoint_files import read_keypoint_file
from data.keypoints import load_keypoints
from data.npz_io import load_object_array, save_object_arrays
from data.pose_dataset import load_pose_datasets
from models.build import build_model
from tests import h36m_miniature as mini
from tests import keypoint_writers
from tests import mocap_miniature as mocap
from tests.old_checkpoints import doubling, hostile_pickles, legacy_file, python2_file
from tools import plot, sweep
from tools.made_bodies import made_motion
from training.lifter import Lifter, load_lifter
from training.predicting import Given
from training.stream import Stream, lift_lines

MIB = 2**20
VALUES = made_motion(np.random.default_rng(0), 2).reshape(2, 96) * np.float32(1000)
PERSON = keypoint_writers.made_person()
KEYPOINTS = keypoint_writers.points_of(PERSON, "h36m16")
NETWORK = {"name": "mgcn", "joints": 16, "hid_dim": 4, "num_layers": 1}
SPEC = {"flags": {"dataset": "hdm05", "epochs": 2}, "seeds": [0], "rows": {"a": {"hid_dim": 16}}}
GRID = {"script": "main_graph.py", "grid": {"hid_dim": [16, 32], "lr": [0.1, "1e-3"]}}
RESULTS = {
    "model": {"name": "modulated_gcn"}, "protocol": "x", "parameters": 9,
    "multiply_adds_a_pose": 9, "missing_sequences": ["S1/Eating: 1 of 2"],
    "results": {"last": {"epoch": 2, "mpjpe_mm": 50.0, "p_mpjpe_mm": 40.0}},
}  # fmt: skip
_BONES = dict.fromkeys(bone_names(H36M_16), 1.0)
BODY = marked("body", Body("x", _BONES, _BONES, 0.25, 0.01).content())
_H5_NAME = "S1/MyPoses/3D_positions/Eating 1.h5"
_BY_NUL = "\0"  # between the words of a command line in a file


@dataclass(frozen=True)
class Reader:
    """A reader, and what it is given.

    Attributes:
        seeds: makes whole and hostile files; may use an empty folder, whose ``canary`` the hostile
            ones make when they are executed.
        read: reads the file at a path. What it writes goes to the folder ``out`` beside it.
        count: the number of files that ``make fuzz`` tries.
        wrap: applied to a file after it was damaged, such as packing it with a right checksum.
        beyond: MiB of memory that a library takes beyond the limit of all readers.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    count: int
    wrap: Callable[[bytes], bytes] = bytes
    beyond: int = 0


# ---- files ----


def harmless_pickles() -> list[bytes]:
    """What a file of poses holds, as several versions of Python write it."""
    content = {"S1": {"Eating 1": [VALUES, VALUES.T], "n": (1, 2.5, None, "x", np.float32(1))}}
    return [pickle.dumps(_boxed(content), protocol) for protocol in (2, 4)]


def _boxed(content: object) -> np.ndarray:
    box = np.empty((), dtype=object)
    box[()] = content
    return box


def zip_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


def npz_of(content: bytes) -> bytes:
    """An npz file whose object array is the given pickle."""
    header = io.BytesIO()
    about = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(header, about)
    return zip_of("positions_3d.npy", header.getvalue() + content)


def npz_files(folder: Path) -> list[bytes]:
    save_object_arrays(folder / "whole.npz", positions_3d={"S1": {"E": VALUES}}, metadata=[1])
    return [(folder / "whole.npz").read_bytes(), *map(npz_of, pickles(folder))]


def pickles(folder: Path) -> list[bytes]:
    hostile = hostile_pickles(folder / "canary")
    return harmless_pickles() * (1 + len(hostile) // 4) + hostile


def pose_pickles(folder: Path) -> list[bytes]:
    """Those of the bundled data set, of the subjects that are tested."""
    joints = made_motion(np.random.default_rng(1), 3)[:, list(H36M_17.stored)]
    clips = {"squat 1": joints, "sneak 2": joints[:2]}
    content = {subject: dict(clips) for subject in HDM05.subjects_test}
    return [pickle.dumps(_boxed(content), protocol) for protocol in (2, 4)]


def h5_files(folder: Path) -> list[bytes]:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        options = {"chunks": (32, 2), "compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("3D_positions", data=VALUES.T, **options)
    return [mini.archive_h5(VALUES), mini.mat_v73(VALUES), buffer.getvalue()]


def archives(write: Callable, folder: Path) -> list[bytes]:
    files = [(f"S{n}/{_H5_NAME[3:]}", c) for n, c in zip((1, 5, 6), h5_files(folder), strict=True)]
    return [write(folder / "whole", files[:n]).read_bytes() for n in (1, 3)]


def tar_files(folder: Path) -> list[bytes]:
    return [zlib.decompress(c, wbits=31) for c in archives(mini.write_tgz, folder)]


def mat_files(folder: Path) -> list[bytes]:
    packed = mini.mat_v5(VALUES)
    inner = zlib.decompress(packed[136:])
    return [packed, packed[:128] + inner, mini.mat_v73(VALUES)]


def packed_mat(content: bytes) -> bytes:
    """A file of MATLAB v5 whose compression is right, around damaged content."""
    packed = zlib.compress(content[128:])
    return content[:128] + struct.pack("<II", 15, len(packed)) + packed


def weights(seed: int = 0) -> OrderedDict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_model(NETWORK).state_dict()


def legacy_checkpoints(folder: Path) -> list[bytes]:
    """Of before torch 1.6: by Python 3, by Python 2, a bare state dict, and hostile ones."""
    content = {"epoch": 1, "error": np.float64(2), "state_dict": weights(), "id": 2**40}
    whole = [_torch_file(content, new=False), python2_file(content), _torch_file(weights(), False)]
    return whole * 3 + [legacy_file(program) for program in hostile_pickles(folder / "canary")]


_FIGURES = {"mpjpe_mm": 50.0, "p_mpjpe_mm": 40.0}
_ROW = {
    "epoch": 1, "step": 3, "lr": 1e-3, "loss": 0.1, "train_seconds": 1.0, "test_seconds": 1.0,
} | _FIGURES  # fmt: skip
_ACTIONS = {"sneak": {"frames": 3} | _FIGURES}
_RESULT = {"epoch": 1, "chosen_by": "x", "frames": 3, "per_action": _ACTIONS} | _FIGURES

_PERSONS = {
    "proportions": [1.0] * 15, "size": 0.25, "ankle_height": 0.07, "screen_sigma": 0.0,
    "length_sigmas": [0.01] * 15, "symmetry_sigma": 0.01, "joint_sigmas": [0.1] * 16,
}  # fmt: skip


def checkpoints(folder: Path) -> list[bytes]:
    content = {
        "epoch": 1, "step": 3, "lr": 1e-3, "error": np.float64(2), "state_dict": weights(),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
        "model": NETWORK, "dataset": {"name": "hdm05"}, "options": vars(opt.parse_gcn([])),
        "history": [_ROW], "last": _RESULT, "best": _RESULT, "persons": _PERSONS,
    }  # fmt: skip
    return [_torch_file(content), _torch_file(weights())]


def _torch_file(content: object, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def checkpoint_pickles(folder: Path) -> list[bytes]:
    """The pickles inside of :func:`checkpoints`, and hostile ones."""
    files = (zipfile.ZipFile(io.BytesIO(content)) for content in checkpoints(folder))
    return [f.read("archive/data.pkl") for f in files] * 8 + hostile_pickles(folder / "canary")


@functools.cache
def _first_checkpoint() -> bytes:
    return checkpoints(Path())[0]


def checkpoint_of(program: bytes) -> bytes:
    """A checkpoint around a pickle, with the values of a whole one and right checksums."""
    buffer = io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(_first_checkpoint()))
    with zipfile.ZipFile(buffer, "w") as file:
        for name in whole.namelist():
            file.writestr(name, program if name.endswith("data.pkl") else whole.read(name))
    return buffer.getvalue()


def mocap_archives(folder: Path) -> list[bytes]:
    texts = {"HDM_xy.asf": asf_files(folder)[0], "HDM_xy_squat_001_120.amc": amc_files(folder)[0]}
    return [
        w(folder / "whole", texts.items()).read_bytes() for w in (mini.write_zip, mini.write_tgz)
    ]


def asf_files(folder: Path) -> list[bytes]:
    return [mocap.asf_text(mocap.made_skeleton()).encode("latin-1")]


def amc_files(folder: Path) -> list[bytes]:
    return [mocap.amc_text(mocap.made_motion(3)).encode("latin-1")]


def arrays(save: Callable, folder: Path) -> list[bytes]:
    """Keypoints in a file of numpy, and what must not be unpickled."""
    buffers = io.BytesIO(), io.BytesIO()
    for buffer, content in zip(buffers, (KEYPOINTS, _boxed({"a": 1})), strict=True):
        save(buffer, content)
    return [buffer.getvalue() for buffer in buffers]


def keypoint_files(suffix: str, folder: Path) -> list[bytes]:
    """The files of :mod:`tests.keypoint_writers` of a suffix, one of each of folders."""
    files = []
    for _, _, write in keypoint_writers.FILES.values():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            path = write(Path(place), PERSON)
            path = min(path.iterdir()) if path.is_dir() else path
            files += [path.read_bytes()] * (path.suffix == suffix)
    return files


def json_of(*contents: object) -> Callable[[Path], list[bytes]]:
    return lambda folder: [json.dumps(content).encode() for content in contents]


def command_lines(parse: Callable) -> Callable[[Path], list[bytes]]:
    """Each flag alone with its default, all of them, and a few that go together."""
    flags = [f"--{k}={v}" for k, v in vars(parse([])).items() if v not in (None, True, False)]
    flags = [flag for flag in flags if "weight_l1" not in flag]  # has another name
    several = ["--dataset=hdm05", "--hid_dim", "64", "-l", "2", "--lr=1e-3", "--schedule=cosine"]
    return lambda folder: [_BY_NUL.join(line).encode() for line in [*zip(flags), flags, several]]


def predictions(folder: Path) -> list[bytes]:
    line = ["KEYPOINTS", "--weights", "CKPT", "--device", "cpu", "--size", "1000", "800"]
    lines = [line + more for more in (
        [], ["--fov", "60"], ["--intrinsics", "1000", "1000", "500", "500"], ["--no-flip_test"],
        ["--format", "h36m16", "--person", "1"],
        ["--smooth", "one_euro", "--fps", "25", "--person_height", "1.7", "--fov=40"],
    )]  # fmt: skip
    lines.append([*line[:5], "--width", "1000", "--height=800", "--format=auto", "--person=all"])
    return [_BY_NUL.join(line).encode() for line in lines]


# ---- readers ----


def read_pose_h5(content: bytes) -> np.ndarray:
    """The archive's form, or MATLAB's."""
    name = "data" if content[:6] == b"MATLAB" else "3D_positions"
    return read_h5(content, name, "x.h5")


def read_archive(path: Path) -> None:
    for _, where, content in read_members(path, re.compile(r"\.h5$")):
        read_h5(content, "3D_positions", where)


def convert_archive(path: Path) -> None:
    flags = ["--from-archive", path, "--allow-missing", "--output_dir", path.parent / "out"]
    prepare_data_h36m.main([*map(str, flags)])


def convert_mocap(path: Path) -> None:
    prepare_data_asfamc.main([str(path), "--output", str(path.parent / "out" / "x.npz")])


def read_dataset(path: Path) -> None:
    path.replace(path.parent / HDM05.file_3d())
    load_pose_datasets(HDM05, path.parent, [HDM05.subjects_test], H36M_16)


def read_amc(path: Path) -> None:
    skeleton = prepare_data_asfamc.parse_asf(asf_files(path)[0].decode("latin-1"), "x.asf")
    motion = prepare_data_asfamc.parse_amc(path.read_bytes().decode("latin-1"), "x.amc")
    prepare_data_asfamc.forward_kinematics(skeleton, motion, "x.amc")


def gather(path: Path) -> None:
    """The table of a sweep whose only run has left this file."""
    rows = sweep.plan_jobs(Path("spec"), sweep.read_spec(_written(path, json.dumps(SPEC))), [0])
    folder = path.parent / "out" / rows["a"][0].id
    folder.mkdir(parents=True)
    path.replace(folder / sweep.RESULTS)
    with mock.patch.object(sweep, "save_comparison"):  # pictures take long
        sweep.gather("spec", rows, path.parent / "out", sweep.read_spec(path.with_name("spec")))


def _written(path: Path, text: str) -> Path:
    spec = path.with_name("spec")
    spec.write_text(text)
    return spec


def plan_sweep(path: Path) -> None:
    spec = sweep.read_spec(path)
    sweep.plan_jobs(path, spec, spec["seeds"])


def words(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="surrogateescape").split(_BY_NUL)


def predict_from(path: Path) -> None:
    """A whole prediction; the command line is what is damaged."""
    files = {
        "CKPT": path.with_name("whole.pth"), "KEYPOINTS": path.with_name("whole.npy"),
    }  # fmt: skip
    files["CKPT"].write_bytes(_first_checkpoint())
    np.save(files["KEYPOINTS"], KEYPOINTS)
    flags = [str(files.get(word, word)) for word in words(path)]
    try:
        predict.main([*flags, "--out", str(path.parent / "out" / "x.npz")])
    except OSError as error:  # of a name too long; run_script makes one line of it
        raise UserError(str(error)) from error


_SUMS = b"%064x  data_3d_h36m.npz\n" % 9
_DATA_FILE = download.DataFile("x.npz", "positions_3d", ("S1",), "")


def read_sums(path: Path) -> None:
    path.replace(path.with_name("SHA256SUMS"))
    download.read_sums(path.parent)


def read_keypoints(path: Path, suffix: str) -> None:
    _load_all(path.replace(path.with_suffix(suffix)))


def stream_lines(folder: Path) -> list[bytes]:
    points = keypoint_writers.scored(PERSON, "coco17").tolist()
    lines = [{"keypoints": pose, "size": keypoint_writers.SIZE} for pose in points]
    return [b"\n".join(json.dumps(line).encode() for line in lines[:count]) for count in (1, 3)]


def read_stream(path: Path) -> None:
    """Bad lines are answered by an error; the first of them is raised."""
    weights = path.with_name("whole.pth")
    weights.write_bytes(_first_checkpoint())
    stream = Stream(Lifter.load(weights, device="cpu"), "coco17", None, Given(fov=50), False)
    answers: list[str] = []
    with path.open("rb") as lines:
        lift_lines(lines, answers.append, stream)
    for answer in map(json.loads, answers):
        if "error" in answer:
            raise UserError(answer["error"])


def read_keypoint_folder(path: Path, name: str) -> None:
    """A folder of an image each: twice this one."""
    folder = path.with_name("images")
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}{name}").write_bytes(path.read_bytes())
    _load_all(folder)


def _load_all(path: Path) -> None:
    """With the file's own size, or else one that is given."""
    size = read_keypoint_file(path).size
    load_keypoints(path, H36M_16, size=None if size else keypoint_writers.SIZE, person="all")


def _npz(path: Path) -> object:
    return load_object_array(path, "positions_3d")


READERS = {
    "npz": Reader(npz_files, _npz, 8_000),
    "npz-pickle": Reader(pickles, _npz, 14_000, npz_of),
    "npz-poses": Reader(pose_pickles, read_dataset, 3_000, npz_of),
    "npz-download": Reader(npz_files, lambda path: download.verify(path, _DATA_FILE), 3_000),
    "checkpoint": Reader(checkpoints, lambda path: load_lifter(path, None), 4_000),
    "checkpoint-pickle": Reader(
        checkpoint_pickles, lambda path: load_lifter(path, None), 8_000, checkpoint_of
    ),
    "checkpoint-legacy": Reader(legacy_checkpoints, lambda path: load_lifter(path, None), 8_000),
    "zip": Reader(functools.partial(archives, mini.write_zip), convert_archive, 3_000),
    "zip-h5": Reader(h5_files, convert_archive, 3_000, functools.partial(zip_of, _H5_NAME)),
    "tar": Reader(tar_files, read_archive, 4_000),
    "tgz": Reader(functools.partial(archives, mini.write_tgz), read_archive, 4_000),
    "h5": Reader(h5_files, lambda path: read_pose_h5(path.read_bytes()), 12_000),
    "mat": Reader(
        mat_files, lambda path: prepare_data_h36m.read_mat(path.read_bytes(), "x"), 5_000
    ),
    "mat-packed": Reader(
        lambda folder: mat_files(folder)[1:2],
        lambda path: prepare_data_h36m.read_mat(path.read_bytes(), "x"), 5_000, packed_mat,
    ),
    "cdf": Reader(
        lambda folder: [mini.cdf(VALUES, folder)],
        lambda path: prepare_data_h36m.read_cdf(path.read_bytes(), "x"), 5_000,
    ),
    "mocap": Reader(mocap_archives, convert_mocap, 1_500),
    "asf": Reader(
        asf_files,
        lambda path: prepare_data_asfamc.parse_asf(path.read_bytes().decode("latin-1"), "x"), 3_000,
    ),
    "amc": Reader(amc_files, read_amc, 2_000),
    "sums": Reader(lambda folder: [_SUMS], read_sums, 1_000),
    "keypoints-npy": Reader(
        functools.partial(arrays, np.save), lambda path: read_keypoints(path, ".npy"), 5_000
    ),
    "keypoints-npz": Reader(
        lambda folder: arrays(np.savez, folder) + keypoint_files(".npz", folder),
        lambda path: read_keypoints(path, ".npz"), 3_000,
    ),
    "keypoints-json": Reader(
        lambda folder: [b'{"a": 1}', *keypoint_files(".json", folder)],
        lambda path: read_keypoints(path, ".json"), 6_000,
    ),
    "keypoints-csv": Reader(
        functools.partial(keypoint_files, ".csv"), lambda path: read_keypoints(path, ".csv"), 2_000
    ),
    "keypoints-txt": Reader(
        functools.partial(keypoint_files, ".txt"),
        lambda path: read_keypoint_folder(path, ".txt"), 2_000,
    ),
    "keypoints-openpose": Reader(
        functools.partial(keypoint_files, ".json"),
        lambda path: read_keypoint_folder(path, "_keypoints.json"), 2_000,
    ),
    "keypoints-stream": Reader(stream_lines, read_stream, 2_000),
    "log-csv": Reader(
        lambda folder: [b"epoch,loss,mpjpe_mm\n1,0.5,60.25\n2,0.25,50\n"], plot.read_log, 2_000
    ),
    "results-json": Reader(json_of(RESULTS), gather, 1_500),
    "body-json": Reader(
        json_of(BODY, BODY | {"proportions": None}), lambda path: read_body(path, H36M_16), 1_500
    ),
    "sweep-spec": Reader(json_of(SPEC, GRID), plan_sweep, 1_500),
    "main_gcn.py": Reader(
        command_lines(opt.parse_gcn), lambda path: opt.parse_gcn(words(path)), 3_000
    ),
    "main_graph.py": Reader(
        command_lines(opt.parse_graph), lambda path: opt.parse_graph(words(path)), 3_000
    ),
    "predict.py": Reader(predictions, predict_from, 1_500),
}  # fmt: skip


# ---- what was ever found ----


def deflated(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def many_objects(opcode: bytes) -> bytes:
    """4 million objects in a few kilobytes."""
    whole = zipfile.ZipFile(io.BytesIO(npz_of(b"\x80\x04](" + opcode * 2**22 + b"e.")))
    return deflated("positions_3d.npy", whole.read("positions_3d.npy"))


def nested_cells(depth: int) -> bytes:
    """A file of MATLAB v5 with a cell in a cell in a cell ..."""
    inner = b""
    flags = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1)
    parts, size = [], 0
    for level in range(depth):
        head = flags + (struct.pack("<II", 1, 4) + b"data\0\0\0\0" if level == depth - 1
                        else struct.pack("<II", 1, 0))  # fmt: skip
        size += len(head)
        parts.append(struct.pack("<II", 14, size) + head)
        size += 8
    return packed_mat(bytes(124) + b"\x01\0IM" + b"".join(reversed(parts)) + inner)


def chunk_bomb() -> bytes:
    """An HDF5 file with a chunk of 30 numbers that inflates to 100 MB."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        options = {"chunks": (10, 3), "compression": "gzip"}
        data = file.create_dataset("3D_positions", (10, 3), "f8", **options)
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(10**8)))
    return buffer.getvalue()


# Pickles that double at every level.
_TUPLES = doubling(b")", b"0??\x86")
DOUBLING = [
    b"\x80\x04" + _TUPLES + b".",
    b"\x80\x04" + doubling(b"]", b"0](??e") + b".",  # lists
    b"\x80\x04}" + _TUPLES + b"K\x01s.",  # tuples as a key
    b"\x80\x04}(" + _TUPLES + b"K\x01u.",
    b"\x80\x04(" + _TUPLES + b"K\x01d.",
    b"\x80\x04\x8f(" + _TUPLES + b"\x90.",  # in a set
    b"\x80\x04(" + _TUPLES + b"\x91.",
    b"\x80\x04ccollections\nOrderedDict\n" + _TUPLES + b"K\x01\x86\x85\x85R.",
]


def found() -> dict[str, list[bytes]]:
    """What once crashed, hung, filled the memory or ended in a traceback, by its reader; each is to
    be refused."""
    asf = asf_files(Path())[0]
    return {
        "npz": [*map(npz_of, DOUBLING), many_objects(b"]"), many_objects(b"}"), many_objects(b"(")],
        "mat": [nested_cells(5000), packed_mat(bytes(124) + b"\x01\0IM" + bytes(10**8))],
        "h5": [chunk_bomb()],
        "asf": [asf.replace(b"length 0.45", b"length 0")],
        "amc": [b"1\n2\n", amc_files(Path())[0] + b"head 1 2\n", b"1\nroot 0\nroot 0\n"],
        "sums": [b"\xff" + _SUMS],
    }
