"""Progress events of long tasks: sentences and counts, passed to a callback."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """One sentence about the current work."""

    text: str
    detail: bool = False
    """Shown only if the user asks for details."""


@dataclass(frozen=True)
class Advance:
    """Progress of a long task."""

    task: str
    done: int
    total: int
    """0 if it is not known."""
    rate: float
    """Units per second; 0 for a task without units."""
    seconds_left: float
    """NaN if it is not known."""
    detail: str = ""
    unit: str = "images"
    """What is counted, such as `images` or `bytes`."""

    @property
    def finished(self) -> bool:
        """Whether the task is done."""
        return 0 < self.total <= self.done


Tell = Callable[[Note | Advance], Any]


def silent(_: Note | Advance) -> None:
    """Ignore all progress."""


def size(number: float) -> str:
    """A human-readable number of bytes: `"6.0 GB"`, `"122.8 kB"`, `"43 bytes"`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """A human-readable duration, rounded as a person would: `"45 s"`, `"3 min"`, `"2 h 10 min"`, `"3 days"`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes, -1), 60)
    if hours < 10:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def counter(task: str, total: int, tell: Tell, unit: str = "images") -> Callable[[int], None]:
    """A callback that turns counts into `Advance` events. A first count above 0 means that earlier work is resumed.

    Args:
        total: 0 if it is not known.
    """
    start, first = time.perf_counter(), -1

    def progress(done: int) -> None:
        nonlocal first
        first = done if first < 0 else first
        rate = (done - first) / max(1e-9, time.perf_counter() - start)
        if rate:
            tell(Advance(task, done, total, rate, (total - done) / rate if total else math.nan, unit=unit))

    return progress


@contextmanager
def working(task: str, tell: Tell) -> Iterator[None]:
    """Show a task that takes seconds and can't be counted, such as writing a report."""
    tell(Advance(task, 0, 0, 0.0, math.nan))
    yield
    tell(Advance(task, 1, 1, 0.0, 0.0))
