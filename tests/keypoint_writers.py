"""A made person in front of a camera, and files of it as detectors and programs write them."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.skeleton import H36M_17
from data.keypoint_formats import FORMATS
from data.npz_io import save_object_arrays
from tools.made_bodies import detector_points, made_motion

SIZE = (1000, 800)
FRAMES = 6
_FOCAL = 900.0
Points = dict[str, np.ndarray]  # {name: (T, 2) pixels}


def made_person(seed: int = 3, frames: int = FRAMES, shift: float = 0.0) -> Points:
    """All points of all formats, of one person who waves the arms and walks about, in pixels.

    Args:
        shift: metres to the right of the camera's axis.
    """
    rng = np.random.default_rng(seed)
    pose = made_motion(rng, 1)[:, list(H36M_17.stored)].astype(np.float64)
    pose = pose - pose[:, :1]
    step = rng.normal(0, 0.02, (frames, 17, 3)).cumsum(axis=0)
    points = {}
    for name, place in detector_points(pose + step).items():
        x, depth, y = place[:, 0] + shift, place[:, 1] + 4.5, -place[:, 2]
        points[name] = np.stack([x, y], 1) / depth[:, None] * _FOCAL + np.array(SIZE) / 2
    return points


def points_of(person: Points, word: str) -> np.ndarray:
    """(T, P, 2) in the order of a format; the points that nobody uses are beside others."""
    names = FORMATS[word].points
    return np.stack([person.get(name, person["Hip"] + 3.0) for name in names], axis=1)


def scored(person: Points, word: str, score: float = 0.9) -> np.ndarray:
    """(T, P, 3) with a score."""
    xy = points_of(person, word)
    return np.concatenate([xy, np.full((*xy.shape[:2], 1), score)], axis=2)


def _json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def _flat(person: np.ndarray) -> list[float]:
    return person.ravel().tolist()


# Each of these writes persons' points to a folder, and gives the path.
Writer = Callable[[Path, Points], Path]


def npy(word: str) -> Writer:
    def write(folder: Path, person: Points) -> Path:
        np.save(folder / "k.npy", points_of(person, word))
        return folder / "k.npy"

    return write


def npz(folder: Path, person: Points) -> Path:
    np.savez(folder / "k.npz", keypoints=scored(person, "coco17"), size=SIZE, fps=25.0)
    return folder / "k.npz"


def nested_lists(word: str) -> Writer:
    return lambda folder, person: _json(folder / "k.json", points_of(person, word).tolist())


def coco_results(word: str, score: float = 0.9, image: Callable = int, **more: Any) -> Writer:
    """Also of MMPose, Detectron2, AlphaPose and Ultralytics' val."""
    return lambda folder, person: _json(
        folder / "k.json",
        [
            {"image_id": image(t), "category_id": 1, "keypoints": _flat(pose), "score": 2.1,
             "box": [1, 2, 3, 4], **more}
            for t, pose in enumerate(scored(person, word, score))
        ],
    )  # fmt: skip


def coco_annotations(folder: Path, person: Points) -> Path:
    names = FORMATS["coco17"].points
    return _json(folder / "k.json", {
        "images": [{"id": t, "width": SIZE[0], "height": SIZE[1], "file_name": f"{t}.jpg"}
                   for t in range(FRAMES)],
        "annotations": [{"image_id": t, "id": 70 + t, "category_id": 1, "bbox": [1, 2, 3, 4],
                         "iscrowd": 0, "keypoints": _flat(pose)}
                        for t, pose in enumerate(scored(person, "coco17", 2))],
        "categories": [{"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}],
    })  # fmt: skip


def mmpose_instances(person: Points, word: str) -> list[dict]:
    return [
        {"frame_id": t + 1, "instances": [
            {"keypoints": pose.tolist(), "keypoint_scores": [0.8] * len(pose),
             "bbox": [[1, 2, 3, 4]], "bbox_score": 0.9}
        ]} for t, pose in enumerate(points_of(person, word))
    ]  # fmt: skip


def mmpose(word: str) -> Writer:
    return lambda folder, person: _json(folder / "k.json", mmpose_instances(person, word))


def mmpose_with_names(word: str) -> Writer:
    names = {str(i): name for i, name in enumerate(FORMATS[word].points)}
    return lambda folder, person: _json(folder / "k.json", {
        "meta_info": {"dataset_name": word, "keypoint_id2name": names},
        "instance_info": mmpose_instances(person, word),
    })  # fmt: skip


def mmpose_image(folder: Path, person: Points) -> Path:
    """The persons of one image; here one."""
    return _json(folder / "k.json", mmpose_instances(person, "coco17")[0]["instances"])


def detectron_npz(folder: Path, person: Points) -> Path:
    """As VideoPose3D's script for Detectron2 writes it: x, y, logit, score."""
    images = np.empty(FRAMES, dtype=object)
    for t, pose in enumerate(scored(person, "coco17", 0.08)):
        images[t] = [[], np.c_[pose[:, :2], np.full(17, -3.0), pose[:, 2]].T[None]]
    buffer = io.BytesIO()
    metadata = np.empty((), dtype=object)
    metadata[()] = {"w": SIZE[0], "h": SIZE[1]}
    np.savez(buffer, keypoints=images, metadata=metadata)
    (folder / "k.npz").write_bytes(buffer.getvalue())
    return folder / "k.npz"


def custom_npz(folder: Path, person: Points) -> Path:
    metadata = {"layout_name": "coco", "num_joints": 17,
                "keypoints_symmetry": [[1, 3, 5], [2, 4, 6]],
                "video_metadata": {"clip.mp4": {"w": SIZE[0], "h": SIZE[1]}}}  # fmt: skip
    poses = points_of(person, "coco17").astype(np.float32)
    path = folder / "data_2d_custom_mine.npz"
    save_object_arrays(path, positions_2d={"clip.mp4": {"custom": [poses]}}, metadata=metadata)
    return path


def yolo_folder(*after: str) -> Writer:
    """Ultralytics' labels: ``after`` are the score and the number of the person."""

    def write(folder: Path, person: Points) -> Path:
        (folder / "labels").mkdir()
        poses = scored(person, "coco17") / (*SIZE, 1)
        for t, pose in enumerate(poses):
            numbers = [0, 0.5, 0.5, 0.2, 0.4, *_flat(pose)]
            line = " ".join([*(f"{number:.6f}" for number in numbers), *after])
            (folder / "labels" / f"clip_{t + 1}.txt").write_text(line + "\n")
        return folder / "labels"

    return write


def yolo_json(folder: Path, person: Points) -> Path:
    return _json(folder / "k.json", [
        [{"name": "person", "class": 0, "confidence": 0.9, "track_id": 7,
          "box": {"x1": 1, "y1": 2, "x2": 3, "y2": 4},
          "keypoints": {"x": p[:, 0].tolist(), "y": p[:, 1].tolist(), "visible": [0.9] * 17}}]
        for p in points_of(person, "coco17")
    ])  # fmt: skip


def by_name(folder: Path, person: Points) -> Path:
    names = [name for name in FORMATS["coco17"].points if "ear" not in name]
    return _json(folder / "k.json", [
        {name: {"x": float(person[name][t][0]), "y": float(person[name][t][1])}
         for name in reversed(names)} for t in range(FRAMES)
    ])  # fmt: skip


def tfjs(word: str, camel: bool = False) -> Writer:
    """Lists of points with names; PoseNet's are in camel case."""

    def point(name: str, x: float, y: float) -> dict:
        if not camel:
            return {"x": x, "y": y, "z": -0.4, "score": 0.9, "name": name}
        first, *others = name.split("_")
        part = first + "".join(other.title() for other in others)
        return {"score": 0.9, "part": part, "position": {"x": x, "y": y}}

    return lambda folder, person: _json(folder / "k.json", [
        [{"score": 0.9, "keypoints": [point(name, *xy) for name, xy in
          zip(FORMATS[word].points, pose.tolist(), strict=True)]}]
        for pose in points_of(person, word)
    ])  # fmt: skip


def skeletons(folder: Path, person: Points) -> Path:
    return _json(folder / "k.json", {"label": "swing", "data": [
        {"frame_index": t + 1, "skeleton": [
            {"pose": pose[:, :2].tolist(), "score": pose[:, 2:].tolist(), "bbox": [1, 2, 3, 4]}
        ]} for t, pose in enumerate(scored(person, "coco17"))
    ]})  # fmt: skip


def openpose(word: str, persons: Sequence[Points] = ()) -> Writer:
    """A folder of a file an image; the order of several persons changes from image to image."""

    def write(folder: Path, person: Points) -> Path:
        (folder / "json").mkdir()
        all_poses = [scored(each, word) for each in (person, *persons)]
        for t in range(len(all_poses[0])):
            people = [{"person_id": [-1], "pose_keypoints_2d": _flat(poses[t]),
                       "face_keypoints_2d": []} for poses in all_poses]  # fmt: skip
            name = f"clip_{t:012d}_keypoints.json"
            content = {"version": 1.3, "people": people[:: 1 if t % 2 else -1]}
            _json(folder / "json" / name, content)
        return folder / "json"

    return write


def alphapose_open(folder: Path, person: Points) -> Path:
    """AlphaPose with ``--format open``: COCO-18 in one file."""
    return _json(folder / "k.json", {
        f"{t}.jpg": {"version": "AlphaPose v0.3", "people": [{"pose_keypoints_2d": _flat(pose)}]}
        for t, pose in enumerate(scored(person, "coco18"))
    })  # fmt: skip


def mediapipe_pixels(folder: Path, person: Points) -> Path:
    """The third number is z, in pixels."""
    poses = scored(person, "mediapipe33")
    poses[..., 2] = np.linspace(-200, 150, 33)
    return _json(folder / "k.json", poses.tolist())


def mediapipe_fractions(folder: Path, person: Points) -> Path:
    keys = ("x", "y", "z", "visibility")
    poses = scored(person, "mediapipe33") / (*SIZE, 1)
    return _json(folder / "k.json", [
        {"pose_landmarks": [dict(zip(keys, (x, y, -0.3, s), strict=True)) for x, y, s in pose]}
        for pose in poses.tolist()
    ])  # fmt: skip


def csv_rows(word: str, between: str = ",") -> Writer:
    def write(folder: Path, person: Points) -> Path:
        rows = points_of(person, word).reshape(FRAMES, -1)
        np.savetxt(folder / "k.csv", rows, delimiter=between)
        return folder / "k.csv"

    return write


def csv_names(folder: Path, person: Points) -> Path:
    names = FORMATS["coco17"].points
    header = ["frame", *(f"{name}_{end}" for name in names for end in ("x", "y", "score"))]
    rows = np.c_[np.arange(FRAMES) + 10, scored(person, "coco17").reshape(FRAMES, -1)]
    lines = [",".join(header), *(",".join(map(repr, row)) for row in rows.tolist())]
    (folder / "k.csv").write_text("\n".join(lines))
    return folder / "k.csv"


# {what: (the format, the file's own size?, what writes it)}
FILES: dict[str, tuple[str, bool, Writer]] = {
    "h36m17 npy": ("h36m17", False, npy("h36m17")),
    "h36m16 npy": ("h36m16", False, npy("h36m16")),
    "h36m32 npy": ("h36m32", False, npy("h36m32")),
    "h36m16 JSON": ("h36m16", False, nested_lists("h36m16")),
    "h36m17 csv": ("h36m17", False, csv_rows("h36m17")),
    "csv with semicolons": ("coco17", False, csv_rows("coco17", ";")),
    "csv with tabs": ("coco17", False, csv_rows("coco17", "\t")),
    "MMPose h36m17": ("h36m17", False, mmpose("h36m17")),
    "Stacked Hourglass": ("sh16", False, npy("sh16")),
    "coco17 npz": ("coco17", True, npz),
    "coco17 JSON": ("coco17", False, nested_lists("coco17")),
    "COCO results": ("coco17", False, coco_results("coco17")),
    "COCO annotations": ("coco17", True, coco_annotations),
    "Detectron2": ("coco17", False, coco_results("coco17", 0.08)),
    "Detectron npz": ("coco17", True, detectron_npz),
    "AlphaPose": ("coco17", False, coco_results("coco17", image=lambda t: f"{t}.jpg", idx=1)),
    "AlphaPose open": ("coco18", False, alphapose_open),
    "AlphaPose Halpe": ("halpe26", False, coco_results("halpe26", image=lambda t: f"{t}.jpg")),
    "MMPose": ("coco17", False, mmpose("coco17")),
    "MMPose image": ("coco17", False, mmpose_image),
    "MMPose names": ("halpe26", False, mmpose_with_names("halpe26")),
    "Ultralytics txt": ("coco17", False, yolo_folder()),
    "Ultralytics tracks": ("coco17", False, yolo_folder("0.812", "4")),
    "Ultralytics JSON": ("coco17", False, yolo_json),
    "VideoPose3D custom": ("coco17", True, custom_npz),
    "points by name": ("coco17", False, by_name),
    "PoseNet": ("coco17", False, tfjs("coco17", camel=True)),
    "BlazePose": ("mediapipe33", False, tfjs("mediapipe33")),
    "skeletons": ("coco17", False, skeletons),
    "Halpe JSON": ("halpe26", False, nested_lists("halpe26")),
    "OpenPose BODY_25": ("body25", False, openpose("body25")),
    "OpenPose COCO-18": ("coco18", False, openpose("coco18")),
    "MediaPipe pixels": ("mediapipe33", False, mediapipe_pixels),
    "MediaPipe fractions": ("mediapipe33", False, mediapipe_fractions),
    "csv with names": ("coco17", False, csv_names),
}
