"""How much memory this machine has, how much of it is free, and which errors say that it is used up."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch


def machine_memory() -> int:
    """Bytes of this machine's memory, or of what a container may use of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        whole = min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return whole


def available_memory() -> int:
    """Bytes of this machine's memory, or of what a container may use of it, that are free."""
    free = machine_memory() // 2
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        # Files that were read and can be let go count as used there.
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        files = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        free = min(free, limit - used + files)
    return max(0, free)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU's or the machine's memory is used up."""
    text = str(error)
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in text for words in said)
