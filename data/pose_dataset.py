"""Reads a data set's npz files into tensors (:class:`PoseDataset`) and cuts these into batches
(:class:`PoseLoader`).

A data set has N poses, one for each frame of each sequence in each camera. All of them lie on one
device. An epoch is a permutation of indices that is cut into slices; no Python code runs per pose.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.camera import (
    flip_intrinsics,
    normalize_screen_coordinates,
    project,
    reproject,
    world_to_camera,
)
from common.errors import UserError
from common.memory import refuse_too_large, trim_memory
from common.person import Known
from common.skeleton import H36M_16, Skeleton
from data.augment import Augmentation
from data.cameras import Camera
from data.check_data import find_wrong_motion, find_wrong_views
from data.datasets import DatasetInfo, action_of
from data.joint_order import read_joint_order
from data.noise import add_detector_noise
from data.npz_io import load_object_array
from data.shifts import drawn_shift
from data.telling import Telling

Sequences = dict[str, dict[str, Any]]  # {subject: {sequence: arrays}}
_IDS = ("subject", "sequence", "action", "camera")

_WRONG_FOCALS = 0.5  # share of the poses whose focal length is wrong
_SAMPLED_FRAMES = 4  # of each sequence and camera, for the checks


@dataclass(frozen=True)
class PoseBatch:
    """B poses of a data set, some of them mirrored or augmented.

    Attributes:
        index: (B,) indices of the poses in the data set.
        inputs_2d: (B, J, 2) normalised screen coordinates.
        targets_3d: (B, J, 3) metres, camera space, relative to the root.
        root_3d: (B, 3) position of the root, metres, camera space.
        intrinsics: (B, 9) intrinsics of each pose's camera, see ``common.camera``.
        up: (B, 3) the world's upward direction in camera space.
        action: (B,) index of each pose's action.
        flipped: (B,) bool, True for a mirrored pose; None when no pose is mirrored.
        known: what the network is told of the persons and cameras; None where nothing is.
        loss_weight: factor for the mean loss of this batch when it is one process's share of a
            global batch: B * world_size / global_size. The mean over processes of the weighted
            losses is then the mean loss of the global batch. 1 for a batch that is not shared.
        global_size: poses of the global batch, over all processes; None for a batch that no loader
            of training made.
    """

    index: Tensor
    inputs_2d: Tensor
    targets_3d: Tensor
    root_3d: Tensor
    intrinsics: Tensor
    up: Tensor
    action: Tensor
    flipped: Tensor | None = None
    known: Known | None = None
    loss_weight: float = 1.0
    global_size: int | None = None

    def __len__(self) -> int:
        return len(self.index)

    def mirrored(self, flipped: Tensor, skeleton: Skeleton) -> "PoseBatch":
        """The same poses, mirrored left to right where ``flipped`` (B,) is True."""
        mirrors = {
            "inputs_2d": skeleton.flip,
            "targets_3d": skeleton.flip,
            "root_3d": _mirror_x,
            "intrinsics": flip_intrinsics,
            "up": _mirror_x,
        }
        chosen = {}
        for name, mirror in mirrors.items():
            values = getattr(self, name)
            where = flipped.view(-1, *[1] * (values.dim() - 1))
            chosen[name] = torch.where(where, mirror(values), values)
        return replace(self, flipped=flipped, **chosen)


def _mirror_x(points: Tensor) -> Tensor:
    return points * points.new_tensor([-1, 1, 1])


@dataclass(frozen=True)
class PoseDataset:
    """N poses of J joints, as flat tensors on one device.

    Attributes:
        info: description of the data set.
        inputs_2d: (N, J, 2) float32, normalised screen coordinates.
        targets_3d: (N, J, 3) float32, camera space, metres, relative to the root (joint 0).
        root_3d: (N, 3) float32, position of the root in camera space, metres.
        subject, sequence, action: (N,) int16, indices into the names below.
        camera: (N,) int16, index into the cameras of the pose's sequence.
        subjects, sequences, actions: names; a sequence is named "subject/sequence".
        intrinsics: (sequences, cameras, 9) float32, see ``common.camera``.
        up: (sequences, cameras, 3) float32, the world's upward direction in camera space.
        camera_height: (sequences, cameras) float32, of the camera above the floor, metres.
        image_size: (sequences, cameras, 2) float32, width and height of the images in pixels.
        skeleton: the J joints.
        missing: sequences of the protocol that the files lack, one line an action.
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
    camera_height: Tensor
    image_size: Tensor
    skeleton: Skeleton
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets_3d)

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def to(self, device: torch.device) -> "PoseDataset":
        """The same poses on another device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def batch(self, index: Tensor) -> PoseBatch:
        """The poses of these indices (B,), as they are."""
        sequence, camera = self.sequence[index].long(), self.camera[index].long()
        return PoseBatch(
            index=index,
            inputs_2d=self.inputs_2d[index],
            targets_3d=self.targets_3d[index],
            root_3d=self.root_3d[index],
            intrinsics=self.intrinsics[sequence, camera],
            up=self.up[sequence, camera],
            action=self.action[index],
        )


def augment_batch(batch: PoseBatch, augmentation: Augmentation, skeleton: Skeleton) -> PoseBatch:
    """Draw new bone lengths and directions for the poses of a batch, and project the new poses.

    All random numbers are drawn here, from torch's global generator. Cameras stay as they are, and
    root positions too unless ``augmentation.keep_ground`` is set. A detector's 2D error is kept
    (:func:`common.camera.reproject`).
    """
    augmented, up = augmentation.augment_poses(batch.targets_3d, batch.up, skeleton)
    shift = augmentation.root_shift(batch.targets_3d, augmented, batch.up)
    root = batch.root_3d if shift is None else batch.root_3d + shift
    before = batch.targets_3d + batch.root_3d.unsqueeze(1)
    inputs_2d = reproject(batch.inputs_2d, before, augmented + root.unsqueeze(1), batch.intrinsics)
    return replace(batch, inputs_2d=inputs_2d, targets_3d=augmented, root_3d=root, up=up)


def shift_batch(batch: PoseBatch, shift: Callable[[Tensor], Tensor]) -> PoseBatch:
    """The batch with 2D joints of a detector that sees the joints (B, J, 3), camera space, where
    ``shift`` moves them. The poses to predict stay; a detector's error is kept."""
    joints = batch.targets_3d + batch.root_3d.unsqueeze(1)
    seen = reproject(batch.inputs_2d, joints, shift(joints), batch.intrinsics)
    return replace(batch, inputs_2d=seen)


def with_wrong_focals(batch: PoseBatch, sigma: float, generator: torch.Generator) -> PoseBatch:
    """The batch with focal lengths times exp(N(0, sigma)) in half of the poses, as somebody knows
    them who guesses; the 2D joints are what the true cameras saw."""
    device = batch.intrinsics.device
    drawn = torch.randn(len(batch), 1, generator=generator, device=device)
    wrong = torch.rand(len(batch), 1, generator=generator, device=device) < _WRONG_FOCALS
    factor = torch.where(wrong, (sigma * drawn).exp(), 1.0)
    focal, others = batch.intrinsics.split([2, 7], dim=1)
    return replace(batch, intrinsics=torch.cat([factor * focal, others], dim=1))


@dataclass
class PoseLoader:
    """Cuts a data set into batches.

    The order of the poses in a training epoch depends on the seed and the epoch number only. A
    resumed run therefore trains on the same batches as an uninterrupted one, on any device.

    Attributes:
        dataset: the poses.
        batch_size: poses of a batch, over all processes together.
        seed: of the order of the poses.
        flips: a training epoch has every pose twice, as it is and mirrored.
        augmentation: applied to the poses of a training epoch. Unless ``flips`` is set, each pose
            is also mirrored with probability 1/2. None leaves the poses as they are.
        telling: what the network is told of the poses of a training epoch; None tells nothing.
        keypoint_shift: strength of ``data.shifts.drawn_shift`` on the 2D joints of a training
            epoch; 0 leaves them where they are.
        focal_sigma: of :func:`with_wrong_focals` in a training epoch; 0 leaves the focal lengths.
        poses: of a training epoch, at most. A shorter epoch takes others each time.
        rank: number of this process, from 0. It gets its share of every batch.
        world_size: number of processes.
    """

    dataset: PoseDataset
    batch_size: int
    seed: int = 0
    flips: bool = False
    augmentation: Augmentation | None = None
    telling: Telling | None = None
    keypoint_shift: float = 0.0
    focal_sigma: float = 0.0
    poses: int | None = None
    rank: int = 0
    world_size: int = 1

    @property
    def epoch_size(self) -> int:
        """Poses of a training epoch."""
        return min(self._all_poses, self.poses or self._all_poses)

    @property
    def _all_poses(self) -> int:
        return len(self.dataset) * (2 if self.flips else 1)

    @property
    def epoch_steps(self) -> int:
        """Batches of a training epoch."""
        return -(-self.epoch_size // self.batch_size)

    def shuffled_batches(self, epoch: int, done: int = 0) -> Iterator[PoseBatch]:
        """This process's share of each batch of a training epoch; the last batch may be smaller.

        An augmented batch draws its random numbers when the iterator makes it.

        Args:
            done: batches to leave out at the start, which an earlier call gave. They draw nothing.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self._all_poses, generator=generator)[: self.epoch_size]
        order = order.to(self.dataset.inputs_2d.device)
        for number, global_batch in enumerate(order.split(self.batch_size)[done:], start=done):
            numbers, loss_weight = self._own_share(global_batch)
            batch = self.dataset.batch(numbers % len(self.dataset))
            batch = replace(batch, loss_weight=loss_weight, global_size=len(global_batch))
            if self.flips:
                batch = batch.mirrored(numbers >= len(self.dataset), self.dataset.skeleton)
            elif self.augmentation:
                flipped = torch.rand(len(batch), device=batch.index.device) < 0.5
                batch = batch.mirrored(flipped, self.dataset.skeleton)
            if self.augmentation:
                batch = augment_batch(batch, self.augmentation, self.dataset.skeleton)
            batch_id = f"{self.seed} {epoch} {number} {self.rank}"
            if self.keypoint_shift or self.focal_sigma:
                batch = self._as_detected(batch, batch_id)
            if self.telling:
                of_pose = (batch.targets_3d, batch.up, self.dataset.skeleton)
                known = self.telling.known_of(*of_pose, epoch, batch_id)
                if self.telling.noise:
                    screen, sigma = self.telling.with_noise(batch.inputs_2d, batch_id)
                    batch = replace(batch, inputs_2d=screen)
                    known = replace(known, screen_sigma=sigma)
                batch = replace(batch, known=known)
            yield batch

    def _as_detected(self, batch: PoseBatch, batch_id: str) -> PoseBatch:
        """Shift the 2D joints and change the focal lengths, with a generator of their own: all else
        is drawn as without them."""
        generator = torch.Generator(batch.index.device)
        generator.manual_seed(zlib.crc32(f"as detected {batch_id}".encode()))
        if self.keypoint_shift:
            skeleton, strength = self.dataset.skeleton, self.keypoint_shift
            batch = shift_batch(batch, lambda p: drawn_shift(p, skeleton, strength, generator))
        if self.focal_sigma:
            batch = with_wrong_focals(batch, self.focal_sigma, generator)
        return batch

    def _own_share(self, global_batch: Tensor) -> tuple[Tensor, float]:
        """This process's part of a global batch, and its ``PoseBatch.loss_weight``.

        A batch smaller than world_size cannot be shared: every process takes all of it, and the
        mean over processes is still the mean over the batch.
        """
        if len(global_batch) < self.world_size:
            return global_batch, 1.0
        numbers = global_batch.tensor_split(self.world_size)[self.rank]
        return numbers, len(numbers) * self.world_size / len(global_batch)

    def ordered_batches(self) -> Iterator[PoseBatch]:
        """This process's share of the data set: each pose once, in order, none mirrored."""
        order = torch.arange(len(self.dataset), device=self.dataset.inputs_2d.device)
        for index in order.tensor_split(self.world_size)[self.rank].split(self.batch_size):
            if len(index):  # empty when there are more processes than poses
                yield self.dataset.batch(index)


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
    """Read a data set's npz files once and build one :class:`PoseDataset` for each split.

    Args:
        info: description of the data set, from ``data.datasets``.
        folder: folder of the npz files.
        splits: the subjects of each data set to build, e.g. ``[info.subjects_test]``.
        skeleton: the joints to keep.
        keypoints: source of the 2D joints: "gt" or the name of a detector. If there is no file,
            "gt" is projected from 3D, and "noisy" is projected and gets synthetic detector noise
            (``data.noise``). "gt" is also projected if its file has too few joints.
        actions: the actions to keep; None keeps all.
        downsample: keep every k-th frame of a sequence.
        check: refuse subjects whose joints are implausible (``data.check_data``). The check looks
            at all sequences of a subject in the files, whatever ``actions`` says.

    Raises:
        UserError: a file is missing or damaged, an action or subject is unknown, a sequence has
            the wrong shape or values that are not finite, 2D joints are in an unknown order, or a
            check failed.
    """
    actions = select_actions(info, actions)
    subjects = {subject for split in splits for subject in split}
    builder = _read_files(info, folder, subjects, skeleton, keypoints, actions, downsample)
    with one_thread():
        for subject in builder.positions if check else ():
            builder.check(subject)
        return [
            builder.build(tuple(split), needed_later={s for later in splits[k:] for s in later})
            for k, split in enumerate(splits, 1)
        ]


def _read_files(
    info: DatasetInfo,
    folder: Path,
    subjects: set[str],
    skeleton: Skeleton,
    keypoints: str,
    actions: tuple[str, ...],
    downsample: int,
) -> "_DatasetBuilder":
    """Read the 3D joints of the given subjects, and the 2D joints if there is a file of them."""
    positions = _read_sequences(info, folder / info.file_3d(), "positions_3d")
    for subject in positions.keys() - subjects:
        positions[subject] = {}
    path_2d = folder / info.file_2d(keypoints)
    detections, order = _read_2d(info, path_2d, keypoints, skeleton)
    noisy = keypoints == "noisy"
    return _DatasetBuilder(
        info, positions, detections, order, path_2d, noisy, skeleton, actions, downsample
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch with one thread inside the ``with`` block.

    Loading consists of thousands of small operations. On a busy machine torch's threads would spend
    several times longer waiting for each other than computing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def select_actions(info: DatasetInfo, actions: Sequence[str] | None) -> tuple[str, ...]:
    """The given actions in the order of the data set; all of its actions when None is given.

    Raises:
        UserError: the data set has no action of that name.
    """
    if actions is None:
        return info.actions
    for action in actions:
        if action not in info.actions:
            known = ", ".join(info.actions)
            raise UserError(f"unknown action {action!r}: {info.name} has {known}")
    return tuple(action for action in info.actions if action in actions)


def _read_sequences(info: DatasetInfo, path: Path, key: str) -> Sequences:
    """The dictionary {subject: {sequence: ...}} under ``key`` of an npz file."""
    if not path.is_file():
        raise UserError(f"{path} is not there: {info.advice}")
    found = load_object_array(path, key)
    nested = isinstance(found, dict) and all(isinstance(v, dict) for v in found.values())
    if not nested:
        raise UserError(f"{path}: {key} is not {{subject: {{sequence: ...}}}}: prepare it again")
    return {
        subject: dict(sequences) for subject, sequences in found.items()
    }  # they may be one dict


def _read_2d(
    info: DatasetInfo, path: Path, keypoints: str, skeleton: Skeleton
) -> tuple[Sequences | None, tuple[int, ...] | None]:
    """Read the 2D joints of a file.

    Returns:
        The sequences, or None if the 2D joints have to be projected from 3D. And the index of each
        of our joints in the file, or None if the file is in our order.
    """
    if keypoints in ("gt", "noisy") and not path.is_file():
        return None, None
    if not path.is_file():
        raise UserError(
            f"{path} is not there: your own 2D joints go into a file of this name, see "
            f"DATASETS.md; published ones: {info.advice}"
        )
    detections = _read_sequences(info, path, "positions_2d")
    stored = _stored_joints(detections)
    if stored is None:
        return detections, None
    # Ground-truth 2D is the projection of the 3D joints, and the 3D file has all joints.
    too_few = stored == H36M_16.num_joints < skeleton.num_joints
    subjects = info.subjects_train + info.subjects_test
    if keypoints == "gt" and too_few and all(map(info.is_calibrated, subjects)):
        return None, None
    metadata = load_object_array(path, "metadata", optional=True)
    return detections, read_joint_order(metadata, stored, path)


def _stored_joints(detections: Sequences) -> int | None:
    """Number of joints in the first readable array of a file of 2D joints; None if none is."""
    for sequences in detections.values():
        for views in sequences.values():
            try:
                return np.shape(views[0])[1]
            except (KeyError, IndexError, TypeError, ValueError):
                continue  # build() reports it if this sequence is needed
    return None


@dataclass(frozen=True)
class _Sample:
    """k frames of a sequence, for the checks.

    Attributes:
        points: (k, J, 3) world metres.
        pixels: (k, C, J, 2) pixels of the C cameras; None if 2D joints are missing.
        cameras: the C cameras, if there are pixels.
    """

    points: Tensor
    pixels: Tensor | None = None
    cameras: tuple[Camera, ...] = ()


@dataclass(frozen=True)
class _DatasetBuilder:
    """Checks the sequences of two files, and copies them into the tensors of a data set.

    Attributes:
        info: description of the data set.
        positions: {subject: {sequence: (T, joints, 3)}} in world metres.
        detections: {subject: {sequence: [(T, joints, 2) pixels of each camera]}}; None if the 2D
            joints are projected from 3D.
        order: index of each of our joints in the file of 2D joints; None if it is in our order.
        path_2d: the file of 2D joints, for messages.
        noisy: projected 2D joints get synthetic detector noise.
        skeleton, actions, downsample: as in :func:`load_pose_datasets`.
    """

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
        """Check a sample of frames of all sequences of a subject.

        Sequences that cannot be read are skipped here; :meth:`build` reports them if they are
        needed.

        Raises:
            UserError: the joints are implausible.
        """
        names = [n for n in self.positions[subject] if (subject, n) not in self.info.excluded]
        samples = [sample for name in names if (sample := self._sample(subject, name))]
        if not samples:
            return
        calibrated = self.info.is_calibrated(subject)
        points = torch.cat([sample.points for sample in samples])
        mistake = find_wrong_motion(points, self.skeleton, in_world=calibrated)
        path: str | Path = self.info.file_3d()
        seen = [sample for sample in samples if sample.pixels is not None]
        if not mistake and seen and calibrated:
            mistake = find_wrong_views(
                torch.cat([sample.pixels for sample in seen]),
                torch.cat([sample.points for sample in seen]),
                [sample.cameras for sample in seen for _ in sample.points],
                self.skeleton,
                reordered=self.order is not None,
            )
            path = self.path_2d
        if mistake:
            raise UserError(f"{path}, {subject}: {mistake}, or skip the check with --no-check_data")

    def _sample(self, subject: str, name: str) -> _Sample | None:
        """``_SAMPLED_FRAMES`` frames, spread evenly over a sequence; None if the 3D joints cannot
        be read."""
        try:
            motion = np.asarray(self.positions[subject][name])
            frames = np.linspace(0, len(motion) - 1, _SAMPLED_FRAMES).astype(int)
            points = self._points(motion[frames], 3, name)
        except (IndexError, TypeError, ValueError, UserError):
            return None
        if self.detections is None:
            return _Sample(points)
        try:
            cameras = self.info.cameras_of(subject, name, self._points(motion, 3, name))
            views = [np.asarray(self.detections[subject][name][k]) for k in range(len(cameras))]
            sampled = np.concatenate([view[frames] for view in views])
            pixels = self._points(sampled, 2, name, self.order)
        except (KeyError, IndexError, TypeError, ValueError, UserError):
            return _Sample(points)
        pixels = pixels.unflatten(0, (len(cameras), _SAMPLED_FRAMES)).transpose(0, 1)
        return _Sample(points, pixels, cameras)

    def build(self, subjects: tuple[str, ...], needed_later: set[str]) -> PoseDataset:
        """Allocate the tensors once, then fill them sequence by sequence and camera by camera.

        Args:
            needed_later: subjects that a later call needs. The sequences of all others are freed
                as soon as they are in the tensors.

        Raises:
            UserError: see :func:`load_pose_datasets`.
        """
        clips = self._select_joints(subjects)
        missing = self._missing(subjects)
        cameras = [
            self.info.cameras_of(subject, name, self.positions[subject][name])
            for subject, name, _ in clips
        ]
        total = sum(frames * len(own) for (_, _, frames), own in zip(clips, cameras, strict=True))
        size = total * sum(tensor.nbytes for tensor in self._empty_tensors(1).values())
        remedy = "give a larger --downsample, or fewer --actions"
        refuse_too_large(size, torch.device("cpu"), f"a data set of {total:,} poses", remedy)
        tensors = self._empty_tensors(total)
        start = 0
        for number, (subject, name, frames) in enumerate(clips):
            action = self.actions.index(action_of(name))
            for view, camera in enumerate(cameras[number]):
                rows = slice(start, start := start + frames)
                ids = (subjects.index(subject), number, action, view)
                for key, value in zip(_IDS, ids, strict=True):
                    tensors[key][rows] = value
                self._fill_view(
                    {k: t[rows] for k, t in tensors.items()}, subject, name, camera, view
                )
            if subject not in needed_later:
                self._free(subject, name)
        return PoseDataset(
            self.info,
            **tensors,
            subjects=subjects,
            sequences=tuple(f"{subject}/{name}" for subject, name, _ in clips),
            actions=self.actions,
            intrinsics=_stack_by_camera(cameras, lambda camera: camera.intrinsics),
            up=_stack_by_camera(cameras, lambda camera: camera.up),
            camera_height=_stack_by_camera(cameras, lambda camera: camera.translation[2]),
            image_size=_stack_by_camera(
                cameras, lambda camera: torch.tensor([camera.width, camera.height])
            ),
            skeleton=self.skeleton,
            missing=missing,
        )

    def _select_joints(self, subjects: tuple[str, ...]) -> list[tuple[str, str, int]]:
        """Replace the selected sequences in ``positions`` by tensors (T, J, 3) of the selected
        joints, world metres.

        Returns:
            Subject, sequence name and number of frames after downsampling, for each sequence.
        """
        clips = []
        for subject in subjects:
            for name in self._sequences(subject):
                where = f"{self.info.file_3d()}, {subject}/{name}"
                motion = self._points(self.positions[subject][name], 3, where)
                self.positions[subject][name] = motion
                clips.append((subject, name, len(motion[:: self.downsample])))
        trim_memory()
        if not clips:
            raise UserError(
                f"{self.info.file_3d()} has no frames of {', '.join(self.actions)} "
                f"by {', '.join(subjects)}"
            )
        return clips

    def _empty_tensors(self, count: int) -> dict[str, Tensor]:
        """Uninitialised tensors of ``count`` poses, named as in :class:`PoseDataset`."""
        num_joints = self.skeleton.num_joints
        return {
            "inputs_2d": torch.empty(count, num_joints, 2),
            "targets_3d": torch.empty(count, num_joints, 3),
            "root_3d": torch.empty(count, 3),
            **{key: torch.empty(count, dtype=torch.int16) for key in _IDS},
        }

    def _fill_view(
        self, rows: dict[str, Tensor], subject: str, name: str, camera: Camera, view: int
    ) -> None:
        """Write the poses of one sequence in one camera into the rows of the tensors."""
        motion = self.positions[subject][name][:: self.downsample]
        points = world_to_camera(motion, camera.rotation.float(), camera.translation.float())
        if self.detections is not None:
            rows["inputs_2d"][:] = self._detected(subject, name, view, camera)
        elif camera.is_calibrated:
            uv = project(points, camera.intrinsics.float())
            view_name = f"{subject}/{name}/{camera.id}"
            if self.noisy:
                uv = add_detector_noise(uv, self.skeleton, view_name)
            rows["inputs_2d"][:] = uv
        else:
            raise UserError(f"{self.path_2d} is not there: {self.info.advice}")
        rows["root_3d"][:] = points[:, 0]
        torch.sub(points, points[:, :1], out=rows["targets_3d"])

    def _sequences(self, subject: str) -> list[str]:
        """The subject's sequences of the selected actions, in the file's order."""
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
        """The sequences of these subjects that the file lacks."""
        find, found = self.info.missing_sequences, self.positions
        return tuple(line for who in subjects for line in find(who, found[who], self.actions))

    def _free(self, subject: str, name: str) -> None:
        """Delete a sequence that is in the tensors. So the peak memory is little more than the
        tensors."""
        for file in (self.positions, self.detections):
            if file is not None:
                del file[subject][name]
        if not self.positions[subject]:
            trim_memory()

    def _detected(self, subject: str, name: str, view: int, camera: Camera) -> Tensor:
        """The 2D joints (T, J, 2) of a sequence in one camera, from the file, in normalised screen
        coordinates."""
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
        # Files of detections have a few frames more than the motion capture.
        pixels = pixels[: frames : self.downsample]
        return normalize_screen_coordinates(pixels, camera.width, camera.height)

    def _points(
        self, array: Any, dim: int, where: str, order: tuple[int, ...] | None = None
    ) -> Tensor:
        """Check one array of a file and select the skeleton's joints: (T, J, dim) float32.

        Args:
            where: the file and the place in it, for messages.
            order: index of each of our joints in the file; None if it is in our order.

        Raises:
            UserError: wrong shape or type, too few joints, or values that are not finite.
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


def _stack_by_camera(
    cameras: Sequence[tuple[Camera, ...]], value: Callable[[Camera], Tensor]
) -> Tensor:
    """A value of each camera, () or (n,) -> (sequences, cameras), or with n at the end, float32."""
    rows = [torch.stack([value(camera) for camera in row]) for row in cameras]
    return torch.stack(rows).float()
