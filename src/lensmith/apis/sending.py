"""Sends a request once, and times it: through OpenAI's SDK for OpenAI's protocols, else by plain HTTP.

The delay is that of the HTTP client: from sending the request to the last byte of the response. Retries are the
caller's, so no delay contains one.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from lensmith.apis.provider import JSON, Provider
from lensmith.config import ApiOptions
from lensmith.errors import optional, reason

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second attempt, and at most between two."""


@dataclass(frozen=True)
class Response:
    """The response to one attempt."""

    status: int
    """The HTTP status; 0 if there was no response."""
    text: str
    """The body, or why there was no response."""
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """What an error says, in one line."""
        try:
            value: Any = json.loads(self.text)
        except ValueError:
            value = self.text
        for key in ("error", "detail", "message"):
            if isinstance(value, list) and value:
                value = value[0].get("msg", value[0]) if isinstance(value[0], dict) else value[0]
            if isinstance(value, dict) and key in value:
                value = value[key]
        text = re.sub(r"[\w-]{40,}", "***", " ".join(str(value).split()))[:300]  # an API may repeat the key
        return (text or "nothing else").rstrip(".") + "."

    def wait(self, tries: int, most: float) -> float:
        """Seconds until the next attempt: what the API says, or else longer each time, with chance, so that not all
        come back at once.

        Args:
            tries: the number of attempts that failed.
            most: the longest wait that the API may ask for.
        """
        return (
            min(most, said)
            if (said := self._said()) is not None
            else (min(LONGEST_WAIT, FIRST_WAIT * 2**tries) * random.uniform(0.5, 1.0))
        )

    def _said(self) -> float | None:
        """The seconds in Retry-After-Ms or Retry-After, which may be a date."""
        try:
            if "retry-after-ms" in self.headers:
                return max(0.0, float(self.headers["retry-after-ms"]) / 1000)
            said = self.headers.get("retry-after", "")
            if said and not said.replace(".", "", 1).isdigit():
                return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
            return float(said) if said else None
        except (ValueError, TypeError):
            return None


class Sender(Protocol):
    """Sends requests to one address. Used with `async with`."""

    async def send(self, body: JSON) -> Response:
        """Send one request, and return what came back; never raises an error of the network."""
        ...

    async def get(self, path: str) -> Response:
        """Ask for what is at a path below the server's URL."""
        ...

    async def __aenter__(self) -> Sender: ...

    async def __aexit__(self, *error: object) -> None: ...


def encoded(body: JSON) -> bytes:
    """A body as it is sent, to the byte."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def sender(provider: Provider, key: str, options: ApiOptions) -> Sender:
    """The sender for a provider. Raises UserError if its client isn't installed."""
    from lensmith.apis.providers import openai

    return (SdkSender if isinstance(provider, openai.Provider) else HttpSender)(provider, key, options)


class HttpSender:
    """Plain HTTP."""

    def __init__(self, provider: Provider, key: str, options: ApiOptions) -> None:
        http: Any = optional("httpx2", "api", "An outside model")
        self._errors = http.HTTPError
        self._timeouts = http.TimeoutException
        limits = http.Limits(max_connections=None, max_keepalive_connections=options.concurrency)
        headers = {"Content-Type": "application/json", **provider.headers(key)}
        self._client = http.AsyncClient(headers=headers, timeout=options.timeout, limits=limits)
        self._root, self._url = provider.url, provider.url + provider.path

    async def __aenter__(self) -> HttpSender:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def send(self, body: JSON) -> Response:
        return await self._timed("POST", self._url, content=encoded(body))

    async def get(self, path: str) -> Response:
        return await self._timed("GET", self._root + path)

    async def _timed(self, method: str, url: str, **more: Any) -> Response:
        start = time.perf_counter()
        try:
            response = await self._client.request(method, url, **more)
        except self._errors as error:
            late = isinstance(error, self._timeouts)
            return Response(0, "timed out" if late else f"no connection: {reason(error)}", time.perf_counter() - start)
        return Response(response.status_code, response.text, response.elapsed.total_seconds(), response.headers)


class SdkSender:
    """OpenAI's SDK, which must not retry by itself."""

    def __init__(self, provider: Provider, key: str, options: ApiOptions) -> None:
        self._sdk: Any = optional("openai", "api", f"{provider.word}:")
        # The SDK would follow a redirect, and send the image to wherever it leads.
        http = self._sdk.DefaultAsyncHttpxClient(follow_redirects=False, timeout=options.timeout)
        self._client = self._sdk.AsyncOpenAI(
            base_url=provider.url, api_key=key, max_retries=0, timeout=options.timeout, http_client=http
        )
        self._path = provider.path

    async def __aenter__(self) -> SdkSender:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def send(self, body: JSON) -> Response:
        return await self._timed(self._client.post, self._path, body=body)

    async def get(self, path: str) -> Response:
        return await self._timed(self._client.get, path)

    async def _timed(self, method: Any, path: str, **more: Any) -> Response:
        import httpx2

        start = time.perf_counter()
        try:
            response = await method(path, cast_to=httpx2.Response, **more)
        except self._sdk.APIStatusError as error:
            response = error.response
        except self._sdk.APITimeoutError:
            return Response(0, "timed out", time.perf_counter() - start)
        except self._sdk.APIConnectionError as error:
            return Response(0, f"no connection: {reason(error.__cause__ or error)}", time.perf_counter() - start)
        return Response(response.status_code, response.text, response.elapsed.total_seconds(), response.headers)
