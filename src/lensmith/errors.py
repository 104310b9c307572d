"""What a user can put right: one sentence that says what failed and where, and one that says what to do next.

The command line prints a `UserError` on standard error and ends with exit code 2. Anything else is a bug of
Lensmith's and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """`what` failed (with the file, key or value at fault); `hint` says what to do next."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class ImageError(UserError):
    """One image that can't be used: missing, truncated, not an image, or larger than the limit."""


class Diverged(UserError):
    """A loss or gradients that are no numbers."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C during long work, after its state was saved: `lensmith VERB --resume FOLDER` goes on."""

    def __init__(self, folder: Path, verb: str) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.verb = verb


def nearest(word: str, known: Iterable[str]) -> str:
    """`"Did you mean 'rank'?"` for the known word closest to `word`, or an empty string if none is close."""
    close = get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""
