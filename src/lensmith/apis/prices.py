"""What an outside model costs, and when it is shut down: from a dated list, unless the user says otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from lensmith.apis.provider import Provider, Usage
from lensmith.config import ApiOptions, Price
from lensmith.errors import UserError

BATCH = 0.5
"""A batch's price, as a fraction of the usual one (OpenAI, Anthropic)."""
_PER = 1e6


@dataclass(frozen=True)
class Tariff:
    """The price of a model's tokens, and where it is from."""

    price: Price
    source: str

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """US dollars of a request."""
        price, fresh = self.price, max(0, usage.input - usage.cached)
        cached = price.input if price.cached is None else price.cached
        dollars = (fresh * price.input + usage.cached * cached + usage.output * price.output) / _PER
        return dollars * (BATCH if batch else 1.0)


def tariff(provider: Provider, options: ApiOptions) -> Tariff:
    """The price of an outside model: the user's, or the list's; nothing on this machine.

    Raises:
        UserError: the price isn't known.
    """
    if options.price is not None:
        return Tariff(options.price, "api.price")
    if provider.local:
        return Tariff(Price(0.0), "a server on this machine")
    listed = _listed(provider)
    if listed is None:
        raise UserError(
            f"The price of {provider.model} isn't known.",
            "Give it in US dollars per million tokens, for example api.price={input: 0.10, output: 0.50}; "
            "api.price={input: 0} if it costs nothing.",
        )
    price = Price(listed["input"], listed["output"], listed.get("cached"))
    return Tariff(price, f"prices of {_list()['date']}, {_list()['source']}")


def shutdown_of(provider: Provider) -> str:
    """The date when a provider's model is shut down, by the list; empty if none is known."""
    return str((_listed(provider) or {}).get("shutdown", ""))


def shutdown_note(model: str, day: str, today: date | None = None) -> str:
    """A sentence on a model's shutdown; empty if no date is known."""
    if not day:
        return ""
    try:
        left = (date.fromisoformat(day[:10]) - (today or date.today())).days
    except ValueError:
        return f"{model} is going to be shut down: {day}."
    when = (
        f"in {left} days" if left > 1 else "tomorrow" if left == 1 else "today" if left == 0 else "a date in the past"
    )
    return f"{model} is shut down on {day[:10]}, {when}: record its answers on all images that matter before."


def _listed(provider: Provider) -> dict[str, Any] | None:
    models: dict[str, dict[str, Any]] = _list()["models"]
    return models.get(f"{provider.word}:{provider.model}") if provider.own else None


@cache
def _list() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text(encoding="utf-8"))
    return found
