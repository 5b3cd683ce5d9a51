"""Pose refinement: blends the network's x and y with those that the 2D input gives.

Source: the paper's refinement for detected 2D, after Cai et al. (ICCV 2019).
"""

import torch
from torch import Tensor, nn


class PoseRefine(nn.Module):
    """Predicts a weight s in (0, 1) for the x and the y of each joint, and blends two poses by it.

        x, y = s P + (1 - s) P'        z = P's z

    P is the network's pose. P' has its depths, and x and y from the 2D input
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
