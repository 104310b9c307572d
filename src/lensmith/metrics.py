"""Figures from predictions, each with its uncertainty. Empty input raises: an accuracy of nothing is not 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lensmith.errors import UserError
from lensmith.records import ClassResult, Prediction, Rate

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson(right: int, n: int, z: float = Z95) -> Rate:
    """A proportion with its Wilson score interval.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    Raises:
        UserError: n is 0.
    """
    if n <= 0:
        raise UserError("There is nothing to score: no images.", "Check the dataset's test part and its limits.")
    if not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}")
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bound is exact; rounding would leave 0 at 1e-17.
    low = 0.0 if right == 0 else centre - half
    high = 1.0 if right == n else centre + half
    return Rate(p, low, high, n)


def accuracy(predictions: Sequence[Prediction]) -> Rate:
    """Share of right answers; an image that could not be read is a wrong answer."""
    return wilson(sum(p.predicted is not None and p.predicted == p.label for p in predictions), len(predictions))


def confusion(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[list[int]]:
    """[true][predicted] counts in the order of `labels`; the last column counts images that could not be read."""
    place = {label: i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for p in predictions:
        if p.label is None:
            raise ValueError(f"Sample {p.id} has no label to compare with.")
        column = len(labels) if p.predicted is None else place[p.predicted]
        counts[place[p.label]][column] += 1
    return counts


def per_class(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[ClassResult]:
    """Recall with its interval, precision and F1 of each class that has samples, from a confusion matrix."""
    results = []
    for i, label in enumerate(labels):
        n, right = sum(counts[i]), counts[i][i]
        if n == 0:
            continue
        said = sum(row[i] for row in counts)
        precision = right / said if said else 0.0
        results.append(ClassResult(label, wilson(right, n), precision, 2 * right / (n + said)))
    return results


def macro_f1(classes: Sequence[ClassResult]) -> float:
    """Mean F1 over the classes that have samples.

    Raises:
        UserError: there is no class.
    """
    if not classes:
        raise UserError("There is nothing to score: no class has an image.")
    return sum(c.f1 for c in classes) / len(classes)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p-value that two classifiers are equally often right, from their answers to the same samples.

    Source: Q. McNemar, Psychometrika 12 (1947), in its exact binomial form on the discordant pairs.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"Paired answers of {len(first)} and {len(second)} samples")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, k = only_first + only_second, min(only_first, only_second)
    # In logarithms: comb(n, i) overflows a float from n of about 1,030.
    terms = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))
