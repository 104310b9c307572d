"""Prices, shutdown dates, and what is said before anything is sent."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith import apis
from lensmith.apis.pictures import picture
from lensmith.apis.plan import plan
from lensmith.apis.prices import BATCH, Tariff, shutdown_note, shutdown_of, tariff
from lensmith.apis.provider import Usage
from lensmith.config import ApiOptions, Price
from lensmith.errors import UserError
from tests.apis.conftest import ASK, png

COUNTS = st.integers(0, 10**7)


@given(read=COUNTS, cached=COUNTS, written=COUNTS)
def test_cached_tokens_are_part_of_those_that_were_read(read: int, cached: int, written: int) -> None:
    usage = Usage(read, min(read, cached), written)
    price = Tariff(Price(1.0, 4.0, 0.1), "")
    expected = (read - usage.cached) * 1.0 + usage.cached * 0.1 + written * 4.0
    assert price.cost(usage) == pytest.approx(expected / 1e6)
    assert price.cost(usage, batch=True) == pytest.approx(BATCH * expected / 1e6)
    assert Tariff(Price(1.0, 4.0), "").cost(usage) >= price.cost(usage)


def test_where_a_price_is_from() -> None:
    listed = tariff(apis.find("openai:gpt-6-luna"), ApiOptions())
    assert listed.price.input > 0
    assert "LiteLLM" in listed.source
    assert tariff(apis.find("openai:gpt-6-luna"), ApiOptions(price=Price(7.0))).price.input == 7.0
    assert tariff(apis.find("openai:x@http://127.0.0.1:1/v1"), ApiOptions()).price == Price(0.0)
    for base in ("openai:gpt-99", "openai:gpt-6-luna@http://example.com/v1", "systemone:jev"):
        with pytest.raises(UserError, match=r"The price of .* isn't known"):
            tariff(apis.find(base), ApiOptions())


def test_a_decision_costs_nothing_to_write() -> None:
    assert tariff(apis.find("openai-decisions:gpt-6-luna"), ApiOptions()).price.output == 0.0


@pytest.mark.parametrize(
    ("day", "words"),
    [("2027-01-14", "in 47 days"), ("2026-11-28", "today"), ("2026-01-01", "past"), ("", ""), ("soon", "soon")],
)
def test_a_shutdown_is_said(day: str, words: str) -> None:
    note = shutdown_note("gpt-4o", day, date(2026, 11, 28))
    assert words in note
    assert bool(note) == bool(day)


def test_the_list_knows_the_models_that_end() -> None:
    assert {shutdown_of(apis.find(f"openai:{name}")) for name in ("gpt-4o", "gpt-4.1-mini")} == {"2027-01-14"}
    assert shutdown_of(apis.find("openai:gpt-4o@http://example.com/v1")) == ""


def test_what_is_said_before_anything_is_sent() -> None:
    provider = apis.find("openai:gpt-4o")
    found = plan(provider, ASK, ApiOptions(), tariff(provider, ApiOptions()), 2000, [picture(png(0), "a", 10**6)])
    said = " ".join(found.sentences())
    assert "2,000 requests" in said
    assert "to gpt-4o at api.openai.com. The images leave this machine." in said
    assert f"about ${found.dollars:.2f}" in said
    assert "2027-01-14" in said
    local = plan(apis.find("openai:m@http://127.0.0.1:1/v1"), ASK, ApiOptions(pixels=512), Tariff(Price(0), ""), 1, [])
    said = " ".join(local.sentences())
    assert "no image leaves it" in said
    assert "1 request, each with one image of at most 512 pixels" in said
    assert "$" not in said
