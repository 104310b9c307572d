"""Drawings put figures where they belong, and figures are written so that nobody misreads them."""

from __future__ import annotations

import re

import pytest

from lensmith.pages.charts import cells, curves
from lensmith.records import CoveragePoint, Estimate, Rate, ReliabilityBin
from tests.pages.samples import NAN, NO_RATE, has_numbers_only, rate


def test_a_long_loss_curve_is_smoothed_and_small() -> None:
    points = [(i, 1.0 + 8 * (i % 10 == 0)) for i in range(20_000)]
    assert {loss for _, loss in curves.running_median(points)} == {1.0}
    assert len(curves.loss_curve(points, 20_000)) < 50_000


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(2.3, [0, 1, 2, 3]), (0.04, [0, 0.01, 0.02, 0.03, 0.04]), (800, [0, 200, 400, 600, 800]), (0, [0, 0.5, 1])],
)
def test_ticks_are_round_and_reach_the_top(high: float, ticks: list[float]) -> None:
    assert cells.nice_ticks(high) == pytest.approx(ticks)


def test_the_interval_is_drawn_where_it_is() -> None:
    drawn = cells.interval(Rate(0.852, 0.829, 0.873, 1000))
    assert 'x1="82.9%" x2="87.3%"' in drawn
    assert 'cx="85.2%"' in drawn
    assert 'aria-label="85.2 %, 95 % interval 82.9 to 87.3 %"' in drawn


def test_a_difference_is_drawn_around_zero() -> None:
    drawn = cells.difference(Estimate(0.05, -0.025, 0.1), 0.1, "can't tell")
    assert 'x1="37.5%" x2="100.0%"' in drawn
    assert 'cx="75.0%"' in drawn
    assert 'aria-label="+5.0 points, 95 % interval −2.5 to +10.0"' in drawn


@pytest.mark.parametrize(("verdict", "colour"), [("better", "accent"), ("worse", "wrong"), ("can't tell", "muted")])
def test_the_colour_of_a_difference_is_the_verdict(verdict: str, colour: str) -> None:
    drawn = cells.difference(Estimate(0.01, 0.005, 0.02), 0.1, verdict)
    assert f'fill="var(--{colour})"' in drawn


@pytest.mark.parametrize(
    ("ends", "reach"), [([(-0.02, 0.081)], 0.1), ([(-0.18, -0.128), (0, 0.01)], 0.2), ([(NAN, NAN)], 0.01), ([], 0.01)]
)
def test_the_axis_of_differences_holds_all_intervals(ends: list[tuple[float, float]], reach: float) -> None:
    found = cells.difference_reach(Estimate((low + high) / 2, low, high) for low, high in ends)
    assert found == pytest.approx(reach)
    assert f"+{100 * reach:g}<" in cells.difference_axis(found)


def test_a_change_goes_from_ring_to_dot() -> None:
    up, down = cells.change(0.5, 0.6), cells.change(0.6, 0.5)
    assert 'x1="50.0%" x2="60.0%"' in up
    assert "from 50.0 % to 60.0 %" in up
    assert "--wrong" in down
    assert "--wrong" not in up


def test_what_is_not_a_number_is_not_drawn() -> None:
    nothing = Estimate(NAN, NAN, NAN)
    drawn = [cells.interval(NO_RATE), cells.change(NAN, 0.5), cells.difference(nothing, 0.1, "better")]
    assert not any("<circle" in one for one in drawn)
    assert all(has_numbers_only("</style>" + one) for one in drawn)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0512, "+5.1"), (-0.03, "−3.0"), (0.0004, "0.0"), (-0.0004, "0.0"), (NAN, "–")]
)
def test_points_have_a_sign(value: float, shown: str) -> None:
    assert cells.points(value) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(1.0, "1.000"), (0.0123, "0.012"), (0.04996, "0.04996"), (0.0502, "0.0502"), (0.0004, "< 0.001"), (NAN, "–")],
)
def test_a_p_value_shows_its_side_of_a_twentieth(p: float, shown: str) -> None:
    assert cells.probability(p) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(7, "7"), (99, "99"), (101, "110"), (2381, "2,400"), (999_500, "1,000,000")]
)
def test_rough_numbers_have_two_figures(count: int, shown: str) -> None:
    assert cells.about(count) == shown


def test_the_reliability_chart() -> None:
    bins = [ReliabilityBin(0.2, 0.4, 0.3, rate(0.5, 10)), ReliabilityBin(0.8, 1.0, 0.9, rate(0.8, 40))]
    drawn = curves.reliability_curve(bins)
    assert 'cx="30.0%" cy="50.0%"' in drawn
    assert 'x1="90.0%" x2="90.0%" y1="10.0%" y2="30.0%"' in drawn
    assert "30.0 % sure, 50.0 % right; 90.0 % sure, 80.0 % right" in drawn
    few, many = (float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)%"', drawn))
    assert many == 4 * few
    assert "<title>40 images</title>" in drawn


def test_the_coverage_chart() -> None:
    points = [CoveragePoint(0.9, 0.6, Rate(0.9, 0.86, 0.94, 90)), CoveragePoint(0.1, 0.9, Rate(1, 0.8, 1, 10))]
    drawn = curves.coverage_curve(points, points[0])
    assert '<polygon points="10,0 90,30 90,70 10,100"' in drawn
    assert 'cx="90.0%" cy="50.0%"' in drawn
    assert curves.coverage_curve(points, None).count("<circle") == 0
    assert curves.coverage_curve(points[:1], None).count("<circle") == 1


@pytest.mark.parametrize(
    ("low", "floor"), [(0.97, 95), (0.95, 95), (0.93, 90), (0.8, 80), (0.61, 60), (0.3, 0), (0, 0)]
)
def test_the_coverage_axis_starts_below_all_intervals(low: float, floor: int) -> None:
    points = [CoveragePoint(1, 0.5, Rate(0.98, low, 1, 10)), CoveragePoint(0.5, 0.5, Rate(0.98, 0.98, 1, 10))]
    assert curves.coverage_floor(points) == floor
