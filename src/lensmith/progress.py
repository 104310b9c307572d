"""Progress events of long tasks: sentences and counts, passed to a callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """One sentence about the current work."""

    text: str


@dataclass(frozen=True)
class Advance:
    """Progress of a long task."""

    task: str
    done: int
    total: int
    rate: float
    """Units per second."""
    seconds_left: float
    detail: str = ""
    unit: str = "images"
    """What is counted, such as `images` or `bytes`."""


Tell = Callable[[Note | Advance], Any]


def silent(_: Note | Advance) -> None:
    """Ignore all progress."""


def size(number: float) -> str:
    """A human-readable number of bytes: `"6.0 GB"`, `"122.8 kB"`, `"43 bytes"`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} bytes"


def counter(task: str, total: int, tell: Tell, unit: str = "images") -> Callable[[int], None]:
    """A callback that turns counts into `Advance` events. A first count above 0 means that earlier work is resumed."""
    start, first = time.perf_counter(), -1

    def progress(done: int) -> None:
        nonlocal first
        first = done if first < 0 else first
        rate = (done - first) / max(1e-9, time.perf_counter() - start)
        if rate:
            tell(Advance(task, done, total, rate, (total - done) / rate, unit=unit))

    return progress
