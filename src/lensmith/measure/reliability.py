"""How far reported probabilities can be trusted: calibration error, and accuracy of the most confident predictions."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lensmith.errors import UserError
from lensmith.measure.metrics import is_correct, wilson
from lensmith.records import CoveragePoint, Prediction, ReliabilityBin


@dataclass(frozen=True)
class Reliability:
    """Accuracy as a function of confidence."""

    calibration_error: float
    """Expected calibration error, in 0..1."""
    bins: list[ReliabilityBin]


def reliability(predictions: Sequence[Prediction], bins: int = 15) -> Reliability | None:
    """Expected calibration error over the images that have a probability, and the bins it is computed from.

    The bins have equal width and include their lower edge; the last one includes 1.0 as well. Empty bins are left out.

    Source: C. Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.

    Returns:
        None if no image has a probability.

    Raises:
        UserError: there are no predictions.
        ValueError: `bins` is less than 1.
    """
    _require_any(predictions)
    if bins < 1:
        raise ValueError(f"The number of bins must be at least 1, not {bins}.")
    edges = [i / bins for i in range(bins + 1)]
    members: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for p in predictions:
        if p.probability is not None:
            members[bisect_right(edges, p.probability, 1, bins) - 1].append((p.probability, is_correct(p)))
    if not members:
        return None
    table = [
        ReliabilityBin(
            edges[i],
            edges[i + 1],
            math.fsum(p for p, _ in members[i]) / len(members[i]),
            wilson(sum(correct for _, correct in members[i]), len(members[i])),
        )
        for i in sorted(members)
    ]
    n = sum(b.accuracy.n for b in table)
    return Reliability(math.fsum(b.accuracy.n / n * abs(b.accuracy.accuracy - b.confidence) for b in table), table)


def risk_coverage(predictions: Sequence[Prediction]) -> list[CoveragePoint]:
    """Accuracy of the most confident predictions: the top 5 %, 10 % ... 100 % of all images, to the nearest image.

    Predictions without a probability count as probability 0, and unreadable images come after all others. Where a cut
    falls among equal probabilities, the number of correct predictions is its expected value over all ways to choose
    among them, and the interval is that of this number rounded. The last accuracy is that of all images.

    Source: Y. Geifman and R. El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017.

    Returns:
        Points of increasing coverage, without duplicates; an empty list if no image has a probability.

    Raises:
        UserError: there are no predictions.
    """
    _require_any(predictions)
    if all(p.probability is None for p in predictions):
        return []
    groups: dict[float, list[bool]] = defaultdict(list)
    for p in predictions:
        groups[-1.0 if p.predicted is None else p.probability or 0.0].append(is_correct(p))
    n = len(predictions)
    cuts = sorted({(i * n + 10) // 20 for i in range(1, 21)} - {0})
    points = []
    before, correct_before = 0, 0  # the number of images more confident than the group, and of the correct ones
    for probability in sorted(groups, reverse=True):
        size, correct = len(groups[probability]), sum(groups[probability])
        for cut in cuts:
            if before < cut <= before + size:
                expected = correct_before + (cut - before) * correct / size
                rate = replace(wilson(round(expected), cut), accuracy=expected / cut)
                points.append(CoveragePoint(cut / n, max(probability, 0.0), rate))
        before, correct_before = before + size, correct_before + correct
    return points


def _require_any(predictions: Sequence[Prediction]) -> None:
    if not predictions:
        raise UserError("There is nothing to score: no images.", "Check the dataset's test split and its limits.")
