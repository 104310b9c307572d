"""Metrics against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from random import Random
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lensmith.errors import UserError
from lensmith.measure.metrics import (
    accuracy,
    cells_of_groups,
    confusion,
    grouped,
    is_correct,
    macro_f1,
    macro_f1_interval,
    mcnemar,
    paired_difference,
    per_class,
    top5,
    wilson,
)
from lensmith.measure.paired import holm, images_needed, smallest_difference
from lensmith.measure.reliability import reliability, risk_coverage
from lensmith.records import Prediction

# Few different probabilities, so that many are equal; some images are unreadable or have no probability.
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.6, 14 / 15, 0.999, 1.0]) | st.floats(0, 1)


@st.composite
def scored(draw: st.DrawFn, max_size: int = 50) -> list[Prediction]:
    rows = draw(st.lists(st.tuples(st.sampled_from("ab?-"), PROBABILITIES), min_size=1, max_size=max_size))
    return [
        Prediction(str(i), "a", error="truncated")
        if predicted == "-"
        else Prediction(str(i), "a", "b" if predicted == "?" else predicted, None if predicted == "?" else probability)
        for i, (predicted, probability) in enumerate(rows)
    ]


def test_the_published_intervals() -> None:
    # 200 images, as published in the post that this project started from: 54, 62 and 86 % correct.
    for correct, low, high in ((108, 47.1, 60.8), (124, 55.1, 68.4), (172, 80.5, 90.1)):
        rate = wilson(correct, 200)
        assert (round(rate.low * 100, 1), round(rate.high * 100, 1)) == (low, high)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_contains_its_rate_and_stays_in_range(case: tuple[int, int]) -> None:
    correct, n = case
    rate = wilson(correct, n)
    assert 0 <= rate.low <= rate.accuracy <= rate.high <= 1
    assert (rate.low == 0) == (correct == 0)
    mirrored = wilson(n - correct, n)
    assert mirrored.low == pytest.approx(1 - rate.high)


def test_empty_input_is_an_error() -> None:
    with pytest.raises(UserError, match="no images"):
        accuracy([])
    with pytest.raises(UserError):
        macro_f1([])
    with pytest.raises(ValueError, match="0 and 0 items"):
        mcnemar([], [])
    for figure in (reliability, risk_coverage):
        with pytest.raises(UserError, match="no images"):
            figure([])
    with pytest.raises(UserError, match="no images"):
        top5([], 10)
    for counts in ([], [[0, 0, 0], [0, 0, 0]]):
        with pytest.raises(UserError, match="no class has an image"):
            macro_f1_interval(counts)
    with pytest.raises(UserError, match="no images"):
        paired_difference(0, 0, 0)
    with pytest.raises(UserError, match="no images"):
        smallest_difference(0)


def test_unreadable_images_count_as_incorrect() -> None:
    found = [Prediction("1", "a", "a"), Prediction("2", "a", error="truncated"), Prediction("3", "b", "a")]
    assert accuracy(found).accuracy == pytest.approx(1 / 3)
    counts = confusion(found, ["a", "b"])
    assert counts == [[1, 0, 1], [1, 0, 0]]
    classes = {c.label: c for c in per_class(counts, ["a", "b"])}
    assert classes["a"].recall.accuracy == 0.5
    assert classes["a"].precision == 0.5
    assert classes["b"].f1 == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_per_class_figures_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    labels = ["a", "b", "c"]
    classes = per_class(confusion([Prediction("", t, p) for t, p in pairs], labels), labels)
    truth, predicted = zip(*pairs, strict=True)
    p, r, f, n = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    for c in classes:
        i = labels.index(c.label)
        assert (c.precision, c.recall.accuracy, c.f1, c.recall.n) == pytest.approx((p[i], r[i], f[i], n[i]))
    assert macro_f1(classes) == pytest.approx(sum(f[i] for i in range(3) if n[i]) / sum(n > 0))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, both: int) -> None:
    if only_first + only_second + both == 0:
        return
    first = [True] * only_first + [False] * only_second + [True] * both
    second = [False] * only_first + [True] * only_second + [True] * both
    n, k = only_first + only_second, min(only_first, only_second)
    expected = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_on_a_hundred_thousand_images() -> None:
    first = [True] * 3000 + [False] * 2000 + [True] * 95_000
    second = [False] * 3000 + [True] * 2000 + [True] * 95_000
    assert 0 <= mcnemar(first, second) < 1e-40


def test_top5_counts_unreadable_images_and_unknown_ranks_as_incorrect() -> None:
    found = [Prediction(str(i), "a", "b", 0.5, rank) for i, rank in enumerate((1, 5, 6, None))]
    found.append(Prediction("4", "a", error="truncated"))
    rate = top5(found, 6)
    assert rate == wilson(2, 5)
    assert top5(found, 5) is None
    assert top5([Prediction("1", "a", "b")], 6) is None


def resample_images(counts: Sequence[Sequence[int]], resamples: int, seed: int) -> list[float]:
    """Macro-F1 of images drawn with replacement one by one, as in the definition."""
    images = [(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)]
    random = np.random.default_rng(seed)
    labels = [str(i) for i in range(len(counts))]
    values = []
    for _ in range(resamples):
        table = [[0] * len(row) for row in counts]
        for k in random.integers(len(images), size=len(images)):
            table[images[k][0]][images[k][1]] += 1
        values.append(macro_f1(per_class(table, labels)))
    return values


@pytest.mark.parametrize(
    "counts",
    [
        [[40, 5, 0, 2], [9, 30, 1, 0], [0, 0, 1, 2]],  # one class is small, so that resamples miss it
        [[18, 2, 0], [5, 15, 1]],
    ],
)
def test_the_bootstrap_equals_resampling_of_images(counts: list[list[int]]) -> None:
    interval = macro_f1_interval(counts, resamples=4000)
    assert interval.value == macro_f1(per_class(counts, [str(i) for i in range(len(counts))]))
    low, high = 2 * interval.value - np.percentile(resample_images(counts, 2000, 1), [97.5, 2.5])
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)
    assert macro_f1_interval(counts, seed=3) == macro_f1_interval(counts, seed=3)
    assert macro_f1_interval(counts, seed=3) != macro_f1_interval(counts, seed=4)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=3, max_size=3))
@example([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
@example([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
def test_an_interval_of_macro_f1_contains_its_value(counts: list[list[int]]) -> None:
    if sum(map(sum, counts)):
        interval = macro_f1_interval(counts, resamples=50)
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_the_bootstrap_with_a_thousand_classes() -> None:
    counts = [[0] * 1001 for _ in range(1000)]
    for i in range(1000):
        counts[i][i], counts[i][(i * 7 + 1) % 1000] = 7, 3
    interval = macro_f1_interval(counts, resamples=100)
    assert interval.low - 1e-9 <= 0.7 < interval.high < 0.75


@given(scored(), st.integers(1, 20))
def test_calibration_error_matches_its_definition(found: list[Prediction], bins: int) -> None:
    known = [p for p in found if p.probability is not None]
    outcome = reliability(found, bins)
    if not known:
        assert outcome is None
        return
    assert outcome is not None
    expected, bins_found = 0.0, []
    for i in range(bins):
        low, high = i / bins, (i + 1) / bins
        inside = [p for p in known if low <= p.probability < high or (i == bins - 1 and p.probability == 1)]  # type: ignore[operator]
        if inside:
            bins_found.append((low, high, len(inside)))
            confidence = fmean(p.probability for p in inside if p.probability is not None)
            expected += len(inside) / len(known) * abs(fmean(map(is_correct, inside)) - confidence)
    assert outcome.calibration_error == pytest.approx(expected)
    assert [(b.low, b.high, b.accuracy.n) for b in outcome.bins] == bins_found
    assert all(b.low <= b.confidence <= b.high + 1e-12 for b in outcome.bins)


def test_calibration_needs_bins() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        reliability([Prediction("1", "a", "a", 0.5)], 0)


@given(scored(), st.randoms(use_true_random=False))
def test_accuracy_at_full_coverage_is_that_of_all_images(found: list[Prediction], random: Random) -> None:
    points = risk_coverage(found)
    assert bool(points) == any(p.probability is not None for p in found)
    if not points:
        return
    assert points[-1].accuracy == accuracy(found)
    assert points[-1].coverage == 1
    kept = [point.accuracy.n for point in points]
    assert kept == sorted(set(kept))
    assert min(kept) > 0
    assert len(points) == min(20, len(found))
    for point in points:
        assert point.coverage == point.accuracy.n / len(found)
        assert point.accuracy.low <= point.accuracy.accuracy <= point.accuracy.high
    confidences = [point.confidence for point in points]
    assert confidences == sorted(confidences, reverse=True)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert risk_coverage(shuffled) == points


@settings(max_examples=30)
@given(scored(max_size=5))
def test_ties_are_averaged_over_all_orders(found: list[Prediction]) -> None:
    def confidence(p: Prediction) -> float:
        return -1.0 if p.predicted is None else p.probability or 0.0

    for point in risk_coverage(found):
        # Stable sorts of all permutations give every order of the ties equally often.
        orders = [sorted(order, key=confidence, reverse=True) for order in permutations(found)]
        expected = fmean(fmean(map(is_correct, order[: point.accuracy.n])) for order in orders)
        assert point.accuracy.accuracy == pytest.approx(expected)


def test_unreadable_images_come_last() -> None:
    found = [Prediction(str(i), "a", error="truncated") for i in range(50)]
    found += [Prediction(str(i), "a", "a", 0.0 if i % 2 else 0.9) for i in range(50, 100)]
    points = risk_coverage(found)
    assert [round(p.coverage * 20) for p in points] == list(range(1, 21))
    assert [p.accuracy.accuracy for p in points[:10]] == [1.0] * 10
    assert points[10].accuracy.accuracy == 50 / 55
    assert points[-1].confidence == 0


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
@example(0, 1, 0)
@example(400, 0, 0)
def test_a_difference_lies_within_its_interval(only_first: int, only_second: int, rest: int) -> None:
    n = only_first + only_second + rest
    if n == 0:
        return
    found, mirrored = paired_difference(only_first, only_second, n), paired_difference(only_second, only_first, n)
    assert found.value == (only_second - only_first) / n
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_a_difference_by_the_formula_of_bonett_and_price() -> None:
    # (5 + 1, 20 + 1) / (100 + 2): 0.14706 -+ 1.95996 * sqrt((27 / 102 - 0.14706 ** 2) / 102).
    found = paired_difference(5, 20, 100)
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (0.15, 0.0514, 0.2427)
    for wrong in ((-1, 2, 10), (6, 5, 10)):
        with pytest.raises(ValueError, match="total of 10"):
            paired_difference(*wrong)


@pytest.mark.parametrize(("p", "n"), [(0.9, 100), (0.5, 40), (0.97, 200)])
def test_the_wilson_interval_covers_the_true_value_about_95_times_in_100(p: float, n: int) -> None:
    rates = [wilson(correct, n) for correct in range(n + 1)]
    held = sum(rates[k].low <= p <= rates[k].high for k in np.random.default_rng(0).binomial(n, p, 10_000))
    assert 0.93 < held / 10_000 < 0.975


@pytest.mark.parametrize(("only_first", "only_second", "n"), [(0.1, 0.2, 100), (0.02, 0.05, 200), (0.1, 0.1, 50)])
def test_the_paired_interval_covers_the_true_value_about_95_times_in_100(
    only_first: float, only_second: float, n: int
) -> None:
    cells = [only_first, only_second, 1 - only_first - only_second]
    held = 0
    for a, b, _ in np.random.default_rng(0).multinomial(n, cells, 5000).tolist():
        found = paired_difference(a, b, n)
        held += found.low <= only_second - only_first <= found.high
    assert 0.93 < held / 5000 < 0.98


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p_values: list[float], level: float) -> None:
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - rank) * p_values[i] > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


@pytest.mark.parametrize(("difference", "discordant"), [(0.1, 0.3), (0.05, 0.2), (-0.05, 0.1), (0.03, 0.05)])
def test_the_computed_number_of_images_detects_the_difference_four_times_in_five(
    difference: float, discordant: float
) -> None:
    n = images_needed(difference, discordant)
    cells = [(discordant - difference) / 2, (discordant + difference) / 2, 1 - discordant]
    detected, p_values = 0, {}
    for a, b, _ in np.random.default_rng(0).multinomial(n, cells, 2000).tolist():
        if (a, b) not in p_values:
            # Only discordant images have an effect.
            p_values[a, b] = mcnemar([True] * a + [False] * b + [True], [False] * a + [True] * b + [True])
        detected += p_values[a, b] < 0.05
    assert 0.73 < detected / 2000 < 0.83  # the exact test is slightly more conservative than the formula


def test_images_needed_by_hand() -> None:
    point = NormalDist().inv_cdf
    expected = ((point(0.975) * math.sqrt(0.2) + point(0.9) * math.sqrt(0.2 - 0.0025)) / 0.05) ** 2
    assert images_needed(0.05, 0.2, 0.9) == images_needed(-0.05, 0.2, 0.9) == math.ceil(expected)
    for wrong in ((0.0, 0.2), (0.3, 0.2), (-0.3, 0.2), (0.1, 1.1)):
        with pytest.raises(ValueError, match="discordant"):
            images_needed(*wrong)
    for power in (0.4, 1.0):
        with pytest.raises(ValueError, match="power"):
            images_needed(0.1, 0.2, power)


@given(st.integers(1, 100_000), st.floats(0.01, 1), st.floats(0.5, 0.95))
def test_the_smallest_difference_is_the_inverse(n: int, discordant: float, power: float) -> None:
    smallest = smallest_difference(n, discordant, power)
    assert 0 < smallest <= discordant
    if smallest < discordant:
        assert images_needed(smallest, discordant, power) <= n < images_needed(smallest * 0.999999, discordant, power)
    else:
        assert images_needed(discordant * 0.999999, discordant, power) > n


def test_the_smallest_difference_needs_discordant_images() -> None:
    for discordant in (0.0, 1.5):
        with pytest.raises(ValueError, match="discordant"):
            smallest_difference(100, discordant)


def test_the_interval_of_macro_f1_covers_the_true_value_with_many_small_classes() -> None:
    # 60 classes of 10 images each; 70 % of a class are predicted correctly, the rest at random.
    classes, per, random = 60, 10, np.random.default_rng(0)
    chances = np.full((classes, classes), 0.3 / (classes - 1)) + (0.7 - 0.3 / (classes - 1)) * np.eye(classes)
    truth = macro_f1(per_class((chances * 1e6).astype(int).tolist(), [str(i) for i in range(classes)]))
    held = 0
    for _ in range(40):
        counts = [random.multinomial(per, row).tolist() for row in chances]
        interval = macro_f1_interval(counts, resamples=200)
        held += interval.low <= truth <= interval.high
    assert held >= 34


def in_groups(random: np.random.Generator, groups: int, size: int, rate: float, spread: float) -> list[list[bool]]:
    """Groups of images, each with an accuracy of its own around `rate`."""
    own = np.clip(random.normal(rate, spread, groups), 0, 1)
    return [list(random.random(size) < p) for p in own]


@pytest.mark.parametrize(("groups", "size", "spread"), [(12, 20, 0.2), (40, 10, 0.25), (200, 5, 0.0)])
def test_the_interval_of_groups_contains_the_truth_as_often_as_it_says(groups: int, size: int, spread: float) -> None:
    random, rate = np.random.default_rng(0), 0.75
    truth = float(np.clip(random.normal(rate, spread, 100_000), 0, 1).mean())
    inside = naive = 0
    for _ in range(200):
        drawn = in_groups(random, groups, size, rate, spread)
        units = [str(k) for k, found in enumerate(drawn) for _ in found]
        correct = [bool(x) for found in drawn for x in found]
        interval, plain = grouped(correct, units), wilson(sum(correct), len(correct))
        assert interval.accuracy == plain.accuracy
        inside += interval.low <= truth <= interval.high
        naive += plain.low <= truth <= plain.high
    assert inside >= 0.91 * 200
    if spread:
        assert naive < 0.85 * 200  # which is what the groups are for


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_the_interval_of_groups_is_one(rows: list[tuple[bool, str]]) -> None:
    correct, units = [ok for ok, _ in rows], [unit for _, unit in rows]
    rate = grouped(correct, units)
    assert 0 <= rate.low <= rate.accuracy <= rate.high <= 1
    assert rate.n == len(rows)
    assert grouped(correct, [str(k) for k in range(len(rows))]) == wilson(sum(correct), len(rows))


def test_predictions_with_groups_have_wider_intervals() -> None:
    rows = [(k, "b" if k % 10 in (0, 1, 2) else "a") for k in range(30) for _ in range(10)]
    alone = [Prediction(str(i), "a" if k % 2 else "b", answer) for i, (k, answer) in enumerate(rows)]
    together = [Prediction(p.id, p.label, p.predicted, group=f"house {rows[i][0]}") for i, p in enumerate(alone)]
    first, second = accuracy(alone), accuracy(together)
    assert first.accuracy == second.accuracy
    assert second.high - second.low > 1.8 * (first.high - first.low)
    counts = confusion(together, ["a", "b"])
    plain, wide = (macro_f1_interval(counts, cells_of=found) for found in (None, cells_of_groups(together, ["a", "b"])))
    assert plain.value == wide.value
    assert wide.high - wide.low > 1.8 * (plain.high - plain.low)
    assert cells_of_groups(alone, ["a", "b"]) is None
