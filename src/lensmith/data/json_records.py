"""Records in JSON files: a list of objects, or an object per line. Some tools write one and name it as the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lensmith.data.source import damaged
from lensmith.data.text_tables import open_text
from lensmith.errors import UserError

LINES = frozenset({".jsonl", ".ndjson", ".manifest"})
"""Extensions of files with an object per line."""
_START = 1 << 16
_TOO_DEEP = "Its values are nested too deeply."


def first_record(path: Path) -> dict[str, Any] | None:
    """The first object of a file, or the only one; None if there is none. Reads no more of a list than it must.

    Raises:
        OSError: the file can't be read.
        UserError: it isn't text.
    """
    with _text(path), open_text(path) as file:
        text = file.read(_START).lstrip()
        for _ in range(2):
            inner = text[1:].lstrip() if text.startswith("[") else text
            try:
                found, _ = json.JSONDecoder().raw_decode(inner)
            except (json.JSONDecodeError, RecursionError):
                text += file.read()  # the first object is longer than the start of the file
                continue
            return found if isinstance(found, dict) else None
    return None


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with where it is, for messages. The only object of a file is one record.

    Raises:
        OSError: the file can't be read.
        UserError: it isn't JSON, or contains something other than objects.
    """
    return _lines(path) if path.suffix.lower() in LINES else _items(path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _text(path), open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path.name} line {number}"
                yield where, _object(_parsed(line, where), where, "Write one object per line.")


def _items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _text(path), open_text(path) as file:
        text = file.read()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # an object per line, in a file named `.json`
            yield from _lines(path)
            return
        raise UserError(f"{path.name} isn't JSON: {error}.", "Export the file again.") from None
    except RecursionError:
        raise UserError(f"{path.name} can't be read.", _TOO_DEEP) from None
    if isinstance(found, dict):
        yield path.name, found
        return
    for number, item in enumerate(found if isinstance(found, list) else [found], 1):
        where = f"{path.name} item {number}"
        yield where, _object(item, where, "The file should contain a list of objects.")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} isn't JSON: {error}.", "Write one object per line.") from None
    except RecursionError:
        raise UserError(f"{where} can't be read.", _TOO_DEEP) from None


def _object(value: Any, where: str, hint: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} isn't a JSON object.", hint)
    return value


def _text(path: Path) -> AbstractContextManager[None]:
    return damaged(path, "a table of text", UnicodeDecodeError)
