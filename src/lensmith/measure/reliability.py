"""How far an answer's probability can be trusted: calibration, and accuracy of the most confident answers."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lensmith.errors import UserError
from lensmith.measure.metrics import is_right, wilson
from lensmith.records import CoveragePoint, Prediction, ReliabilityBin


@dataclass(frozen=True)
class Reliability:
    """How often answers are right against how sure they are."""

    calibration_error: float
    """Expected calibration error, in 0..1."""
    bins: list[ReliabilityBin]


def reliability(predictions: Sequence[Prediction], bins: int = 15) -> Reliability | None:
    """Expected calibration error over the images that have a probability, and the bins it is made of.

    Bins are of equal width and hold their lower edge; the last one holds 1.0 too. Empty bins are left out.

    Source: C. Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.

    Returns:
        None if no image has a probability.

    Raises:
        UserError: there are no predictions.
        ValueError: there is no bin.
    """
    _some(predictions)
    if bins < 1:
        raise ValueError(f"{bins} bins")
    edges = [i / bins for i in range(bins + 1)]
    members: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for p in predictions:
        if p.probability is not None:
            members[bisect_right(edges, p.probability, 1, bins) - 1].append((p.probability, is_right(p)))
    if not members:
        return None
    table = [
        ReliabilityBin(
            edges[i],
            edges[i + 1],
            math.fsum(p for p, _ in members[i]) / len(members[i]),
            wilson(sum(right for _, right in members[i]), len(members[i])),
        )
        for i in sorted(members)
    ]
    n = sum(b.accuracy.n for b in table)
    return Reliability(math.fsum(b.accuracy.n / n * abs(b.accuracy.accuracy - b.confidence) for b in table), table)


def risk_coverage(predictions: Sequence[Prediction]) -> list[CoveragePoint]:
    """Accuracy of the most confident answers: the first 5 %, 10 % ... 100 % of all images, to the nearest whole image.

    Answers without a probability count as 0, and images that could not be read as less than any answer. Where the
    cut falls among equal probabilities, the number right is its expected value over all ways to choose among them, and
    the interval is that of this number rounded. The last accuracy is that of all images.

    Source: Y. Geifman and R. El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017.

    Returns:
        Points of rising coverage, with no image count twice; none if no image has a probability.

    Raises:
        UserError: there are no predictions.
    """
    _some(predictions)
    if all(p.probability is None for p in predictions):
        return []
    groups: dict[float, list[bool]] = defaultdict(list)
    for p in predictions:
        groups[-1.0 if p.predicted is None else p.probability or 0.0].append(is_right(p))
    n = len(predictions)
    cuts = sorted({(i * n + 10) // 20 for i in range(1, 21)} - {0})
    points = []
    before, right = 0, 0  # images more confident than the group, and how many of them are right
    for probability in sorted(groups, reverse=True):
        size, hits = len(groups[probability]), sum(groups[probability])
        for cut in cuts:
            if before < cut <= before + size:
                expected = right + (cut - before) * hits / size
                rate = replace(wilson(round(expected), cut), accuracy=expected / cut)
                points.append(CoveragePoint(cut / n, max(probability, 0.0), rate))
        before, right = before + size, right + hits
    return points


def _some(predictions: Sequence[Prediction]) -> None:
    if not predictions:
        raise UserError("There is nothing to score: no images.", "Check the dataset's test part and its limits.")
