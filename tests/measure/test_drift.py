"""The test for drift raises false alarms as rarely as it says, and notices what has changed."""

from __future__ import annotations

import numpy as np
import pytest

from lensmith.measure import drift
from lensmith.measure.drift import compare

CLASSES = ("cat", "dog", "bird")


def answers(rng: np.random.Generator, n: int, shares: tuple[float, ...], beta: float = 1) -> list[tuple[str, float]]:
    labels = rng.choice(CLASSES, n, p=shares)
    return list(zip(labels.tolist(), (1 - 0.6 * rng.beta(1, 4 / beta, n)).round(2).tolist(), strict=True))


@pytest.mark.long
def test_false_alarms_are_as_rare_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_ROUNDS", 199)
    monkeypatch.setattr(drift, "FALSE_ALARMS", 0.2)  # so that few windows are enough to measure the rate
    rng = np.random.default_rng(1)
    found = [compare(answers(rng, 300, (0.6, 0.3, 0.1)), answers(rng, 100, (0.6, 0.3, 0.1)), i) for i in range(300)]
    rate = sum(bool(one and one.found) for one in found) / len(found)
    assert 0.1 < rate <= 0.2 + 3 * (0.2 * 0.8 / 300) ** 0.5


@pytest.mark.parametrize(
    ("shares", "beta", "what"),
    [
        ((0.2, 0.3, 0.5), 1, "the classes"),
        ((0.6, 0.3, 0.1), 6, "the confidence"),
        ((0.2, 0.3, 0.5), 6, "the classes and the confidence"),
        ((0.6, 0.3, 0.1), 1, "nothing"),
    ],
)
def test_what_has_changed_is_named(shares: tuple[float, ...], beta: float, what: str) -> None:
    rng = np.random.default_rng(2)
    found = compare(answers(rng, 1000, (0.6, 0.3, 0.1)), answers(rng, 200, shares, beta))
    assert found
    assert found.what == what
    assert found.found == (what != "nothing")


def test_a_class_that_was_never_answered_before_counts() -> None:
    rng = np.random.default_rng(3)
    found = compare(answers(rng, 500, (0.7, 0.3, 0)), answers(rng, 200, (0.5, 0.2, 0.3)))
    assert found
    assert found.classes_p <= 0.001


def test_few_answers_say_nothing() -> None:
    rng = np.random.default_rng(4)
    many, few = answers(rng, 500, (0.6, 0.3, 0.1)), answers(rng, 49, (0, 0, 1))
    assert compare(many, few) is None
    assert compare(few, many) is None


def test_equal_answers_give_the_largest_p_value() -> None:
    same = [("cat", 0.9)] * 100
    found = compare(same, same)
    assert found
    assert (found.classes_p, found.confidence_p) == (1, 1)
