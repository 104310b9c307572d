"""The driver of a bulk prediction: hands out shards, counts what comes back, and says when all is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lensmith.bulk.plan import PARTS, Plan
from lensmith.bulk.pool import Failed, Finished, Lost, Model, Pool, Ready, Refused
from lensmith.bulk.schedule import Schedule
from lensmith.bulk.shard import Task, read_part
from lensmith.bulk.storage import Storage
from lensmith.bulk.totals import Totals
from lensmith.data.source import count
from lensmith.errors import UserError
from lensmith.progress import Note, Tell

KEPT = "What is done is kept. Run the same command again to go on."
"""What is said when a job is stopped."""
STARTS = 3
"""Workers in a row that may be lost before they have loaded the model."""
PAUSE = 0.5
"""Seconds between two looks at the time, if nothing happens."""
ROUNDS = 3
"""Times that shards are done whose parts a storage has lost."""
_READERS = 16


def drive(
    out: Storage,
    plan: Plan,
    pool: Pool,
    model: Model,
    task: Task,
    tell: Tell,
    hourly_cost: float = 0.0,
    watch: Callable[[Totals], object] = lambda _: None,
) -> Totals:
    """Do all shards that have no part yet.

    Args:
        hourly_cost: of all workers together, in US dollars.
        watch: called with the totals now and then.

    Returns:
        What all parts contain, also those of earlier attempts, and the shards that were set aside.

    Raises:
        UserError: a storage or the model refuses, or no worker gets as far as to load the model.
    """
    totals = Totals(plan.shards, plan.manifest["images"], hourly_cost)
    missing = _missing(out, plan, totals, tell)
    watch(totals)
    if not missing:
        return totals
    tell(Note(f"{len(missing):,} of {count(plan.shards, 'shard')} to do, by {count(pool.count, 'worker')}."))
    try:
        pool.start(model, task)
        for _ in range(ROUNDS):
            _do(plan, pool, iter(missing), totals, tell, watch)
            # What was acknowledged must also be there at the end: a storage may have lost it.
            there = _present(out, plan.shards)
            for k in list(totals.set_aside):  # its worker may have died after its part was written
                if there[k] and (part := read_part(out, k)):
                    del totals.set_aside[k]
                    totals.add(part)
            if all(there[k] or k in totals.set_aside for k in range(plan.shards)):
                break
            totals.restart()
            missing = [k for k in _missing(out, plan, totals, tell) if k not in totals.set_aside]
            tell(Note(f"The storage has lost {count(len(missing), 'part')}, to be written again."))
        else:
            raise UserError(f"The storage of {out.address} loses what is written to it.", "Check it, and run again.")
    finally:
        pool.close()
        _tidy(out)
    return totals


def _do(
    plan: Plan, pool: Pool, missing: Iterator[int], totals: Totals, tell: Tell, watch: Callable[[Totals], object]
) -> None:
    schedule = Schedule(missing)
    for worker in totals.ready:
        schedule.join(worker)
    dead = 0
    while True:
        for worker in list(totals.ready):
            while (shard := schedule.next_for(worker)) is not None:
                pool.submit(worker, shard, plan.pieces(shard))
        if schedule.finished:
            break
        for event in pool.events(PAUSE):
            if isinstance(event, Refused):
                raise event.error
            if isinstance(event, Ready):
                totals.ready.add(event.worker)
                schedule.join(event.worker)
            elif isinstance(event, Finished):
                dead = 0
                if schedule.done(event.worker, event.part.shard):
                    totals.add(event.part)
            elif isinstance(event, Failed):
                if schedule.fail(event.worker, event.shard, event.reason):
                    _set_aside(event.shard, event.reason, tell)
            elif isinstance(event, Lost):
                tell(Note(f"A worker was lost: {event.reason}. Another takes its place.", detail=dead > 0))
                dead = dead if event.worker in totals.ready else dead + 1
                if dead > STARTS:
                    raise UserError(
                        f"Workers don't get as far as to load the model: {event.reason}.",
                        "See whether memory is short.",
                    )
                totals.ready.discard(event.worker)
                if (given_up := schedule.lose(event.worker, event.reason)) is not None:
                    _set_aside(given_up, event.reason, tell)
        totals.set_aside |= schedule.set_aside
        tell(totals.progress())
        watch(totals)


def _set_aside(shard: int, why: str, tell: Tell) -> None:
    tell(Note(f"The shard {shard} is set aside: {why}."))


def _present(out: Storage, shards: int) -> bytearray:
    """For each shard, 1 if its part has its name."""
    there, names = bytearray(shards), out.sizes(PARTS)
    for name, size in names.items():
        if size and name.startswith("part-") and name.endswith(".parquet"):
            with suppress(ValueError, IndexError):
                there[int(name[5:-8])] = 1
    return there


def _missing(out: Storage, plan: Plan, totals: Totals, tell: Tell) -> list[int]:
    """The shards without a whole part. What the others have in them is added to the totals."""
    there = _present(out, plan.shards)
    done = [k for k in range(plan.shards) if there[k]]
    if done:
        tell(Note(f"{len(done):,} of {count(plan.shards, 'shard')} done before."))
    with ThreadPoolExecutor(_READERS) as readers:
        for first in range(0, len(done), 64 * _READERS):
            batch = done[first : first + 64 * _READERS]
            for k, part in zip(batch, readers.map(lambda k: read_part(out, k), batch), strict=True):
                if part is None:  # a damaged part is written anew
                    there[k] = 0
                else:
                    totals.add(part, before=True)
    return [k for k in range(plan.shards) if not there[k]]


def _tidy(out: Storage) -> None:
    """Remove what killed workers have left half-written on a local disk."""
    if out.local:
        for path in Path(out.path(PARTS)).glob(".part-*.part"):
            path.unlink(missing_ok=True)
