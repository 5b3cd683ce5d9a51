"""Tests beside the protocol: of a network told a wrong camera, seeing through a turned one, or
given another detector's joints or noisy ones."""

import argparse
import math
from dataclasses import replace

import torch

from common.camera import reproject, rotation_about
from common.errors import UserError
from common.input_view import rotate
from data.noise import PIXEL
from data.pose_dataset import PoseDataset, shift_batch
from data.shifts import shift_of_detector
from training.lifter import Lifter, check_cameras

_NEAREST = 0.2  # metres: no joint comes nearer to a turned camera


def with_other_cameras(
    dataset: PoseDataset, args: argparse.Namespace, lifter: Lifter
) -> tuple[PoseDataset, dict[str, str]]:
    """The data set as it is to be tested, and remarks on what was changed, by the flags' names.

    Args:
        args: the flags ``joints_of``, ``pan`` (degrees), ``focal_scale`` (a factor),
            ``camera_height_error`` (metres) and ``keypoint_noise`` (pixels at image width 1,000);
            the functions below say what each does.
        lifter: that is to be tested.

    Raises:
        UserError: the change is not possible, or changes nothing.
    """
    remarks = {}
    if args.joints_of:
        dataset = with_joints_of(dataset, args.joints_of)
        remarks["joints_of"] = (
            f"the 2D joints are moved on purpose, to where {args.joints_of} is taken to see them"
        )
    if args.pan:
        dataset = panned(dataset, args.pan)
        remark = f"the cameras are turned to the right on purpose, by {args.pan:g} degrees"
        outside = (dataset.inputs_2d[..., 0].abs() > 1).double().mean().item()
        if outside:
            remark += f", which leaves {outside:.1%} of the 2D joints outside the image"
        remarks["pan"] = remark
    if args.focal_scale != 1:
        if not (lifter.input_view.uses_intrinsics or lifter.post_refine or lifter.fits):
            raise UserError(
                "--focal_scale: this network uses no rays and has no refinement, leave it out"
            )
        dataset = with_focal_scale(dataset, args.focal_scale)
        remarks["focal_scale"] = (
            f"the focal length is wrong on purpose, by a factor of {args.focal_scale:g}"
        )
    if args.camera_height_error:
        if args.body_size != "camera_height":
            raise UserError("--camera_height_error: give --body_size camera_height too")
        height = dataset.camera_height + args.camera_height_error
        dataset = replace(dataset, camera_height=height)
        remarks["camera_height_error"] = (
            f"the camera height is wrong on purpose, by {args.camera_height_error:g} m"
        )
    if args.keypoint_noise:
        dataset = with_keypoint_noise(dataset, args.keypoint_noise)
        remarks["keypoint_noise"] = (
            f"the 2D joints have noise of {args.keypoint_noise:g} px at width 1,000 on purpose"
        )
    return dataset, remarks


def panned(dataset: PoseDataset, degrees: float) -> PoseDataset:
    """The poses as the cameras see them after a turn about their own vertical axes, to the right.

    People move to the left of the image; a detector's errors stay, see ``reproject``.

    Raises:
        UserError: the cameras are not known, or somebody would no longer be in front of them.
    """
    check_cameras(dataset, "leave out --pan")
    axis = dataset.up.new_tensor([[0.0, 1.0, 0.0]])
    rotation = rotation_about(axis, axis.new_tensor([-math.radians(degrees)]))
    everything = dataset.batch(torch.arange(len(dataset), device=axis.device))
    joints = dataset.targets_3d + dataset.root_3d.unsqueeze(1)
    turned = rotate(joints, rotation)
    if turned[..., 2].min() < _NEAREST:
        raise UserError(f"--pan {degrees:g} leaves people behind the camera: give fewer degrees")
    return replace(
        dataset,
        inputs_2d=reproject(dataset.inputs_2d, joints, turned, everything.intrinsics),
        targets_3d=turned - turned[:, :1],
        root_3d=turned[:, 0],
        up=rotate(dataset.up, rotation),
    )


def with_joints_of(dataset: PoseDataset, detector: str) -> PoseDataset:
    """The poses with 2D joints where a detector of ``data.shifts`` sees them; the errors of those
    that the data set has stay.

    Raises:
        UserError: the cameras are not known.
    """
    check_cameras(dataset, "leave out --joints_of")
    everything = dataset.batch(torch.arange(len(dataset), device=dataset.inputs_2d.device))
    moved = shift_batch(everything, lambda p: shift_of_detector(p, dataset.skeleton, detector))
    return replace(dataset, inputs_2d=moved.inputs_2d)


def with_focal_scale(dataset: PoseDataset, factor: float) -> PoseDataset:
    """As one knows the data set whose focal length is wrong by a factor; the 2D joints stay, they
    are what the true camera saw."""
    scale = dataset.intrinsics.new_tensor([factor, factor, 1, 1, 1, 1, 1, 1, 1])
    return replace(dataset, intrinsics=dataset.intrinsics * scale)


def with_keypoint_noise(dataset: PoseDataset, pixels: float) -> PoseDataset:
    """The poses with independent Gaussian noise on their 2D joints, the same in each call.

    Args:
        pixels: its standard deviation along x and y at image width 1,000.
    """
    exact = dataset.inputs_2d
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
    return replace(dataset, inputs_2d=exact + pixels * PIXEL * noise.to(exact.device))
