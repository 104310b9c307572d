"""How many requests are in flight: more while the API answers, half as many when it says that there are too many."""

from __future__ import annotations

import asyncio
import time

SPREAD = 0.6
"""The least time between two requests, as a fraction of that at which as many as allowed are always in flight.

Without it, answers come in waves, and their delays are in part the time in which this process reads the others."""


class Pacing:
    """Hands out permits to send. The number in flight begins at one and triples until the API first limits the rate;
    after that it grows by one per round, and halves with each limit (additive increase, multiplicative decrease: Chiu
    and Jain, 1989).

    Args:
        most: the largest number in flight.
        limit: the number to begin with.
    """

    def __init__(self, most: int, limit: float = 1.0) -> None:
        self.most, self.limit, self.flying = most, limit, 0
        self.limited = 0
        """How often the API limited the rate."""
        self._until = self._last = self._delay = 0.0
        self._free = asyncio.Condition()

    async def take(self) -> None:
        """Wait for a permit."""
        async with self._free:
            await self._free.wait_for(lambda: self.flying < int(self.limit))
            self.flying += 1
        if (wait := self._last + SPREAD * self._delay / self.limit - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._last = time.monotonic()

    async def give(self) -> None:
        """Return a permit."""
        async with self._free:
            self.flying -= 1
            self._free.notify_all()

    async def rest(self) -> None:
        """Wait while the API wants no requests."""
        while (wait := self._until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def succeeded(self, seconds: float) -> None:
        """A request was answered, after so many seconds."""
        self._delay = 0.9 * self._delay + 0.1 * seconds
        self.limit = min(self.most, self.limit + (1 / self.limit if self.limited else 2))

    def refused(self, wait: float) -> None:
        """The API said that there are too many requests, and that none should be sent for `wait` seconds."""
        now = time.monotonic()
        if now >= self._until:  # of those that were in flight together, only the first counts
            self.limited += 1
            self.limit = max(1.0, self.limit / 2)
        self._until = max(self._until, now + wait)
