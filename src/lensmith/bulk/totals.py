"""What a bulk prediction has done so far, in sums that don't grow with the number of images."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lensmith.bulk.shard import BINS, Part
from lensmith.progress import Advance


@dataclass
class Totals:
    """Sums over parts."""

    shards: int
    expected: int | None
    """Images; None if it isn't known before they are read."""
    hourly_cost: float = 0.0
    """Of all workers together, in US dollars."""
    done: int = 0
    images: int = 0
    now: int = 0
    """Images of this attempt."""
    classes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Images, shards and seconds of work by node."""
    set_aside: dict[int, str] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    """The workers that are at work."""
    began: float = field(default_factory=time.monotonic)

    def add(self, part: Part, before: bool = False) -> None:
        """Add a part; `before` if an earlier attempt has written it."""
        self.done, self.images = self.done + 1, self.images + part.images
        self.now += 0 if before else part.images
        self.classes.update(part.classes)
        self.errors.update(part.errors)
        self.confidence = [a + b for a, b in zip(self.confidence, part.confidence, strict=True)]
        node = self.nodes.setdefault(part.node, {"images": 0, "shards": 0, "seconds": 0.0})
        node["images"], node["shards"] = node["images"] + part.images, node["shards"] + 1
        node["seconds"] += part.seconds

    def restart(self) -> None:
        """Forget what parts contain, which is read again; the time, the workers and what was set aside are kept."""
        self.done = self.images = 0
        self.classes, self.errors, self.confidence, self.nodes = Counter(), Counter(), [0] * BINS, {}

    @property
    def seconds(self) -> float:
        """Seconds of this attempt."""
        return time.monotonic() - self.began

    @property
    def dollars(self) -> float:
        """What this attempt has cost."""
        return self.seconds / 3600 * self.hourly_cost

    @property
    def rate(self) -> float:
        """Images per second of this attempt, over all workers."""
        return self.now / max(1e-9, self.seconds)

    def progress(self) -> Advance:
        """The progress, in images where their number is known, otherwise with the shards."""
        left = math.nan
        if self.rate:
            images_left = (
                self.expected - self.images
                if self.expected is not None
                else (self.shards - self.done) * self.images / max(1, self.done)
            )
            left = max(0.0, images_left / self.rate)
        facts = [] if self.expected is not None else [f"{self.done:,} of {self.shards:,} shards"]
        facts += [f"{len(self.set_aside):,} set aside"] if self.set_aside else []
        facts += [f"${self.dollars:.2f}"] if self.hourly_cost else []
        detail = ", ".join(facts)
        return Advance("predicting", self.images, self.expected or 0, self.rate, left, detail)

    def summary(self) -> dict[str, Any]:
        """The summary as plain values, as in summary.json."""
        return {
            "shards": self.shards,
            "done": self.done,
            "images": self.images,
            "unreadable": sum(self.errors.values()),
            "classes": dict(self.classes.most_common()),
            "errors": dict(self.errors.most_common()),
            "confidence": self.confidence,
            "nodes": {
                name: {**node, "images_per_second_and_worker": node["images"] / max(1e-9, node["seconds"])}
                for name, node in sorted(self.nodes.items())
            },
            "set_aside": {str(shard): why for shard, why in sorted(self.set_aside.items())},
            "images_of_this_attempt": self.now,
            "seconds_of_this_attempt": round(self.seconds, 1),
            "images_per_second": self.rate,
            "dollars": round(self.dollars, 4) if self.hourly_cost else None,
        }
