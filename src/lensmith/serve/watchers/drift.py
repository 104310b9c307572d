"""The watch for drift: whether the answers still look like those that the model was proven with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith.measure.drift import FALSE_ALARMS, Answered, Drift, compare
from lensmith.progress import Note, Tell
from lensmith.runs.folder import PREDICTIONS
from lensmith.runs.predictions import read_predictions
from lensmith.serve.watchers import Watcher

if TYPE_CHECKING:
    from lensmith.serve.service import Answer

WINDOW = 200
"""Answers that are compared at once. Windows don't overlap, so each answer is in one comparison."""


class DriftWatch(Watcher):
    """Compares each window of a model's answers with its proven ones.

    Args:
        proven: by model, its answers to the images that it was proven with.
        found: called with the model and each comparison.
    """

    def __init__(
        self, proven: Mapping[str, Sequence[Answered]], tell: Tell, found: Callable[[str, Drift], None]
    ) -> None:
        self.proven, self.tell, self.found = proven, tell, found
        self._windows: dict[str, list[Answered]] = {name: [] for name in proven}
        self._thread = ThreadPoolExecutor(1, "lensmith-drift")

    def answered(self, answer: Answer) -> None:
        """Add an answer to its window; compare the window if it is full."""
        window = self._windows.get(answer.model)
        if window is None:
            return
        window.append((answer.label, answer.probabilities[answer.label]))
        if len(window) == WINDOW:
            self._windows[answer.model] = []
            self._thread.submit(self._compare, answer.model, window)

    def close(self) -> None:
        """Finish the comparisons."""
        self._thread.shutdown()

    def _compare(self, model: str, window: Sequence[Answered]) -> None:
        drift = compare(self.proven[model], window)
        if drift is None:
            return
        self.found(model, drift)
        if drift.found:
            self.tell(Note(warning(model, drift)))


def warning(model: str, drift: Drift) -> str:
    """What is said of a window in which something has changed."""
    return (
        f"{model}: {drift.what} of the last {drift.n:,} answers are not those of the test images any more "
        f"(p = {min(drift.classes_p, drift.confidence_p):.2g}; false alarms: {FALSE_ALARMS:.0%} of all windows). "
        "Its accuracy there says little about today's images; label some of them."
    )


def proven(run: Path) -> list[Answered]:
    """A run's answers to its test images.

    Raises:
        UserError: it has none.
    """
    return [(str(p.predicted), float(p.probability or 0)) for p in read_predictions(run / PREDICTIONS) if not p.error]


@dataclass(frozen=True)
class Checked:
    """What a log says of a model."""

    answers: int
    windows: int
    alarms: int
    """Windows in which something has changed."""
    last: Drift | None
    """The comparison of the last `WINDOW` answers; None if there are too few."""


def checked(reference: Sequence[Answered], answers: Iterable[Answered]) -> Checked:
    """Compare answers with the proven ones, in windows as the server does."""
    listed = list(answers)
    starts = range(0, len(listed) - WINDOW + 1, WINDOW)
    windows = [found for start in starts if (found := compare(reference, listed[start : start + WINDOW]))]
    last = compare(reference, listed[-WINDOW:])
    return Checked(len(listed), len(windows), sum(window.found for window in windows), last)
