"""The peak memory of tensors in a piece of work, as PyTorch's allocator reports it: what a GPU would need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def tensor_peak(work: Callable[[], Any]) -> int:
    """Peak bytes of tensors alive at once, above those alive when `work` begins."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    now = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
