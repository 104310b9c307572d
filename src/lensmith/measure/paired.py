"""Which of two classifiers is better on the same images, whether the images suffice to tell, and how many would."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from lensmith.errors import UserError
from lensmith.measure.metrics import Z95, accuracy, is_correct, mcnemar, paired_difference, t95, units, wilson
from lensmith.records import Comparison, Estimate, Prediction, Rate

LEVEL = 0.05
FEW_OF_A_CLASS = 20
"""With fewer test images of a class, its accuracy is known to 20 points at best."""
FEW_GROUPS = 14
"""With up to so many groups that differ, all ways to flip them are tried."""
SCORE_AGAIN = "Score both again, on the same split of the same dataset with the same limits and seed."


def compare(first_name: str, first: Sequence[Prediction], second_name: str, second: Sequence[Prediction]) -> Comparison:
    """Compare two classifiers' predictions for the same images, matched by id; the order of each list has no effect.

    The verdict is that of the exact McNemar test at the 5 % level, or of `grouped_difference` for images in groups.
    Unreadable images count as incorrect.

    Raises:
        UserError: a list is empty, an id occurs twice, the two lists contain different images or different labels of
            the same image, or an image has no true label.
    """
    second_by_id = _by_id(second_name, second)
    _check_same(first_name, _by_id(first_name, first), second_name, second_by_id)
    ids = [p.id for p in first]
    first_correct = [is_correct(p) for p in first]
    second_correct = [is_correct(second_by_id[key]) for key in ids]
    lost = [key for key, a, b in zip(ids, first_correct, second_correct, strict=True) if a and not b]
    gained = [key for key, a, b in zip(ids, first_correct, second_correct, strict=True) if b and not a]
    n = len(ids)
    difference, p, effect = paired_difference(len(lost), len(gained), n), mcnemar(first_correct, second_correct), 1.0
    if found := units(first):
        changes = [b - a for a, b in zip(first_correct, second_correct, strict=True)]
        difference, p, effect = grouped_difference(changes, found)
    needed = images_needed(difference.value, (len(lost) + len(gained)) / n) if difference.value else None
    return _with_verdict(
        Comparison(
            first=first_name,
            second=second_name,
            n=n,
            accuracy_first=accuracy(first),
            accuracy_second=accuracy(second),
            difference=difference,
            lost=lost,
            gained=gained,
            p=p,
            verdict="",
            needed=math.ceil(needed * effect) if needed else None,
            sentence="",
        )
    )


def grouped_difference(
    changes: Sequence[int], found: Sequence[str], seed: int = 0, resamples: int = 10_000
) -> tuple[Estimate, float, float]:
    """The difference of two classifiers on the same images, which aren't independent within their groups.

    The p-value is that of flipping the signs of whole groups, as if in each the two classifiers could be exchanged: of
    all flips if there are few groups, otherwise of random ones. The interval is that of a bootstrap over groups, with
    the t distribution's quantile.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 15.

    Args:
        changes: for each image 1, 0 or -1: what the second classifier gains on it.
        found: for each image, what it can't be separated from.

    Returns:
        The difference, in -1..1; p; and the variance relative to that of independent images, at least 1.
    """
    import numpy as np

    n, index = len(changes), {unit: k for k, unit in enumerate(dict.fromkeys(found))}
    groups, random = len(index), np.random.default_rng(seed)
    members = np.array([index[unit] for unit in found])
    sums, sizes = np.bincount(members, changes, groups), np.bincount(members, minlength=groups)
    value, some = float(sums.sum()) / n, sums[sums != 0]
    if len(some) <= FEW_GROUPS:
        signs = 1 - 2 * ((np.arange(2 ** len(some))[:, None] >> np.arange(len(some))) & 1)
        p = float(np.mean(np.abs(signs @ some) >= abs(some.sum()) - 1e-9))
    else:
        flipped = np.abs(random.choice((-1.0, 1.0), (resamples, len(some))) @ some)
        p = float(1 + np.sum(flipped >= abs(some.sum()) - 1e-9)) / (resamples + 1)
    drawn = random.multinomial(groups, np.full(groups, 1 / groups), 2000)
    variance = float(np.var((drawn @ sums) / (drawn @ sizes))) * groups / max(1, groups - 1)
    half = t95(max(1, groups - 1)) * math.sqrt(variance) if groups > 1 else math.inf
    alone = (sum(map(abs, changes)) / n - value * value) / n
    interval = Estimate(value, max(-1.0, value - half), min(1.0, value + half))
    return interval, p, max(1.0, variance / alone) if alone > 0 else 1.0


def compare_all(names: Sequence[str], lists: Sequence[Sequence[Prediction]]) -> list[Comparison]:
    """Compare each classifier after the first with the first one; see `compare`.

    With several comparisons, p is adjusted by Holm's method, and the verdict and the sentence use the adjusted p. The
    intervals of the differences are not adjusted: they are those that `compare` returns.

    Raises:
        UserError: there are fewer than two classifiers, or `compare` raises it.
        ValueError: the numbers of names and lists differ.
    """
    if len(names) != len(lists):
        raise ValueError(f"{len(names)} names for {len(lists)} lists")
    if len(names) < 2:
        raise UserError("There are fewer than two runs to compare.", "Name two or more runs.")
    comparisons = [compare(names[0], lists[0], name, second) for name, second in zip(names[1:], lists[1:], strict=True)]
    if len(comparisons) == 1:
        return comparisons
    adjusted = holm([c.p for c in comparisons])
    return [_with_verdict(replace(c, p=p), len(comparisons)) for c, p in zip(comparisons, adjusted, strict=True)]


def power_hint(n: int) -> str:
    """What n test images can show, to be reported before a run: the precision of an accuracy, and the smallest
    difference between two models that is likely to be detected.

    Assumes an accuracy of 50 %, which gives the widest interval; and that one of the two models alone is correct on
    20 % of the images, and a probability of 80 % to detect the difference.

    Raises:
        UserError: n is 0.
    """
    return (
        f"{_count(n, 'test image')} can show an accuracy to within {_points(precision(n))} points, and a "
        f"difference between two models from about {_points(_visible(n, 0.2))} points on."
    )


def precision(n: int) -> float:
    """Half the width of the interval of n images at an accuracy of 50 %, where it is widest; in 0..1."""
    rate = wilson(n // 2, n)
    return (rate.high - rate.low) / 2


def class_hint(labels: Sequence[str]) -> str:
    """What the test images can't show of single classes, to be said before a run; empty if each has enough.

    Args:
        labels: the label of each test image.
    """
    numbers = Counter(labels)
    few = [n for n in numbers.values() if n < FEW_OF_A_CLASS]
    if not few:
        return ""
    return (
        f"{len(few):,} of {len(numbers):,} classes have fewer than {FEW_OF_A_CLASS} test images: their accuracies are "
        f"known to within {_points(precision(min(few)))} points at worst."
    )


def _by_id(name: str, predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    if not predictions:
        raise UserError(f"{name} has no predictions, so there is nothing to compare.", "Score it on some images first.")
    counts = Counter(p.id for p in predictions)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"{name} has {_count(len(repeated), 'id')} more than once, such as {repeated[0]!r}.",
            "Give each image a unique id, or score it again.",
        )
    return {p.id: p for p in predictions}


def _check_same(first_name: str, first: dict[str, Prediction], second_name: str, second: dict[str, Prediction]) -> None:
    """Raises UserError unless both scored the same images, with the same true label for each image."""
    sides = [(first_name, first, second), (second_name, second, first)]
    extra = [
        (name, next(key for key in mine if key not in other)) for name, mine, other in sides if mine.keys() - other
    ]
    if extra:
        common = len(first.keys() & second.keys())
        raise UserError(
            f"{first_name} scored {_count(len(first), 'image')} and {second_name} {len(second):,}, and they have "
            f"{common:,} in common: " + ", ".join(f"{key!r} is only in {name}" for name, key in extra) + ".",
            SCORE_AGAIN,
        )
    for name, predictions, _ in sides:
        unlabelled = [key for key, p in predictions.items() if p.label is None]
        if unlabelled:
            raise UserError(
                f"{len(unlabelled):,} of {_count(len(predictions), 'image')} of {name} have no true label, "
                f"such as {unlabelled[0]!r}.",
                "Compare on images whose labels are known.",
            )
    differing = [key for key, p in first.items() if p.label != second[key].label]
    if differing:
        key = differing[0]
        raise UserError(
            f"The true label differs for {len(differing):,} of {_count(len(first), 'image')}, such as {key!r}: "
            f"{first[key].label!r} for {first_name}, {second[key].label!r} for {second_name}.",
            SCORE_AGAIN,
        )


def _with_verdict(c: Comparison, comparisons: int = 1) -> Comparison:
    """The comparison with its verdict and sentence, which follow from `p` and the difference.

    Args:
        comparisons: the number of comparisons that p is adjusted for.
    """
    change = c.difference
    verdict = "can't tell" if c.p >= LEVEL else "better" if change.value > 0 else "worse"
    p = _p(c.p) + (f" adjusted for {comparisons} comparisons" if comparisons > 1 else "")
    figures = f"{_percent(c.accuracy_second)} against {_percent(c.accuracy_first)}"
    figures += f", a difference of {_points(change.value)} points ({_points(change.low)} to {_points(change.high)})"
    images = _count(c.n, "image")
    undecided = f"{images} can't tell {c.second} from {c.first}:"
    if verdict != "can't tell":
        sentence = f"{c.second} is {verdict} than {c.first}: {figures}, {p}, on the same {images}."
    elif c.needed is None:
        sentence = f"{undecided} both {_percent(c.accuracy_first)}. {_detectable(c)}"
    else:
        sentence = f"{undecided} {figures}, {p}. {_more_images(c.needed, c.n)}"
    return replace(c, verdict=verdict, sentence=sentence)


def _more_images(needed: int, n: int) -> str:
    """How many images would show the observed difference."""
    # The formula ignores the adjustment of p, and is too optimistic for small numbers of images.
    if needed <= n:
        return "More images would be needed to show a difference of this size."
    # Two significant figures: the estimate is no more precise than the difference it is computed from.
    step: int = 10 ** max(0, len(str(needed)) - 2)
    return f"About {math.ceil(needed / step) * step:,} images would show a difference of this size."


def _detectable(c: Comparison) -> str:
    """What difference could have been detected, if none was observed."""
    if not c.lost and not c.gained:
        return "They are correct on the same images."
    visible = _visible(c.n, (len(c.lost) + len(c.gained)) / c.n)
    return (
        f"With {_count(c.n, 'image')}, a difference must be about {_points(visible)} points to be detected with "
        "80 % probability."
    )


def _visible(n: int, discordant: float) -> float:
    """The smallest difference detected on n images with 80 % probability.

    Args:
        discordant: the fraction of the images on which only one of the two is correct; raised if n is very small.
    """
    # The test needs about eight discordant images to reach p < 0.05: six that all favour one side give 0.03, and the
    # number that favours it varies.
    return smallest_difference(n, min(1.0, max(discordant, 8 / n)))


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _percent(rate: Rate) -> str:
    return f"{rate.accuracy * 100:.1f} %"


def _points(difference: float) -> str:
    shown = f"{difference * 100:.1f}"
    return "0.0" if shown == "-0.0" else shown


def _p(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    digits = 3
    # More digits close to the level, so that it is visible on which side of it p is.
    while digits < 9 and float(f"{p:.{digits}f}") == LEVEL:
        digits += 1
    return f"p = {p:.{digits}f}"


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for multiple comparisons, in the given order.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def images_needed(difference: float, discordant: float, power: float = 0.8) -> int:
    """The number of images that McNemar's test, two-sided at 5 %, needs to detect a true difference, rounded up.

    Source: R. J. Connor, Sample size for testing differences in proportions for the paired-sample design, Biometrics
    43 (1987). It is derived for the normal approximation; the exact test needs a few per cent more.

    Args:
        difference: the difference between the two accuracies, in -1..1.
        discordant: the fraction of the images on which only one of the two is correct.
        power: the probability that the test detects the difference.

    Raises:
        ValueError: the difference is 0 or larger than `discordant`, `discordant` is not in 0..1, or the power is not
            at least 0.5 and less than 1.
    """
    if not 0 < abs(difference) <= discordant <= 1:
        raise ValueError(f"A difference of {difference} is impossible with a discordant fraction of {discordant}.")
    return math.ceil(_connor(abs(difference), discordant, _power_point(power)))


def smallest_difference(n: int, discordant: float = 0.2, power: float = 0.8) -> float:
    """The smallest true difference that n images detect with this power: the inverse of `images_needed`.

    It is at most `discordant`. With very few images, even this difference would not be detected with this power.

    Raises:
        UserError: n is 0.
        ValueError: `discordant` is not above 0 and at most 1, or the power is not at least 0.5 and less than 1.
    """
    if n <= 0:
        raise UserError("There is nothing to compare: no images.", "Check the dataset's test split and its limits.")
    if not 0 < discordant <= 1:
        raise ValueError(f"The discordant fraction must be above 0 and at most 1, not {discordant}.")
    z = _power_point(power)
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _connor(middle, discordant, z) <= n else (middle, high)
    return high


def _power_point(power: float) -> float:
    if not 0.5 <= power < 1:
        raise ValueError(f"The power must be at least 0.5 and less than 1, not {power}.")
    return NormalDist().inv_cdf(power)


def _connor(difference: float, discordant: float, z: float) -> float:
    spread = Z95 * math.sqrt(discordant) + z * math.sqrt(discordant - difference * difference)
    return (spread / difference) ** 2
