"""What long work says of itself while it goes on: sentences and counts, to whoever wants to hear them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """One sentence on what is going on."""

    text: str


@dataclass(frozen=True)
class Advance:
    """How far a long piece of work is."""

    task: str
    done: int
    total: int
    rate: float
    """Units a second."""
    seconds_left: float
    detail: str = ""
    unit: str = "images"
    """What is counted: `images` or `bytes`."""


Tell = Callable[[Note | Advance], Any]


def silent(_: Note | Advance) -> None:
    """Reports to nobody."""


def size(number: float) -> str:
    """A number of bytes as people say it: `"6.0 GB"`, `"122.8 kB"`, `"43 bytes"`."""
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= worth:
            return f"{number / worth:.1f} {unit}"
    return f"{number:.0f} bytes"


def counter(task: str, total: int, tell: Tell, unit: str = "images") -> Callable[[int], None]:
    """A progress callback that turns a count into an `Advance`; one that begins above 0 goes on with earlier work."""
    start, first = time.perf_counter(), -1

    def progress(done: int) -> None:
        nonlocal first
        first = done if first < 0 else first
        rate = (done - first) / max(1e-9, time.perf_counter() - start)
        if rate:
            tell(Advance(task, done, total, rate, (total - done) / rate, unit=unit))

    return progress
