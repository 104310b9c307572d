"""The CPU threads that PyTorch computes with: how long they spin while they wait, and how many there are.

PyTorch's OpenMP library (libgomp, in PyTorch's builds for Linux) reads both from the environment when torch is loaded,
so `prepare` is called when Lensmith is imported. What is set there already is left as it is.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

SPINS = 100_000
"""How many times a waiting thread looks again before it gives its core away. The library's default, 300,000, keeps the
thread that it waits for from running if another process wants a core too: training then nearly stops. Chosen with
`benchmarks/load.py`; dev/LOG.md has the figures of others."""
CGROUP = Path("/sys/fs/cgroup")


def prepare() -> None:
    """Set the environment for torch, which must not be loaded yet."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    cores = granted_cores()
    if cores and cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def granted_cores(cgroup: Path = CGROUP) -> int | None:
    """The number of cores' worth of time that a container's limit grants, rounded up; None without a limit.

    The OpenMP library doesn't know of such a limit, and would start a thread for each core of the machine.
    """
    try:
        if (limit := cgroup / "cpu.max").exists():
            quota, period = limit.read_text(encoding="ascii").split()
        else:
            folder = cgroup / "cpu"
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # there is no such file, or it says `max`
        return None
    return math.ceil(cores) if cores > 0 else None
