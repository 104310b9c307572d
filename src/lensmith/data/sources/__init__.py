"""Where images come from: one module per source, named after its scheme in a URI (`folder:PATH`, `hub:NAME`).

To add a source, add a file here with the functions of `SourceModule`, under the same names. Nothing else needs editing:
modules are found by their file names, and this folder contains no other modules.
"""

from __future__ import annotations

import os
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from lensmith.data.source import Columns, Files, Source
from lensmith.errors import UserError, nearest


class SourceModule(Protocol):
    """The functions that every module in this folder defines."""

    def recognises(self, path: Path) -> bool:
        """Whether `path`, which exists, is a file or folder of this kind.

        This guesses the scheme of a URI without one, so it should look at names only and be quick. A source that reads
        nothing from this machine returns `False`.
        """
        ...

    def read(self, location: str, columns: Columns) -> Source:
        """The labelled images at `location`, as a stream of rows.

        Args:
            location: what follows `scheme:` in the URI, never empty. Usually a path, possibly with `~`.
            columns: the columns that the user named. Sources without columns ignore them.

        Raises:
            UserError: the source doesn't exist or can't be read. The rows may raise it too while they are read.
        """
        ...

    def files(self, location: str, columns: Columns) -> Files | None:
        """The files on this machine that `read` would read, with the same arguments.

        A remote machine that has just these files, in a folder of the same name, gets the same images from `read`, and
        `recognises` gives the same answer there. So this lists no other files that happen to be in the folder.

        Returns:
            `None` if `read` needs no files from this machine: the images ship with Lensmith or come from a server.
            `Files` without any path if nothing was found; `read` then reports what is missing.

        Raises:
            UserError: `location` doesn't exist, can't be read, or needs files outside its folder.
        """
        ...


def open_source(uri: str, columns: Columns) -> Source:
    """The labelled images at `uri`. Raises `UserError` as `parse_uri` and `SourceModule.read` do."""
    scheme, location = parse_uri(uri)
    return module(scheme).read(location, columns)


def needed_files(uri: str, columns: Columns) -> Files | None:
    """The files on this machine that `open_source` would read, or `None` if it needs none.

    Raises `UserError` as `parse_uri` and `SourceModule.files` do.
    """
    scheme, location = parse_uri(uri)
    return module(scheme).files(location, columns)


def parse_uri(uri: str) -> tuple[str, str]:
    """The scheme and location of `uri`.

    A path that exists takes precedence over a scheme. A single letter before a colon is a Windows drive, not a scheme.

    Raises `UserError` if the scheme is unknown or the path doesn't exist or isn't recognised by any source.
    """
    path = Path(os.path.expanduser(uri))
    if uri and os.path.exists(path):
        return _guess(path), uri
    if re.match(r"(https?|s3|gs|ftp)://", uri):
        raise UserError(
            f"Lensmith doesn't download images from the web: {uri!r}.",
            "Download the images to a folder first and give its path.",
        )
    if match := re.match(r"([A-Za-z][A-Za-z0-9_]+):(.*)", uri, re.DOTALL):
        scheme, location = match[1].lower(), match[2]
        if scheme not in (known := schemes()):
            hint = f"{nearest(scheme, known)} Known: {', '.join(known)}.".strip()
            raise UserError(f"Unknown kind of dataset {scheme!r} in {uri!r}.", hint)
        if not location:
            raise UserError(f"Nothing follows {uri!r}.", f"Write the location of the images after {scheme}:")
        return scheme, location
    if re.fullmatch(r"[\w.-]+/[\w.-]+", uri) and not uri.startswith("."):
        hint = f"For a dataset of the Hugging Face hub, write hub:{uri} instead."
    else:
        hint = nearest(path.name, _siblings(path)) or "Give the path of a folder or table of images, or demo:fashion."
    raise UserError(f"No such file or folder: {uri!r}.", hint)


def _guess(path: Path) -> str:
    # `folder` recognises any folder and `archive` any archive, so they come last.
    for scheme in sorted(schemes(), key=lambda name: name in ("archive", "folder")):
        if module(scheme).recognises(path):
            return scheme
    raise UserError(
        f"Can't tell what kind of dataset {path} is.",
        "Give a folder, a .csv, .tsv, .json, .jsonl or .parquet table, a .zip or .tar archive, or name the kind, as in "
        "cifar:PATH.",
    )


def schemes() -> list[str]:
    """The names of all modules in this folder, which are the schemes of URIs."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def module(scheme: str) -> SourceModule:
    """The module of a scheme."""
    return cast(SourceModule, import_module(f"{__name__}.{scheme}"))


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
