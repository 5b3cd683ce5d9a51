"""The losses against their formulas."""

import torch

from common.losses import pose_loss
from common.metrics import mpjpe


def test_loss_is_the_weighted_sum():
    pred, target = torch.randn(4, 16, 3), torch.randn(4, 16, 3)
    mse, l1 = (pred - target).square().mean(), (pred - target).abs().mean()
    assert torch.allclose(pose_loss(pred, target, "mse", 0.1), 0.9 * mse + 0.1 * l1)
    expected = 0.99 * mpjpe(pred, target).mean() + 0.01 * l1
    assert torch.allclose(pose_loss(pred, target, "mpjpe", 0.01), expected)
    assert torch.allclose(pose_loss(pred, target, "l1", 0.1), l1)
    near, far = torch.full_like(pred, 0.004), torch.full_like(pred, 0.3)
    # Half the square over 10 mm, and from there straight on: |x| - 5 mm.
    assert torch.allclose(pose_loss(near, 0 * near, "smooth_l1", 0.0), torch.tensor(0.0008))
    assert torch.allclose(pose_loss(far, 0 * far, "smooth_l1", 0.0), torch.tensor(0.295))
