"""Write the files and folders of a run atomically, and read them back."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.records import strict


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically.

    Raises:
        UserError: the disk is full or the folder can't be written; the previous content is kept.
    """
    # Names that aren't UTF-8 are escaped, as JSON and Python write them.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from None


def disk_error(path: Path, error: OSError) -> UserError:
    """The error for a write that failed."""
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk is full: {path} was not written.", "Free some space and run again.")
    return UserError(f"{path} can't be written: {error.strerror or error}.", "Check the folder and its permissions.")


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON; see `write`."""
    write(path, json.dumps(strict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The rows of a JSONL file, without a last line that was truncated by a crash. None if there is no file."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSONL file; see `write`."""
    write(path, "".join(_line(row) for row in rows))


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one row to a JSONL file.

    Raises:
        UserError: the disk is full or the file can't be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_line(row))
    except OSError as error:
        raise disk_error(path, error) from None


def _line(row: dict[str, Any]) -> str:
    return json.dumps(strict(row), ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """One of a run folder's JSON files.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no {path.name} in {path.parent}.", "Use the folder of a finished run.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.", "Repeat the run.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object.", "Repeat the run.")
    return value


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Replace a folder atomically.

    Yields an empty folder to fill, which replaces `folder` when the block ends, and is removed if the block fails.

    Raises:
        UserError: the disk is full or can't be written; the previous folder is kept.
    """
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    recover(folder)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        for path in filter(Path.is_file, new.rglob("*")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            as_usual(path)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        new.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    except Exception as error:
        # safetensors raises its own class of error, with the number of the system's in its text.
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise disk_error(folder, OSError(int(number[1]), os.strerror(int(number[1])))) from None
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def as_usual(path: Path) -> None:
    """Give a file the permissions of files that this process makes; safetensors lets only the owner read its files."""
    with suppress(OSError):
        path.chmod(0o666 & ~_umask())


@cache
def _umask() -> int:
    mask = os.umask(0o022)  # there is no other way to read it
    os.umask(mask)
    return mask


def recover(folder: Path) -> None:
    """Undo a replacement that was interrupted between its two renames."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # another process was faster
            old.replace(folder)
