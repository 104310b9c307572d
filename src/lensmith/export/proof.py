"""The run's test images, from their original files, through an exported file: did any answer change?"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensmith.data import Split
from lensmith.engine.classifier import predict
from lensmith.errors import UserError
from lensmith.export.format import Way
from lensmith.export.original import Original
from lensmith.measure.paired import compare
from lensmith.progress import Tell, counter
from lensmith.records import Calibration, Comparison, Prediction
from lensmith.runs.folder import PREDICTIONS
from lensmith.runs.predictions import read_predictions, read_scores

LEAST = -100.0
"""Log-probabilities below this are compared as this: float32 has no such probabilities."""
Logs = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The run's own answers to its test images."""

    predictions: list[Prediction]
    logs: Logs
    """(images, labels) calibrated log-probabilities; NaN for an image that can't be read."""
    source: str
    """Where they come from, as a sentence."""


@dataclass(frozen=True)
class Proof:
    """What one way of asking an exported file answered to the test images, against the run's own answers."""

    way: str
    allowed: float
    """The largest fraction of the answers that may differ."""
    comparison: Comparison
    """The accuracies and McNemar's test; the first is the run."""
    changed: list[tuple[int, str, str]]
    """Index of the image, the run's answer, and the answer now, for each answer that changed."""
    divergence: float | None
    """Mean Kullback-Leibler divergence from the run's probabilities to these, in nats; None if it gives only labels."""
    largest: float | None
    """The largest difference of a label's log-probability, in nats."""
    per_second: float
    """Images per second, one at a time, on this machine."""

    @property
    def holds(self) -> bool:
        """Whether no more answers changed than is allowed."""
        return len(self.changed) <= self.most

    @property
    def most(self) -> int:
        """The largest number of answers that may differ: the allowed fraction, rounded up."""
        return math.ceil(self.allowed * self.comparison.n)

    @property
    def changed_share(self) -> float:
        """The fraction of the answers that changed."""
        return len(self.changed) / self.comparison.n

    @property
    def sentence(self) -> str:
        """The result in words."""
        n, changed = self.comparison.n, len(self.changed)
        before, after = (r.accuracy for r in (self.comparison.accuracy_first, self.comparison.accuracy_second))
        first = f"{self.way}: all {n:,} answers are the run's" if not changed else ""
        first = first or f"{self.way}: {changed:,} of {n:,} answers changed ({100 * changed / n:.2g} %)"
        accuracy = f"{after * 100:.1f} % correct, as before" if before == after else ""
        accuracy = accuracy or f"{after * 100:.1f} % correct, {before * 100:.1f} % before"
        return f"{first}; {accuracy}."

    def to_dict(self, ids: Sequence[str]) -> dict[str, Any]:
        """As plain values; `ids` are those of the images."""
        rows = [{"image": ids[i], "before": before, "now": now} for i, before, now in self.changed]
        comparison, n = self.comparison, self.comparison.n
        return {
            "way": self.way,
            "holds": self.holds,
            "images": n,
            "changed": len(rows),
            "allowed": self.most,
            "accuracy": comparison.accuracy_second.accuracy,
            "accuracy_of_run": comparison.accuracy_first.accuracy,
            "p": comparison.p,
            "divergence": self.divergence,
            "largest": self.largest,
            "images_per_second": self.per_second,
            "answers": rows,
            "sentence": self.sentence,
        }


def reference(original: Original, split: Split, tell: Tell) -> Reference:
    """The run's answers as it recorded them; scored again if it didn't score every label.

    Raises:
        UserError: the run's files are damaged, or were made of other images.
    """
    path, limit = original.run / PREDICTIONS, original.recipe.data.max_pixels
    if path.exists():
        recorded = read_predictions(path)
        place = {p.id: i for i, p in enumerate(recorded)}
        if place.keys() >= set(split.ids):
            rows = [place[name] for name in split.ids]
            predictions, scores = [recorded[i] for i in rows], read_scores(path, original.labels)[rows]
            if np.isfinite(scores[[p.error is None for p in predictions]]).all():
                return Reference(predictions, _logs(scores, original.calibration), "the run's own predictions")
    classifier = original.classifier
    items = split.items(limit, classifier.model.sufficient_size)
    predictions = list(predict(classifier, items, counter("scoring the run's images again", len(split), tell)))
    empty = (float("nan"),) * len(original.labels)
    scores = np.array([p.scores or empty for p in predictions])
    return Reference(predictions, _logs(scores, classifier.calibration), "predictions in float32 on this machine")


def prove(way: Way, original: Original, split: Split, known: Reference, allowed: float, tell: Tell) -> Proof:
    """Ask about the test images, one at a time.

    Raises:
        UserError: the program failed, or answered something that isn't a label.
    """
    taken = split.take(way.most)
    place = {name: i for i, name in enumerate(split.ids)}
    show = counter(f"proving ({way.name})", len(taken), tell)
    before, after = list[Prediction](), list[Prediction]()
    changed, divergences, largest, seconds = list[tuple[int, str, str]](), list[float](), 0.0, 0.0
    for k in range(len(taken)):
        i = place[taken.ids[k]]
        then = known.predictions[i]
        if then.error:  # the run couldn't read it either
            continue
        image = taken.encoded(k)
        started = time.perf_counter()
        answer = way.ask(image)
        seconds += time.perf_counter() - started
        if not isinstance(answer, str):
            logs, was = np.asarray(answer, np.float64), known.logs[i]
            if logs.shape != was.shape or np.isnan(logs).any():
                raise UserError(
                    f"{way.name} gave no probabilities for the image {taken.source(k)}.", "Please report it."
                )
            answer = original.labels[int(logs.argmax())]
            logs, was = np.maximum(logs, LEAST), np.maximum(was, LEAST)
            divergences.append(float(np.sum(np.exp(was) * (was - logs))))
            largest = max(largest, float(np.abs(logs - was).max()))
        if answer != then.predicted:
            changed.append((i, str(then.predicted), answer))
        before.append(then)
        after.append(Prediction(then.id, then.label, answer))
        show(k + 1)
    comparison = compare("the run", before, way.name, after)
    divergence = float(np.mean(divergences)) if divergences else None
    rate = len(after) / max(seconds, 1e-9)
    return Proof(way.name, allowed, comparison, changed, divergence, largest if divergences else None, rate)


def _logs(scores: Any, calibration: Calibration) -> Logs:
    """(images, labels) log-probabilities of scores."""
    import torch

    logs = calibration.apply(torch.from_numpy(np.asarray(scores, np.float64))).log_softmax(1)
    return np.asarray(logs.numpy(), np.float64)
