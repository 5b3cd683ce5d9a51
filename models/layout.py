"""The memory layout of activations, shared by the layers.

Every layer takes and gives (B, J, C): poses, joints, channels. In memory the activations are
joint-major, (J, B, C) seen through a transpose, as images can be channels-last: then the product
with the (J, J) adjacency is one matrix product over all poses, and batch normalisation over poses
and joints needs no copy. Inputs of any layout are accepted.
"""

from torch import Tensor


def to_rows(x: Tensor) -> Tensor:
    """(B, J, C) -> (J B, C), joint by joint; a view where the memory is joint-major."""
    return x.transpose(0, 1).reshape(-1, x.shape[-1])


def to_poses(rows: Tensor, num_joints: int) -> Tensor:
    """(J B, C) -> (B, J, C), the inverse of :func:`to_rows`; always a view."""
    return rows.view(num_joints, -1, rows.shape[-1]).transpose(0, 1)


def aggregate(A: Tensor, x: Tensor) -> Tensor:
    """Each joint's sum over joints, weighted by its row of A (J, J): (B, J, C) -> (B, J, C)."""
    joint_major = x.transpose(0, 1)
    return (A @ joint_major.flatten(1)).view(joint_major.shape).transpose(0, 1)
