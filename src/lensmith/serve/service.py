"""The models that a server answers with, and how an image becomes an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from lensmith.engine.classifier import Classifier
from lensmith.serve.pictures import Limits, prepared
from lensmith.serve.refusal import Refusal
from lensmith.serve.worker import Worker

TIMEOUT = 30.0
"""Seconds after which a request that was accepted is given up."""


@dataclass(frozen=True)
class Answer:
    """The probabilities of an image's classes, the most probable first."""

    model: str
    probabilities: Mapping[str, float]

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
        return Answer(self.model, {label: value / total if total else even for label, value in found.items()})


class Service:
    """Models by name, each with its worker; and threads that decode images.

    Args:
        classifiers: by the names under which they are asked for.
    """

    def __init__(self, classifiers: Mapping[str, Classifier], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.workers = {name: Worker(classifier) for name, classifier in classifiers.items()}
        self.open = True
        self._readers = ThreadPoolExecutor(4, "lensmith-decode")

    def named(self, name: str | None) -> str:
        """The model that a request asks for. With one model, whatever name a caller's code has means it.

        Raises:
            Refusal: there are several, and none has this name.
        """
        if name in self.workers:
            return str(name)
        if len(self.workers) == 1:
            return next(iter(self.workers))
        raise Refusal(404, f"There is no such model. There are: {', '.join(self.workers)}.")

    async def classify(self, image: bytes, model: str | None = None) -> Answer:
        """Classify an encoded image.

        Raises:
            Refusal: it can't be decoded, too many images wait, or it takes too long.
        """
        name = self.named(model)
        worker = self.workers[name]
        views = await asyncio.get_running_loop().run_in_executor(
            self._readers, prepared, image, worker.classifier.model, self.limits
        )
        try:
            row = await asyncio.wait_for(asyncio.wrap_future(worker.submit(views)), TIMEOUT)
        except TimeoutError:
            raise Refusal(503, "It took too long.", retry_after=5) from None
        pairs = sorted(zip(worker.classifier.labels, row, strict=True), key=lambda pair: -pair[1])
        return Answer(name, dict(pairs))

    def close(self) -> None:
        """Score what was accepted, and stop."""
        self.open = False
        for worker in self.workers.values():
            worker.close()
        self._readers.shutdown(cancel_futures=True)


async def body_of(request: Request) -> Any:
    """The JSON value in a request's body. Raises `Refusal` if it isn't one."""
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refusal(400, "The request isn't JSON.") from None
