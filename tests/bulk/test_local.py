"""Worker processes on this machine: they never hold up the driver, and say why they died."""

from __future__ import annotations

import sys
import time

import pytest

from lensmith.bulk import local
from lensmith.bulk.local import LocalPool
from lensmith.bulk.pool import Event, Lost, Model
from lensmith.bulk.shard import Task
from lensmith.bulk.sources import Piece

TASK = Task("folder", "out", False, 1000, 1.0)


def started(code: str, monkeypatch: pytest.MonkeyPatch) -> LocalPool:
    """A pool of one process that runs other code than a worker."""
    monkeypatch.setattr(local, "COMMAND", (sys.executable, "-c", code))
    pool = LocalPool(1)
    pool.start(Model(None), TASK)
    return pool


def first(pool: LocalPool) -> Event:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if found := pool.events(0.5):
            return found[0]
    raise TimeoutError


def test_a_busy_worker_does_not_hold_up_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = started("import time; time.sleep(60)", monkeypatch)  # reads nothing
    began = time.monotonic()
    for shard in range(2):
        pool.submit(0, shard, [Piece("a" * 100_000)] * 20)  # more than a pipe takes
    pool.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no weights')", "it ended with code 1: no weights"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, as when memory runs out"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
    ],
)
def test_why_a_worker_died_is_said(code: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = started(code, monkeypatch)
    try:
        assert first(pool) == Lost(0, reason)
    finally:
        pool.close()
