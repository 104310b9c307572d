"""Which worker does which shard next. Pure bookkeeping, without clocks and processes, so that it can be simulated.

A worker has at most two shards: one in progress and one waiting, so that it never runs dry. When none is left to hand
out, an idle worker does one of the shards that others have had the longest: a part's name is written once, whoever is
first. A shard that has lost or failed its worker several times is set aside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

IN_FLIGHT = 2
"""Shards of one worker at a time."""
TRIES = 3
"""Times that a shard may fail, or lose its worker, before it is set aside."""
COPIES = 2
"""Workers that may have the same shard at the end."""


class Schedule:
    """The shards of a job that aren't done, and the workers' shares of them.

    Args:
        missing: the shards to do, in order. They are taken one by one, so they may be many.
        tries: after this number of failures, a shard is set aside.
    """

    def __init__(self, missing: Iterator[int], tries: int = TRIES) -> None:
        self._missing, self._next = missing, next(missing, None)
        self._again = deque[int]()
        self._tries = tries
        self._failed: dict[int, int] = {}
        self._holders: dict[int, set[int]] = {}
        """The workers that have a shard, in the order in which the shards were first handed out."""
        self._has: dict[int, deque[int]] = {}
        """The shards of each worker; the first is in progress."""
        self.set_aside: dict[int, str] = {}
        """Shards that were given up, and why."""

    @property
    def finished(self) -> bool:
        """Whether every shard is done or set aside."""
        return self._next is None and not self._again and not self._holders

    @property
    def in_flight(self) -> int:
        """Number of shards that workers have."""
        return len(self._holders)

    def join(self, worker: int) -> None:
        """A worker is ready."""
        self._has[worker] = deque()

    def next_for(self, worker: int) -> int | None:
        """A shard for a worker to begin or to have waiting; None if there is nothing for it now."""
        mine = self._has[worker]
        if len(mine) >= IN_FLIGHT:
            return None
        if self._again:
            shard = self._again.popleft()
        elif self._next is not None:
            shard, self._next = self._next, next(self._missing, None)
        elif mine or (last := self._late(worker)) is None:  # only idle workers repeat what others have
            return None
        else:
            shard = last
        mine.append(shard)
        self._holders.setdefault(shard, set()).add(worker)
        return shard

    def _late(self, worker: int) -> int | None:
        """The shard that was handed out first among those that only one worker has."""
        return next((s for s, who in self._holders.items() if len(who) < COPIES and worker not in who), None)

    def done(self, worker: int, shard: int) -> bool:
        """A worker has done a shard; returns whether it is the first to do so."""
        if worker in self._has and shard in self._has[worker]:
            self._has[worker].remove(shard)
        given_up = self.set_aside.pop(shard, None) is not None  # another worker was still at it
        return self._holders.pop(shard, None) is not None or given_up

    def fail(self, worker: int, shard: int, reason: str) -> bool:
        """A shard has failed, while its worker lives on; returns whether it is set aside now."""
        if worker in self._has and shard in self._has[worker]:
            self._has[worker].remove(shard)
        return self._blame(worker, shard, reason)

    def lose(self, worker: int, reason: str) -> int | None:
        """A worker is gone. Its shard in progress counts as failed; the waiting one is handed out again.

        Returns:
            The shard that is set aside by this, if any.
        """
        mine = self._has.pop(worker, deque())
        for shard in list(mine)[1:]:
            self._release(worker, shard)
        return mine[0] if mine and self._blame(worker, mine[0], reason) else None

    def _blame(self, worker: int, shard: int, reason: str) -> bool:
        if shard not in self._holders:  # another worker has done it meanwhile
            return False
        self._failed[shard] = self._failed.get(shard, 0) + 1
        if self._failed[shard] < self._tries:
            self._release(worker, shard)
            return False
        del self._holders[shard]
        self.set_aside[shard] = reason
        return True

    def _release(self, worker: int, shard: int) -> None:
        """Hand a shard out again, unless another worker has it."""
        if not (holders := self._holders.get(shard)):
            return
        holders.discard(worker)
        if not holders:
            del self._holders[shard]
            self._again.append(shard)
