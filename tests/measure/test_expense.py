"""What classifiers cost, and from how many images on the local one is cheaper."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lensmith.measure.expense import Expense, break_even, dollars, milliseconds, verdict
from lensmith.measure.metrics import quantiles

PRICES = st.floats(0, 1, allow_nan=False)


@example(api=2.2250738585072014e-308, local=0.0, fixed=4.0)
@given(api=PRICES, local=PRICES, fixed=st.floats(0, 1e4))
def test_from_the_break_even_on_the_local_model_is_cheaper_and_before_it_is_not(
    api: float, local: float, fixed: float
) -> None:
    paid, own = Expense("api", True, api), Expense("mine", False, local, fixed)
    images = break_even(paid, own)
    if images is None:
        assert local >= api
        return
    if images > 1e12:  # beyond the precision of the sums below
        return
    assert images * api >= fixed + images * local - 1e-6 * max(1.0, fixed)
    assert images == 0 or (images - 1) * api < fixed + (images - 1) * local + 1e-6 * max(1.0, fixed)


def test_the_sentence_says_which_is_cheaper() -> None:
    api, mine = Expense("api", True, 0.0004), Expense("mine", False, 0.0001, 30.0)
    said = (
        "1,000 images cost $0.40 with api and $0.10 with mine; with $30.00 for its labels and training, mine is cheaper"
    )
    assert verdict(api, mine) == f"{said} from 100,000 images on."
    free = Expense("mine", False, 0.0)
    assert verdict(api, free).endswith("which is cheaper from the first image on.")
    assert "never cheaper" in verdict(mine, Expense("slow", False, 0.01))
    assert verdict(api, Expense("mine", False, None)) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(12.3, "$12.30"), (0, "$0.00"), (0.1, "$0.10"), (0.0042, "$0.0042"), (0.000082, "$0.000082")]
)
def test_dollars_have_two_figures(value: float, text: str) -> None:
    assert dollars(value) == text


@given(st.lists(st.floats(0, 100, allow_nan=False), min_size=1))
def test_a_quantile_is_a_value_that_that_part_of_all_does_not_exceed(values: list[float]) -> None:
    found = quantiles(values)
    for q in (50, 95, 99):
        value = found[f"p{q}"]
        assert value in values
        assert sum(v <= value for v in values) >= q / 100 * len(values)
        assert sum(v < value for v in values) < q / 100 * len(values) + 1e-9


def test_delays_that_were_not_measured_are_dashes() -> None:
    assert milliseconds({}) == ["–"] * 4
    assert milliseconds({"p50": 0.1, "p95": 0.2, "p99": 1.5, "n": 1000.0}) == ["100", "200", "1,500", "1,000"]
