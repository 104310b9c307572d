"""One thread per model, which scores all images that wait, at once.

There is no timer: while a batch is scored, the next one gathers. So a single caller waits for nobody, and many callers
fill batches by themselves. The number that may wait follows from the pace, so that nobody waits longer than `PATIENCE`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from lensmith.engine.panel import Panel
from lensmith.models.base import grouped
from lensmith.models.views import Views, shape_of, stack
from lensmith.serve.refusal import Refusal

PATIENCE = 5.0
"""Seconds that an accepted image waits at most, by the pace so far."""
LEAST, UNKNOWN = 8, 64
"""Images that may wait in any case, and before the pace is known."""

Rows = dict[str, list[float]]
"""By classifier, the probability of each of its labels."""


@dataclass
class _Waiting:
    views: Callable[[], Views]
    names: tuple[str, ...]
    answer: Future[Rows]


class Worker:
    """Scores images with a panel of classifiers, in a thread of its own, until it is closed.

    Args:
        turn: held while a batch is scored. Two models that ran at once would only compete for the same processor.
        scored: called with the size of each batch.
    """

    def __init__(
        self,
        panel: Panel,
        turn: AbstractContextManager[Any] | None = None,
        scored: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.panel = panel
        self.pace = 0.0
        """Images per second, lately; 0 until the second batch, because the first is slow."""
        self.batches: deque[int] = deque(maxlen=1000)
        """Sizes of the last batches."""
        self._turn, self._scored = turn or nullcontext(), scored
        self._waiting: list[_Waiting] = []
        self._scoring = 0
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="lensmith-score", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait or are being scored."""
        return len(self._waiting) + self._scoring

    def require_room(self) -> None:
        """Raises `Refusal` as `submit` does. Asked before an image is decoded, so that refusing costs little."""
        if not self._open:
            raise Refusal(503, "The server is stopping.", retry_after=5)
        most = max(LEAST, int(self.pace * PATIENCE)) if self.pace else UNKNOWN
        if self.waiting >= most:
            raise Refusal(429, "Too many images wait. Try again soon.", retry_after=1)

    def submit(self, views: Callable[[], Views], names: Sequence[str]) -> Future[Rows]:
        """The calibrated probability of each label, in the classifier's order, when it is the image's turn.

        Args:
            views: gives the views of the image, as `Model.prepare` returns them. Called in the worker's thread.
            names: the classifiers that answer.

        Raises:
            Refusal: too many images wait (429), or the worker is closing (503).
        """
        with self._changed:
            self.require_room()
            entry = _Waiting(views, tuple(names), Future())
            self._waiting.append(entry)
            self._changed.notify()
            return entry.answer

    def close(self, seconds: float = 30.0) -> None:
        """Refuse new images, and end when those that wait have been scored, or after so many seconds."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or not self._open)
                if not self._waiting:
                    return
                batch = [entry for entry in self._waiting if entry.answer.set_running_or_notify_cancel()]
                self._waiting = []
                self._scoring = len(batch)
            if not batch:  # all callers hung up
                continue
            self.batches.append(len(batch))
            self._scored(len(batch))
            clock = time.perf_counter()
            self._score(batch)
            pace = len(batch) / max(1e-6, time.perf_counter() - clock)
            if len(self.batches) > 1:
                self.pace = 0.8 * (self.pace or pace) + 0.2 * pace

    def _score(self, batch: list[_Waiting]) -> None:
        ready: list[tuple[_Waiting, Views]] = []
        for entry in batch:
            try:
                ready.append((entry, entry.views()))
            except Exception as error:
                self._done(1)
                entry.answer.set_exception(error)
        for group in grouped([(shape_of(views), entry.names) for entry, views in ready]):
            entries, views = zip(*(ready[k] for k in group), strict=True)
            try:
                with self._turn:
                    rows = self.panel.probabilities(stack(views), entries[0].names)
            except Exception as error:
                self._done(len(entries))
                for entry in entries:
                    entry.answer.set_exception(error)
                continue
            self._done(len(entries))
            for i, entry in enumerate(entries):
                entry.answer.set_result({name: rows[name][i] for name in entry.names})

    def _done(self, count: int) -> None:
        """So many images no longer wait. Said before their callers know, who may send the next ones at once."""
        with self._changed:
            self._scoring -= count
