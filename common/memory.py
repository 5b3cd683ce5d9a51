"""How much memory there is, and how glibc's allocator keeps it and gives it back.

Other C libraries are left as they are.
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from common.errors import UserError

_MEMINFO = re.compile(r"(MemAvailable|SwapFree):\s*(\d+)")  # in KiB
# For the memory controller of each version of cgroups: its folder, and its file of the limit.
_CGROUPS = {
    "": ("/sys/fs/cgroup", "memory.max"),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}


def keep_freed_memory() -> None:
    """Have glibc keep freed activations for the next training step.

    By default it returns blocks of some megabytes to the system and gets them back zeroed, page by
    page, in the next step: thousands of page faults.
    """
    if mallopt := _of_libc("mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # names M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)


def trim_memory() -> None:
    """Have glibc return freed memory to the system, also what lies between blocks in use.

    It keeps hundreds of megabytes of arrays that were read and released.
    """
    if malloc_trim := _of_libc("malloc_trim"):
        malloc_trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where another C library serves."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def refuse_too_large(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what cannot fit, before it is allocated.

    Args:
        needed: bytes, at least.
        what: needs them, for the message.
        remedy: how to need fewer, for the message.

    Raises:
        UserError: the device has not so much memory free.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise UserError(
            f"{what} needs at least {needed / 1e9:,.1f} GB of memory, and {device} has "
            f"{free / 1e9:,.1f} GB: {remedy}"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process could still allocate on a device; None where that is not known.

    On the CPU that is what the system calls available, and swap. A limit of the process's cgroup
    counts as a whole, also what is used of it: much of that may be cached files.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    limits = list(_cgroup_limits())
    found = (_MEMINFO.match(line) for line in _read("/proc/meminfo"))
    kib = {match[1]: int(match[2]) for match in found if match}
    if "MemAvailable" in kib:
        limits.append(1024 * sum(kib.values()))
    elif hasattr(os, "sysconf"):  # Windows has none
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def _cgroup_limits() -> Iterator[int]:
    """The limits, in bytes, of the process's cgroup and of those around it."""
    for line in _read("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in {*controllers.split(",")} & _CGROUPS.keys():
            root, limit = _CGROUPS[controller]
            place = Path(root, path.lstrip("/"))
            for folder in (place, *place.parents):
                yield from (int(text) for text in _read(str(folder / limit)) if text.isdigit())


def _read(path: str) -> list[str]:
    """The lines of a file of the system; none where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
