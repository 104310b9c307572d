"""The log of requests: a JSON line for each answer, which says nothing of the image."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lensmith.errors import UserError
from lensmith.progress import Note, Tell
from lensmith.serve.watchers import Watcher

if TYPE_CHECKING:
    from lensmith.serve.service import Answer


class Entry(TypedDict):
    """A line of the log."""

    time: str
    """When the answer was given, in UTC (ISO 8601)."""
    id: str
    """Of the answer; a chat completion's id contains it."""
    model: str
    label: str
    probability: float
    ms: float
    """From the request to the answer, in milliseconds."""


class Log(Watcher):
    """Appends answers to a file.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, path: Path, tell: Tell) -> None:
        self.path, self.tell = path, tell
        self._lock = threading.Lock()
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(f"The log {path} can't be written: {error.strerror}.", "Check --log-requests.") from None

    def answered(self, answer: Answer) -> None:
        """Write a line. If that fails, the server goes on answering, and says so once."""
        entry: Entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": answer.id,
            "model": answer.model,
            "label": answer.label,
            "probability": round(answer.probabilities[answer.label], 6),
            "ms": round(1000 * answer.seconds, 1),
        }
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            except OSError as error:
                self._close()
                self.tell(Note(f"Answers are no longer logged: {self.path} can't be written ({error.strerror})."))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError:
            return  # what could not be written has been reported


def read_log(path: Path) -> Iterator[Entry]:
    """The lines of a log.

    Raises:
        UserError: it can't be read, or a line isn't one of a log.
    """
    adapter = TypeAdapter(Entry)
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield adapter.validate_json(line)
                except ValidationError:
                    if line.endswith("\n"):
                        raise UserError(
                            f"Line {number} of {path} isn't an answer.", "Give a file written by --log-requests."
                        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise UserError(f"The log {path} can't be read: {reason}.", "Check the path.") from None
