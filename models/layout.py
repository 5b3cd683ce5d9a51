"""The memory layout of activations, shared by the layers.

Every layer maps (B, J, C) to (B, J, C'): poses, joints, channels. In memory the activations are
joint-major: a contiguous (J, B, C) seen through a transpose, as images can be channels-last. The
product with a (J, J) adjacency is then one matrix product over all poses, and batch normalisation
over poses and joints needs no copy. Inputs of any memory layout are accepted.
"""

from torch import Tensor


def to_rows(x: Tensor) -> Tensor:
    """(B, J, C) -> (J B, C), joint by joint; a view where the memory is joint-major."""
    return x.transpose(0, 1).reshape(-1, x.shape[-1])


def to_poses(rows: Tensor, num_joints: int) -> Tensor:
    """(J B, C) -> (B, J, C): the inverse of :func:`to_rows`. It is always a view."""
    return rows.view(num_joints, -1, rows.shape[-1]).transpose(0, 1)


def aggregate(A: Tensor, x: Tensor) -> Tensor:
    """A x for each pose: joint i becomes the sum of all joints, weighted by row i of A (J, J):
    (B, J, C) -> (B, J, C)."""
    joint_major = x.transpose(0, 1)
    return (A @ joint_major.flatten(1)).view(joint_major.shape).transpose(0, 1)
