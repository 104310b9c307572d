"""Time that goes on only while somebody sleeps, so that no test depends on how fast the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Takes the place of the module `time` in a module that waits or measures.

    Args:
        tick: seconds that pass with each look at it.
    """

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 1000.0, tick
        self.meanwhile: Callable[[], Any] = lambda: None
        """What happens while somebody sleeps."""

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
