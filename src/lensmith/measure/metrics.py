"""Metrics computed from predictions, each with its uncertainty. Empty input raises an error: it has no accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lensmith.errors import UserError
from lensmith.records import ClassResult, Estimate, Prediction, Rate

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


def is_correct(prediction: Prediction) -> bool:
    """Whether the predicted label is the true label; False for an unreadable image, which has no prediction."""
    return prediction.predicted is not None and prediction.predicted == prediction.label


def wilson(correct: int, n: int, z: float = Z95) -> Rate:
    """The proportion `correct` / `n` with its Wilson score interval.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    Raises:
        UserError: n is 0.
        ValueError: `correct` is negative or more than n.
    """
    if n <= 0:
        raise UserError("There is nothing to score: no images.", "Check the dataset's test split and its limits.")
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}")
    low, high = _wilson_bounds(correct / n, n, z)
    return Rate(correct / n, low, high, n)


def _wilson_bounds(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bounds are exactly 0 and 1; with rounding errors they would be off by about 1e-17.
    return 0.0 if p == 0 else centre - half, 1.0 if p == 1 else centre + half


def grouped(correct: Sequence[bool], units: Sequence[str], seed: int = 0, resamples: int = 2000) -> Rate:
    """The proportion of `correct`, with an interval for images that aren't independent within their groups.

    A bootstrap over groups gives the variance of the proportion, hence the number of independent images that would have
    the same (the effective sample size), and Wilson's interval of that number is taken, with the t distribution's
    quantile for the number of groups. Unlike the bootstrap's own percentiles, this is right near 0 and 1 too, and for
    few groups.

    Source: C. Franco, R. Little, T. Louis and E. Slud, Comparative study of confidence intervals for proportions in
    complex sample surveys, Journal of Survey Statistics and Methodology 7 (2019).

    Args:
        correct: for each image, whether it is correct.
        units: for each image, what it can't be separated from (`data.splitting.groups.units`).

    Raises:
        UserError: there are no images.
    """
    import numpy as np

    n = len(correct)
    if not n:
        return wilson(0, 0)
    index = {unit: k for k, unit in enumerate(dict.fromkeys(units))}
    groups = len(index)
    if groups == n:
        return wilson(sum(correct), n)
    members = np.array([index[unit] for unit in units])
    sizes, right = np.bincount(members, minlength=groups), np.bincount(members, correct, groups)
    p = sum(correct) / n
    independent = 1.0 if groups == 1 else float(groups)
    if 0 < p < 1 and groups > 1:
        drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), resamples)
        variance = float(np.var((drawn @ right) / (drawn @ sizes))) * groups / (groups - 1)
        independent = min(float(n), p * (1 - p) / variance) if variance else float(n)
    low, high = _wilson_bounds(p, independent, t95(max(1, groups - 1)))
    return Rate(p, low, high, n)


def t95(freedom: int) -> float:
    """The 97.5 % point of Student's t distribution; exact for 1 and 2 degrees of freedom, otherwise to within 2 %.

    Source: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    if freedom <= 2:
        return (12.7062, 4.3027)[freedom - 1]
    z, f = Z95, float(freedom)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / f ** (k + 1) for k, term in enumerate(terms))


def accuracy(predictions: Sequence[Prediction]) -> Rate:
    """Fraction of correct predictions; unreadable images count as incorrect. See `grouped` for images with groups."""
    return _rate([is_correct(p) for p in predictions], predictions)


def units(predictions: Sequence[Prediction]) -> list[str] | None:
    """What each image can't be separated from, its group or only itself; None if no image has a group."""
    return [p.group or f"image {p.id}" for p in predictions] if any(p.group for p in predictions) else None


def _rate(correct: Sequence[bool], predictions: Sequence[Prediction]) -> Rate:
    found = units(predictions)
    return grouped(correct, found) if found else wilson(sum(correct), len(correct))


def with_left_out(accuracy: float, n: int, left_out: int) -> str:
    """A sentence on the images that an accuracy of n images leaves out, because the model never learned their class."""
    which = f"{left_out:,} more images are" if left_out > 1 else "1 more image is"
    everything = f"with {'them' if left_out > 1 else 'it'}, {accuracy * n / (n + left_out):.1%}".replace("%", " %")
    return (
        f"{which} of a class that the model never learned, so that no answer could be right: {everything} are correct."
    )


def top5(predictions: Sequence[Prediction], n_labels: int) -> Rate | None:
    """Fraction of images whose true label has rank 5 or better; unreadable images count as incorrect.

    Returns:
        None with five labels or fewer, where every prediction would be correct, or if no prediction has a rank.

    Raises:
        UserError: there are no predictions.
    """
    rate = _rate([p.predicted is not None and p.rank is not None and p.rank <= 5 for p in predictions], predictions)
    return None if n_labels <= 5 or all(p.rank is None for p in predictions) else rate


def confusion(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[list[int]]:
    """[true][predicted] counts in the order of `labels`; the last column counts unreadable images.

    Raises:
        ValueError: an image has no true label.
    """
    index = {label: i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for p in predictions:
        if p.label is None:
            raise ValueError(f"The image {p.id} has no true label to compare with.")
        column = len(labels) if p.predicted is None else index[p.predicted]
        counts[index[p.label]][column] += 1
    return counts


def cells_of_groups(
    predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, list[tuple[int, int]]] | None:
    """The cells of the confusion matrix, (true, predicted), of each group's images; None if no image has a group."""
    if (found := units(predictions)) is None:
        return None
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)} | {None: len(labels)}
    cells: dict[str, list[tuple[int, int]]] = {}
    for p, unit in zip(predictions, found, strict=True):
        cells.setdefault(unit, []).append((index[p.label], index[p.predicted]))
    return cells


def per_class(
    counts: Sequence[Sequence[int]], labels: Sequence[str], recall: Mapping[str, Rate] | None = None
) -> list[ClassResult]:
    """Recall with its interval, precision and F1 of each class that has images, from a confusion matrix.

    Args:
        recall: the recall of each class, if images aren't independent; see `recalls`.
    """
    results = []
    for i, label in enumerate(labels):
        n, correct = sum(counts[i]), counts[i][i]
        if n == 0:
            continue
        predicted = sum(row[i] for row in counts)
        precision = correct / predicted if predicted else 0.0
        rate = recall[label] if recall else wilson(correct, n)
        results.append(ClassResult(label, rate, precision, 2 * correct / (n + predicted)))
    return results


def recalls(predictions: Sequence[Prediction]) -> dict[str, Rate]:
    """The recall of each class; see `accuracy`."""
    of_class: dict[str, list[Prediction]] = {}
    for p in predictions:
        of_class.setdefault(str(p.label), []).append(p)
    return {label: accuracy(found) for label, found in of_class.items()}


def macro_f1(classes: Sequence[ClassResult]) -> float:
    """Mean F1 over the classes that have images.

    Raises:
        UserError: there is no such class.
    """
    if not classes:
        raise UserError("There is nothing to score: no class has an image.")
    return sum(c.f1 for c in classes) / len(classes)


def macro_f1_interval(
    counts: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    resamples: int = 1000,
    cells_of: Mapping[str, Sequence[tuple[int, int]]] | None = None,
) -> Estimate:
    """Mean F1 over the classes that have images, with its basic bootstrap interval over images, or over groups of them.

    All images in a cell of the confusion matrix are equivalent. Drawing n images with replacement is therefore the same
    as drawing the cells' counts from a multinomial distribution, and only non-empty cells matter. A class without
    images in a resample is left out of that resample's mean.

    This is the basic interval rather than the percentile interval: F1 is biased downwards for few images, and more so
    for a resample of them. With 100 classes of 10 images, the percentile interval contained the true value in 71 of 100
    trials, and the basic interval in 96.

    Source: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 5.2.

    Args:
        counts: [true][predicted] counts from `confusion`.
        seed: the same seed gives the same interval.
        resamples: the number of bootstrap resamples.
        cells_of: the (true, predicted) cells of each group's images, if images of a group aren't independent.

    Raises:
        UserError: there are no images.
    """
    import numpy as np

    value = macro_f1(per_class(counts, [str(i) for i in range(len(counts))]))
    table = np.asarray(counts, dtype=np.int64)
    true, predicted = table.nonzero()
    cells = table[true, predicted]
    on_diagonal, n, size = true == predicted, int(cells.sum()), max(table.shape)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    column = {cell: k for k, cell in enumerate(zip(true.tolist(), predicted.tolist(), strict=True))}
    of_group = np.zeros((len(cells_of or ()), len(cells)))
    for row, found in enumerate((cells_of or {}).values()):
        for cell in found:
            of_group[row, column[cell]] += 1
    # One resample at a time, so that the memory needed is only that of the non-empty cells.
    for i in range(resamples):
        if cells_of:
            groups = random.multinomial(len(of_group), np.full(len(of_group), 1 / len(of_group)))
            drawn = (groups @ of_group).astype(np.int64)
        else:
            drawn = random.multinomial(n, cells / n)
        true_counts, predicted_counts = np.bincount(true, drawn, size), np.bincount(predicted, drawn, size)
        present = true_counts > 0
        correct = np.bincount(true, drawn * on_diagonal, size)
        means[i] = (2 * correct[present] / (true_counts + predicted_counts)[present]).mean()
    low, high = 2 * value - np.percentile(means, [97.5, 2.5])
    # With very few images, the interval may not contain the value itself.
    return Estimate(value, min(max(0.0, float(low)), value), max(min(1.0, float(high)), value))


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """`p50`, `p95` and `p99`: the smallest value that is no less than this percentage of all (nearest rank)."""
    ordered = sorted(values)
    return {f"p{q}": ordered[max(0, math.ceil(q / 100 * len(ordered)) - 1)] for q in (50, 95, 99)}


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p-value of the hypothesis that two classifiers have the same accuracy.

    Source: Q. McNemar, Psychometrika 12 (1947), in its exact binomial form on the discordant pairs.

    Args:
        first: for each image, whether the first classifier is correct.
        second: the same for the second classifier, for the same images in the same order.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"Two lists of equal length are needed, not {len(first)} and {len(second)} items.")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, k = only_first + only_second, min(only_first, only_second)
    # Computed in logarithms, since comb(n, i) overflows a float for n above about 1,030.
    terms = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))


def paired_difference(only_first: int, only_second: int, n: int) -> Estimate:
    """The second classifier's accuracy minus the first's, in -1..1, on the same n images, with its 95 % interval.

    The interval agrees closely with `mcnemar`'s test but is not derived from it: with p near 0.05, they can disagree on
    whether 0 is excluded.

    Source: D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data, Journal of Educational and Behavioral Statistics 37 (2012).

    Args:
        only_first: the number of images on which only the first classifier is correct.
        only_second: the number of images on which only the second classifier is correct.
        n: the total number of images.

    Raises:
        UserError: n is 0.
        ValueError: a count is negative, or their sum is more than n.
    """
    if n <= 0:
        raise UserError("There is nothing to compare: no images.", "Check the dataset's test split and its limits.")
    if only_first < 0 or only_second < 0 or only_first + only_second > n:
        raise ValueError(f"The counts {only_first} and {only_second} don't fit into a total of {n}.")
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = second - first
    half = Z95 * math.sqrt((first + second - centre * centre) / (n + 2))
    return Estimate((only_second - only_first) / n, max(-1.0, centre - half), min(1.0, centre + half))
