"""A textbook implementation of the published method, which the benchmark compares with ours.

It is not used for training or testing. It is written in the most direct way: the layer multiplies
by masked adjacencies, batch normalisation transposes the tensor, each sample is one Python call,
the loss is read in every step, each action has its own loader at test, and poses are aligned one by
one. The state dicts have the names of ``models.modulated_gcn``, so that weights can be copied.
Shapes: B poses, J joints, C channels.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from common.camera import project, world_to_camera
from common.skeleton import Skeleton
from data.datasets import H36M
from data.pose_dataset import PoseDataset


class TextbookConv(nn.Module):
    """The modulated graph convolution of ``ModulatedGraphConv``, term by term."""

    def __init__(self, in_dim: int, out_dim: int, adj: Tensor) -> None:
        super().__init__()
        self.register_buffer("adj", adj.clone(), persistent=False)
        self.W = nn.Parameter(torch.empty(2, in_dim, out_dim))
        self.M = nn.Parameter(torch.ones(len(adj), out_dim))
        self.adj2 = nn.Parameter(torch.full_like(adj, 1e-6))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        nn.init.xavier_uniform_(self.W, gain=1.414)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, in_dim) -> (B, J, out_dim)."""
        h0 = torch.matmul(x, self.W[0])
        h1 = torch.matmul(x, self.W[1])
        A = self.adj + self.adj2
        A = (A.T + A) / 2
        E = torch.eye(len(A), device=x.device)
        out = torch.matmul(A * E, self.M * h0) + torch.matmul(A * (1 - E), self.M * h1)
        return out + self.bias.view(1, 1, -1)


class _Block(nn.Module):
    def __init__(self, in_dim: int, out_dim: int, adj: Tensor) -> None:
        super().__init__()
        self.gconv = TextbookConv(in_dim, out_dim, adj)
        self.bn = nn.BatchNorm1d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gconv(x).transpose(1, 2)
        return torch.relu(self.bn(x).transpose(1, 2))


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int, adj: Tensor) -> None:
        super().__init__()
        self.gconv1, self.gconv2 = _Block(dim, dim, adj), _Block(dim, dim, adj)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gconv2(self.gconv1(x))


class _EmbeddedNonLocal(nn.Module):
    """x + BN(W y), y = softmax(theta^T phi) g over joints, by 1x1 convolutions on (B, C, J, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(dim, dim // 2, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(dim // 2, dim, 1), nn.BatchNorm2d(dim))
        nn.init.zeros_(self.W[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, J, C) -> (B, J, C)."""
        image = x.transpose(1, 2).unsqueeze(3)
        g, theta, phi = (
            conv(image).flatten(2).transpose(1, 2) for conv in (self.g, self.theta, self.phi)
        )
        y = torch.matmul(torch.softmax(torch.matmul(theta, phi.transpose(1, 2)), dim=-1), g)
        y = self.W(y.transpose(1, 2).contiguous().unsqueeze(3))
        return (image + y).squeeze(3).transpose(1, 2)


class TextbookGCN(nn.Module):
    """The lifting network, (B, J, 2) -> (B, J, 3)."""

    def __init__(self, adj: Tensor, dim: int = 128, layers: int = 4, embedded: bool = False):
        super().__init__()
        self.gconv_input = nn.Sequential(_Block(2, dim, adj))
        self.gconv_layers = nn.Sequential(*(_ResidualBlock(dim, adj) for _ in range(layers)))
        self.non_local = _EmbeddedNonLocal(dim) if embedded else nn.Identity()
        self.gconv_output = TextbookConv(dim, 3, adj)

    def forward(self, x: Tensor) -> Tensor:
        return self.gconv_output(self.non_local(self.gconv_layers(self.gconv_input(x))))


class TextbookDataset(Dataset):
    """Pairs of 2D input (J, 2) and 3D target (J, 3), one Python call each."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.inputs[index]), torch.from_numpy(self.targets[index])


def textbook_arrays(
    positions: dict[str, dict[str, np.ndarray]], skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """2D inputs (N, J, 2) and root-relative 3D targets (N, J, 3) of Human3.6M's training subjects.

    Each view of each sequence becomes an array in a list; the lists are concatenated at the end.
    """
    inputs, targets = [], []
    for subject in H36M.subjects_train:
        for motion in positions[subject].values():
            motion = torch.from_numpy(motion[:, skeleton.indices_in(motion.shape[1])])
            for camera in H36M.cameras(subject):
                points = world_to_camera(
                    motion, camera.rotation.float(), camera.translation.float()
                )
                inputs.append(project(points, camera.intrinsics.float()).numpy())
                targets.append((points - points[:, :1]).numpy())
    return np.concatenate(inputs), np.concatenate(targets)


def textbook_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """Train on the batches. Returns the mean loss over the poses."""
    model.train()
    total, count = 0.0, 0
    for inputs, targets in batches:
        output = model(inputs)
        optimizer.zero_grad()
        loss = 0.9 * nn.functional.mse_loss(output, targets)
        loss = loss + 0.1 * nn.functional.l1_loss(output, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        total += loss.item() * len(inputs)
        count += len(inputs)
    return total / count


def textbook_p_mpjpe(pred: np.ndarray, target: np.ndarray) -> float:
    """P-MPJPE of one pose (J, 3), by an SVD of the covariance."""
    p, t = pred - pred.mean(0), target - target.mean(0)
    p_size, t_size = np.sqrt((p**2).sum()), np.sqrt((t**2).sum())
    p, t = p / p_size, t / t_size
    U, s, Vt = np.linalg.svd(t.T @ p)
    R = U @ Vt
    if np.linalg.det(R) < 0:
        U[:, -1] *= -1
        s[-1] *= -1
        R = U @ Vt
    return float(np.mean(np.linalg.norm(t_size * (s.sum() * p @ R.T - t), axis=1)))


@torch.no_grad()
def textbook_evaluate(model: nn.Module, dataset: PoseDataset, batch_size: int) -> list[list[float]]:
    """MPJPE and P-MPJPE of each action in mm, with one loader for each action."""
    model.eval()
    samples = TextbookDataset(dataset.inputs_2d.numpy(), dataset.targets_3d.numpy())
    table = []
    for action in range(len(dataset.actions)):
        chosen = Subset(samples, torch.nonzero(dataset.action == action).flatten().tolist())
        sums, count = np.zeros(2), 0
        for inputs, targets in DataLoader(chosen, batch_size):
            output = model(inputs)
            output[:, :] -= output[:, :1].clone()
            sums[0] += torch.norm(output - targets, dim=-1).mean().item() * len(inputs)
            pairs = zip(output.numpy(), targets.numpy(), strict=True)
            sums[1] += sum(textbook_p_mpjpe(pred, target) for pred, target in pairs)
            count += len(inputs)
        table.append((1000 * sums / max(count, 1)).tolist())
    return table
