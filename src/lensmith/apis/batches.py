"""Batch interfaces, which cost half and answer within a day: requests are submitted, left, and picked up later.

What was submitted is noted in batch.json before anything else happens, so that nothing is submitted, and paid, twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lensmith.apis.asking import NO_RESPONSE, Asking, Item, Unanswered
from lensmith.apis.provider import JSON, Provider
from lensmith.apis.sending import encoded
from lensmith.errors import ImageError, UserError, optional, reason
from lensmith.progress import Tell, counter
from lensmith.runs.files import read_json, write_json

FILE = "batch.json"
"""File of a run folder: the batches that were submitted and haven't been picked up."""
MOST_REQUESTS, MOST_BYTES = 50_000, 150_000_000
"""Of one batch; OpenAI allows 50,000 requests and 200 MB, Anthropic more."""
PAUSE = 30.0
"""Seconds between two looks at a batch."""


class Submitted(Exception):
    """The requests of a run were submitted; there is nothing to do until they are answered."""


class State(NamedTuple):
    """How far a batch is."""

    ended: bool
    done: int
    total: int
    problem: str = ""
    """Why it will have no results."""


class Result(NamedTuple):
    """A line of a batch's results: the response, or what went wrong."""

    digest: str
    status: int
    body: Any


class Service(Protocol):
    """The batch interface of a provider. Its methods raise whatever its client does."""

    def submit(self, requests: list[tuple[str, JSON]]) -> str:
        """Submit requests, each with its digest, and return the batch's id."""
        ...

    def state(self, batch: str) -> State: ...

    def results(self, batch: str) -> Iterator[Result]: ...

    def cancel(self, batch: str) -> None: ...


class OpenAIService:
    """OpenAI's: a file with a request per line."""

    def __init__(self, provider: Provider, key: str) -> None:
        sdk: Any = optional("openai", "api", f"{provider.word}:")
        self._client = sdk.OpenAI(base_url=provider.url, api_key=key)
        self._endpoint = f"/v1{provider.path}"

    def submit(self, requests: list[tuple[str, JSON]]) -> str:
        rows = ({"custom_id": i, "method": "POST", "url": self._endpoint, "body": body} for i, body in requests)
        data = b"".join(encoded(row) + b"\n" for row in rows)
        file = self._client.files.create(file=("requests.jsonl", data), purpose="batch")
        batch = self._client.batches.create(
            input_file_id=file.id, endpoint=self._endpoint, completion_window="24h", metadata={"from": "lensmith"}
        )
        return str(batch.id)

    def state(self, batch: str) -> State:
        found = self._client.batches.retrieve(batch)
        counts = found.request_counts
        done, total = (counts.completed + counts.failed, counts.total) if counts else (0, 0)
        errors = "; ".join(str(error.message) for error in (found.errors.data or [])) if found.errors else ""
        ended = found.status in ("completed", "expired", "cancelled", "failed")
        return State(ended, done, total, errors or found.status if found.status == "failed" else "")

    def results(self, batch: str) -> Iterator[Result]:
        found = self._client.batches.retrieve(batch)
        for file in filter(None, (found.output_file_id, found.error_file_id)):
            for line in self._client.files.content(file).text.splitlines():
                row = json.loads(line)
                response = row.get("response") or {"status_code": 0, "body": row.get("error")}
                yield Result(row["custom_id"], int(response["status_code"]), response["body"])

    def cancel(self, batch: str) -> None:
        self._client.batches.cancel(batch)


class AnthropicService:
    """Anthropic's message batches."""

    def __init__(self, provider: Provider, key: str) -> None:
        http: Any = optional("httpx2", "api", "An outside model")
        self._client = http.Client(base_url=provider.url, headers=provider.headers(key), timeout=600)

    def _json(self, method: str, path: str, **more: Any) -> JSON:
        response = self._client.request(method, path, **more)
        response.raise_for_status()
        value: JSON = response.json()
        return value

    def submit(self, requests: list[tuple[str, JSON]]) -> str:
        rows = [{"custom_id": i, "params": body} for i, body in requests]
        headers = {"Content-Type": "application/json"}
        path = "/v1/messages/batches"
        return str(self._json("POST", path, content=encoded({"requests": rows}), headers=headers)["id"])

    def state(self, batch: str) -> State:
        found = self._json("GET", f"/v1/messages/batches/{batch}")
        counts = found["request_counts"]
        total = sum(counts.values())
        return State(found["processing_status"] == "ended", total - counts["processing"], total)

    def results(self, batch: str) -> Iterator[Result]:
        url = self._json("GET", f"/v1/messages/batches/{batch}")["results_url"]
        response = self._client.get(url)
        response.raise_for_status()
        for line in response.text.splitlines():
            row = json.loads(line)
            result = row["result"]
            if result["type"] == "succeeded":
                yield Result(row["custom_id"], 200, result["message"])
            else:  # errored, cancelled or expired
                error = result.get("error") or {"message": result["type"]}
                invalid = "invalid_request" in json.dumps(error)
                yield Result(row["custom_id"], 400 if invalid else 0, error)

    def cancel(self, batch: str) -> None:
        self._json("POST", f"/v1/messages/batches/{batch}/cancel")


def service(provider: Provider, key: str) -> Service:
    """The batch interface of a provider. Raises UserError if it has none."""
    makers: dict[str, Callable[[Provider, str], Service]] = {"openai": OpenAIService, "anthropic": AnthropicService}
    if provider.word not in makers:
        raise UserError(
            f"{provider.word} has no batch interface that Lensmith knows.",
            f"Leave api.batch out, or use {' or '.join(makers)}.",
        )
    return makers[provider.word](provider, key)


def settle(asking: Asking, rows: Iterable[Item], folder: Path, tell: Tell, wait: bool) -> None:
    """Submit what isn't answered yet; or, if it was submitted, wait for the answers and record them.

    Args:
        rows: images.
        wait: whether to wait; if not, submit and leave.

    Raises:
        Submitted: the requests were submitted.
        UserError: the service refused them.
        Unanswered: some got no answer.
    """
    there, path = service(asking.provider, asking.key), folder / FILE
    if path.exists():
        if not wait:
            raise Submitted
        _pick_up(there, asking, path, tell)
    with _explained(asking.provider):
        submitted = list[str]()
        for chunk in _chunks(asking, rows):
            submitted.append(there.submit(chunk))
            write_json(path, {"batches": submitted})
    if submitted:
        raise Submitted


def _pick_up(there: Service, asking: Asking, path: Path, tell: Tell) -> None:
    """Wait for the batches of a run, and record their results."""
    answered = dict[str, bool]()
    with _explained(asking.provider):
        for batch in read_json(path)["batches"]:
            _await(there, batch, tell)
            for result in there.results(batch):
                answered[result.digest] = _recorded(asking, result)
    path.unlink()
    if failed := sum(not good for good in answered.values()):
        raise Unanswered(
            f"{failed:,} of {len(answered):,} requests of the batch got no answer.",
            "What is answered is kept. Submit the rest with: lensmith resume RUN",
        )


@contextmanager
def _explained(provider: Provider) -> Iterator[None]:
    """Turns what the provider's client raises into a sentence."""
    try:
        yield
    except (UserError, Submitted, KeyboardInterrupt):
        raise
    except Exception as error:  # the clients' own classes, of packages that may not be installed
        raise UserError(
            f"{provider.host}: {reason(error)}.", "What was submitted is noted; try again later."
        ) from error


def cancel(provider: Provider, key: str, folder: Path) -> int:
    """Cancel the batches of a run folder; returns their number."""
    there, batches = service(provider, key), read_json(folder / FILE)["batches"]
    with _explained(provider):
        for batch in batches:
            there.cancel(batch)
    return len(batches)


def _recorded(asking: Asking, result: Result) -> bool:
    """Record a result; returns whether it is an answer."""
    if result.status == 200:
        try:
            answer = asking.read(result.body, result.digest, 0, [], batch=True)
        except NO_RESPONSE:
            return False
        asking.recording.add(answer, result.body)
        return True
    rejected = 400 <= result.status < 500 and result.status not in (401, 403, 408, 429)
    if rejected:
        asking.add_rejected(result.digest, str(result.body)[:300], result.body)
    return rejected


def _await(there: Service, batch: str, tell: Tell) -> None:
    progress = None
    while not (state := there.state(batch)).ended:
        progress = progress or counter("waiting for the batch", state.total, tell, unit="requests")
        progress(state.done)
        time.sleep(PAUSE)
    if state.problem:
        raise UserError(f"The batch {batch} failed: {state.problem}", "Remove batch.json to submit it again.")


def _chunks(asking: Asking, rows: Iterable[Item]) -> Iterator[list[tuple[str, JSON]]]:
    """The requests that have no answer, in lists that fit into one batch."""
    chunk, size, seen = list[tuple[str, JSON]](), 0, set[str]()
    for name, read in rows:
        try:
            request = asking.request(name, read())
        except ImageError:  # listed when the answers are used
            continue
        if (request.digest, 0) in asking.recording or request.digest in seen:
            continue
        seen.add(request.digest)
        length = len(encoded(request.body)) + 200
        if chunk and (len(chunk) == MOST_REQUESTS or size + length > MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append((request.digest, request.body))
        size += length
    if chunk:
        yield chunk
