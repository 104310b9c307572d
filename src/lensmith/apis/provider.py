"""What a provider of outside models is: a question as its request, and its response as a reply."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from lensmith.config import ApiOptions
from lensmith.errors import UserError

JSON = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """An image as it is sent: the bytes of a file, its media type, and its size in pixels."""

    data: bytes = field(repr=False)
    media: str
    width: int
    height: int

    @property
    def about(self) -> JSON:
        """All but the bytes."""
        return {"width": self.width, "height": self.height, "bytes": len(self.data), "media": self.media}

    @property
    def base64(self) -> str:
        """The file in base64."""
        return base64.b64encode(self.data).decode()

    @property
    def url(self) -> str:
        """The file as a data: URL."""
        return f"data:{self.media};base64,{self.base64}"


@dataclass(frozen=True)
class Ask:
    """The question: its wording with the class list, and the answers, which are the names of the classes."""

    text: str
    system: str | None
    names: tuple[str, ...]

    @property
    def schema(self) -> JSON:
        """The JSON schema of an answer: an object whose `label` is one of the names."""
        label = {"type": "string", "enum": list(self.names)}
        return {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    input: int = 0
    """All that were read, those that the API had cached included."""
    cached: int = 0
    output: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.cached + other.cached, self.output + other.output)


@dataclass(frozen=True)
class Reply:
    """What a response says."""

    model: str
    """The model's full name as the API gives it."""
    usage: Usage = field(default_factory=Usage)
    name: str | None = None
    """The answer; None if there is none."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of each name; empty if the API gives none."""
    refusal: str = ""
    """Why there is no answer, if the model refused."""


class Malformed(Exception):
    """A response that isn't what the API promises."""


class Provider(ABC):
    """An outside model, spoken to in its protocol.

    Args:
        model: the model's name at the API.
        url: the server; None for the provider's own.
    """

    KEY: ClassVar[str]
    """The environment variable with the key."""
    URL: ClassVar[str]
    """The provider's own server."""
    MOST: ClassVar[int]
    """The largest number of classes that a request can ask for."""
    PROBABILITIES: ClassVar[bool] = False
    """Whether each answer comes with the probabilities of all classes."""
    OTHER: ClassVar[str] = ""
    """The provider to suggest if there are too many classes."""

    def __init__(self, model: str, url: str | None = None) -> None:
        self.model, self.url, self.own = model, (url or self.URL).rstrip("/"), url is None
        self.host = urlsplit(self.url).hostname or ""

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, so that no image leaves it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def require(self, ask: Ask) -> None:
        """Raises UserError if there are more classes than the API allows."""
        if len(ask.names) > self.MOST:
            hint = f"Use model.base={self.OTHER}:{self.model}." if self.OTHER else "Use another provider."
            raise UserError(
                f"{self.word} asks about at most {self.MOST} classes, and there are {len(ask.names):,}.", hint
            )

    @property
    def word(self) -> str:
        """The provider's name in `model.base`."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def about(self) -> str:
        """The path that tells about the model; empty if there is none."""
        return ""

    def shutdown(self, text: str) -> str:
        """The date of the model's shutdown in what `about` tells; empty if none is known."""
        return ""

    @property
    @abstractmethod
    def path(self) -> str:
        """The path of requests, below the server's URL."""

    @abstractmethod
    def headers(self, key: str) -> dict[str, str]:
        """The headers of a request."""

    @abstractmethod
    def body(self, ask: Ask, picture: Picture, options: ApiOptions) -> JSON:
        """The body of a request, without the user's further fields."""

    @abstractmethod
    def reply(self, body: JSON) -> Reply:
        """What a response says. Raises Malformed, or whatever a missing or wrong field raises."""

    @abstractmethod
    def usage(self, body: JSON) -> Usage:
        """The tokens of a request, from its response."""

    @abstractmethod
    def tokens(self, picture: Picture, options: ApiOptions) -> int:
        """About how many tokens an image takes."""


def label_in(text: str) -> str:
    """The `label` of an answer written as JSON. Raises Malformed if it isn't."""
    try:
        value = json.loads(text)
    except ValueError:
        raise Malformed(text) from None
    if not isinstance(value, dict) or not isinstance(value.get("label"), str):
        raise Malformed(text)
    return str(value["label"])


def shares(pairs: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities from a response, which APIs round: scaled to add up to 1.

    Raises:
        Malformed: one isn't a number in 0..1, or they are all 0.
    """
    values = {name: float(value) for name, value in pairs.items()}
    total = sum(values.values())
    if not all(math.isfinite(v) and 0 <= v <= 1.01 for v in values.values()) or not total > 0:
        raise Malformed(str(dict(pairs))[:200])
    return {name: value / total for name, value in values.items()}
