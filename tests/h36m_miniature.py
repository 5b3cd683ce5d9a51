"""Human3.6M in miniature, in every form in which people have it: made people, a few frames."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data.datasets import H36M
from tools.made_bodies import made_motion

SUBJECTS = H36M.subjects_train + H36M.subjects_test
OFFICIAL = {"Photo": "TakingPhoto", "WalkDog": "WalkingDog"}
Poses = dict[tuple[str, str], np.ndarray]


@cache
def poses() -> Poses:
    """{(subject, official name): (T, 96) millimetres}, 30 a subject, exact in float32."""
    random = np.random.default_rng(4)
    made = {}
    for number, subject in enumerate(SUBJECTS):
        for action in H36M.actions:
            # The trials' names differ: "Eating" and "Eating 1", or "Eating 1" and "Eating 2".
            plain = (number + len(action)) % 2 or (subject, action) == ("S11", "Directions")
            for trial in ("", " 1") if plain else (" 1", " 2"):
                frames = int(random.integers(2, 6))
                points = made_motion(random, frames) * np.float32(1000)
                name = OFFICIAL.get(action, action) + trial
                made[subject, name] = points.reshape(frames, 96)
    return made


def expected() -> dict[str, dict[str, np.ndarray]]:
    """What a conversion must give, derived from the poses alone."""
    positions: dict[str, dict[str, np.ndarray]] = {}
    for (subject, name), values in poses().items():
        for ours, theirs in OFFICIAL.items():
            name = name.replace(theirs, ours)
        if (subject, name) != ("S11", "Directions"):
            metres = (values.astype(np.float64) / 1000).astype(np.float32)
            positions.setdefault(subject, {})[name] = metres.reshape(-1, 32, 3)
    return positions


def h5_bytes(header: int = 0, **datasets: np.ndarray) -> bytes:
    content = [(name, v.tobytes(), v.dtype.str, v.shape) for name, v in datasets.items()]
    return _h5_bytes(header, tuple(content))


@cache
def _h5_bytes(header: int, datasets: tuple[tuple[str, bytes, str, tuple[int, ...]], ...]) -> bytes:
    """Many tests write the same hundreds of files: each is made once."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=header) as file:
        for name, content, dtype, shape in datasets:
            file[name] = np.frombuffer(content, dtype).reshape(shape)
    return buffer.getvalue()


def archive_h5(values: np.ndarray) -> bytes:
    return h5_bytes(**{"3D_positions": values.T.astype(np.float64)})


def mat_v5(values: np.ndarray) -> bytes:
    scipy = pytest.importorskip("scipy")
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = values
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"data": cell}, do_compression=True)
    return buffer.getvalue()


def mat_v73(values: np.ndarray) -> bytes:
    """A cell of one matrix, as MATLAB writes it: a reference to what lies in #refs#."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file["#refs#/b"] = values.T
        file.create_dataset("data", (1, 1), dtype=h5py.ref_dtype)[0, 0] = file["#refs#/b"].ref
    content = bytearray(buffer.getvalue())
    content[:19] = b"MATLAB 7.3 MAT-file"
    return bytes(content)


def cdf(values: np.ndarray, folder: Path) -> bytes:
    cdflib = pytest.importorskip("cdflib")
    path = folder / "scratch.cdf"
    file = cdflib.cdfwrite.CDF(path, delete=True)
    file.write_var(
        {
            "Variable": "Pose", "Data_Type": file.CDF_FLOAT, "Num_Elements": 1, "Rec_Vary": True,
            "Var_Type": "zVariable", "Dim_Sizes": list(values.shape), "Compress": 6,
        },
        var_data=values[None],
    )  # fmt: skip
    file.close()
    content = path.read_bytes()
    path.unlink()
    return content


def archive_files(made: Poses) -> Iterator[tuple[str, bytes]]:
    """The preprocessed archive, with what macOS adds and folders that hold something else."""
    for (subject, name), values in made.items():
        yield f"h36m/{subject}/MyPoses/3D_positions/{name}.h5", archive_h5(values)
    yield "__MACOSX/h36m/S1/MyPoses/3D_positions/._Directions.h5", b"resource fork"
    yield "h36m/S1/StackedHourglass/Directions_1.54138969.h5", b"not to be read"
    yield "h36m/README.txt", b"x"


def official_files(
    made: Poses, suffix: str, content: Callable[[np.ndarray], bytes], subject: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """The official folders, of one subject or all, with the files that are to be left alone."""
    for (who, name), values in made.items():
        if subject in (None, who):
            yield f"{who}/MyPoseFeatures/D3_Positions/{name}{suffix}", content(values)
    for other in ("_ALL", "_ALL 1"):
        yield f"{subject or 'S1'}/MyPoseFeatures/D3_Positions/{other}{suffix}", b"not to be read"
    yield f"{subject or 'S1'}/MyPoseFeatures/D3_Positions_mono/Directions{suffix}", b"other poses"


def write_folder(folder: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def write_tgz(path: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
