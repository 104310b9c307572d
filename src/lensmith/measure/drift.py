"""Whether recent answers still look like those that a model was proven with.

Nobody labels what a served model answers, so its accuracy there can't be measured. But if the images have changed, the
answers mostly have too: other classes, or less confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALSE_ALARMS = 0.01
"""The probability that a window is reported although nothing has changed."""
LEAST = 50
"""With fewer answers on either side, nothing is said."""
_ROUNDS = 1999

Answered = tuple[str, float]
"""An answer: the class, and its probability."""


@dataclass(frozen=True)
class Drift:
    """What a comparison found."""

    n: int
    """Recent answers compared."""
    classes_p: float
    """p-value of the hypothesis that the classes are as frequent as before."""
    confidence_p: float
    """p-value of the hypothesis that the probabilities of the answers are distributed as before."""

    @property
    def found(self) -> bool:
        """Whether either is rejected, at half of `FALSE_ALARMS` each (Bonferroni)."""
        return min(self.classes_p, self.confidence_p) <= FALSE_ALARMS / 2

    @property
    def what(self) -> str:
        """In words, what has changed."""
        parts = [
            name
            for name, p in (("the classes", self.classes_p), ("the confidence", self.confidence_p))
            if p <= FALSE_ALARMS / 2
        ]
        return " and ".join(parts) or "nothing"


def compare(proven: Sequence[Answered], recent: Sequence[Answered], seed: int = 0) -> Drift | None:
    """Compare recent answers with those on the images that the model was proven with; None if there are too few.

    Two permutation tests, with the chi-square statistic of the classes and the Kolmogorov-Smirnov distance of the
    probabilities. They assume nothing but that the images of both sides would be exchangeable if nothing had changed;
    then a p-value of at most x has a probability of at most x (Phipson and Smyth, 2010, equation 2).
    """
    if min(len(proven), len(recent)) < LEAST:
        return None
    both = [*proven, *recent]
    classes = np.unique([label for label, _ in both], return_inverse=True)[1]
    order = np.argsort([p for _, p in both], kind="stable")
    values = np.array([p for _, p in both])[order]
    ends = np.append(values[1:] != values[:-1], True)  # ties count at their last value only
    is_recent = np.arange(len(both)) >= len(proven)
    totals = np.bincount(classes)
    share = len(recent) / len(both)

    def statistics(chosen: np.ndarray) -> tuple[float, float]:
        """Of a division of all answers into two sides."""
        counts = np.bincount(classes[chosen], minlength=len(totals))
        chi_square = float((((counts - totals * share) ** 2) / totals).sum())
        steps = np.where(chosen[order], 1 / len(recent), -1 / len(proven)).cumsum()
        return chi_square, float(np.abs(steps[ends]).max())

    found = np.array(statistics(is_recent))
    random = np.random.default_rng(seed)
    exceeded = np.zeros(2)
    for _ in range(_ROUNDS):
        exceeded += np.array(statistics(random.permutation(is_recent))) >= found - 1e-12
    classes_p, confidence_p = (exceeded + 1) / (_ROUNDS + 1)
    return Drift(len(recent), float(classes_p), float(confidence_p))
