"""The answers of an outside model on disk: a line for each, appended as it arrives, so that a stop loses none.

A line is keyed by the digest of the request's body as it is sent, which holds model, question, image and settings.
It has the raw response, so that what was read from it can be checked later. Only answers are kept, no errors.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from lensmith.apis.provider import JSON, Usage
from lensmith.errors import UserError
from lensmith.runs.files import disk_error

FILE = "answers.jsonl"
Kind = Literal["answer", "refused", "malformed", "unlisted", "rejected"]
"""`refused` by the model; `malformed` is no answer at all; `unlisted` is none of the classes; `rejected` by the API,
which doesn't want this image. All but the first count as wrong."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    digest: str
    turn: int
    """0, or 1 for an image that is asked about again."""
    kind: Kind
    name: str | None
    """The name of the class; None unless it is an answer."""
    detail: str
    """What else was said, if there is no answer."""
    model: str
    """The model's full name as the API gives it."""
    at: str
    """When, as an ISO date with time."""
    attempts: list[JSON]
    """Status and seconds of each attempt; the last one was answered. Waiting between them isn't counted."""
    usage: Usage = field(default_factory=Usage)
    probabilities: Mapping[str, float] = field(default_factory=dict)
    replayed: bool = False
    """Taken from an earlier run, so that nothing was asked."""
    batch: bool = False
    sent: JSON = field(default_factory=dict)
    """Of the image as it was sent: `width`, `height`, `bytes` and `media`. A batch's results don't come with it."""

    @property
    def seconds(self) -> float | None:
        """The delay; None if there was none of its own."""
        return None if self.replayed or self.batch or not self.attempts else float(self.attempts[-1]["seconds"])


def digest(body: bytes) -> str:
    """The key of a request: SHA-256 of its body."""
    return hashlib.sha256(body).hexdigest()


class Recording:
    """The answers of a run folder. Only where they are in the file is kept in memory. Must be closed.

    Raises:
        UserError: the file can't be read, or is damaged before its last line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        """Images are read ahead by another thread, which adds the answers that are replayed."""
        self._places: dict[tuple[bytes, int], int] = {}
        """Where the line of a request's answer begins, by its digest and turn."""
        try:
            _cut(self.path)
            for place, answer, _ in _lines(self.path):
                self._places[_key(answer.digest, answer.turn)] = place
            self._file: IO[bytes] = self.path.open("ab+")
        except OSError as error:
            raise disk_error(self.path, error) from None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request: tuple[str, int]) -> bool:
        return _key(*request) in self._places

    def __iter__(self) -> Iterator[Answer]:
        return (answer for _, answer, _ in _lines(self.path))

    def get(self, key: str, turn: int = 0) -> Answer | None:
        """The answer to a request, if there is one."""
        place = self._places.get(_key(key, turn))
        if place is None:
            return None
        with self._lock:
            self._file.seek(place)
            line = self._file.readline()
        answer, _ = _parsed(line)
        return answer

    def add(self, answer: Answer, raw: Any) -> None:
        """Keep an answer and the response that it was read from.

        Raises:
            UserError: the disk is full.
        """
        line = json.dumps(asdict(answer) | {"raw": raw}, ensure_ascii=False) + "\n"
        try:
            with self._lock:
                place = self._file.seek(0, 2)
                self._file.write(line.encode(errors="backslashreplace"))
                self._file.flush()
        except OSError as error:
            raise disk_error(self.path, error) from None
        self._places[_key(answer.digest, answer.turn)] = place

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def earlier(folder: Path) -> dict[str, tuple[Answer, Any]]:
    """The first answers of another run, by the digest of their requests.

    Raises:
        UserError: it has none, or they are damaged.
    """
    if not (folder / FILE).exists():
        raise UserError(f"{folder} has no recorded answers.", "Name the run folder of an outside model's evaluation.")
    return {answer.digest: (answer, raw) for _, answer, raw in _lines(folder / FILE) if not answer.turn}


def _key(digest: str, turn: int) -> tuple[bytes, int]:
    return bytes.fromhex(digest), turn


def _parsed(line: bytes) -> tuple[Answer, Any]:
    row = json.loads(line)
    raw = row.pop("raw")
    return Answer(**row | {"usage": Usage(**row["usage"])}), raw


def _lines(path: Path) -> Iterator[tuple[int, Answer, Any]]:
    """Where each line of a file begins, its answer, and the raw response. Raises UserError if a line is damaged."""
    if not path.exists():
        return
    with path.open("rb") as file:
        place = 0
        for number, line in enumerate(file, 1):
            try:
                answer, raw = _parsed(line)
                _key(answer.digest, answer.turn)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(f"Line {number} of {path} is damaged.", "Remove this line to ask again.") from None
            yield place, answer, raw
            place += len(line)


def _cut(path: Path) -> None:
    """Remove a last line that a crash truncated: what is appended must begin on a line of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = kept = file.seek(0, 2)
        while kept:
            start = max(0, kept - 65536)
            file.seek(start)
            block = file.read(kept - start)
            if (newline := block.rfind(b"\n")) >= 0:
                kept = start + newline + 1
                break
            kept = start
        if kept < end:
            file.truncate(kept)
