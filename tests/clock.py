"""A clock that advances only during sleep, so that no test depends on the speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Stands in for the module `time` in a module that waits or measures.

    Args:
        tick: seconds by which each reading advances the clock.
    """

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 1000.0, tick
        self.meanwhile: Callable[[], Any] = lambda: None
        """Called during each sleep."""

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
