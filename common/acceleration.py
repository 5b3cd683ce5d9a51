"""What makes a process faster without changing what it computes, but for rounding."""

import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable

import torch
from torch import nn


def accelerate(
    networks: Iterable[nn.Module], device: torch.device, compiled: bool, tf32: bool
) -> None:
    """Settings of the process that change speed, and rounding at most.

    Args:
        compiled: let torch.compile fuse each network; where the compiler that it needs is not
            found, warn and go on without. The names in state dicts stay.
        tf32: on CUDA, float32 matrix products with 10 bits of mantissa instead of 23.
    """
    _keep_freed_memory()
    if tf32:
        torch.set_float32_matmul_precision("high")
    if not compiled:
        return
    if lacking := _lacking_compiler(device):
        print(f"warning: --compile without effect: {lacking} is not found", file=sys.stderr)
        return
    for network in networks:
        # CUDA graphs (reduce-overhead) need fixed shapes: an epoch has two, the last batch's too.
        if device.type == "cuda":
            network.compile(mode="reduce-overhead", dynamic=False)
        else:
            network.compile()


def _lacking_compiler(device: torch.device) -> str | None:
    """What torch.compile would need and this machine has not."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "the triton package"
    compilers = [os.environ.get("CXX"), "g++", "clang++", "cl"]
    found = any(shutil.which(name) for name in compilers if name)
    return None if found else "a C++ compiler"


def _keep_freed_memory() -> None:
    """Have glibc keep freed activations for the next step.

    It would give blocks of some megabytes back to the system, and get them again zeroed, page by
    page, at every step: thousands of page faults. Other C libraries are left as they are.
    """
    if mallopt := _of_libc("mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # names M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)


def trim_memory() -> None:
    """Have glibc give freed memory between what is in use back to the system: it keeps hundreds of
    megabytes of arrays that were read and let go. Other C libraries are left as they are."""
    if malloc_trim := _of_libc("malloc_trim"):
        malloc_trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where another C library serves."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    amsgrad: bool = False,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Adam as one kernel over all weights; with ``weight_decay`` it is AdamW."""
    if weight_decay is None:
        return torch.optim.Adam(parameters, lr=lr, amsgrad=amsgrad, fused=True)
    options = {"amsgrad": amsgrad, "weight_decay": weight_decay, "fused": True}
    return torch.optim.AdamW(parameters, lr=lr, **options)
