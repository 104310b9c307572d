"""Where images come from: one module a kind of place, named as its scheme in a URI (`folder:PATH`, `hub:NAME`).

A new source is a new file here and nothing else to edit: `read(location, columns) -> Source` and `recognises(path)`.
"""

from __future__ import annotations

import os
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from lensmith.data.source import Columns, Source
from lensmith.errors import UserError, nearest


class SourceModule(Protocol):
    """What a module here offers."""

    def read(self, location: str, columns: Columns) -> Source: ...
    def recognises(self, path: Path) -> bool: ...


def parse_uri(uri: str) -> tuple[str, str]:
    """The scheme and location of `uri`. A path that exists wins, and one letter is a Windows drive, no scheme."""
    path = Path(os.path.expanduser(uri))
    if uri and os.path.exists(path):
        return _guess(path), uri
    if re.match(r"(https?|s3|gs|ftp)://", uri):
        raise UserError(
            f"Lensmith doesn't fetch images from the web: {uri!r}.",
            "Fetch the images to a folder first and give its path.",
        )
    if match := re.match(r"([A-Za-z][A-Za-z0-9_]+):(.*)", uri, re.DOTALL):
        scheme, location = match[1].lower(), match[2]
        if scheme not in (known := schemes()):
            hint = f"{nearest(scheme, known)} Known: {', '.join(known)}.".strip()
            raise UserError(f"Unknown kind of dataset {scheme!r} in {uri!r}.", hint)
        if not location:
            raise UserError(f"Nothing follows {uri!r}.", f"Write {scheme}: and then where the images are.")
        return scheme, location
    if re.fullmatch(r"[\w.-]+/[\w.-]+", uri) and not uri.startswith("."):
        hint = f"For a dataset of the Hugging Face hub write hub:{uri} instead."
    else:
        hint = nearest(path.name, _siblings(path)) or "Give the path of a folder or table of images, or demo:fashion."
    raise UserError(f"No such file or folder: {uri!r}.", hint)


def _guess(path: Path) -> str:
    # `folder` takes any folder, so it is asked last.
    for scheme in sorted(schemes(), key=lambda name: name == "folder"):
        if module(scheme).recognises(path):
            return scheme
    raise UserError(
        f"Can't tell what kind of dataset {path} is.",
        "Give a folder, a .csv, .tsv, .jsonl or .parquet table, or say the kind, as in cifar:PATH.",
    )


def schemes() -> list[str]:
    """The kinds of sources: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(scheme: str) -> SourceModule:
    """The source of a scheme."""
    return cast(SourceModule, import_module(f"{__name__}.{scheme}"))


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
