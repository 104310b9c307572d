"""The machine's total and free memory, and the errors that report that memory ran out."""

from __future__ import annotations

import os
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


def out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that the GPU's or the machine's memory ran out."""
    text = str(error)
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(phrase in text for phrase in phrases)
