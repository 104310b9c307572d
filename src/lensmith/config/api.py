"""The options of outside models."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from lensmith.config.section import Fraction, Options, Positive

OUTSIDE = re.compile(r"(?P<provider>[a-z]{3,}(?:-[a-z]+)*):(?P<name>[^@]+?)(?:@(?P<url>.+))?")
"""The name of an outside model in `model.base`."""
Dollars = Annotated[float, Ge(0)]


@dataclass
class Price(Options):
    """A price in US dollars per million tokens: `{input: 0.10, output: 0.50}`."""

    input: Dollars
    output: Dollars = 0.0
    cached: Dollars | None = None
    """Of input tokens that the API had cached. If not given, they cost as much as others."""


@dataclass
class ApiOptions(Options):
    """An outside model, such as `model.base=openai:gpt-6-luna`, and how it is asked."""

    pixels: Positive | None = None
    """Scale images down so that the longer side has at most this number of pixels. If not given, files are sent as they
    are."""
    detail: Literal["auto", "low", "high", "original"] = "auto"
    """How closely OpenAI's models look at an image, which decides on its tokens."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request, as the API names them: {reasoning_effort: none, temperature: 0}."""
    batch: bool = False
    """Use the batch interface of OpenAI or Anthropic, which costs half and answers within a day. The job is submitted
    and left; `lensmith attach RUN` picks the answers up."""
    repeat: Fraction = 0.0
    """Ask this fraction of the images twice, to see how many answers change."""
    replay: str | None = None
    """A run folder whose recorded answers are used again where the request is the same to the byte. They are marked."""
    budget: Annotated[float, Gt(0)] | None = None
    """Stop before more US dollars than this are spent. What is answered by then is kept."""
    price: Price | None = None
    """The price of tokens, if it isn't in the dated list or has changed."""
    concurrency: Positive = 64
    """Maximum number of requests in flight. Fewer are sent when the API limits the rate."""
    timeout: Annotated[float, Gt(0)] = 60.0
    """Seconds to wait for an answer before the request is sent again."""
