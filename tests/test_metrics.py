"""Figures against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith.errors import UserError
from lensmith.metrics import accuracy, confusion, macro_f1, mcnemar, per_class, wilson
from lensmith.records import Prediction


def test_the_posts_intervals() -> None:
    # 200 images, as published in the post this project starts from: 54, 62 and 86 % right.
    for right, low, high in ((108, 47.1, 60.8), (124, 55.1, 68.4), (172, 80.5, 90.1)):
        rate = wilson(right, 200)
        assert (round(rate.low * 100, 1), round(rate.high * 100, 1)) == (low, high)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_rate_and_stays_in_range(case: tuple[int, int]) -> None:
    right, n = case
    rate = wilson(right, n)
    assert 0 <= rate.low <= rate.accuracy <= rate.high <= 1
    assert (rate.low == 0) == (right == 0)
    mirrored = wilson(n - right, n)
    assert mirrored.low == pytest.approx(1 - rate.high)


def test_nothing_has_no_accuracy() -> None:
    with pytest.raises(UserError, match="no images"):
        accuracy([])
    with pytest.raises(UserError):
        macro_f1([])
    with pytest.raises(ValueError, match="0 and 0"):
        mcnemar([], [])


def test_unreadable_images_count_as_wrong() -> None:
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
    truth, said = zip(*pairs, strict=True)
    p, r, f, n = precision_recall_fscore_support(truth, said, labels=labels, zero_division=0)
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


def test_mcnemar_on_a_hundred_thousand_samples() -> None:
    first = [True] * 3000 + [False] * 2000 + [True] * 95_000
    second = [False] * 3000 + [True] * 2000 + [True] * 95_000
    assert 0 <= mcnemar(first, second) < 1e-40
