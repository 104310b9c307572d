"""Axes have round tick values and contain all values."""

from __future__ import annotations

import pytest

from lensmith.pages.charts import axes


@pytest.mark.parametrize(
    ("ends", "few", "labels", "minor"),
    [
        ((100, 3000), 5, ["100", "200", "500", "1,000", "2,000"], []),
        ((100, 20_000), 5, ["100", "1,000", "10,000"], ["200", "500", "2,000", "5,000", "20,000"]),
        ((1, 10**9), 5, ["1", "100", "10,000", "1,000,000", "100,000,000"], []),
        ((2e-4, 5e-3), 3, ["0.0002", "0.001", "0.005"], ["0.0005", "0.002"]),
        ((3, 4), 5, ["3", "4"], []),
        ((100, 100), 5, ["50", "100", "200"], []),
    ],
)
def test_labels_of_a_logarithmic_axis(ends: tuple[float, float], few: int, labels: list[str], minor: list[str]) -> None:
    axis = axes.logarithmic(ends, few)
    assert [label for _, label in axis.ticks] == labels
    assert [label for _, label in axis.minor] == minor
    assert [axis.at(axis.low), axis.at(axis.high)] == [0, 1]


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.86, 0.88], (0.86, 0.88)),
        ([0.52, 0.91], (0.5, 1)),
        ([0.1, 0.9], (0, 1)),
        ([1.0], (0.99, 1)),
        ([0], (0, 0.01)),
    ],
)
def test_a_zoomed_axis_contains_all_values(values: list[float], ends: tuple[float, float]) -> None:
    axis = axes.zoomed(values)
    assert (axis.low, axis.high) == pytest.approx(ends)
    assert len(axis.ticks) <= 6


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(2.3, [0, 1, 2, 3]), (0.04, [0, 0.01, 0.02, 0.03, 0.04]), (800, [0, 200, 400, 600, 800]), (0, [0, 0.5, 1])],
)
def test_ticks_are_round_and_reach_the_top(high: float, ticks: list[float]) -> None:
    assert axes.round_ticks(high) == pytest.approx(ticks)
