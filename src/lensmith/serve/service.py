"""The models that a server answers with, and how an image becomes an answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from starlette.requests import Request

from lensmith.engine.panel import Panel
from lensmith.serve.corrections import Corrections
from lensmith.serve.pictures import Limits, prepared
from lensmith.serve.refusal import Refusal
from lensmith.serve.watchers import Watcher
from lensmith.serve.watchers.metrics import Metrics
from lensmith.serve.worker import Rows, Worker

TIMEOUT = 30.0
"""Seconds after which a request that was accepted is given up."""


@dataclass(frozen=True)
class Answer:
    """The probabilities of an image's classes, the most probable first."""

    model: str
    probabilities: Mapping[str, float]
    seconds: float = 0.0
    """From the request to the answer."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the log of requests."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return next(iter(self.probabilities))

    def among(self, labels: Sequence[str]) -> Answer:
        """The answer if only these classes are possible.

        Raises:
            Refusal: the model doesn't know one of them.
        """
        if unknown := [label for label in labels if label not in self.probabilities]:
            known = ", ".join(sorted(self.probabilities))
            raise Refusal(422, f"The model doesn't know the class {unknown[0]!r}. It knows: {known}.")
        found = {label: value for label, value in self.probabilities.items() if label in labels}
        total = sum(found.values())
        even = 1 / max(1, len(found))  # none of them is possible, as far as 32 bits can tell
        shares = {label: value / total if total else even for label, value in found.items()}
        return replace(self, probabilities=shares)


class Service:
    """Models by name, each with its worker; and threads that decode images.

    Args:
        panels: what answers. If empty, the service is loading until `start`.
    """

    def __init__(self, panels: Iterable[Panel] = (), limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.workers: dict[str, Worker] = {}
        """By the name of a model. Models that share a panel share its worker."""
        self.state: Literal["loading", "ok", "stopping"] = "loading"
        self.metrics = Metrics(self)
        self.watchers: list[Watcher] = [self.metrics]
        self.corrections: Corrections | None = None
        """Where corrections are kept; None to keep none."""
        self._readers = ThreadPoolExecutor(4, "lensmith-decode")
        self._turn = threading.Lock()
        self.start(panels)

    def start(self, panels: Iterable[Panel]) -> None:
        """Answer with these from now on."""
        for panel in panels:
            worker = Worker(panel, self._turn, partial(self._scored, "+".join(panel.classifiers)))
            self.workers |= dict.fromkeys(panel.classifiers, worker)
        if self.workers and self.state == "loading":
            self.state = "ok"

    def crowded(self) -> Refusal | None:
        """Why no model takes an image now; None if one does."""
        refused: Refusal | None = None
        for worker in self.workers.values():
            try:
                worker.require_room()
                return None
            except Refusal as refusal:
                refused = refusal
        return refused

    @property
    def waiting(self) -> int:
        """Images that wait or are being scored, in all models."""
        return sum(worker.waiting for worker in set(self.workers.values()))

    def labels(self, name: str) -> tuple[str, ...]:
        """The classes of a model."""
        return self.workers[name].panel.classifiers[name].labels

    def named(self, name: str | None) -> str:
        """The model that a request asks for. With one model, whatever name a caller's code has means it.

        Raises:
            Refusal: there are several, and none has this name; or the service is loading.
        """
        if not self.workers:
            raise Refusal(503, "The server is loading its models.", retry_after=2)
        if name in self.workers:
            return str(name)
        if len(self.workers) == 1:
            return next(iter(self.workers))
        raise Refusal(404, f"There is no such model. There are: {', '.join(self.workers)}.")

    def model_for(self, question: str | None, name: str | None) -> str:
        """The model that answers a question: the one that it is called like, or else as `named` says."""
        return str(question) if question in self.workers else self.named(name)

    async def classify(self, image: bytes, model: str | None = None) -> Answer:
        """Classify an encoded image with one model; see `classify_all`."""
        name = self.named(model)
        return (await self.classify_all(image, [name]))[name]

    async def classify_all(self, image: bytes, names: Sequence[str]) -> dict[str, Answer]:
        """Classify an encoded image with several models.

        Raises:
            Refusal: it can't be decoded, too many images wait, or it takes too long.
        """
        clock, loop = time.perf_counter(), asyncio.get_running_loop()
        shared: dict[Worker, list[str]] = {}
        for name in dict.fromkeys(names):
            shared.setdefault(self.workers[name], []).append(name)
        for worker in shared:
            worker.require_room()
        scored: list[asyncio.Future[Rows]] = []
        try:
            for worker, group in shared.items():
                model = worker.panel.model
                views = await loop.run_in_executor(self._readers, prepared, image, model, self.limits)
                scored.append(asyncio.wrap_future(worker.submit(views, group)))
            rows = await asyncio.wait_for(asyncio.gather(*scored), TIMEOUT)
        except TimeoutError:
            raise Refusal(503, "It took too long.", retry_after=5) from None
        finally:
            for future in scored:
                future.cancel()
        seconds = time.perf_counter() - clock
        found = {name: row for group in rows for name, row in group.items()}
        answers = {}
        for name in dict.fromkeys(names):
            pairs = sorted(zip(self.labels(name), found[name], strict=True), key=lambda pair: -pair[1])
            answers[name] = Answer(name, dict(pairs), seconds)
            for watch in self.watchers:
                watch.answered(answers[name])
        return answers

    def close(self) -> None:
        """Score what was accepted, and stop."""
        self.state = "stopping"
        for worker in set(self.workers.values()):
            worker.close()
        self._readers.shutdown(cancel_futures=True)
        for watch in self.watchers:
            watch.close()

    def _scored(self, name: str, size: int) -> None:
        for watch in self.watchers:
            watch.scored(name, size)


async def body_of(request: Request, limits: Limits) -> Any:
    """The JSON value in a request's body. Raises `Refusal` if it isn't one."""
    return value_of(await request.body(), limits)


def value_of(text: bytes | str, limits: Limits) -> Any:
    """The value of a JSON text. Raises `Refusal` if it isn't one, or is nested too deeply."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(400, "The request isn't JSON.") from None
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inner(outer)]:
        if (depth := depth + 1) > limits.depth:
            raise Refusal(400, f"The request is nested more than {limits.depth} levels deep.")
    return value


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
