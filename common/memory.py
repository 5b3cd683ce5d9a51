"""How glibc's allocator keeps memory and gives it back. Other C libraries are left as they are."""

import ctypes
import sys
from collections.abc import Callable


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
