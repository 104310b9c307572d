"""How many requests are in flight: more while the API answers, half as many when it says that there are too many."""

from __future__ import annotations

import asyncio
import time


class Pacing:
    """Hands out permits to send. The number in flight begins at one and doubles until the API first limits the rate;
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
        self._until = 0.0
        self._free = asyncio.Condition()

    async def take(self) -> None:
        """Wait for a permit."""
        async with self._free:
            await self._free.wait_for(lambda: self.flying < int(self.limit))
            self.flying += 1

    async def give(self) -> None:
        """Return a permit."""
        async with self._free:
            self.flying -= 1
            self._free.notify_all()

    async def rest(self) -> None:
        """Wait while the API wants no requests."""
        while (wait := self._until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def succeeded(self) -> None:
        """A request was answered."""
        self.limit = min(self.most, self.limit + (1 / self.limit if self.limited else 1))

    def refused(self, wait: float) -> None:
        """The API said that there are too many requests, and that none should be sent for `wait` seconds."""
        now = time.monotonic()
        if now >= self._until:  # of those that were in flight together, only the first counts
            self.limited += 1
            self.limit = max(1.0, self.limit / 2)
        self._until = max(self._until, now + wait)
