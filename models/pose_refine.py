"""Pose refinement: how far to trust the network's x, y and how far the 2D input's.

Source: the paper's refinement for detected 2D, after Cai et al. (ICCV 2019).
"""

import torch
from torch import Tensor, nn


class PoseRefine(nn.Module):
    """Blends two readings of a pose, with a weight s in (0, 1) for each joint's x and y.

        x, y = s P + (1 - s) P'        z = P's

    P is the network's pose, P' its depths put on the 2D input
    (``common.camera.back_project_pose``).
    """

    def __init__(self, num_joints: int) -> None:
        super().__init__()
        self.post_refine = nn.Sequential(
            nn.Linear(num_joints * 6, 1024),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(1024, num_joints * 2),
            nn.Sigmoid(),
        )

    def forward(self, pose: Tensor, lifted: Tensor) -> Tensor:
        """P (B, J, 3) and P' (B, J, 3), metres, relative to the root -> (B, J, 3)."""
        both = torch.cat([pose, lifted], dim=-1)
        weight = self.post_refine(both.flatten(1)).view(*pose.shape[:2], 2)
        blended = weight * pose[..., :2] + (1 - weight) * lifted[..., :2]
        return torch.cat([blended, pose[..., 2:]], dim=-1)
