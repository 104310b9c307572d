"""One thread per model, which scores all images that wait, at once.

There is no timer: while a batch is scored, the next one gathers. So a single caller waits for nobody, and many callers
fill batches by themselves. The number that may wait follows from the pace, so that nobody waits longer than `PATIENCE`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from lensmith.engine.classifier import Classifier
from lensmith.models.base import grouped
from lensmith.models.views import Views, shape_of, stack
from lensmith.serve.refusal import Refusal

PATIENCE = 5.0
"""Seconds that an accepted image waits at most, by the pace so far."""
LEAST = 8
"""Images that may wait in any case."""


@dataclass
class _Waiting:
    views: Views
    answer: Future[list[float]]


class Worker:
    """Scores images with one classifier, in a thread of its own, until it is closed.

    Args:
        classifier: scores all labels exactly.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.pace = 0.0
        """Images per second, lately; 0 until the first batch."""
        self.batches: deque[int] = deque(maxlen=1000)
        """Sizes of the last batches."""
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

    def submit(self, views: Views) -> Future[list[float]]:
        """The calibrated probability of each label, in their order, when it is the image's turn.

        Args:
            views: as `Model.prepare` returns them.

        Raises:
            Refusal: too many images wait (429), or the worker is closing (503).
        """
        with self._changed:
            if not self._open:
                raise Refusal(503, "The server is stopping.", retry_after=5)
            most = max(LEAST, int(self.pace * PATIENCE)) if self.pace else 64
            if self.waiting >= most:
                raise Refusal(429, "Too many images wait. Try again soon.", retry_after=1)
            entry = _Waiting(views, Future())
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
            clock = time.perf_counter()
            self.batches.append(len(batch))
            self._score(batch)
            pace = len(batch) / max(1e-6, time.perf_counter() - clock)
            self.pace = pace if not self.pace else 0.8 * self.pace + 0.2 * pace
            with self._changed:
                self._scoring = 0

    def _score(self, batch: list[_Waiting]) -> None:
        for group in grouped([shape_of(entry.views) for entry in batch]):
            entries = [batch[k] for k in group]
            try:
                probabilities = [
                    row
                    for scores in self.classifier.score_all(stack([entry.views for entry in entries]))
                    for row in self.classifier.calibration.apply(scores.bound).softmax(1).tolist()
                ]
            except Exception as error:
                for entry in entries:
                    entry.answer.set_exception(error)
                continue
            for entry, row in zip(entries, probabilities, strict=True):
                entry.answer.set_result(row)
