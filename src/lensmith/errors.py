"""Errors that a user can fix: one sentence on what failed and where, and one on what to do next.

The command line prints a `UserError` on standard error and exits with code 2. Any other exception is a bug in Lensmith
and is shown with its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType


class UserError(Exception):
    """`what` says what failed, naming the file, key or value at fault; `hint` says what to do next."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class ImageError(UserError):
    """One image that can't be used: missing, truncated, not an image, or larger than the limit."""


class Diverged(UserError):
    """A NaN or infinite loss or gradient."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C during a long task, after its state was saved. `lensmith resume FOLDER` resumes it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


_LIMITS = {
    errno.ENOSPC: "Free some space, or set TMPDIR to another folder if it was a temporary file.",
    errno.EDQUOT: "Free some space.",
    errno.EROFS: "Choose another place.",
    errno.EACCES: "Check the permissions.",
    errno.EPERM: "Check the permissions.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.EIO: "Check the disk.",
    errno.ESTALE: "Check the network drive.",
}


def limit_of_system(error: OSError) -> UserError | None:
    """The sentence for an error that is the machine's and not Lensmith's, such as a full disk; None for others."""
    if error.errno not in _LIMITS:
        return None
    where = f" ({error.filename})" if error.filename else ""
    return UserError(f"{os.strerror(error.errno)}{where}.", _LIMITS[error.errno])


def nearest(word: str, known: Iterable[str]) -> str:
    """`"Did you mean 'rank'?"` for the known word closest to `word`, or an empty string if none is close."""
    close = get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def optional(package: str, extra: str, why: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: its import name.
        extra: the extra of Lensmith that installs it: `pip install 'lensmith[EXTRA]'`.
        why: what needs it, as the beginning of a sentence: "A sweep".

    Raises:
        UserError: the package isn't installed, or can't be loaded.
    """
    try:
        module = import_module(package)
        if getattr(module, "__file__", None) is None and not hasattr(module, "__version__"):
            raise ModuleNotFoundError  # only a folder of that name, which Python imports as a namespace package
    except Exception as error:
        broken = "" if isinstance(error, ModuleNotFoundError) else f", which can't be loaded ({reason(error)})"
        raise UserError(f"{why} needs the package {package}{broken}.", f"pip install 'lensmith[{extra}]'") from None
    return module


def reason(error: Exception) -> str:
    """The first sentence of an exception's message, shortened, with anything that could be a secret key masked."""
    text = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
    return re.sub(r"[\w-]{40,}", "***", text).rstrip(".")[:150]
