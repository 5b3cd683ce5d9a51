"""npz files -> :class:`PoseDataset`, flat tensors -> :class:`PoseLoader`, batches.

A data set is N poses: every frame of every sequence as each camera sees it. No Python runs per
pose; the whole set lives on one device and an epoch is a permutation of indices, cut in slices.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.camera import (
    flip_intrinsics,
    normalize_screen_coordinates,
    project,
    project_again,
    world_to_camera,
)
from common.errors import UserError
from common.memory import trim_memory
from common.skeleton import H36M_16, Skeleton
from data.augment import Augmentation
from data.cameras import Camera
from data.check_data import find_wrong_motion, find_wrong_views
from data.datasets import DatasetInfo, action_of
from data.joint_order import read_order
from data.noise import add_detector_noise
from data.npz_io import load_object_array

Sequences = dict[str, dict[str, Any]]

_SAMPLED = 4  # frames of a sequence and camera that the checks see


@dataclass(frozen=True)
class PoseDataset:
    """N poses of J joints, as flat tensors on one device.

    Attributes:
        info: the data set that they are of.
        inputs_2d: (N, J, 2) float32, normalised screen coordinates.
        targets_3d: (N, J, 3) float32, camera space, metres, relative to the root (joint 0).
        root_3d: (N, 3) float32, the root's place in camera space, metres.
        subject, sequence, action, camera: (N,) int16, indices into the names below; camera is an
            index into the cameras of the pose's subject.
        subjects, sequences, actions: names; a sequence's is "subject/sequence".
        intrinsics: (subjects, cameras, 9) float32, see ``common.camera``.
        up: (subjects, cameras, 3) float32, the upward direction in camera space.
        skeleton: the J joints.
        missing: sequences that the protocol has and the files have not.
    """

    info: DatasetInfo
    inputs_2d: Tensor
    targets_3d: Tensor
    root_3d: Tensor
    subject: Tensor
    sequence: Tensor
    action: Tensor
    camera: Tensor
    subjects: tuple[str, ...]
    sequences: tuple[str, ...]
    actions: tuple[str, ...]
    intrinsics: Tensor
    up: Tensor
    skeleton: Skeleton
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets_3d)

    def to(self, device: torch.device) -> "PoseDataset":
        """The same poses on another device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class PoseBatch:
    """B poses of a data set, some of them mirrored; every tensor is fetched when first asked for.

    Attributes:
        dataset: whose poses.
        index: (B,) into it.
        flipped: (B,) bool, which poses are mirrored; None when none is.
        weight: what the batch's mean loss counts where it is one process's part of a larger one,
            so that the mean over processes is the mean over the larger one.
        whole: poses of that larger batch; None when this is all of it.
    """

    dataset: PoseDataset
    index: Tensor
    flipped: Tensor | None = None
    weight: float = 1.0
    whole: int | None = None

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def inputs_2d(self) -> Tensor:
        """(B, J, 2) normalised screen coordinates."""
        return self._mirror(self.dataset.inputs_2d[self.index], self.dataset.skeleton.flip)

    @cached_property
    def targets_3d(self) -> Tensor:
        """(B, J, 3) metres, camera space, relative to the root."""
        return self._mirror(self.dataset.targets_3d[self.index], self.dataset.skeleton.flip)

    @cached_property
    def root_3d(self) -> Tensor:
        """(B, 3) the root's place, metres, camera space."""
        return self._mirror(self.dataset.root_3d[self.index], _mirror_x)

    @cached_property
    def intrinsics(self) -> Tensor:
        """(B, 9) of each pose's camera."""
        return self._mirror(self._of_camera(self.dataset.intrinsics), flip_intrinsics)

    @cached_property
    def up(self) -> Tensor:
        """(B, 3) the upward direction, camera space."""
        return self._mirror(self._of_camera(self.dataset.up), _mirror_x)

    def _of_camera(self, values: Tensor) -> Tensor:
        """(subjects, cameras, n) -> (B, n)."""
        subject, camera = self.dataset.subject[self.index], self.dataset.camera[self.index]
        return values[subject.long(), camera.long()]

    def _mirror(self, values: Tensor, mirror: Callable[[Tensor], Tensor]) -> Tensor:
        if self.flipped is None:
            return values
        flipped = self.flipped.view(-1, *[1] * (values.dim() - 1))
        return torch.where(flipped, mirror(values), values)


@dataclass(frozen=True)
class AugmentedBatch(PoseBatch):
    """A batch of changed poses, projected again; the roots' places and the cameras stay."""

    augmentation: Augmentation = field(default_factory=Augmentation)

    @cached_property
    def _original(self) -> PoseBatch:
        return PoseBatch(self.dataset, self.index, self.flipped)

    @cached_property
    def targets_3d(self) -> Tensor:
        pose = self._original.targets_3d
        return self.augmentation.change(pose, self.up, self.dataset.skeleton)

    @cached_property
    def inputs_2d(self) -> Tensor:
        root = self.root_3d.unsqueeze(1)
        joints, moved = self._original.targets_3d + root, self.targets_3d + root
        return project_again(self._original.inputs_2d, joints, moved, self.intrinsics)


def _mirror_x(points: Tensor) -> Tensor:
    return points * points.new_tensor([-1, 1, 1])


@dataclass
class PoseLoader:
    """Cuts a data set into batches.

    The order of a training epoch depends on the seed and the epoch's number alone, so that a
    resumed run meets the same batches as one that never stopped, on any device.

    Attributes:
        batch_size: poses of a batch, over all processes together.
        flips: an epoch of training has every pose twice, as it is and mirrored.
        augmentation: changes the poses of a training epoch, and mirrors half of them by chance
            where ``flips`` does not already.
        part: (process, processes): give this process's part of every batch, (0, 1) all of it.
    """

    dataset: PoseDataset
    batch_size: int
    seed: int = 0
    flips: bool = False
    part: tuple[int, int] = (0, 1)
    augmentation: Augmentation | None = None

    @property
    def epoch_size(self) -> int:
        """Poses of a training epoch."""
        return len(self.dataset) * (2 if self.flips else 1)

    @property
    def epoch_steps(self) -> int:
        """Batches of a training epoch."""
        return -(-self.epoch_size // self.batch_size)

    def shuffled(self, epoch: int) -> Iterator[PoseBatch]:
        """The batches of a training epoch; the last may be smaller."""
        process, processes = self.part
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.epoch_size, generator=generator)
        for whole in order.to(self.dataset.inputs_2d.device).split(self.batch_size):
            index, weight = whole, 1.0
            # Of fewer poses than processes all take all, which has the same mean.
            if len(whole) >= processes:
                index = whole.tensor_split(processes)[process]
                weight = len(index) * processes / len(whole)
            flipped = index >= len(self.dataset) if self.flips else None
            parts = (self.dataset, index % len(self.dataset))
            if self.augmentation is None:
                yield PoseBatch(*parts, flipped, weight, len(whole))
                continue
            if flipped is None:
                flipped = torch.rand(len(index), device=index.device) < 0.5
            yield AugmentedBatch(*parts, flipped, weight, len(whole), self.augmentation)

    def in_order(self) -> Iterator[PoseBatch]:
        """All poses of this process's part once, none mirrored, in the order of the data set."""
        process, processes = self.part
        order = torch.arange(len(self.dataset), device=self.dataset.inputs_2d.device)
        for index in order.tensor_split(processes)[process].split(self.batch_size):
            if len(index):  # none where there are more processes than poses
                yield PoseBatch(self.dataset, index)


def load_pose_datasets(
    info: DatasetInfo,
    folder: Path,
    splits: Sequence[Sequence[str]],
    skeleton: Skeleton,
    keypoints: str = "gt",
    actions: Sequence[str] | None = None,
    downsample: int = 1,
    check: bool = True,
) -> list[PoseDataset]:
    """Read a data set's npz files once and build one :class:`PoseDataset` a split.

    Args:
        info: which data set, from ``data.datasets``.
        folder: where the npz files lie.
        splits: the subjects of each data set to build, e.g. ``[info.subjects_test]``.
        skeleton: the joints to keep.
        keypoints: whose 2D: "gt" or a detector's name. Without a file, "gt" is projected, and
            "noisy" is projected with the errors of a made detector (``data.noise``). A file of
            "gt" with too few joints is not needed either.
        actions: the actions to keep, all when None.
        downsample: keep every k-th frame of a sequence.
        check: refuse subjects whose joints cannot be right (``data.check_data``), judged over all
            their sequences in the files, whatever the actions.

    Raises:
        UserError: a file is missing or damaged, an action or subject is unknown, a sequence has
            the wrong shape or values that are not finite, 2D joints are in an unknown order, or a
            check failed.
    """
    actions = known_actions(info, actions)
    positions = _read(info, folder / info.file_3d(), "positions_3d")
    for subject in positions.keys() - {subject for split in splits for subject in split}:
        positions[subject] = {}
    path_2d = folder / info.file_2d(keypoints)
    detections, order = _read_2d(info, path_2d, keypoints, skeleton)
    noisy = keypoints == "noisy"
    builder = _Builder(
        info, positions, detections, order, path_2d, noisy, skeleton, actions, downsample
    )
    with one_thread():
        for subject in positions if check else ():
            builder.check(subject)
        return [
            builder.build(tuple(subjects), later={s for split in splits[number:] for s in split})
            for number, subjects in enumerate(splits, 1)
        ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Thousands of small operations: on a busy machine torch's threads would wait for each other
    several times longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def known_actions(info: DatasetInfo, actions: Sequence[str] | None) -> tuple[str, ...]:
    """The actions asked for, in the data set's order; all when None.

    Raises:
        UserError: one of them is not of the data set.
    """
    if actions is None:
        return info.actions
    for action in actions:
        if action not in info.actions:
            known = ", ".join(info.actions)
            raise UserError(f"unknown action {action!r}: {info.name} has {known}")
    return tuple(action for action in info.actions if action in actions)


def _read(info: DatasetInfo, path: Path, key: str) -> Sequences:
    if not path.is_file():
        raise UserError(f"{path} is not there: {info.advice}")
    found = load_object_array(path, key)
    nested = isinstance(found, dict) and all(isinstance(v, dict) for v in found.values())
    if not nested:
        raise UserError(f"{path}: {key} is not {{subject: {{sequence: ...}}}}: prepare it again")
    return found


def _read_2d(
    info: DatasetInfo, path: Path, keypoints: str, skeleton: Skeleton
) -> tuple[Sequences | None, tuple[int, ...] | None]:
    """The 2D joints of a file, and where our joints lie among them where their order is not ours;
    None where they are to be projected."""
    if keypoints in ("gt", "noisy") and not path.is_file():
        return None, None
    detections = _read(info, path, "positions_2d")
    stored = _stored_joints(detections)
    if stored is None:
        return detections, None
    # Ground truth in 2D is nothing but the projection of the 3D, which has all joints.
    too_few = stored == H36M_16.num_joints < skeleton.num_joints
    if keypoints == "gt" and too_few and _cameras_are_known(info):
        return None, None
    metadata = load_object_array(path, "metadata", optional=True)
    return detections, read_order(metadata, stored, path)


def _stored_joints(detections: Sequences) -> int | None:
    """Joints of the first array of 2D joints in a file; None if there is none."""
    for sequences in detections.values():
        for views in sequences.values():
            try:
                return np.shape(views[0])[1]
            except (KeyError, IndexError, TypeError, ValueError):
                continue  # it is named if it is needed
    return None


def _cameras_are_known(info: DatasetInfo) -> bool:
    subjects = info.subjects_train + info.subjects_test
    return all(camera.is_known for subject in subjects for camera in info.cameras(subject))


@dataclass(frozen=True)
class _Builder:
    info: DatasetInfo
    positions: Sequences
    detections: Sequences | None
    order: tuple[int, ...] | None
    path_2d: Path
    noisy: bool
    skeleton: Skeleton
    actions: tuple[str, ...]
    downsample: int

    def check(self, subject: str) -> None:
        """Refuse a subject whose joints cannot be right, by a sample of all its sequences.

        What cannot be read is passed over: reading names it, if it is needed.
        """
        names = [n for n in self.positions[subject] if (subject, n) not in self.info.excluded]
        samples = [sample for name in names if (sample := self._sample(subject, name))]
        if not samples:
            return
        cameras = self.info.cameras(subject)
        are_known = all(camera.is_known for camera in cameras)
        points = torch.stack([points for points, _ in samples])
        wrong = find_wrong_motion(points.flatten(0, 1), self.skeleton, in_world=are_known)
        path: str | Path = self.info.file_3d()
        in_both = [row for row, (_, pixels) in enumerate(samples) if pixels is not None]
        if not wrong and in_both and are_known:
            pixels = torch.stack([samples[row][1] for row in in_both]).transpose(1, 2)
            wrong = find_wrong_views(
                pixels.flatten(0, 1), points[in_both].flatten(0, 1), cameras, self.skeleton,
                reordered=self.order is not None,
            )  # fmt: skip
            path = self.path_2d
        if wrong:
            raise UserError(f"{path}, {subject}: {wrong}, or go on with --no-check_data")

    def _sample(self, subject: str, name: str) -> tuple[Tensor, Tensor | None] | None:
        """A few frames spread evenly over a sequence: (k, J, 3) metres, and (C, k, J, 2) pixels of
        C cameras, None where the 2D joints are not all there."""
        try:
            motion = np.asarray(self.positions[subject][name])
            frames = np.linspace(0, len(motion) - 1, _SAMPLED).astype(int)
            points = self._points(motion[frames], 3, name)
        except (IndexError, TypeError, ValueError, UserError):
            return None
        if self.detections is None:
            return points, None
        cameras = range(len(self.info.cameras(subject)))
        try:
            views = self.detections[subject][name]
            some = np.concatenate([np.asarray(views[camera])[frames] for camera in cameras])
            pixels = self._points(some, 2, name, self.order)
        except (KeyError, IndexError, TypeError, ValueError, UserError):
            return points, None
        return points, pixels.unflatten(0, (len(cameras), _SAMPLED))

    def build(self, subjects: tuple[str, ...], later: set[str]) -> PoseDataset:
        """Allocate the tensors once and fill them sequence by sequence, camera by camera.

        Args:
            later: subjects that are needed once more; the others are let go of.
        """
        clips = [
            (subject, name, self._keep_motion(subject, name))
            for subject in subjects
            for name in self._sequences(subject)
        ]
        missing = self._missing(subjects)
        trim_memory()
        if not clips:
            raise UserError(
                f"{self.info.file_3d()} has no frames of {', '.join(self.actions)} "
                f"by {', '.join(subjects)}"
            )
        cameras = {subject: self.info.cameras(subject) for subject in subjects}
        total = sum(frames * len(cameras[subject]) for subject, _, frames in clips)
        num_joints = self.skeleton.num_joints
        inputs, targets = torch.empty(total, num_joints, 2), torch.empty(total, num_joints, 3)
        roots, ids = torch.empty(total, 3), torch.empty(4, total, dtype=torch.int16)
        start = 0
        for number, (subject, name, frames) in enumerate(clips):
            action = self.actions.index(action_of(name))
            for view, camera in enumerate(cameras[subject]):
                here = slice(start, start := start + frames)
                points = _in_camera(self.positions[subject][name][:: self.downsample], camera)
                inputs[here] = self._inputs(subject, name, view, camera, points)
                roots[here] = points[:, 0]
                torch.sub(points, points[:, :1], out=targets[here])
                ids[:, here] = torch.tensor([[subjects.index(subject)], [number], [action], [view]])
            if subject not in later:
                self._let_go(subject, name)
        return PoseDataset(
            self.info, inputs, targets, roots, *ids,
            subjects=subjects,
            sequences=tuple(f"{subject}/{name}" for subject, name, _ in clips),
            actions=self.actions,
            intrinsics=_of_cameras(cameras, lambda camera: camera.intrinsics),
            up=_of_cameras(cameras, lambda camera: camera.up),
            skeleton=self.skeleton,
            missing=missing,
        )  # fmt: skip

    def _sequences(self, subject: str) -> list[str]:
        """The subject's sequences of the wanted actions, in the file's order."""
        if subject not in self.positions:
            found = ", ".join(self.positions)
            raise UserError(f"{self.info.file_3d()} has no subject {subject} (it has: {found})")
        names = [n for n in self.positions[subject] if (subject, n) not in self.info.excluded]
        for name in names:
            if action_of(name) not in self.info.actions:
                raise UserError(
                    f"{self.info.file_3d()}: sequence {name!r} of {subject} is of no action of "
                    f"{self.info.name}: prepare the file again"
                )
        return [name for name in names if action_of(name) in self.actions]

    def _missing(self, subjects: Sequence[str]) -> tuple[str, ...]:
        find, found = self.info.missing_sequences, self.positions
        return tuple(line for who in subjects for line in find(who, found[who], self.actions))

    def _keep_motion(self, subject: str, name: str) -> int:
        """Of a sequence keep the joints asked for, (T, J, 3) world metres; gives its frames."""
        where = f"{self.info.file_3d()}, {subject}/{name}"
        kept = self._points(self.positions[subject][name], 3, where)
        self.positions[subject][name] = kept
        return len(kept[:: self.downsample])

    def _let_go(self, subject: str, name: str) -> None:
        """Forget a sequence that is in the tensors: at the end they are nearly all there is."""
        for file in (self.positions, self.detections):
            if file is not None:
                del file[subject][name]
        if not self.positions[subject]:
            trim_memory()

    def _inputs(self, subject: str, name: str, view: int, camera: Camera, points: Tensor) -> Tensor:
        """The 2D joints (T, J, 2) of a view, normalised: read from the file, or projected."""
        if self.detections is None:
            if not camera.is_known:  # nothing to project with
                raise UserError(f"{self.path_2d} is not there: {self.info.advice}")
            uv = project(points, camera.intrinsics.float())
            view_name = f"{subject}/{name}/{camera.id}"
            return add_detector_noise(uv, self.skeleton, view_name) if self.noisy else uv
        where = f"{self.path_2d}, {subject}/{name}"
        try:
            pixels = self.detections[subject][name][view]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{where} has no 2D joints for camera {camera.id}") from None
        pixels = self._points(pixels, 2, f"{where}, camera {camera.id}", self.order)
        frames = len(self.positions[subject][name])
        if len(pixels) < frames:
            raise UserError(
                f"{where}, camera {camera.id}: {len(pixels)} frames of 2D for {frames} of 3D: "
                "the two files do not belong together"
            )
        # Detections run a few frames longer than the motion capture.
        pixels = pixels[: frames : self.downsample]
        return normalize_screen_coordinates(pixels, camera.width, camera.height)

    def _points(
        self, array: Any, dim: int, where: str, order: tuple[int, ...] | None = None
    ) -> Tensor:
        """Check one array of a file and keep the skeleton's joints: (T, J, dim) float32.

        Args:
            order: where our joints lie in the file, None if it is in our order.
        """
        array = np.asarray(array)
        if array.ndim != 3 or array.shape[2] != dim or array.dtype.kind != "f":
            raise UserError(f"{where}: (T, joints, {dim}) numbers expected, got {array.shape}")
        if order and array.shape[1] != len(order):
            raise UserError(f"{where}: {array.shape[1]} joints in a file of {len(order)}")
        try:
            joints = self.skeleton.indices_in(array.shape[1])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        kept = array.take([order[joint] for joint in joints] if order else joints, axis=1)
        if not np.isfinite(kept).all():
            frame = int(np.argwhere(~np.isfinite(kept))[0, 0])
            raise UserError(f"{where}: frame {frame} has values that are not numbers")
        return torch.from_numpy(kept.astype(np.float32, copy=False))


def _of_cameras(
    cameras: dict[str, tuple[Camera, ...]], value: Callable[[Camera], Tensor]
) -> Tensor:
    """(subjects, cameras, n) float32."""
    rows = [torch.stack([value(camera) for camera in row]) for row in cameras.values()]
    return torch.stack(rows).float()


def _in_camera(motion: Tensor, camera: Camera) -> Tensor:
    return world_to_camera(motion, camera.rotation.float(), camera.translation.float())
