"""Asks an outside model about many images at once: paced, with retries, each answer recorded as it arrives."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lensmith.apis.pacing import Pacing
from lensmith.apis.prices import Tariff
from lensmith.apis.provider import JSON, Ask, Malformed, Picture, Provider
from lensmith.apis.recording import Answer, Kind, Recording, digest
from lensmith.apis.sending import Response, Sender, encoded, sender
from lensmith.config import ApiOptions
from lensmith.errors import ImageError, UserError

Item = tuple[str, Callable[[], Picture]]
"""An image's id, and a function that reads it (which may raise ImageError)."""
READY = 8
"""Requests whose images are read ahead."""
TRIES = 6
"""Attempts of a request. A limited rate isn't one."""
PATIENCE = 600.0
"""Seconds that a request waits for a limited rate before it is given up."""
HOPELESS = 10
"""After this number of images in a row that got no answer, no more are asked about."""
FIRST_IMAGES = 3
"""If the API rejects all of the first images, the request is at fault and not the images."""
REFUSAL = re.compile(
    r"\b(sorry|can(no|['’])t (help|assist|identify|process|comply)|unable to (help|assist|comply))\b", re.I
)
"""How a refusal reads that a model writes as an ordinary answer."""
NO_RESPONSE = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading raises if something isn't a response of the API."""
RETRIED = {0, 408, 409, 425, 429, 500, 502, 503, 504, 529}
FATAL = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}
"""Statuses that say the same of every image."""


class Unanswered(UserError):
    """Some images got no answer. Those that did are kept, and the run can be resumed."""


@dataclass
class Asked:
    """The digest of each image's request by the image's id, and a sentence for each image that can't be read."""

    digests: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Request:
    id: str
    digest: str
    body: JSON
    about: JSON
    """Of the image."""


class Asking:
    """Asks one question about images.

    Args:
        key: the API's key.
        recording: where answers are kept, and looked up before anything is sent.
        tariff: what tokens cost.
        earlier: the answers of an earlier run, to be used again.
    """

    def __init__(
        self,
        provider: Provider,
        key: str,
        ask: Ask,
        options: ApiOptions,
        recording: Recording,
        tariff: Tariff,
        earlier: dict[str, tuple[Answer, Any]] | None = None,
    ) -> None:
        self.provider, self.ask, self.options, self.recording = provider, ask, options, recording
        self.tariff, self.earlier = tariff, earlier or {}
        costs = [tariff.cost(answer.usage, answer.batch) for answer in recording if not answer.replayed]
        self.spent, self._dearest = sum(costs), max(costs, default=0.0)
        self.failures: dict[str, str] = {}
        """Why images got no answer, by id."""
        self.most_flying = 0
        self.key, self._pacing = key, Pacing(options.concurrency)
        self._fatal: Exception | None = None
        self._in_a_row = 0
        self._answered = sum(answer.kind != "rejected" for answer in recording)
        self._rejected: list[tuple[Answer, Any]] = []

    def close(self) -> None:
        """Close the recording."""
        self.recording.close()

    def request(self, name: str, picture: Picture) -> _Request:
        """The request about an image."""
        body = self.provider.body(self.ask, picture, self.options) | self.options.body
        return _Request(name, digest(encoded(body)), body, picture.about)

    async def all(self, items: Iterable[Item], progress: Callable[[int], Any], turn: int = 0) -> Asked:
        """Ask about images. Interrupted, it waits for the answers that are on their way, because they are paid for.

        Args:
            progress: called with the number of images done.
            turn: 1 to ask again about images that were asked about already.

        Raises:
            UserError: the API refuses the key, the model or the form of the request; or the budget is spent.
            Unanswered: some images got no answer.
        """
        asked, tasks = Asked(), set[asyncio.Task[None]]()
        ready, done, on_way = asyncio.Queue[tuple[_Request | None, int]](READY), 0, set[str]()
        reader = asyncio.create_task(self._read(self._requests(items, asked, turn), ready, turn))
        self._pacing = Pacing(self.options.concurrency, self._pacing.limit)  # which belongs to the running event loop
        async with sender(self.provider, self.key, self.options) as there:
            try:
                while not self._fatal:
                    request, images = await ready.get()
                    if request is None:
                        await reader  # raises what reading did
                        break
                    if request.digest not in on_way:  # an exact copy has the same answer
                        await self._pacing.take()
                        if self._fatal or self._over_budget():
                            await self._pacing.give()
                            break
                        on_way.add(request.digest)
                        self.most_flying = max(self.most_flying, self._pacing.flying)
                        task = asyncio.create_task(self._answer(request, there, turn))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                    done += images
                    progress(max(0, done - len(tasks)))
                while tasks:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    progress(max(0, len(asked.digests) + len(asked.unreadable) - len(tasks)))
            except asyncio.CancelledError:
                if tasks:
                    await asyncio.wait(tasks, timeout=self.options.timeout)
                raise
            finally:
                reader.cancel()
        if self._rejected and not self._fatal:
            self._fatal = self._all_rejected()
        if self._fatal:
            raise self._fatal
        if self.failures:
            raise self._unanswered(len(asked.digests))
        return asked

    async def _read(
        self, requests: Iterator[_Request], ready: asyncio.Queue[tuple[_Request | None, int]], turn: int
    ) -> None:
        """Read images ahead, so that a request can follow at once when another is answered."""
        try:
            while True:
                request, images = await asyncio.to_thread(self._next, requests, turn)
                if request is None:
                    return
                await ready.put((request, images))
        finally:
            await ready.put((None, 0))

    def _requests(self, items: Iterable[Item], asked: Asked, turn: int) -> Iterator[_Request]:
        for name, read in items:
            try:
                request = self.request(name, read())
            except ImageError as error:
                asked.unreadable[name] = str(error)
                continue
            asked.digests[name] = request.digest
            yield request

    def _next(self, requests: Iterator[_Request], turn: int) -> tuple[_Request | None, int]:
        """The next request without a recorded answer, and the number of images until there."""
        for count, request in enumerate(requests, 1):
            if (request.digest, turn) in self.recording:
                continue
            if not turn and (found := self.earlier.get(request.digest)):
                answer, raw = found
                self.recording.add(Answer(**vars(answer) | {"replayed": True}), raw)
                continue
            return request, count
        return None, 0

    def _over_budget(self) -> bool:
        """Whether one more request could exceed the budget, if those in flight cost as much as the dearest so far."""
        budget = self.options.budget
        if budget is None or self.spent + self._dearest * self._pacing.flying <= budget:
            return False
        self._fatal = self._fatal or UserError(
            f"The budget of ${budget:g} allows no further request: ${self.spent:.4f} are spent, on "
            f"{len(self.recording):,} answers, which are kept.",
            "Raise it to go on: lensmith resume RUN api.budget=...",
        )
        return True

    async def _answer(self, request: _Request, there: Sender, turn: int) -> None:
        try:
            await self._attempts(request, there, turn)
        except Exception as error:  # such as a full disk, which ends all requests
            self._fatal = self._fatal or error
        finally:
            await self._pacing.give()

    async def _attempts(self, request: _Request, there: Sender, turn: int) -> None:
        attempts: list[JSON] = []
        begun, tries = time.monotonic(), 0
        while True:
            await self._pacing.rest()
            response = await there.send(request.body)
            attempts.append({"status": response.status, "seconds": round(response.seconds, 6)})
            problem = response.text[:300]
            if response.status == 200:
                problem = self._keep(request, response, attempts, turn)
                if not problem:
                    return
            elif self._is_fatal(response):
                return
            elif response.status not in RETRIED:
                self._reject(request, response, attempts, turn)
                return
            wait = response.wait(tries, PATIENCE)
            if response.status == 429:
                self._pacing.refused(wait)
            else:
                tries += 1
            if tries >= TRIES or time.monotonic() - begun > PATIENCE:
                self._give_up(request.id, f"HTTP {response.status}" if response.status else problem)
                return
            await asyncio.sleep(wait)

    def _keep(self, request: _Request, response: Response, attempts: list[JSON], turn: int) -> str:
        """Record an answer; returns what is wrong with the response if it isn't one."""
        try:
            raw = json.loads(response.text)
            answer = replace(self.read(raw, request.digest, turn, attempts), sent=request.about)
        except NO_RESPONSE as error:
            return f"a response that isn't the API's: {type(error).__name__}"
        self.recording.add(answer, raw)
        cost = self.tariff.cost(answer.usage)
        self.spent += cost
        self._dearest = max(self._dearest, cost)
        self._answered += 1
        self._keep_rejected()
        self._in_a_row = 0
        self._pacing.succeeded(response.seconds)
        return ""

    def read(self, raw: JSON, key: str, turn: int, attempts: list[JSON], batch: bool = False) -> Answer:
        """The answer in a response.

        Raises:
            NO_RESPONSE: it isn't a response of this API.
        """
        kind: Kind = "answer"
        at = _now()
        try:
            reply = self.provider.reply(raw)
        except Malformed as error:
            said = str(error)[:300]
            kind = "refused" if REFUSAL.search(said) else "malformed"
            return Answer(key, turn, kind, None, said, "", at, attempts, self.provider.usage(raw), batch=batch)
        name, detail = reply.name, ""
        if reply.refusal or name is None:
            kind, name, detail = "refused", None, reply.refusal[:300]
        elif name not in self.ask.names:
            kind, name, detail = "unlisted", None, str(name)[:300]
        elif any(other not in self.ask.names for other in reply.probabilities):
            raise ValueError("probabilities of other classes")
        probabilities = dict(reply.probabilities) if kind == "answer" else {}
        return Answer(key, turn, kind, name, detail, reply.model, at, attempts, reply.usage, probabilities, batch=batch)

    def _is_fatal(self, response: Response) -> bool:
        empty = response.status == 429 and "insufficient_quota" in response.text
        if response.status not in FATAL and not empty:
            return False
        said = response.message
        where = f"{self.provider.host} answered HTTP {response.status}: {said}"
        hint = "Check the model's name and the server's address."
        if response.status in (401, 403):
            hint = f"Check the key in {self.provider.KEY}, and what it is allowed to use."
        elif empty or response.status == 402:
            hint = "The account has no credit left. Then go on with: lensmith resume RUN"
        self._fatal = self._fatal or UserError(where, hint)
        return True

    def _reject(self, request: _Request, response: Response, attempts: list[JSON], turn: int) -> None:
        """The API doesn't want this image; or doesn't want any, which the first few show."""
        answer = Answer(request.digest, turn, "rejected", None, response.message, "", _now(), attempts)
        self._rejected.append((answer, {"status": response.status, "body": response.text[:2000]}))
        if self._answered:
            self._keep_rejected()
        elif len(self._rejected) >= FIRST_IMAGES:
            self._fatal = self._fatal or self._all_rejected()

    def add_rejected(self, key: str, said: str, raw: Any) -> None:
        """Record that a batch rejected an image."""
        self.recording.add(Answer(key, 0, "rejected", None, said, "", _now(), [], batch=True), raw)

    def _keep_rejected(self) -> None:
        """Once the API has answered about an image, rejecting others is an answer too."""
        for answer, raw in self._rejected:
            self.recording.add(answer, raw)
        self._rejected.clear()

    def _all_rejected(self) -> UserError:
        answer, _ = self._rejected[-1]
        return UserError(
            f"{self.provider.host} rejected each of the first {len(self._rejected)} images: {answer.detail}",
            "If the model takes images at all, see whether api.pixels, api.detail or api.body help.",
        )

    def _give_up(self, name: str, why: str) -> None:
        self.failures[name] = why
        self._in_a_row += 1
        if self._in_a_row >= HOPELESS or not self._answered:
            self._fatal = self._fatal or self._unanswered(len(self.failures))

    def _unanswered(self, images: int) -> Unanswered:
        kinds = Counter(self.failures.values())
        listed = ", ".join(f"{number:,} times {why}" for why, number in kinds.items())
        return Unanswered(
            f"{len(self.failures):,} of {images:,} images got no answer from {self.provider.host}: {listed}.",
            "What is answered is kept. Ask for the rest with: lensmith resume RUN",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
