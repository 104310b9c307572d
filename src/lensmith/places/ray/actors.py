"""A pool of Ray actors for bulk prediction. Tasks carry paths, and no images, so the object store stays empty."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lensmith.bulk.metrics import GAUGES, values
from lensmith.bulk.pool import Event, Failed, Finished, Lost, Model, Ready, Refused, Worker, plain
from lensmith.bulk.shard import Part, Task
from lensmith.bulk.sources import Piece
from lensmith.bulk.storage import Storage
from lensmith.bulk.totals import Totals
from lensmith.errors import UserError


class _Actor:
    """A worker in the cluster. Its errors are values, since Ray would try again what the user has to mend."""

    def __init__(self, job: dict[str, Any], number: int) -> None:
        self._job, self._number = job, number
        self._worker: Worker | None = None

    def load(self, model: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
        from lensmith.places.ray.work import in_client_folder

        try:
            in_client_folder(self._job, Storage(self._job["storage"]), f"actor{self._number}")
            self._worker = Worker(Model(model["run"], tuple(model["labels"])), Task(**task))
        except UserError as error:
            return plain(error)
        return {"ready": True}

    def work(self, shard: int, pieces: list[Piece]) -> dict[str, Any]:
        assert self._worker
        try:
            done = self._worker.work(shard, [Piece(*piece) for piece in pieces])
        except UserError as error:
            return plain(error)
        return {"failed": done} if isinstance(done, str) else {"part": asdict(done)}


class RayPool:
    """See `bulk.pool.Pool`.

    Args:
        job: as in job.json.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job, self._options = job, job["recipe"]["ray"]
        self.count: int = self._options["workers"]
        self._actors: dict[int, Any] = {}
        self._tasks: dict[Any, tuple[int, int | None]] = {}
        """Worker and shard of each pending task; no shard for loading the model."""
        self._ready = set[int]()
        self._alone_since = time.monotonic()
        self._started = 0

    def start(self, model: Model, task: Task) -> None:
        import ray

        self._model, self._task = asdict(model), asdict(task)
        self._class = ray.remote(num_cpus=self._options["cpus"], num_gpus=self._options["gpus"], max_restarts=0)(_Actor)
        for _ in range(self.count):
            self._spawn()

    def _spawn(self) -> None:
        worker, self._started = self._started, self._started + 1
        self._actors[worker] = self._class.remote(self._job, worker)
        self._tasks[self._actors[worker].load.remote(self._model, self._task)] = (worker, None)

    def submit(self, worker: int, shard: int, pieces: Sequence[Piece]) -> None:
        actor = self._actors[worker]
        self._tasks[actor.work.remote(shard, [tuple(piece) for piece in pieces])] = (worker, shard)

    def events(self, seconds: float) -> list[Event]:
        import ray

        done, _ = ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        if done:  # whatever else has ended by now
            done, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        found = list[Event]()
        for task in done:
            if task not in self._tasks:  # of an actor that was lost
                continue
            worker, shard = self._tasks.pop(task)
            try:
                found.append(self._event(worker, shard, ray.get(task)))
            except ray.exceptions.RayActorError as error:
                found.append(self._replace(worker, _why(error)))
            except ray.exceptions.RayTaskError as error:
                reason = f"{type(error.cause).__name__}: {error.cause}" if error.cause else str(error)
                found.append(self._replace(worker, reason) if shard is None else Failed(worker, shard, reason))
        if self._ready:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > self._options["wait"]:
            cpus, gpus = self._options["cpus"], self._options["gpus"]
            found.append(
                Refused(
                    UserError(
                        f"No machine with {cpus} CPUs and {gpus:g} GPUs to spare was there for "
                        f"{self._options['wait']:.0f} s (ray.wait).",
                        "Add machines, or ask for less (ray.cpus, ray.gpus). What is done is kept.",
                    )
                )
            )
        return found

    def _event(self, worker: int, shard: int | None, result: dict[str, Any]) -> Event:
        if "error" in result:
            return Refused(UserError(result["error"], result["hint"]))
        if shard is None:
            self._ready.add(worker)
            return Ready(worker)
        if "failed" in result:
            return Failed(worker, shard, result["failed"])
        return Finished(worker, Part(**result["part"]))

    def _replace(self, worker: int, reason: str) -> Lost:
        """Forget a worker that is lost, and start another."""
        self._actors.pop(worker)
        self._ready.discard(worker)
        self._tasks = {task: who for task, who in self._tasks.items() if who[0] != worker}
        self._spawn()
        return Lost(worker, reason)

    def close(self) -> None:
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._tasks.clear()


def _why(error: Exception) -> str:
    """Why an actor is gone, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if line.lower().startswith(("the actor died", "the actor is dead"))), lines[0])
    return told.rstrip(".")[:200]


class Gauges:
    """The progress among Ray's own metrics, which Prometheus finds on every machine as `ray_lensmith_bulk_...`."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {name: Gauge(f"lensmith_bulk_{name}", about) for name, about in GAUGES.items()}

    def __call__(self, totals: Totals) -> None:
        for name, value in values(totals).items():
            self._gauges[name].set(value)
