"""The device, and settings that make a process faster but for rounding change no result."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable

import torch
from torch import nn

from common.errors import UserError
from common.memory import keep_freed_memory
from training import distributed


def select_device(name: str, deterministic: bool = False) -> torch.device:
    """The device of ``--device``: "auto" is the first CUDA device where there is one, else the CPU.
    Each of several processes gets a CUDA device of its own.

    Args:
        deterministic: on CUDA, only computations that give the same bits each time; it holds for
            the whole process, and has to be said before CUDA starts. On the CPU all are such.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if deterministic and device.type == "cuda":
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        torch.zeros(1, device=device).cpu()  # meta makes tensors, but without values
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().split("\n")[0][:100]
        if reason.startswith("Expected one of"):  # and a list of whatever torch may be built for
            reason = "unknown"
        raise UserError(f"--device {name} is not available here ({reason}): try cpu") from error
    return distributed.own_device(device)


def accelerate(
    networks: Iterable[nn.Module], device: torch.device, compiled: bool, tf32: bool
) -> None:
    """Settings of the process that change speed, and rounding at most.

    Args:
        compiled: let torch.compile fuse each network; where the compiler that it needs is not
            found, warn and go on without. The names in state dicts stay.
        tf32: on CUDA, float32 matrix products with 10 bits of mantissa instead of 23.
    """
    keep_freed_memory()
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
