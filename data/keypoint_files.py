"""Reads files of 2D keypoints as detectors and other programs write them.

JSON: nested lists, or persons with their keypoints in any of the usual structures; a folder of such
files, an image each (OpenPose); folders of Ultralytics' txt; npy, npz and csv. What is read are
points and numbers: what they mean is for ``data.keypoints``.

Nothing is executed. A file has at most :data:`MAX_BYTES`, and an image at most :data:`MAX_PERSONS`.
"""

import csv
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.archive import errors_about
from data.keypoint_formats import FORMATS
from data.npz_io import load_object_array, read_npy_header

MAX_BYTES = 256 * 2**20
MAX_PERSONS = 100  # in an image
SUFFIXES = (".json", ".npy", ".npz", ".csv", ".txt")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
_LEVELS = 8  # of lists and dictionaries, from the file to a person
_COUNTS = {len(form.points) for form in FORMATS.values()}
_MOST = 2**53  # of a number of an image or a person: floats of a csv or a txt are exact up to here

_REMEDY = "it is damaged, or holds other things than keypoints (docs/own-data.md has all forms)"
_SHAPES = "(T, joints, 2) numbers of one person expected, or (T, joints, 3) with a score"

# What programs call the same thing.
_PEOPLE = (
    "annotations", "instance_info", "instances", "people", "skeleton", "bodies", "data", "frames",
    "images", "predictions", "results", "poses",
)  # fmt: skip
_POINTS = (
    "keypoints", "pose_keypoints_2d", "pose_keypoints", "pose", "pose_landmarks", "poseLandmarks",
    "landmarks", "joints",
)  # fmt: skip
_SCORES = ("keypoint_scores", "keypoints_scores", "scores", "score")
_FRAME = ("frame_id", "frame_index", "frame", "image_id")
_PERSON = ("track_id", "idx", "person_id", "person")
_BOX = ("bbox", "box")
_POINT_SCORE = ("score", "visibility", "confidence")


@dataclass(frozen=True)
class Seen:
    """One person in one image.

    Attributes:
        frame: number or name of the image.
        person: number that the file gives the person; None if it gives none.
        points: (P, 2 to 4) numbers of each point: x and y first. NaN where there is none.
        scores: (P,) of the points, if they are stored apart.
        names: of the P points, if the file has them.
    """

    frame: int | str
    person: int | None
    points: np.ndarray
    scores: np.ndarray | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class KeypointFile:
    """What a file or a folder holds.

    Attributes:
        seen: persons in images, in the order of the file.
        size: width and height of the images in pixels, if the file has them.
        fps: images a second, if the file has them.
        fractions: x and y are fractions of the width and the height.
    """

    seen: list[Seen]
    size: tuple[int, int] | None = None
    fps: float | None = None
    fractions: bool = False


def read_keypoint_file(path: Path) -> KeypointFile:
    """Read a file of keypoints or a folder of them, or find the person in an image or a video.

    Raises:
        UserError: it is missing, damaged, too large, or holds no keypoints.
    """
    suffix = path.suffix.lower()
    if _check_size(path):
        file = _read_folder(path)
    elif suffix in IMAGES + VIDEOS:
        from data.detect import detect  # it reads with packages that few have

        file = detect(path)
    else:
        readers = {".json": _read_json, ".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv,
                   ".txt": lambda path: _yolo([(0, path)])}  # fmt: skip
        if suffix not in readers:
            raise UserError(
                f"{path}: give a file of {', '.join(SUFFIXES)}, a folder of them, an image or a "
                "video"
            )
        with errors_about(path, _REMEDY):
            file = readers[suffix](path)
    if not file.seen:
        raise UserError(f"{path} holds no keypoints of a person")
    counts = {len(seen.points) for seen in file.seen}
    if len(counts) > 1:
        raise UserError(f"{path}: persons of {min(counts)} and of {max(counts)} points: give one")
    return file


def _check_size(path: Path) -> bool:
    """Whether it is a folder.

    Raises:
        UserError: there is nothing, or a file that is empty or too large.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if stat.S_ISDIR(info.st_mode):
        return True
    if info.st_size > MAX_BYTES and path.suffix.lower() not in VIDEOS:
        raise UserError(f"{path} has {info.st_size:,} bytes, more than {MAX_BYTES:,}: split it")
    if not info.st_size and path.suffix.lower() in (".json", ".npy", ".npz"):
        raise UserError(f"{path} is empty: write or copy it again")
    return False


# ---- folders ----


def _read_folder(folder: Path) -> KeypointFile:
    """Files of an image each: OpenPose's JSON, or txt of Ultralytics."""
    for suffix in (".json", ".txt"):
        paths = sorted(path for path in folder.iterdir() if path.suffix == suffix)
        if not paths:
            continue
        for path in paths:
            _check_size(path)
        images = list(zip(_numbered([path.stem for path in paths]), paths, strict=True))
        if suffix == ".txt":
            return _yolo(images)
        seen = []
        for number, path in images:
            with errors_about(path, _REMEDY):
                seen += [replace(s, frame=number) for s in _walk(_load_json(path), number)]
        return KeypointFile(seen)
    raise UserError(f"{folder} holds no keypoints: no json of OpenPose, no txt of Ultralytics")


def _numbered(names: Sequence[str]) -> list[int]:
    """The number of each image: the last digits of its name, or its place if these do not tell
    the images apart."""
    digits = [re.findall(r"\d{1,15}", name)[-1:] for name in names]
    numbers = [int(found[0]) if found else None for found in digits]
    if None in numbers or len(set(numbers)) < len(numbers):
        return list(range(len(names)))
    return numbers


def _yolo(images: Iterable[tuple[int, Path]]) -> KeypointFile:
    """Ultralytics' txt of images: a person a line, class, box (4), points; then perhaps the score
    and the number of the person. All but these are fractions of the image."""
    seen = []
    for frame, path in images:
        for values in _lines_of_numbers(path):
            row = _pose_of_row(values[5:])
            if row is None:
                raise UserError(
                    f"{path}: {len(values)} numbers in a line: Ultralytics writes class, box and "
                    "17 points (name it .csv if it holds points alone)"
                )
            points, rest = row
            person = int(rest[-1]) if len(rest) and _is_number(rest[-1]) else None
            seen.append(Seen(frame, person, points))
    return KeypointFile(seen, fractions=True)


def _lines_of_numbers(path: Path) -> list[np.ndarray]:
    with errors_about(path, _REMEDY):
        try:
            text = path.read_text(encoding="ascii")
            return [np.array(line.split(), dtype=np.float64) for line in text.splitlines()]
        except ValueError:
            raise UserError(
                f"{path} has other things than numbers: Ultralytics writes class, box and 17 "
                "points in a line"
            ) from None


def _pose_of_row(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """17 points of two or three numbers, and up to two numbers that follow."""
    for columns in (3, 2):
        rest = len(values) - 17 * columns
        if 0 <= rest <= 2:
            return values[: 17 * columns].reshape(17, columns), values[17 * columns :]
    return None


def _is_number(value: Any) -> bool:
    """Whether a value numbers an image or a person."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value <= _MOST
        and value == int(value)
    )


# ---- arrays ----


def _read_npy(path: Path) -> KeypointFile:
    with path.open("rb") as file:
        if read_npy_header(file)[2].hasobject:
            raise UserError(f"{path} holds objects of Python: save numbers alone, (T, joints, 2)")
    return from_array(path, np.load(path, allow_pickle=False))


def from_array(name: object, array: Any, scores: Any = None) -> KeypointFile:
    """(T, P, 2 to 4) numbers, or (P, 2 to 4) of one image, or a row of numbers an image.

    Args:
        name: what messages call it.
        scores: (T, P), if they are apart.

    Raises:
        UserError: it has another shape.
    """
    array = _numbers(name, array)
    if array.ndim != 3 or not 2 <= array.shape[2] <= 4 or 0 in array.shape:
        remedy = (
            "; of several persons give one, keypoints[:, 0], a file for each, or JSON with track_id"
        )
        raise UserError(
            f"{name}: {_SHAPES}, got the shape {array.shape}{remedy if array.ndim == 4 else ''}"
        )
    if array.shape[1] not in _COUNTS and array.shape[0] in _COUNTS:
        raise UserError(
            f"{name}: the shape {array.shape} has {array.shape[1]} joints, as no format does, and "
            f"{array.shape[0]} images: {_SHAPES}; is it transposed?"
        )
    if scores is not None:
        scores = np.asarray(scores, dtype=np.float64).reshape(array.shape[:2])
    return KeypointFile(
        [
            Seen(frame, None, points, None if scores is None else scores[frame])
            for frame, points in enumerate(array)
        ]
    )


def _numbers(name: object, array: Any) -> np.ndarray:
    """An array of numbers, in which the rows of flat points, and one image, are (T, P, 2 to 4).

    Raises:
        UserError: it holds other things than real numbers, or rows of another length.
    """
    try:
        if np.iscomplexobj(array):
            raise UserError(f"{name}: real numbers expected, got complex ones: give x and y apart")
        array = np.asarray(array, dtype=np.float64)
        if array.ndim != 2:
            return array
        flat = array.shape[1] > 4
        return np.stack([_points_of_flat(row) for row in array]) if flat else array[None]
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {_SHAPES} ({str(error)[:80]})") from None


def _points_of_flat(values: Any) -> np.ndarray:
    """(P, 2 to 4) of the numbers of a person in a row."""
    values = np.asarray(values, dtype=np.float64)
    for columns in (3, 2, 4):
        if values.ndim == 1 and len(values) in {columns * count for count in _COUNTS}:
            return values.reshape(-1, columns)
    raise ValueError(f"{values.size} numbers are not the points of a known format")


def _read_npz(path: Path) -> KeypointFile:
    """The array ``keypoints``, VideoPose3D's custom data set, or the only array."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if "positions_2d" in names:
        return _read_custom(path)
    if "positions_3d" in names:
        raise UserError(f"{path} is a data set of 3D poses: give 2D keypoints")
    known = [name for name in ("keypoints", "keypoints_2d") if name in names]
    if not known and len(names) != 1:
        raise UserError(
            f"{path} has the arrays {', '.join(names)[:200]}: name one of them keypoints"
            if names
            else f"{path} has no array: store one named keypoints"
        )
    array = load_object_array(path, (known or names)[0])
    if "metadata" in names:
        return _read_detectron(array, load_object_array(path, "metadata"))
    others = {name: load_object_array(path, name, optional=True) for name in ("size", "fps")}
    scores = load_object_array(path, "scores", optional=True) if known else None
    file = from_array(path, array, scores)
    return replace(file, size=_as_size(others["size"]), fps=_as_fps(others["fps"]))


def _read_detectron(images: Any, about: dict) -> KeypointFile:
    """What VideoPose3D's scripts write of Detectron: for each image and class (the second is that
    of persons) an array (persons, 4, P) of x, y, logit and score."""
    seen = [
        Seen(frame, None, np.asarray(person, dtype=np.float64).T)
        for frame, classes in enumerate(images)
        for person in (classes[1] if len(classes) > 1 else ())
    ]
    return KeypointFile(seen, _as_size([about.get("w"), about.get("h")]))


def _read_custom(path: Path) -> KeypointFile:
    """VideoPose3D's ``data_2d_custom_*.npz``: {video: {"custom": [(T, 17, 2)]}}, and the size."""
    videos = load_object_array(path, "positions_2d")
    metadata = load_object_array(path, "metadata", optional=True)
    found = [(video, views) for video, actions in videos.items() for views in actions.values()]
    if len(found) != 1 or len(found[0][1]) != 1:
        raise UserError(f"{path} holds {len(found)} sequences: give a file with one view of one")
    video, (array,) = found[0]
    about = metadata.get("video_metadata", {}) if isinstance(metadata, dict) else {}
    size = about.get(video, {})
    return replace(from_array(path, array), size=_as_size([size.get("w"), size.get("h")]))


def _read_csv(path: Path) -> KeypointFile:
    """A row a person in an image: numbers alone, in the order of the points; or with a header of
    NAME_x, NAME_y and perhaps NAME_score, and perhaps ``frame`` and ``person``."""
    rows = _csv_rows(path)
    header = [cell.strip() for cell in rows[0]] if rows else []
    names = [cell[:-2] for cell in header if re.fullmatch(r".+[_.](x|X)", cell)]
    if not names:
        values = [_numbers_of_row(path, *row) for row in enumerate(rows, 1)]
        return from_array(path, values) if values else KeypointFile([])
    places = {cell: i for i, cell in enumerate(header)}
    columns = [[places[name + end] for end in _ends(name, places)] for name in names]
    if len({len(each) for each in columns}) > 1:
        raise UserError(f"{path}: some points have a score and others not: give all of them one")
    by_name = None if all(name.isdecimal() for name in names) else tuple(names)
    seen = []
    for number, row in enumerate(rows[1:]):
        values = np.array(_numbers_of_row(path, number + 2, row))
        labels = {word: values[places[word]] for word in (*_FRAME, *_PERSON) if word in places}
        frame, person = (
            next((int(labels[word]) for word in words if _is_number(labels.get(word))), None)
            for words in (_FRAME, _PERSON)
        )
        frame = number if frame is None else frame
        seen.append(Seen(frame, person, values[np.array(columns)], None, by_name))
    return KeypointFile(seen)


def _csv_rows(path: Path) -> list[list[str]]:
    """The cells of the rows that are not blank, between commas, semicolons or tabs."""
    text = path.read_text(encoding="utf-8-sig")
    first = text.partition("\n")[0]
    between = next((mark for mark in ";\t" if mark in first), ",")
    rows = list(csv.reader(io.StringIO(text), delimiter=between))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    widths = set(map(len, rows))
    if len(widths) > 1:
        raise UserError(
            f"{path}: rows of {min(widths)} and of {max(widths)} cells: leave cells of absent "
            "points blank"
        )
    return rows


def _numbers_of_row(path: Path, number: int, row: Sequence[str]) -> list[float]:
    """The numbers of a row; NaN for a blank cell."""
    try:
        return [float(cell) if cell.strip() else np.nan for cell in row]
    except ValueError:
        raise UserError(
            f"{path}: row {number} has other things than numbers (a header has the names NAME_x, "
            "NAME_y)"
        ) from None


def _ends(name: str, places: dict[str, int]) -> list[str]:
    """The ends of the columns of a point: x, y, and its score if there is one."""
    pairs = [("_x", "_y"), ("_X", "_Y"), (".x", ".y"), (".X", ".Y")]
    x, y = next(pair for pair in pairs if f"{name}{pair[0]}" in places)
    score = [x[0] + word for word in _POINT_SCORE if f"{name}{x[0]}{word}" in places]
    return [x, y, *score[:1]]


# ---- JSON ----


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))


def _read_json(path: Path) -> KeypointFile:
    content = _load_json(path)
    array = _as_array(content)
    if array is not None and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] <= 4)):
        return from_array(path, array)
    seen = _with_numbers(_walk(content))
    if not isinstance(content, dict):
        return KeypointFile(seen)
    names, size = _names_in(content), content.get("size", content.get("image_size"))
    if "annotations" in content:  # the third number is 0 absent, 1 hidden, 2 visible
        seen = [
            replace(s, points=np.c_[s.points[:, :2], s.points[:, 2:].clip(max=1)]) for s in seen
        ]
        sizes = _sizes_in(content)
        if len(sizes) > 1:
            raise UserError(f"{path}: images of {len(sizes)} sizes: make a file for each size")
        size = next(iter(sizes), size)
    if names:
        seen = [replace(s, names=names) if len(names) == len(s.points) else s for s in seen]
    size = size or [content.get("width"), content.get("height")]
    return KeypointFile(seen, _as_size(size), _as_fps(content.get("fps")))


def _names_in(content: dict) -> tuple[str, ...] | None:
    """The names of the points, as MMPose or COCO's annotations have them."""
    meta = content.get("meta_info")
    if isinstance(meta, dict) and isinstance(meta.get("keypoint_id2name"), dict):
        named = {int(number): str(name) for number, name in meta["keypoint_id2name"].items()}
        return tuple(named[number] for number in sorted(named))
    if "annotations" not in content:
        return None
    names = [c["keypoints"] for c in content.get("categories", []) if "keypoints" in c]
    return tuple(map(str, names[0])) if names else None


def _sizes_in(content: dict) -> set[tuple[int, int]]:
    """The sizes of the images of COCO's annotations."""
    return {
        (image["width"], image["height"])
        for image in content.get("images", [])
        if "width" in image and "height" in image
    }


def _as_array(content: Any) -> np.ndarray | None:
    """Nested lists of numbers as an array; None if there is anything else, or another number of
    persons in each image."""
    try:
        return np.asarray(content, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _walk(value: Any, frame: int | str | None = None, level: int = 0) -> Iterator[Seen]:
    """The persons in what JSON holds, whatever is around them."""
    if level > _LEVELS:
        raise ValueError("too many levels of lists")
    if isinstance(value, dict):
        yield from _walk_dict(value, frame, level)
    elif isinstance(value, list):
        if _is_points(value):
            yield _person({_POINTS[0]: value}, value, frame)
            return
        # Persons with boxes and without a number of an image are those of one image.
        if frame is None and value and all(_has_box(child) for child in value):
            frame = 0
        for number, child in enumerate(value):
            yield from _walk(child, number if frame is None else frame, level + 1)


def _walk_dict(value: dict, frame: int | str | None, level: int) -> Iterator[Seen]:
    named = next((value[key] for key in _FRAME if key in value), None)
    if isinstance(named, str) or _is_number(named):
        frame = named if isinstance(named, str) else int(named)
    for key in _POINTS:
        if key in value and _is_points(value[key]):
            yield _person(value, value[key], frame)
            return
    if _is_points(value):
        yield _person({}, value, frame)
        return
    inner = [key for key in (*_PEOPLE, *_POINTS) if isinstance(value.get(key), (list, dict))]
    if inner:
        yield from _walk(value[inner[0]], frame, level + 1)
        return
    for key, child in value.items():  # the files of images, as AlphaPose names them
        if isinstance(child, (dict, list)):
            yield from _walk(child, key if frame is None else frame, level + 1)


def _has_box(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and any(key in value for key in _BOX)
        and not any(key in value for key in _FRAME)
    )


def _is_points(value: Any) -> bool:
    """Whether a value holds the points of one person, and not several persons or other things."""
    if isinstance(value, dict):
        columns = isinstance(value.get("x"), list) and isinstance(value.get("y"), list)
        return columns or (len(value) > 4 and all(map(_is_point, value.values())))
    if not isinstance(value, list) or len(value) < 5:
        return False
    return all(map(_is_point, value)) or all(isinstance(v, (int, float)) for v in value)


def _is_point(value: Any) -> bool:
    if isinstance(value, dict):
        at = value.get("position", value)
        return isinstance(at, dict) and "x" in at and "y" in at
    return (
        isinstance(value, list)
        and 2 <= len(value) <= 4
        and all(v is None or isinstance(v, (int, float)) for v in value)
    )


def _person(about: dict, value: Any, frame: int | str | None) -> Seen:
    """
    Args:
        about: what the file says of the person.
        value: the person's points.
    """
    names = None
    if isinstance(value, dict) and isinstance(value.get("x"), list):
        columns = [value["x"], value["y"], *[value[k] for k in ("visible",) if value.get(k)]]
        points = np.array(columns, dtype=np.float64).T
    elif isinstance(value, list) and isinstance(value[0], (int, float)):
        points = _points_of_flat(value)
    else:
        names = tuple(map(str, value)) if isinstance(value, dict) else None
        each = list(value.values()) if isinstance(value, dict) else value
        if isinstance(each[0], dict):
            named = [point.get("name", point.get("part")) for point in each]
            names = tuple(named) if all(isinstance(name, str) for name in named) else names
            points = np.array([_numbers_of(point) for point in each], dtype=np.float64)
        else:
            points = np.array(each, dtype=np.float64)
    scores = next((about[key] for key in _SCORES if isinstance(about.get(key), list)), None)
    if scores is not None:
        scores = np.array(scores, dtype=np.float64).reshape(len(points))
    person = next((about[key] for key in _PERSON if key in about), None)
    person = person[0] if isinstance(person, list) and len(person) == 1 else person
    return Seen(
        0 if frame is None else frame, int(person) if _is_number(person) else None, points, scores,
        names,
    )  # fmt: skip


def _numbers_of(point: dict) -> list[float]:
    """x, y, z if there is one, and the score, if there is one."""
    at = point.get("position", point)
    score = [point[key] for key in _POINT_SCORE if key in point][:1]
    if "z" in at:
        return [at["x"], at["y"], at["z"], *(score or [np.nan])]
    return [at["x"], at["y"], *score]


def _with_numbers(seen: Iterable[Seen]) -> list[Seen]:
    """Names of images replaced by their numbers."""
    seen = list(seen)
    names = list(dict.fromkeys(s.frame for s in seen if isinstance(s.frame, str)))
    if not names:
        return seen
    numbers = dict(zip(names, _numbered([Path(name).stem for name in names]), strict=True))
    return [replace(s, frame=numbers.get(s.frame, s.frame)) for s in seen]


def _as_size(value: Any) -> tuple[int, int] | None:
    """Width and height, if a file's value has them."""
    value = np.asarray([] if value is None else value).ravel().tolist()
    if len(value) != 2 or not all(_is_number(v) and v > 0 for v in value):
        return None
    return int(value[0]), int(value[1])


def _as_fps(value: Any) -> float | None:
    value = np.asarray([] if value is None else value).ravel().tolist()
    if len(value) != 1 or not isinstance(value[0], (int, float)) or not 0 < value[0] < 10**6:
        return None
    return float(value[0])
