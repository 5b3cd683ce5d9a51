"""Synthetic detector noise on projected 2D joints, to try detected 2D without a detector.

It models no particular detector. Errors are in pixels of an image that is 1000 pixels wide:

- Gaussian noise on every joint of every frame. Its standard deviation depends on the joint
  (``_SIGMA``); at wrists and ankles it is about three times that of the hips.
- Gross errors at 1% of the joints, and at 3% of wrists and ankles: Gaussian with 40 px.
- Left and right swapped: the legs in 0.5% of the frames, the arms in 0.5%.

The mean distance from the true joints is 5 px. The noise of a sequence and camera depends on their
names only, so it is the same in every run and for every seed of training.
"""

import zlib

import torch
from torch import Tensor

from common.skeleton import Skeleton

PIXEL = 2 / 1000  # of an image that is 1000 pixels wide, in screen units
_SIGMA = {"Hip": 1.8, "Knee": 3.2, "Foot": 5.5, "Shoulder": 2.3, "Elbow": 3.7, "Wrist": 5.5}
_SIGMA_MIDDLE = 2.3  # spine, thorax, neck, head
_EXTREMITIES = ("Foot", "Wrist")
_GROSS_RATE, _GROSS_RATE_EXTREMITIES, _GROSS_SIGMA = 0.01, 0.03, 40.0
_SWAP_RATE = 0.005
_LEG = ("Hip", "Knee", "Foot")


def add_detector_noise(uv: Tensor, skeleton: Skeleton, name: str) -> Tensor:
    """Screen coordinates (T, J, 2) with noise added, of the same shape.

    Args:
        uv: (T, J, 2) normalised screen coordinates, without noise.
        name: name of the sequence and camera; it seeds the noise.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    parts = [joint.removeprefix("R").removeprefix("L") for joint in skeleton.names]
    sigma = torch.tensor([_SIGMA.get(part, _SIGMA_MIDDLE) for part in parts])
    gross_rate = torch.tensor(
        [_GROSS_RATE_EXTREMITIES if part in _EXTREMITIES else _GROSS_RATE for part in parts]
    )
    frames, joints, _ = uv.shape
    gross = torch.rand(frames, joints, generator=generator) < gross_rate
    noise = sigma.unsqueeze(1) * torch.randn(uv.shape, generator=generator)
    noise += gross.unsqueeze(-1) * _GROSS_SIGMA * torch.randn(uv.shape, generator=generator)
    return _swap_sides(uv, skeleton, generator) + PIXEL * noise


def _swap_sides(uv: Tensor, skeleton: Skeleton, generator: torch.Generator) -> Tensor:
    """Swap the left and right legs (T, J, 2) in some frames, and the arms in some."""
    order = skeleton.flip_order()
    for legs in (True, False):
        swapped = torch.arange(skeleton.num_joints)
        for left, right in zip(skeleton.joints_left, skeleton.joints_right, strict=True):
            if (skeleton.names[left][1:] in _LEG) == legs:
                swapped[left], swapped[right] = order[left], order[right]
        chosen = torch.rand(len(uv), generator=generator) < _SWAP_RATE
        uv = torch.where(chosen[:, None, None], uv[:, swapped], uv)
    return uv
