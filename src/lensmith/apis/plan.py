"""What is going to be sent to an outside model, and about what it will cost: said before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lensmith.apis.prices import Tariff, shutdown_note, shutdown_of
from lensmith.apis.provider import Ask, Picture, Provider, Usage
from lensmith.config import ApiOptions

_CHARACTERS = 4
"""Characters of text per token, about."""
_ANSWER = 12
"""Tokens of an answer in JSON, besides those of the class name, about."""


@dataclass(frozen=True)
class Plan:
    """What is going to be sent."""

    provider: Provider
    tariff: Tariff
    requests: int
    tokens: Usage
    """Of all requests, about."""
    dollars: float
    pixels: str
    """How images are sent."""
    shutdown: str
    """The date of the model's shutdown; empty if none is known."""
    over_budget: float = 0.0
    """The budget, if a batch is going to exceed it; a batch can't be stopped in the middle."""

    def sentences(self) -> list[str]:
        """What a person needs to agree to."""
        provider = self.provider
        count = f"{self.requests:,} request{'s' * (self.requests != 1)}, each with one image {self.pixels}"
        if provider.local:
            lines = [f"{count}, to {provider.model} at {provider.url}, on this machine: no image leaves it."]
        else:
            lines = [f"{count}, to {provider.model} at {provider.host}. The images leave this machine."]
        tokens = f"About {self.tokens.input:,} tokens of input and {self.tokens.output:,} of output"
        if self.tariff.price.input or self.tariff.price.output:
            price = self.tariff.price
            per = f"${price.input:g} and ${price.output:g} per million; {self.tariff.source}"
            lines.append(f"{tokens}, about ${self.dollars:.2f} ({per}). Reasoning, if the model does it, costs more.")
        if note := shutdown_note(provider.model, self.shutdown):
            lines.append(note)
        return lines


def plan(
    provider: Provider,
    ask: Ask,
    options: ApiOptions,
    tariff: Tariff,
    requests: int,
    samples: Sequence[Picture],
    shutdown: str = "",
) -> Plan:
    """The plan for requests about images like these.

    Args:
        samples: some of the images as they are sent; may be empty.
        shutdown: the date that the API itself gives; else the dated list's is used.
    """
    image = fmean(provider.tokens(picture, options) for picture in samples) if samples else 0.0
    text = len(ask.text) + len(ask.system or "") + sum(map(len, ask.names))
    written = 0 if provider.PROBABILITIES else _ANSWER + max(map(len, ask.names)) // _CHARACTERS
    usage = Usage(round(requests * (image + text / _CHARACTERS)), 0, requests * written)
    pixels = f"of at most {options.pixels:,} pixels" if options.pixels else "as its file is"
    dollars = tariff.cost(usage, options.batch)
    over = options.budget if options.batch and options.budget and dollars > options.budget else 0.0
    return Plan(provider, tariff, requests, usage, dollars, pixels, shutdown or shutdown_of(provider), over)
