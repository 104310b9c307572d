"""The machine's total and free memory, and the errors that report that memory ran out."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def machine_memory() -> int:
    """Total memory of this machine, or the limit of its container, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return total


def available_memory() -> int:
    """Free memory of this machine, within the limit of its container, in bytes."""
    free = machine_memory() // 2
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        # The container counts cached files as used, although they can be dropped.
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        files = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        free = min(free, limit - used + files)
    return max(0, free)


def used_memory() -> int:
    """Resident memory of this process, in bytes; its peak where the system doesn't say."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory()


def peak_memory() -> int:
    """The most resident memory that this process has had so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options for `mallopt` (malloc.h)."""
KEPT, LARGE = 1 << 30, 1 << 28
"""Freed bytes that the process keeps, and the size from which a tensor's memory is returned at once all the same."""


def keep_freed_memory() -> None:
    """Let this process use the memory of a freed tensor for the next one.

    By default the C library returns large blocks to the system at once. The system then fills each new one with zeros,
    page by page, which takes up to a third of the vision tower's time (dev/LOG.md). Only glibc (Linux) is told so;
    settings of the user's (MALLOC_..., GLIBC_TUNABLES) are left as they are.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGE)
        library.mallopt(_TRIM_THRESHOLD, KEPT)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that the GPU's or the machine's memory ran out."""
    text = str(error)
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(phrase in text for phrase in phrases)
