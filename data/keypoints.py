"""From a file of keypoints to our joints in pixels: a track for each person.

The format is recognised, the units are checked, persons are followed through the images, and what
was not seen is filled in and marked.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.skeleton import Skeleton
from data.keypoint_files import MAX_PERSONS, KeypointFile, Seen, from_array, read_keypoint_file
from data.keypoint_formats import (
    FORMATS,
    KeypointFormat,
    format_of_names,
    format_of_poses,
    plain_name,
)

Size = tuple[int, int]

_ASK_FOR_SIZE = "it does not say how large the images are: give --size WIDTH HEIGHT"
# Images in which a person was not seen are filled in if they are at most so many, half a second of
# video; longer gaps stay gaps.
LONGEST_GAP = 15
# A point was not seen if its score is below this, and below half of the usual score of the file:
# Detectron2's scores are small altogether.
_LOW_SCORE, _LOW_SHARE = 0.3, 0.5
_REACH = 10.0  # larger than metres and normalised coordinates, smaller than a person in pixels
_ABSURD = 1e7  # no pixel of any image, and no score
_LARGEST_SCORE = 20.0  # RTMPose's exceed 1
_BESIDE = 0.1  # of the coordinates: fractions of the image are below 0 for a few points only
_OUTSIDE = 0.25  # of the points: some detectors place hidden feet below the image


@dataclass(frozen=True)
class Track:
    """One person in T images, as a network takes it.

    Attributes:
        person: the file's number, or 1, 2, ... from the person that is seen most and largest.
        frames: (T,) numbers of the images.
        keypoints: (T, J, 2) float32, pixels.
        scores: (T, J) float32, the least of the points of a joint; NaN where the file has none.
        interpolated: (T, J) whether a point of the joint was not seen in this image.
    """

    person: int
    frames: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    interpolated: np.ndarray


@dataclass(frozen=True)
class Keypoints:
    """What a file of keypoints holds.

    Attributes:
        tracks: the persons that were asked for.
        images: {person: number of images}, the one that is seen most and largest first.
        left_out: why persons that were asked for are not among the tracks.
        form: the format.
        why: what it was recognised by.
        size: width and height of the images in pixels.
        fps: images a second, if the file says so.
    """

    tracks: list[Track]
    images: dict[int, int]
    left_out: list[str]
    form: KeypointFormat
    why: str
    size: Size
    fps: float | None


@dataclass(frozen=True)
class _Points:
    """N persons in images: (N, P, 2) and (N, P); NaN where there is none."""

    xy: np.ndarray
    scores: np.ndarray


def load_keypoints(
    path: Path,
    skeleton: Skeleton,
    word: str = "auto",
    size: Size | None = None,
    person: int | str | None = None,
) -> Keypoints:
    """Read a file or a folder of keypoints.

    Args:
        skeleton: whose joints are needed.
        word: a format of :data:`data.keypoint_formats.FORMATS`, or "auto".
        size: width and height of the images; None takes them from the file.
        person: a number, "all", or None for who is seen most and largest.

    Raises:
        UserError: it cannot be read; the format is unknown, or lacks a joint; the numbers are not
            pixels of an image of this size; the size is not known; there is no such person; or a
            joint of the person is never seen.
    """
    return _keypoints_of(path, read_keypoint_file(path), skeleton, word, size, person)


def keypoints_of_array(
    points: Any, skeleton: Skeleton, word: str = "auto", size: Size | None = None
) -> Keypoints:
    """The keypoints of one person in images: the same as :func:`load_keypoints` for a file of them.

    Args:
        points: (T, P, 2 to 4), or (P, 2 to 4) of one image; see :class:`data.keypoint_files.Seen`.

    Raises:
        UserError: it is no such array; and as :func:`load_keypoints`.
    """
    file = from_array("keypoints", points)
    return _keypoints_of("keypoints", file, skeleton, word, size, None)


def _keypoints_of(
    name: object,
    file: KeypointFile,
    skeleton: Skeleton,
    word: str,
    size: Size | None,
    person: int | str | None,
) -> Keypoints:
    try:
        size = _one_size(file.size, size, file.fractions)
        form, why, columns = _recognise(file, word, size)
        absent = [name for name in skeleton.names if name not in form.rules]
        if absent:
            raise UserError(
                f"{form.title} ({len(form.points)} points) does not have {', '.join(absent)}, one "
                f"of the {skeleton.num_joints} joints that the network needs"
            )
        points = _in_pixels(_split(columns, file.seen, form), form, file.fractions, size)
        rows = _follow(file.seen, points)
        tracks, left_out = [], []
        for number in _asked_for(rows, person):
            try:
                tracks.append(_track(number, rows[number], file.seen, points, form, skeleton))
            except UserError as error:
                left_out.append(str(error))
        if not tracks:
            raise UserError(left_out[0])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    images = {number: len(rows[number]) for number in rows}
    return Keypoints(tracks, images, left_out, form, why, size, file.fps)


def _asked_for(rows: dict[int, list[int]], person: int | str | None) -> list[int]:
    if person == "all":
        return list(rows)
    if person is None:
        return list(rows)[:1]
    if person not in rows:
        known = ", ".join(map(str, list(rows)[:20]))
        raise UserError(f"there is no person {person}: --person takes {known} or all")
    return [person]


# ---- what the numbers are ----


def _one_size(of_file: Size | None, given: Size | None, fractions: bool) -> Size | None:
    if of_file and given and tuple(given) != of_file:
        raise UserError(
            f"its images have {of_file[0]} x {of_file[1]} pixels, not {given[0]} x {given[1]}: "
            "leave --size out"
        )
    if fractions and not (of_file or given):
        raise UserError(_ASK_FOR_SIZE)
    return of_file or given


def _recognise(
    file: KeypointFile, word: str, size: Size | None
) -> tuple[KeypointFormat, str, np.ndarray]:
    """The format, why it is that one, and the points (N, P, 2 to 4) in its order."""
    columns = _columns(file.seen)
    if np.isnan(columns[..., :2]).all():
        raise UserError("all of its points are zero or absent")
    _refuse_3d(columns)
    form, names = FORMATS.get(word), file.seen[0].names
    if any(seen.names != names for seen in file.seen):
        raise UserError("the names of its points are not the same in all of its images")
    if names:
        named = form or format_of_names(names)
        if named is None:
            raise UserError(f"its points {', '.join(names)[:200]} are none of the known formats")
        places = {plain_name(name): place for place, name in enumerate(names)}
        order = [places.get(plain_name(point), -1) for point in named.points]  # -1: absent
        if form is None or max(order) >= 0:
            columns = np.concatenate([columns, np.full_like(columns[:, :1], np.nan)], axis=1)
            return named, "by the names of its points", columns[:, order]
    if form is None:
        scale = size if size and are_small(columns[..., :2]) else (1, 1)
        return *format_of_poses(columns[..., :2] * np.array(scale)), columns
    if len(form.points) != columns.shape[1]:
        raise UserError(
            f"it has {columns.shape[1]} points, and --format {word} has {len(form.points)}"
        )
    return form, "as --format says", columns


def _columns(seen: Sequence[Seen]) -> np.ndarray:
    """The points (N, P, 2 to 4) of persons in images; NaN for what is absent or absurd."""
    width = max(person.points.shape[1] for person in seen)
    columns = np.full((len(seen), len(seen[0].points), width), np.nan)
    for row, person in zip(columns, seen, strict=True):
        row[:, : person.points.shape[1]] = person.points
    columns[~(abs(columns) < _ABSURD)] = np.nan
    columns[(columns[..., :2] == 0).all(axis=-1)] = np.nan  # how detectors write an absent point
    return columns


def are_seen(xy: np.ndarray) -> np.ndarray:
    """Which points (..., 2) were found: others are NaN or zero, as detectors write them."""
    return (abs(xy) < _ABSURD).all(axis=-1) & (xy != 0).any(axis=-1)


def are_small(xy: np.ndarray) -> bool:
    """Whether the numbers cannot be pixels: fractions of the image, metres, normalised ones."""
    return np.nanmax(abs(xy)) < _REACH


def _refuse_3d(columns: np.ndarray) -> None:
    """Refuse poses in space.

    Raises:
        UserError: the first two of three or more numbers are metres, or all three are millimetres.
    """
    if columns.shape[-1] < 3:
        return
    xy, third = columns[..., :2], columns[..., 2]
    negative = (xy < 0)[np.isfinite(xy)].mean()
    if negative <= _BESIDE:
        return
    third = third[np.isfinite(third)]
    is_score = third.min(initial=0) >= 0 and third.max(initial=0) <= 1
    if are_small(xy) and not is_score:
        raise UserError("it holds 3D poses in metres, and 2D keypoints in pixels are lifted")
    if negative > _OUTSIDE and abs(third).max(initial=0) > _LARGEST_SCORE:
        raise UserError("it holds 3D poses in millimetres, and 2D keypoints in pixels are lifted")


def _split(columns: np.ndarray, seen: Sequence[Seen], form: KeypointFormat) -> _Points:
    """Which of the numbers is the score. MediaPipe's third one is z; of four the last is it.

    Raises:
        UserError: the third number is no score, or all scores are zero.
    """
    xy, count = columns[..., :2], columns.shape[-1]
    scores = np.full(columns.shape[:2], np.nan)
    if count == 4:
        scores = columns[..., 3]
    elif count == 3:
        third = columns[..., 2][np.isfinite(columns[..., 2])]
        is_score = third.min(initial=0) >= 0
        if form.word != "mediapipe33" and (not is_score or third.max(initial=0) > _LARGEST_SCORE):
            raise UserError(
                "the third number of its points is no score: it holds 3D poses, or scores in "
                "percent; 2D keypoints in pixels, with scores of 0 to 1, are lifted"
            )
        if form.word != "mediapipe33" or (is_score and 0 < third.max(initial=0) <= 1):
            scores = columns[..., 2]
    for row, person in enumerate(seen):
        if person.scores is not None and len(person.scores) == scores.shape[1]:
            scores[row] = person.scores
    if (scores == 0).any() and np.nanmax(scores) == 0:
        raise UserError(
            "all of its scores are zero: nothing was seen; leave them out if they mean nothing"
        )
    return _Points(xy, scores)


def _in_pixels(
    points: _Points, form: KeypointFormat, fractions: bool, size: Size | None
) -> _Points:
    """The points in pixels.

    Raises:
        UserError: they are in other units, the size of the images is not known, or they do not lie
            in images of this size.
    """
    xy, scaled = points.xy, fractions
    if are_small(xy) and not fractions:
        inside = np.nanpercentile(xy, 5) > -0.5 and np.nanpercentile(xy, 95) < 1.5
        scaled = form.word == "mediapipe33" and inside and np.nanmedian(xy) > 0.1
        if not scaled:
            kind = (
                "fractions of the image"
                if np.nanmin(xy) >= 0 and inside
                else "already normalised, or metres"
            )
            raise UserError(
                f"its points are not pixels but {kind}: multiply them by the image's size"
            )
    if size is None:
        raise UserError(_ASK_FOR_SIZE)
    if scaled:
        xy = xy * np.array(size)
    _check_inside(xy, size)
    return _Points(xy, points.scores)


def _check_inside(xy: np.ndarray, size: Size) -> None:
    """
    Raises:
        UserError: a quarter of the points is outside of the image, or they reach beyond it and fit
            into one with width and height exchanged.
    """

    def outside(limits: Sequence[int]) -> float:
        margin = 0.05 * np.array(limits)
        beyond = (xy < -margin) | (xy > np.array(limits) + margin)
        return beyond.any(axis=-1)[np.isfinite(xy).all(axis=-1)].mean()

    share = outside(size)
    if share > 0.02 and outside(size[::-1]) < 0.1 * share:
        raise UserError(
            f"its points reach x {np.nanmax(xy[..., 0]):.0f}, y {np.nanmax(xy[..., 1]):.0f}: width "
            f"and height are exchanged, give --size {size[1]} {size[0]}"
        )
    if share > _OUTSIDE:
        raise UserError(
            f"{share:.0%} of its points are outside of the image of {size[0]} x {size[1]} pixels "
            f"(x {np.nanmin(xy[..., 0]):.0f} to {np.nanmax(xy[..., 0]):.0f}, y "
            f"{np.nanmin(xy[..., 1]):.0f} to {np.nanmax(xy[..., 1]):.0f}): give the images' --size"
        )


# ---- who is who ----


def _follow(seen: Sequence[Seen], points: _Points) -> dict[int, list[int]]:
    """{person: rows, by image}, the person that is seen most and largest first.

    Persons without numbers are followed from image to image: who is nearest is the same, if nearer
    than half of the own extent. Where no image has two, all are one person.
    """
    with_points = np.isfinite(points.xy).all(axis=-1).any(axis=-1)
    rows = sorted(np.flatnonzero(with_points).tolist(), key=lambda row: seen[row].frame)
    numbered = all(seen[row].person is not None for row in rows)
    if numbered:
        labels = [seen[row].person for row in rows]
    elif len({seen[row].frame for row in rows}) == len(rows):
        labels = [1] * len(rows)
    else:
        labels = _link(rows, seen, points)
    tracks: dict[int, list[int]] = {}
    for row, label in zip(rows, labels, strict=True):
        tracks.setdefault(label, []).append(row)
    extents = _extents(points.xy)
    for label, of_person in tracks.items():
        frames = [seen[row].frame for row in of_person]
        if len(set(frames)) < len(frames):
            raise UserError(f"person {label} is more than once in an image")
    order = sorted(tracks, key=lambda label: -sum(extents[row] for row in tracks[label]))
    return {label if numbered else place: tracks[label] for place, label in enumerate(order, 1)}


def _extents(xy: np.ndarray) -> np.ndarray:
    """(N,) diagonals of the boxes around persons (N, P, 2); 0 where there are no points."""
    low = np.where(np.isnan(xy), np.inf, xy).min(axis=1)
    high = np.where(np.isnan(xy), -np.inf, xy).max(axis=1)
    return np.nan_to_num(np.linalg.norm((high - low).clip(min=0), axis=-1), posinf=0)


def _link(rows: Sequence[int], seen: Sequence[Seen], points: _Points) -> list[int]:
    """The number of the person of each row; the rows are sorted by image."""
    extents, labels = _extents(points.xy), []
    latest: dict[int, int] = {}  # person: row
    people = 0
    for frame, in_image in itertools.groupby(rows, key=lambda row: seen[row].frame):
        group = list(in_image)
        if len(group) > MAX_PERSONS:
            raise UserError(f"more than {MAX_PERSONS} persons in image {frame}")
        latest = {p: r for p, r in latest.items() if frame - seen[r].frame <= 2 * LONGEST_GAP}
        pairs = sorted(
            (distance, row, person)
            for row in group
            for person, last in latest.items()
            for distance in [_distance(points.xy[row], points.xy[last])]
            if distance < 0.5 * max(extents[row], extents[last])
        )
        found: dict[int, int] = {}
        for _, row, person in pairs:
            if row not in found and person not in found.values():
                found[row] = person
        for row in group:
            if row not in found:
                people += 1
                found[row] = people
            latest[found[row]] = row
        labels += [found[row] for row in group]
    return labels


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the points (P, 2) that both have; infinite if there are none."""
    distances = np.linalg.norm(one - other, axis=-1)
    distances = distances[np.isfinite(distances)]
    return float(distances.mean()) if len(distances) else np.inf


# ---- what is missing ----


def _track(
    person: int,
    rows: Sequence[int],
    seen: Sequence[Seen],
    points: _Points,
    form: KeypointFormat,
    skeleton: Skeleton,
) -> Track:
    """A person's joints, in all images from the first to the last but those of long gaps.

    Raises:
        UserError: a point that is needed is never seen.
    """
    frames_seen = np.array([seen[row].frame for row in rows])
    frames = _with_short_gaps(frames_seen)
    place = np.searchsorted(frames, frames_seen)
    xy = np.full((len(frames), *points.xy.shape[1:]), np.nan)
    scores = np.full(xy.shape[:2], np.nan)
    xy[place], scores[place] = points.xy[rows], points.scores[rows]
    joints = [form.indices(name) for name in skeleton.names]
    needed = sorted(set(itertools.chain(*joints)))
    found = np.isfinite(xy).all(axis=-1)
    trusted = found & ~_are_low(scores)
    trusted |= found & ~trusted.any(axis=0)  # nothing better is known
    absent = [form.points[i] for i in needed if not trusted[:, i].any()]
    if absent:
        raise UserError(
            f"person {person} is never seen with {', '.join(absent)}: a pose is lifted from the "
            "whole body (--person N takes another person)"
        )
    for i in needed:
        _fill_in(xy[:, i], trusted[:, i], frames)
    return Track(
        person,
        frames,
        (_joined(np.add, xy, joints) / np.array([[len(i)] for i in joints])).astype(np.float32),
        _joined(np.minimum, scores, joints).astype(np.float32),
        ~_joined(np.logical_and, trusted, joints),
    )


def _fill_in(xy: np.ndarray, known: np.ndarray, frames: np.ndarray) -> None:
    """Interpolate a point (T, 2) in the images (T,) in which it is not known."""
    if not known.all():
        for values in xy.T:
            values[:] = np.interp(frames, frames[known], values[known])


def _joined(ufunc: np.ufunc, values: np.ndarray, joints: Sequence[Sequence[int]]) -> np.ndarray:
    """Values of points (T, P, ...) -> those of J joints (T, J, ...): a sum, the least, or whether
    all are true, over the points of each."""
    starts = np.cumsum([0, *map(len, joints[:-1])])
    return ufunc.reduceat(values[:, np.concatenate(joints)], starts, axis=1)


def _with_short_gaps(frames: np.ndarray) -> np.ndarray:
    """Sorted numbers of images, and those between them where not too many are left out."""
    gaps = np.diff(frames)
    between = [
        np.arange(frame + 1, frame + gap)
        for frame, gap in zip(frames[:-1][gaps > 1], gaps[gaps > 1], strict=True)
        if gap <= LONGEST_GAP + 1
    ]
    return np.sort(np.concatenate([frames, *between]))


def _are_low(scores: np.ndarray) -> np.ndarray:
    """Which scores say that a point was not seen; those that are NaN do not."""
    low = scores < _LOW_SCORE
    if low.any():
        low &= scores < _LOW_SHARE * np.nanmedian(scores)
    return low
