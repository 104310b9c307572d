"""What a pool of workers is, whether they are processes of this machine or actors of a cluster, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lensmith.bulk.plan import MANIFEST, PLAN
from lensmith.bulk.shard import Part, Task, predict_shard
from lensmith.bulk.sources import Piece
from lensmith.bulk.storage import Storage
from lensmith.errors import ImageError, UserError, reason


@dataclass(frozen=True)
class Ready:
    """A worker has loaded the model."""

    worker: int


@dataclass(frozen=True)
class Finished:
    """A worker has written a part."""

    worker: int
    part: Part


@dataclass(frozen=True)
class Failed:
    """A shard has failed, and its worker goes on."""

    worker: int
    shard: int
    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker is gone. The pool starts another one."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Refused:
    """An error that the user can fix, which ends the job."""

    error: UserError


Event = Ready | Finished | Failed | Lost | Refused


class Pool(Protocol):
    """Workers that do shards. It replaces each worker that is lost, under a new number."""

    count: int
    """Workers at a time."""

    def start(self, model: Model, task: Task) -> None:
        """Start the workers."""
        ...

    def submit(self, worker: int, shard: int, pieces: Sequence[Piece]) -> None:
        """Give a worker a shard, which it does after those that it has."""
        ...

    def events(self, seconds: float) -> list[Event]:
        """What has happened since; waits for the first event for at most this time."""
        ...

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        ...


@dataclass(frozen=True)
class Model:
    """Which model answers: a run's, or the shipped one asked zero-shot. As plain values."""

    run: str | None
    labels: tuple[str, ...] = ()


class Worker:
    """What each worker of any pool does: load the model once, then do shard after shard.

    Raises:
        UserError: the model can't be loaded, or the output folder isn't that of the job.
    """

    def __init__(self, model: Model, task: Task) -> None:
        from lensmith.engine.taught import load_taught

        names = Storage(task.out, task.wait).sizes()
        if MANIFEST not in names or PLAN not in names:
            raise UserError(
                f"A worker doesn't see the output folder {task.out} that the job writes.",
                "Give an address that all machines share: a network drive, or s3://, gs:// or az://.",
            )
        self.task = task
        self.classifier = load_taught(Path(model.run) if model.run else None, model.labels).classifier
        if task.scores:
            self.classifier.top = None  # the probabilities of all classes are kept

    def work(self, shard: int, pieces: Sequence[Piece]) -> Part | str:
        """Do a shard. Returns what its part has in it, or why it failed.

        Raises:
            UserError: the storage refuses or doesn't respond; no shard would fare better.
        """
        try:
            return predict_shard(self.classifier, self.task, shard, pieces)
        except UserError as error:
            if isinstance(error, ImageError):
                return str(error)
            raise
        except Exception as error:
            return f"{type(error).__name__}: {reason(error)}"


def plain(error: UserError) -> dict[str, Any]:
    """A `UserError` as plain values."""
    return {"error": error.what, "hint": error.hint}
