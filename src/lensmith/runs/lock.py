"""One process at a time writes a run folder.

The lock belongs to an open file, so it ends with its process, however that ends. The system extends it over NFS where
the server supports locks. Where there are none (Windows, some network drives), still only one process makes the folder.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from lensmith.errors import UserError
from lensmith.runs.files import disk_error

LOCK = ".lock"
_held: WeakValueDictionary[str, IO[str]] = WeakValueDictionary()
"""The locks that this process holds. A run that was stopped may still be referred to, by an error for example, and go
on."""
_claims: dict[str, IO[str] | None] = {}
"""The locks of folders in which a run has yet to begin."""


def claim(folder: Path) -> None:
    """Lock a folder for a new run, until `locked` takes the lock over or this process ends.

    Raises:
        UserError: as `locked`, and if this process has claimed the folder already.
    """
    if (path := os.path.realpath(folder)) in _claims:
        raise UserError(f"The run {folder} is being written by this process.", "Choose another with --run.")
    _claims[path] = _held.get(path) or _lock(folder)


def locked(folder: Path) -> IO[str] | None:
    """Lock a run folder; the lock is held until the file that is returned is closed. None where there are no locks.

    Raises:
        UserError: another process writes the run, which the sentence names; or the folder can't be written.
    """
    path = os.path.realpath(folder)
    return _claims.pop(path, None) or _held.get(path) or _lock(folder)


def _lock(folder: Path) -> IO[str] | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(folder / LOCK, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):  # this file system has no locks
            return file
        holder = _holder(file)
        file.close()
        raise UserError(
            f"The run {folder} is being written by another process{holder}.", "Wait until it ends, or stop it first."
        ) from None
    about = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # a full disk, which whatever the run writes first will report
        file.truncate(0)
        file.write(json.dumps(about))
        file.flush()
    _held[os.path.realpath(folder)] = file
    return file


def _holder(file: IO[str]) -> str:
    """Who holds the lock, for a sentence."""
    try:
        file.seek(0)
        about: dict[str, Any] = json.loads(file.read())
        return f" ({about['process']} on {about['machine']}, since {about['since']})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
