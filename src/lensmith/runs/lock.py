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
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from lensmith.errors import UserError

LOCK = ".lock"
_held: WeakValueDictionary[str, IO[str]] = WeakValueDictionary()
"""The locks of this process. A run that was stopped may still be referred to, by an error for example; it may go on."""


def locked(folder: Path) -> IO[str] | None:
    """Lock a run folder; the lock is held until the file that is returned is closed. None where there are no locks.

    Raises:
        UserError: another process writes the run, which the sentence names; or the folder can't be written.
    """
    if file := _held.get(os.path.realpath(folder)):
        return file
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The run folder {folder} can't be written: {error.strerror}.", "Check its permissions."
        ) from None
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
    file.truncate(0)
    about = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
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
