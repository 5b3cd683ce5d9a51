"""Tested poses of a data set: as pictures, and as clips."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.camera import image_coordinates
from common.clip import Clip
from common.metrics import mpjpe, root_centred
from common.visualize import save_poses
from data.datasets import action_of
from data.pose_dataset import PoseBatch, PoseDataset
from training.load_data import evaluation_loader

_KINDS = ("best", "median", "worst")
_BATCH_SIZE = 512


def picture_beside(weights: str) -> Path:
    """Where ``--draw`` puts the picture of a test: beside a checkpoint or a folder of weights."""
    path = Path(weights).absolute()
    name = path.name.removesuffix(".tar").removesuffix(".pth")
    return path.with_name(f"{name}_poses.png")


def tested_poses(pose_of: Callable[[PoseBatch], Tensor], dataset: PoseDataset) -> Tensor:
    """The poses (N, J, 3) of a whole data set, on the CPU: metres, camera space, root at zero."""
    loader = replace(evaluation_loader(dataset), rank=0, world_size=1)
    return torch.cat([root_centred(pose_of(batch)).cpu() for batch in loader.ordered_batches()])


def title_of(dataset: PoseDataset, index: int) -> str:
    """The sequence and the camera of a pose."""
    sequence = dataset.sequences[int(dataset.sequence[index])]
    return f"{sequence}, camera {int(dataset.camera[index])}"


def draw_by_error(
    path: Path, pose_of: Callable[[PoseBatch], Tensor], dataset: PoseDataset, count: int
) -> None:
    """Draw the ``count`` best, median and worst poses of a data set, by MPJPE.

    Raises:
        UserError: the picture cannot be written.
    """
    poses = tested_poses(pose_of, dataset)
    errors = mpjpe(poses, dataset.targets_3d.cpu())
    order, count = errors.argsort(), min(count, len(errors))
    starts = (0, (len(errors) - count) // 2, len(errors) - count)
    index = torch.cat([order[start : start + count] for start in starts])
    batch = dataset.batch(index.to(dataset.inputs_2d.device))
    titles = [
        f"{kind}: {title_of(dataset, pose)}"
        for kind, pose in zip((k for k in _KINDS for _ in range(count)), index, strict=True)
    ]
    inputs, targets, up = (t.cpu() for t in (batch.inputs_2d, batch.targets_3d, batch.up))
    save_poses(path, inputs, poses[index], targets, titles, dataset.skeleton, up)


def find_sequence(dataset: PoseDataset, name: str) -> int | None:
    """The number of a sequence of the first subject: the one of this name, or else the first of
    the action of this name; None if there is neither."""
    names = [sequence.partition("/")[2] for sequence in dataset.sequences]
    for found in (names, [action_of(sequence) for sequence in names]):
        if name in found:
            return found.index(name)
    return None


def clip_of_sequence(
    dataset: PoseDataset,
    pose_of: Callable[[PoseBatch], Tensor],
    sequence: int,
    camera: int,
    fps: float,
) -> Clip:
    """A sequence of a data set, prediction and truth at the true place.

    Args:
        pose_of: B poses of a batch -> (B, J, 3) metres, camera space.
        sequence, camera: numbers as in the data set.
    """
    index = ((dataset.sequence == sequence) & (dataset.camera == camera)).nonzero()[:, 0]
    batches = map(dataset.batch, index.split(_BATCH_SIZE))
    poses = torch.cat([root_centred(pose_of(batch)) for batch in batches]).cpu()
    index, dataset = index.cpu(), dataset.to(torch.device("cpu"))
    batch = dataset.batch(index)
    width, height = dataset.image_size[sequence, camera].int().tolist()
    return Clip(
        poses=poses.numpy(),
        skeleton=dataset.skeleton,
        fps=fps,
        title=title_of(dataset, int(index[0])),
        absolute=(poses + batch.root_3d.unsqueeze(1)).numpy(),
        truth=batch.targets_3d.numpy(),
        keypoints=image_coordinates(batch.inputs_2d, width, height).numpy(),
        size=(width, height),
        up=tuple(batch.up[0].tolist()),
    )
