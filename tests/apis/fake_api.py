"""A server that speaks every provider's protocol, in a process or a thread of its own, with the faults of real ones.

It is written on asyncio's streams, so that it can hang, cut a connection, and log when it answered, to the millisecond.
An answer depends on the image alone: on the digest of its base64 text.

Run: python -m tests.apis.fake_api PORT '{"delay": 0.5}' LOG
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.apis.fake_batches import FakeBatches

JSON = dict[str, Any]


@dataclass
class FakeApi:
    """What the server does, and what it did.

    Args:
        delay: seconds until it answers.
        faults: by name, the probability of each fault: limit, limit_silently, error, hang, cut, garbage, slow, refuse,
            chatty (a refusal as an ordinary answer), unlisted, loose (no JSON), reject.
        most: requests in flight above which it limits the rate; None for any number.
        statuses: by path's end, a status that every request to it gets.
    """

    delay: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)
    most: int | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    probabilities: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    port: int = 0
    log: list[JSON] = field(default_factory=list)
    log_file: str | None = None
    usage: JSON = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})
    bodies: list[bytes] = field(default_factory=list)
    shutdown_date: str | None = None
    location: str = ""
    """Where every request is redirected to, if anywhere."""

    def __post_init__(self) -> None:
        self._random, self._flying = random.Random(self.seed), 0
        self.batches = FakeBatches(self._in_batch)
        self._steady = {"refuse", "chatty", "unlisted", "loose", "reject"}  # of the image, and not of the moment

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                start, (method, path, _) = time.perf_counter(), head.split(b"\r\n", 1)[0].decode().split(" ")
                fields = dict(line.decode().lower().split(": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                self._flying += 1
                try:
                    alive = await self._respond(method, path, fields, body, reader, writer, start)
                finally:
                    self._flying -= 1
                if not alive:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _respond(
        self,
        method: str,
        path: str,
        fields: JSON,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        start: float,
    ) -> bool:
        if (batched := self.batches.handle(method, path, body, self.url)) is not None:
            head = f"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {len(batched)}\r\n\r\n"
            writer.write(head.encode() + batched)
            await writer.drain()
            return True
        key = image_key(body)
        fault = self._fault(key) if method == "POST" else ""
        status, value, headers = 200, dict[str, Any](), dict[str, str]()
        if method == "POST":
            self.bodies.append(body)
        for end, wanted in self.statuses.items():
            if path.endswith(end):
                status, value = wanted, {"error": {"message": f"status {wanted}", "type": "test"}}
        if self.location:
            status, headers = 307, {"location": f"{self.location}{path}"}
        elif fault in ("limit", "limit_silently") or (self.most is not None and self._flying > self.most):
            status, value = 429, {"error": {"message": "too many requests"}}
            headers = {} if fault == "limit_silently" else {"retry-after-ms": "50"}
        elif fault == "error":
            status, value = 503, {"error": {"message": "overloaded"}}
        elif fault == "reject":
            status, value = 400, {"error": {"message": "this image is too small"}}
        elif fault == "hang":
            await asyncio.sleep(3600)
        elif status == 200:
            await asyncio.sleep(self.delay + (0.2 if fault == "slow" else 0.0))
            value = {"id": "m", "shutdown_date": self.shutdown_date} if method == "GET" else self._answer(body, fault)
            if reader.at_eof():  # the caller has gone
                self._note(key, 499, start)
                return False
        if fault == "cut":
            self._note(key, 0, start)
            return False
        data = b"<html>" if fault == "garbage" else json.dumps(value).encode()
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(data)}"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        if writer.is_closing():
            return False
        await writer.drain()
        self._note(key, 0 if fault == "garbage" else status, start)
        return True

    def _in_batch(self, body: bytes) -> tuple[int, JSON]:
        fault = self._fault(image_key(body))
        if fault == "reject":
            return 400, {"error": {"message": "this image is too small"}}
        return 200, self._answer(body, fault)

    def _note(self, key: str, status: int, start: float) -> None:
        row = {"key": key, "status": status, "seconds": time.perf_counter() - start}
        self.log.append(row)
        if self.log_file:
            with open(self.log_file, "a") as file:
                file.write(json.dumps(row) + "\n")

    def _fault(self, key: str) -> str:
        for name, probability in self.faults.items():
            roll = random.Random(f"{name} {key}") if name in self._steady else self._random
            if roll.random() < probability:
                return name
        return ""

    def _answer(self, body: bytes, fault: str) -> JSON:
        asked = json.loads(body)
        names = names_in(asked)
        name = "a zebra" if fault == "unlisted" else names[int(image_key(body), 16) % len(names)]
        usage = self.usage
        rest = [(other, 0.1 / max(1, len(names) - 1)) for other in names if other != name]
        rows = [(name, 0.9), *rest]
        if "questions" in asked and "input" in asked:
            answer: JSON = {"type": "choice", "name": "label", "choice": name, "confidence": 0.9}
            answer["probabilities"] = [{"value": value, "probability": p} for value, p in rows]
            refused = {"type": "refusal", "name": "label"}
            return {"model": "m-1", "answers": [refused if fault == "refuse" else answer], "usage": usage}
        if "questions" in asked:
            answer = {"type": "choice", "choice": name, "confidence": 0.9, "probabilities": dict(rows)}
            tokens = {"input_tokens": 100, "output_tokens": 0}
            return {"model": "m-1", "answers": {"label": answer}, "usage": tokens}
        text = json.dumps({"label": name})
        if fault in ("chatty", "loose"):
            text = "I'm sorry, but I can't assist with that." if fault == "chatty" else "a bird, I think"
        refuses = fault == "refuse"
        if "contents" in asked:
            candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
            tokens = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}
            if refuses:
                return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": tokens, "modelVersion": "m-1"}
            return {"candidates": [candidate], "usageMetadata": tokens, "modelVersion": "m-1"}
        if "max_tokens" in asked:
            about: JSON = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "stop_sequence": None}
            tokens = {"input_tokens": 90, "cache_read_input_tokens": 10, "output_tokens": 10}
            reason = "refusal" if refuses else "end_turn"
            content = [] if refuses else [{"type": "text", "text": text}]
            return about | {"content": content, "stop_reason": reason, "usage": tokens}
        message = {"role": "assistant", "content": None if refuses else text, "refusal": "No." if refuses else None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        whole: JSON = {"id": "c", "object": "chat.completion", "created": 0, "model": "m-1", "choices": [choice]}
        return whole | {"usage": usage | {"total_tokens": 110}}


def names_in(asked: JSON) -> list[str]:
    """The classes that a request allows."""
    questions = asked.get("questions")
    if isinstance(questions, list):
        return [choice["value"] for choice in questions[0]["choices"]]
    if isinstance(questions, dict):
        return list(questions["label"]["criteria"])
    level = [asked]
    while level:
        value = level.pop()
        if isinstance(value, dict):
            if isinstance(value.get("enum"), list):
                return list(value["enum"])
            level += value.values()
    raise ValueError("no classes")


def image_key(body: bytes) -> str:
    """The digest of the longest text in a request, which is its image."""
    longest = max(body.split(b'"'), key=len) if body else b""
    return hashlib.sha256(longest.rpartition(b",")[2]).hexdigest()[:16]


async def serve(api: FakeApi, ready: threading.Event | None = None, stop: asyncio.Event | None = None) -> None:
    """Serve until stopped."""
    server = await asyncio.start_server(api.handle, "127.0.0.1", api.port, limit=1 << 26, backlog=1024)
    api.port = server.sockets[0].getsockname()[1]
    if ready:
        ready.set()
    async with server:
        if stop:
            await stop.wait()
        else:
            await server.serve_forever()


@contextmanager
def running(api: FakeApi) -> Iterator[FakeApi]:
    """The server in a thread."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(api, ready, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield api
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


if __name__ == "__main__":
    Path(sys.argv[3]).touch()
    asyncio.run(serve(FakeApi(port=int(sys.argv[1]), log_file=sys.argv[3], **json.loads(sys.argv[2]))))
