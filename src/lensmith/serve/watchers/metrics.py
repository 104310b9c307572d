"""Metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lensmith.measure.drift import Drift
from lensmith.serve.watchers import Watcher

if TYPE_CHECKING:
    from lensmith.serve.service import Answer, Service

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics(Watcher):
    """Counts what a service does, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "lensmith_requests", "Requests, by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "lensmith_request_seconds", "From request to response.", ["path"], registry=registry, buckets=_SECONDS
        )
        self.batches = Histogram(
            "lensmith_batch_size", "Images scored at once.", ["model"], registry=registry, buckets=_SIZES
        )
        self.answers = Counter("lensmith_answers", "Answers, by class.", ["model", "label"], registry=registry)
        self.confidence = Summary(
            "lensmith_confidence", "Probability of the answers: sum and count.", ["model"], registry=registry
        )
        self.windows = Counter(
            "lensmith_drift_windows", "Windows compared with the test images.", ["model"], registry=registry
        )
        self.alarms = Counter(
            "lensmith_drift_alarms", "Windows that differed; 1 in 100 if nothing changed.", ["model"], registry=registry
        )
        waiting = Gauge("lensmith_waiting", "Images that wait or are being scored.", registry=registry)
        waiting.set_function(lambda: service.waiting)

    def answered(self, answer: Answer) -> None:
        """Count an answer."""
        self.answers.labels(answer.model, answer.label).inc()
        self.confidence.labels(answer.model).observe(answer.probabilities[answer.label])

    def scored(self, model: str, size: int) -> None:
        """Count a batch."""
        self.batches.labels(model).observe(size)

    def drifted(self, model: str, drift: Drift) -> None:
        """Count a comparison."""
        self.windows.labels(model).inc()
        self.alarms.labels(model).inc(drift.found)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class Counting:
    """Counts requests, and measures how long they take."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[Route]) -> None:
        self.app, self.metrics, self.routes = app, metrics, list(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        clock, statuses = time.perf_counter(), list[int]()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        # Not the path itself: its sender could make any number of them.
        path = next((route.path for route in self.routes if route.path_regex.match(scope["path"])), "other")
        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.requests.labels(path, _first(statuses)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - clock)


def _first(statuses: Sequence[int]) -> str:
    return str(statuses[0]) if statuses else "none"
