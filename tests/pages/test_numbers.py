"""Numbers are written so that nobody misreads them."""

from __future__ import annotations

import pytest

from lensmith.pages import numbers
from tests.pages.samples import NAN


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0512, "+5.1"), (-0.03, "−3.0"), (0.0004, "0.0"), (-0.0004, "0.0"), (NAN, "–")]
)
def test_points_have_a_sign(value: float, shown: str) -> None:
    assert numbers.points(value) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(1.0, "1.000"), (0.0123, "0.012"), (0.04996, "0.04996"), (0.0502, "0.0502"), (0.0004, "< 0.001"), (NAN, "–")],
)
def test_a_p_value_shows_on_which_side_of_5_percent_it_is(p: float, shown: str) -> None:
    assert numbers.p_value(p) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(7, "7"), (99, "99"), (101, "110"), (2381, "2,400"), (999_500, "1,000,000")]
)
def test_rough_numbers_have_two_significant_digits(count: int, shown: str) -> None:
    assert numbers.rounded_up(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.04 s"),
        (0.251, "0.25 s"),
        (4.25, "4.2 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (85, "1.4 min"),
        (3599, "1.0 h"),
        (172_800, "2 days"),
    ],
)
def test_durations_have_a_readable_unit(seconds: float, shown: str) -> None:
    assert numbers.duration(seconds) == shown
