"""What a network costs: its parameters, and the multiply-adds of one forward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """All weights, those that are not trained too."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Multiplications with an addition in the matrix products of ``model(*inputs)`` at test.

    They are counted as they are carried out. Elementwise operations are left out.
    """
    training = model.training
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH) as counter:
        model.eval()(*inputs)
    model.train(training)
    return counter.get_total_flops() // 2


def _flop_of_mv(matrix: torch.Size, vector: torch.Size, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _flop_of_addmm_(total: torch.Size, a: torch.Size, b: torch.Size, **kwargs: Any) -> int:
    """total += a b, for single matrices or batches of them."""
    return 2 * total.numel() * a[-1]


_UNKNOWN_TO_TORCH = {
    torch.ops.aten.mv: _flop_of_mv,
    torch.ops.aten.addmm_: _flop_of_addmm_,
    torch.ops.aten.baddbmm_: _flop_of_addmm_,
}
