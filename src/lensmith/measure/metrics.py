"""Figures from predictions, each with its uncertainty. Empty input raises: an accuracy of nothing is not 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from lensmith.errors import UserError
from lensmith.records import ClassResult, Estimate, Prediction, Rate

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


def is_right(prediction: Prediction) -> bool:
    """Whether there is an answer and it is the true label; an image that could not be read has none."""
    return prediction.predicted is not None and prediction.predicted == prediction.label


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
    return wilson(sum(map(is_right, predictions)), len(predictions))


def top5(predictions: Sequence[Prediction], n_labels: int) -> Rate | None:
    """Share of images whose true label has rank 5 or better; an image that could not be read is wrong.

    Returns:
        None with five labels or fewer, where every answer would be right, or if no prediction has a rank.

    Raises:
        UserError: there are no predictions.
    """
    rate = wilson(
        sum(p.predicted is not None and p.rank is not None and p.rank <= 5 for p in predictions), len(predictions)
    )
    return None if n_labels <= 5 or all(p.rank is None for p in predictions) else rate


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


def macro_f1_interval(counts: Sequence[Sequence[int]], *, seed: int = 0, resamples: int = 1000) -> Estimate:
    """Mean F1 over the classes that have samples, with its basic bootstrap interval over images.

    Images of one cell of the confusion matrix are alike here. To draw n images with replacement is therefore to draw
    the cells' counts from a multinomial distribution, and cells without images never get one. A class that gets no
    images in a resample is left out of that resample's mean.

    The basic interval, and not that of percentiles: F1 of few images is low on average, and that of a resample of them
    lower still, so that with 100 classes of 10 images percentiles held the truth in 71 of 100 trials, this one in 96.

    Source: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 5.2.

    Args:
        counts: [true][predicted] as `confusion` gives them.
        seed: The same seed gives the same interval.
        resamples: How many sets of images are drawn.

    Raises:
        UserError: there are no images.
    """
    import numpy as np

    value = macro_f1(per_class(counts, [str(i) for i in range(len(counts))]))
    table = np.asarray(counts, dtype=np.int64)
    true, said = table.nonzero()
    cells = table[true, said]
    hit, n, size = true == said, int(cells.sum()), max(table.shape)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    # One resample at a time: the memory is that of one row of cells, however many classes there are.
    for i in range(resamples):
        drawn = random.multinomial(n, cells / n)
        of_class, answered = np.bincount(true, drawn, size), np.bincount(said, drawn, size)
        there = of_class > 0
        right = np.bincount(true, drawn * hit, size)
        means[i] = (2 * right[there] / (of_class + answered)[there]).mean()
    low, high = 2 * value - np.percentile(means, [97.5, 2.5])
    # With very few images the value itself can lie outside.
    return Estimate(value, min(max(0.0, float(low)), value), max(min(1.0, float(high)), value))


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


def paired_difference(only_first: int, only_second: int, n: int) -> Estimate:
    """The second's accuracy less the first's, in -1..1, from answers to the same n samples.

    The interval is close to `mcnemar`'s test but not made from it: at p near 0.05 they can differ on whether 0 is in.

    Source: D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data, Journal of Educational and Behavioral Statistics 37 (2012).

    Args:
        only_first: Samples that only the first has right.
        only_second: Samples that only the second has right.
        n: All samples.

    Raises:
        UserError: n is 0.
        ValueError: a count is negative, or the two are more than n.
    """
    if n <= 0:
        raise UserError("There is nothing to compare: no images.", "Check the dataset's test part and its limits.")
    if only_first < 0 or only_second < 0 or only_first + only_second > n:
        raise ValueError(f"{only_first} and {only_second} of {n}")
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = second - first
    half = Z95 * math.sqrt((first + second - centre * centre) / (n + 2))
    return Estimate((only_second - only_first) / n, max(-1.0, centre - half), min(1.0, centre + half))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979).
    """
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def images_needed(difference: float, discordant: float, power: float = 0.8) -> int:
    """Images that McNemar's test, two-sided at 5 %, needs to see a true difference, rounded up.

    Source: R. J. Connor, Sample size for testing differences in proportions for the paired-sample design, Biometrics
    43 (1987). It is made for the test's normal form; the exact one needs a few per cent more.

    Args:
        difference: Between the two accuracies, in -1..1.
        discordant: Share of the images that only one of the two has right.
        power: Chance that the test sees the difference.

    Raises:
        ValueError: the difference is 0 or larger than `discordant`, `discordant` is not in 0..1, or the power is not
            at least 0.5 and less than 1.
    """
    if not 0 < abs(difference) <= discordant <= 1:
        raise ValueError(f"A difference of {difference} with {discordant} discordant")
    return math.ceil(_connor(abs(difference), discordant, _power_point(power)))


def smallest_difference(n: int, discordant: float = 0.2, power: float = 0.8) -> float:
    """The smallest true difference that n images show with this power: `images_needed` the other way round.

    It is never more than `discordant`, so that with very few images even this difference will not be seen.

    Raises:
        UserError: n is 0.
        ValueError: `discordant` is not above 0 and at most 1, or the power is not at least 0.5 and less than 1.
    """
    if n <= 0:
        raise UserError("There is nothing to compare: no images.", "Check the dataset's test part and its limits.")
    if not 0 < discordant <= 1:
        raise ValueError(f"{discordant} discordant")
    z = _power_point(power)
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _connor(middle, discordant, z) <= n else (middle, high)
    return high


def _power_point(power: float) -> float:
    if not 0.5 <= power < 1:
        raise ValueError(f"A power of {power}")
    return NormalDist().inv_cdf(power)


def _connor(difference: float, discordant: float, z: float) -> float:
    spread = Z95 * math.sqrt(discordant) + z * math.sqrt(discordant - difference * difference)
    return (spread / difference) ** 2
