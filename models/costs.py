"""What a network costs: its parameters, the multiply-adds of one forward pass, and the activations
that training keeps."""

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


@torch.enable_grad()
def count_activation_bytes(model: nn.Module, *inputs: Tensor) -> int:
    """Bytes that a training step keeps for the gradient, for each element of the batch ``inputs``.

    They are counted in two forward passes at test, which draw nothing and change no statistic:
    what only training keeps, as the mask of a dropout, is left out.

    Args:
        inputs: with a batch of one; views of it make the second pass.
    """
    training = model.training
    model.eval()
    one, two = (_kept_bytes(model, *(x.expand(n, *x.shape[1:]) for x in inputs)) for n in (1, 2))
    model.train(training)
    return two - one


def _kept_bytes(model: nn.Module, *inputs: Tensor) -> int:
    """Bytes of the memory that the graph of ``model(*inputs)`` holds on to, weights too."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = model(*inputs)  # alive until the sum is taken, so that no address is used twice
    total = sum(kept.values())
    del graph
    return total


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
