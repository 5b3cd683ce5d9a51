"""Measures what a checkpoint says of the persons that its network was trained on."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from common.camera import project, undistort
from common.metrics import root_centred
from common.person import (
    PersonStatistics,
    bone_lengths,
    left_right_means,
    proportions_and_size,
)
from data.pose_dataset import PoseBatch, PoseDataset

_SAMPLE = 4096  # poses, spread evenly over the data set
_LEAST_LENGTH_SIGMA, _LEAST_SYMMETRY_SIGMA = 0.004, 0.006  # metres
_JOINT_SIGMAS = 0.001, 1000.0  # the least and the most, for a network that has diverged


def person_statistics(dataset: PoseDataset) -> PersonStatistics:
    """What can be measured on the persons of a training set without the network."""
    batch, skeleton = _sample(dataset), dataset.skeleton
    proportions, size = proportions_and_size(batch.targets_3d, skeleton)
    lengths = bone_lengths(batch.targets_3d, skeleton)
    points = batch.targets_3d + batch.root_3d.unsqueeze(1)
    subject, sequence, camera = (
        ids[batch.index].long() for ids in (dataset.subject, dataset.sequence, dataset.camera)
    )
    heights = (points * batch.up.unsqueeze(1)).sum(dim=2).amin(dim=1)
    heights = heights + dataset.camera_height[sequence, camera]
    off_mean, ankles = torch.empty_like(lengths), []
    for person in subject.unique():
        rows = subject == person
        off_mean[rows] = lengths[rows] - left_right_means(lengths[rows], skeleton).mean(dim=0)
        ankles.append(heights[rows].median())
    length_sigmas = left_right_means(off_mean.square().mean(dim=0), skeleton).sqrt()
    left, right = (
        lengths[:, [joint - 1 for joint in side]]
        for side in (skeleton.joints_left, skeleton.joints_right)
    )
    noise = batch.inputs_2d - project(points, batch.intrinsics)
    return PersonStatistics(
        proportions=tuple(proportions.mean(dim=0).tolist()),
        size=size.mean().item(),
        ankle_height=_number_if_finite(torch.stack(ankles).median()),
        screen_sigma=_number_if_finite(noise.square().mean().sqrt()),
        length_sigmas=tuple(length_sigmas.clamp_min(_LEAST_LENGTH_SIGMA).tolist()),
        symmetry_sigma=max((left - right).square().mean().sqrt().item(), _LEAST_SYMMETRY_SIGMA),
    )


def with_errors(
    statistics: PersonStatistics, pose_of: Callable[[PoseBatch], Tensor], dataset: PoseDataset
) -> PersonStatistics:
    """The same with the errors of a network along the rays of its training set.

    Args:
        pose_of: a batch -> the network's poses (B, J, 3), metres, camera space, not centred.
    """
    if not dataset.intrinsics.isfinite().all():
        return statistics
    batch = _sample(dataset)
    rays = undistort(batch.inputs_2d, batch.intrinsics)
    rays = normalize(torch.cat([rays, torch.ones_like(rays[..., :1])], dim=2), dim=2)
    error = ((root_centred(pose_of(batch)) - batch.targets_3d) * rays).sum(dim=2)
    squares = left_right_means(error[:, 1:].square().mean(dim=0), dataset.skeleton)
    sigmas = torch.cat([squares.new_zeros(1), 2 * squares.sqrt()])  # that of the root is not used
    sigmas = sigmas.nan_to_num(math.inf).clamp(*_JOINT_SIGMAS)
    return replace(statistics, joint_sigmas=tuple(sigmas.tolist()))


def _sample(dataset: PoseDataset) -> PoseBatch:
    count = min(len(dataset), _SAMPLE)
    index = torch.arange(count, device=dataset.targets_3d.device) * len(dataset) // count
    return dataset.batch(index)


def _number_if_finite(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None
