"""Download one file atomically: it is either complete and matches its published hash, or it doesn't exist.

The file is downloaded under another name (ending in `.part`) and renamed once its hash matches. After an interrupt or a
broken connection, the download resumes. `hf_hub_download` would start again, so the function it is built on is used
here, which can resume and has the same retries.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.progress import size


@dataclass(frozen=True)
class File:
    """One file to download: its path within a folder, its size in bytes, its URL and its published hash.

    `method` is the kind of hash: `sha256`, `git` (the SHA-1 of a git blob) or `md5`. Requests for `hub` files include
    the user's token.
    """

    path: str
    size: int
    url: str
    method: str
    digest: str
    hub: bool = True


def load(file: File, target: Path, progress: Callable[[int], None]) -> bool:
    """Download a file to `target`, resuming an earlier attempt if there is one.

    Args:
        progress: called with the number of bytes on disk so far.

    Returns:
        Whether the file matches its hash. If not, it is deleted.

    Raises:
        UserError: the connection broke, or the file can't be written. What was downloaded is kept.
        Exception: what the hub's client raises if nothing was downloaded; `hub.errors.explain` explains it.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public by its documentation
        are_progress_bars_disabled,
        build_hf_headers,
        disable_progress_bars,
        enable_progress_bars,
    )

    from lensmith.hub.errors import is_network

    unfinished, bars = _unfinished(file, target), "huggingface_hub.http_get"
    # A compressed response can't be resumed. And only the hub may see the token.
    headers = {"Accept-Encoding": "identity"} | (build_hf_headers() if file.hub else {})
    bars_enabled = not are_progress_bars_disabled(bars)
    disable_progress_bars(bars)
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        with _CountingFile(unfinished, progress) as stream:
            start = stream.tell()
            if start > file.size:
                start = stream.truncate(stream.seek(0))
            if start < file.size:
                http_get(file.url, stream, resume_size=start, headers=headers, expected_size=file.size)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"{unfinished} can't be written: {error.strerror}.",
                "What was downloaded is kept. Check the disk and the permissions, then run the same command again.",
            ) from error
        if not begun(file, target):
            unfinished.unlink(missing_ok=True)
        elif is_network(error):
            raise _broken(file, target) from error
        # The only other OSError means that the client received the wrong number of bytes, which is handled below.
        if not isinstance(error, OSError) or isinstance(error, HfHubHTTPError | ConnectionError):
            raise
    finally:
        if bars_enabled:
            enable_progress_bars(bars)
    if begun(file, target) < file.size:
        raise _broken(file, target)
    if not fits(file, unfinished):
        unfinished.unlink()
        return False
    os.replace(unfinished, target)
    return True


def begun(file: File, target: Path) -> int:
    """The number of bytes of a file that an earlier attempt has downloaded."""
    unfinished = _unfinished(file, target)
    return min(unfinished.stat().st_size, file.size) if unfinished.is_file() else 0


def fits(file: File, path: Path) -> bool:
    """Whether the file at `path` matches the published hash."""
    digest = hashlib.new({"git": "sha1"}.get(file.method, file.method), usedforsecurity=False)
    if file.method == "git":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == file.digest


def _unfinished(file: File, target: Path) -> Path:
    # The name contains the hash, so that a download of another version isn't resumed.
    return target.with_name(f"{target.name}.{file.digest[:8]}.part")


def _broken(file: File, target: Path) -> UserError:
    return UserError(
        f"The connection broke with {size(begun(file, target))} of {size(file.size)} of {file.path} downloaded.",
        "Run the same command again: it resumes from there.",
    )


class _CountingFile(io.BufferedWriter):
    """A file opened for appending that reports its length after every write."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self.progress = progress
        progress(self.tell())

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self.progress(self.tell())
        return written
