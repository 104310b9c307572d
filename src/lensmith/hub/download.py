"""One file from the network to the disk: whole and as published, or not there.

It is loaded under another name (`.part`) and gets its own when its hash fits. What a stop or a broken connection leaves
of it is gone on with. `hf_hub_download` begins such a file anew, so the function beneath it is used here, which has the
hub's patience with bad connections and can go on.
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
    """One file to load: its place below a folder, bytes, address, and published hash.

    `method` says which hash: `sha256`, `git` (the SHA-1 of a git blob) or `md5`. `hub` files are asked for with the
    user's token.
    """

    path: str
    size: int
    url: str
    method: str
    digest: str
    hub: bool = True


def load(file: File, target: Path, progress: Callable[[int], None]) -> bool:
    """Load a file to `target`, going on with what an earlier attempt has left.

    Args:
        progress: called with the number of bytes that are on the disk.

    Returns:
        Whether it fits its hash; if not, nothing is left of it.

    Raises:
        UserError: the connection broke, or the disk can't be written; what was loaded stays.
        Exception: what the hub's client raises where nothing comes at all (`hub_errors.explain` knows it).
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

    part, bars = _part(file, target), "huggingface_hub.http_get"
    # What is compressed on the way can't be gone on with; and the token is for the hub alone.
    headers = {"Accept-Encoding": "identity"} | (build_hf_headers() if file.hub else {})
    shown = not are_progress_bars_disabled(bars)
    disable_progress_bars(bars)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _Counted(part, progress) as stream:
            start = stream.tell()
            if start > file.size:
                start = stream.truncate(stream.seek(0))
            if start < file.size:
                http_get(file.url, stream, resume_size=start, headers=headers, expected_size=file.size)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{part} can't be written: {error.strerror}.", "What was loaded stays.") from error
        if not begun(file, target):
            part.unlink(missing_ok=True)
        elif is_network(error):
            raise _broken(file, target) from error
        # What is left of OSError is the client's finding that the size is another, which is seen below.
        if not isinstance(error, OSError) or isinstance(error, HfHubHTTPError | ConnectionError):
            raise
    finally:
        if shown:
            enable_progress_bars(bars)
    if begun(file, target) < file.size:
        raise _broken(file, target)
    if not fits(file, part):
        part.unlink()
        return False
    os.replace(part, target)
    return True


def begun(file: File, target: Path) -> int:
    """Bytes of a file that an earlier attempt has left."""
    part = _part(file, target)
    return min(part.stat().st_size, file.size) if part.is_file() else 0


def fits(file: File, path: Path) -> bool:
    """Whether what lies at `path` has the published hash."""
    found = hashlib.new({"git": "sha1"}.get(file.method, file.method), usedforsecurity=False)
    if file.method == "git":
        found.update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest() == file.digest


def _part(file: File, target: Path) -> Path:
    # With the hash in its name, the beginning of another version isn't gone on with.
    return target.with_name(f"{target.name}.{file.digest[:8]}.part")


def _broken(file: File, target: Path) -> UserError:
    return UserError(
        f"The connection broke with {size(begun(file, target))} of {size(file.size)} of {file.path} loaded.",
        "Run the same command again: it goes on from there.",
    )


class _Counted(io.BufferedWriter):
    """A file that is appended to and tells its length after every write."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self.progress = progress
        progress(self.tell())

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self.progress(self.tell())
        return written
