"""The memory that a piece of work takes in tensors, as PyTorch's allocator tells it: what a GPU would be asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def tensor_peak(work: Callable[[], Any]) -> int:
    """Bytes of tensors alive at once, at most, above those alive when the work begins."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    now = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
