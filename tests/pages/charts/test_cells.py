"""Charts in table cells show numbers at the right positions."""

from __future__ import annotations

import pytest

from lensmith.pages.charts import cells
from lensmith.records import Estimate, Rate
from tests.pages.samples import NAN, NO_RATE, has_numbers_only


def test_an_interval_is_drawn_at_its_values() -> None:
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
def test_the_colour_of_a_difference_shows_the_verdict(verdict: str, colour: str) -> None:
    drawn = cells.difference(Estimate(0.01, 0.005, 0.02), 0.1, verdict)
    assert f'fill="var(--{colour})"' in drawn


@pytest.mark.parametrize(
    ("ends", "limit"), [([(-0.02, 0.081)], 0.1), ([(-0.18, -0.128), (0, 0.01)], 0.2), ([(NAN, NAN)], 0.01), ([], 0.01)]
)
def test_the_axis_of_differences_contains_all_intervals(ends: list[tuple[float, float]], limit: float) -> None:
    end = cells.difference_limit(Estimate((low + high) / 2, low, high) for low, high in ends)
    assert end == pytest.approx(limit)
    assert f"+{100 * limit:g}<" in cells.difference_axis(end)


def test_a_change_goes_from_a_ring_to_a_dot() -> None:
    up, down = cells.change(0.5, 0.6), cells.change(0.6, 0.5)
    assert 'x1="50.0%" x2="60.0%"' in up
    assert "from 50.0 % to 60.0 %" in up
    assert "--wrong" in down
    assert "--wrong" not in up


def test_missing_numbers_are_not_drawn() -> None:
    nothing = Estimate(NAN, NAN, NAN)
    drawn = [cells.interval(NO_RATE), cells.change(NAN, 0.5), cells.difference(nothing, 0.1, "better")]
    assert not any("<circle" in one for one in drawn)
    assert all(has_numbers_only("</style>" + one) for one in drawn)
