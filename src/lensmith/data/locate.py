"""Which file on this machine is meant by a reference to an image, as another program or machine wrote it.

A table may name an image by a path relative to itself, a path or URL where it once was, or an id without the extension.
A file is only taken for it if nothing else could be meant, since another image of the same name has another label.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import url2pathname

from lensmith.data.images import is_image
from lensmith.data.paths import is_hidden_name, walk_folders
from lensmith.errors import UserError

_Parts = tuple[str, ...]
_UPLOADED = re.compile(r"[0-9a-f]{6,8}-")
"""What Label Studio puts before the name of an uploaded file."""


class Images:
    """The image files in one folder, found by the references of one table.

    Args:
        folder: the folder that relative paths are relative to; None if there is none.
        table: name of the table without its extension. The folder of this name is preferred (`train.csv`, `train/`).
    """

    def __init__(self, folder: Path | None, table: str = "") -> None:
        self.folder = folder
        self._table = table
        self._index: dict[str, list[_Parts]] | None = None
        self._found: dict[str, str] = {}  # file that was searched -> the reference to it

    def find(self, reference: str, where: str) -> str:
        """The path of an image, which may be missing if the reference is a path.

        Args:
            reference: a path, perhaps of another machine, a URL, or the name of a file without its extension.
            where: the row, for messages.

        Raises:
            UserError: the reference is a URL and no file here has its name; it could mean two files; or it means the
                same file as another reference.
        """
        path = self._exact(reference, where)
        if path and os.path.exists(path):
            return path
        if self.folder is not None and (found := self._search(reference, where)):
            if (other := self._found.setdefault(found, reference)) != reference:
                raise UserError(
                    f"{where} has the image {reference}, but {other} is found in the same file, {found}.",
                    "Rename one of the files, or correct the table.",
                )
            return found
        if not path:
            raise UserError(
                f"{where} has a URL, which Lensmith doesn't download: {reference}",
                f"Download the images into {self.folder or 'a folder'}, or say where they are with data.images=.",
            )
        return path

    def _exact(self, reference: str, where: str) -> str:
        """The path that a reference says; empty for a URL."""
        if reference.startswith("file:"):
            reference = url2pathname(urlsplit(reference).path)
        if "://" in reference:
            return ""
        if self.folder is None:
            if os.path.isabs(reference):
                return reference
            raise UserError(
                f"{where} has a relative path, but there is no folder it could be relative to: {reference}",
                "Store the bytes.",
            )
        path = os.path.join(self.folder, reference)
        if "\\" in reference and not os.path.exists(path):  # written on Windows
            other = os.path.join(self.folder, reference.replace("\\", "/"))
            return other if os.path.exists(other) else path
        return path

    def _search(self, reference: str, where: str) -> str:
        """The only file in the folder that a reference can mean; empty if there is none."""
        assert self.folder is not None
        parts, moved, names = _parts(reference)
        index = self._by_name()
        candidates = [
            found
            for name in names
            for found in index.get(name, [])
            if found[-1] == name or not is_image(name)  # an id without the extension
        ]
        matches = {found: length for found in candidates if (length := _common(parts, found, moved))}
        longest = max(matches.values(), default=0)
        best = [found for found, length in matches.items() if length == longest]
        if len(best) > 1:
            best = [found for found in best if self._table in found[:-1]] or best
        if len(best) > 1:
            raise UserError(
                f"{where} has the image {reference}, which could be {'/'.join(best[0])} or {'/'.join(best[1])}.",
                "Give its path in the table, or name the folder of the images with data.images=.",
            )
        return os.path.join(self.folder, *best[0]) if best else ""

    def files(self) -> set[str]:
        """The paths of all visible images in the folder."""
        assert self.folder is not None
        return {os.path.join(self.folder, *parts) for found in self._by_name().values() for parts in found}

    def _by_name(self) -> dict[str, list[_Parts]]:
        """The visible images by their names, with and without the extension."""
        if self._index is None:
            self._index = {}
            assert self.folder is not None
            for _, place, names in walk_folders(self.folder):
                if any(map(is_hidden_name, place)):
                    continue
                for name in names:
                    if is_image(name) and not is_hidden_name(name):
                        for key in (name, name.rpartition(".")[0]):
                            self._index.setdefault(key, []).append((*place, name))
        return self._index


class _Reference(NamedTuple):
    parts: _Parts
    """The names in its path."""
    moved: bool
    """Whether it names a place on another machine."""
    names: _Parts
    """What the file may be called here."""


def _parts(reference: str) -> _Reference:
    url = urlsplit(reference) if "://" in reference else None
    path = (unquote(url.path) if url else reference).replace("\\", "/")
    local = re.search(r"(?:^|/)data/local-files/?(?:$|\?)", path)
    if local:  # Label Studio's, with the path below a folder of its own in the query
        query = url.query if url else reference.partition("?")[2]
        path = parse_qs(query).get("d", [""])[0]
    elif uploaded := re.search(r"(?:^|/)data/upload/(?:\d+/)?(.+)", path):
        parts = tuple(uploaded[1].split("/"))
        return _Reference(parts, False, (parts[-1], _UPLOADED.sub("", parts[-1], count=1)))
    moved = bool(url or local) or path.startswith("/") or re.match(r"[A-Za-z]:/", path) is not None
    parts = tuple(name for name in path.split("/") if name not in ("", "."))
    return _Reference(parts, moved, parts[-1:]) if ".." not in parts else _Reference((), False, ())


def _common(parts: _Parts, found: _Parts, moved: bool) -> int:
    """How many names at the end of a reference and a file agree; 0 if the others say that they are different files."""
    number = 1
    while number < min(len(parts), len(found)) and parts[-1 - number] == found[-1 - number]:
        number += 1
    return number if number == len(parts) or (moved and number == len(found)) else 0
