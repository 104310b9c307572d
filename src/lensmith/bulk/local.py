"""A pool of worker processes on this machine, one for each GPU, or several that share its cores."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from typing import IO

from lensmith.bulk.pool import Event, Failed, Finished, Lost, Model, Ready, Refused
from lensmith.bulk.shard import Part, Task
from lensmith.bulk.sources import Piece
from lensmith.errors import UserError

COMMAND = (sys.executable, "-m", "lensmith.bulk.worker")
"""What a worker process runs."""


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    slot: int
    unread: bytes = b""
    tasks: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)
    """Lines for the process's input. A thread writes them, since a pipe takes no more than 64 KB at a time, and a
    worker reads its next task only after the present one."""

    def feed(self) -> None:
        """Write tasks until there is None."""
        stdin = self.process.stdin
        assert stdin
        with suppress(OSError, ValueError):  # it has died, or is closed, and `events` reports that
            while (line := self.tasks.get()) is not None:
                stdin.write(line)
                stdin.flush()


class LocalPool:
    """See `pool.Pool`.

    Args:
        count: number of processes; None for one for each GPU, or a single one on the CPU.
    """

    def __init__(self, count: int | None = None) -> None:
        self.gpus = _gpus()
        self.count = count or max(1, self.gpus)
        self._processes: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()
        self._started = 0
        self._first = b""

    def start(self, model: Model, task: Task) -> None:
        self._first = json.dumps({"model": asdict(model), "task": asdict(task)}).encode() + b"\n"
        for slot in range(self.count):
            self._spawn(slot)

    def _spawn(self, slot: int) -> None:
        environment = dict(os.environ)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(slot % self.gpus)
        elif self.count > 1:
            cores = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
            environment["OMP_NUM_THREADS"] = str(max(1, cores // self.count))
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent alone
        )
        worker, self._started = self._started, self._started + 1
        one = self._processes[worker] = _Process(process, errors, slot)
        threading.Thread(target=one.feed, daemon=True).start()
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        one.tasks.put(self._first)

    def submit(self, worker: int, shard: int, pieces: Sequence[Piece]) -> None:
        self._processes[worker].tasks.put(json.dumps({"shard": shard, "pieces": pieces}).encode() + b"\n")

    def events(self, seconds: float) -> list[Event]:
        found = list[Event]()
        for key, _ in self._selector.select(seconds):
            worker = key.data
            one = self._processes[worker]
            assert one.process.stdout
            block = one.process.stdout.read()
            if block:
                *lines, one.unread = (one.unread + block).split(b"\n")
                found += [_event(worker, line) for line in lines]
            if block == b"":  # the process has ended
                self._selector.unregister(one.process.stdout)
                if not any(isinstance(event, Refused) for event in found):
                    found.append(Lost(worker, self._why(one)))
                    self._spawn(one.slot)
                self._processes.pop(worker).tasks.put(None)
        return found

    def _why(self, one: _Process) -> str:
        code = one.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (", as when memory runs out" if -code == signal.SIGKILL else "")
        one.errors.seek(0)
        told = [line for line in one.errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f"it ended with code {code}" + (f": {told[-1].strip()[:200]}" if told else "")

    def close(self) -> None:
        for one in self._processes.values():
            one.tasks.put(None)
            one.process.kill()
        for one in self._processes.values():
            one.process.wait()
            for stream in (one.process.stdin, one.process.stdout, one.errors):
                if stream:
                    with suppress(OSError):
                        stream.close()
        self._processes.clear()
        self._selector.close()


def _event(worker: int, line: bytes) -> Event:
    values = json.loads(line)
    if "ready" in values:
        return Ready(worker)
    if "error" in values:
        return Refused(UserError(values["error"], values["hint"]))
    if "failed" in values:
        return Failed(worker, values["shard"], values["failed"])
    return Finished(worker, Part(**values["part"]))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _visible(k: int) -> str:
    """The k-th GPU that this process may use, as the environment names it."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[k] if names else str(k)
