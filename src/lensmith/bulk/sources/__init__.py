"""Sources of bulk prediction, one module each. A source is cut into pieces; a shard is a list of pieces."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from lensmith.errors import UserError


class Piece(NamedTuple):
    """A part of a source that is read from its beginning: an image, a tar archive, or row groups of a table."""

    address: str
    first: int = 0
    """The first row group, in a table."""
    groups: int = 0
    """The number of row groups, in a table."""
    images: int = 1
    """The number of images; 0 if it isn't known before it is read."""
    size: int = 0
    """Bytes; 0 if not known."""


Item = tuple[str, Callable[[], bytes | Path]]
"""An image's name, and a function that returns its encoded bytes or its file (and may raise ImageError)."""


class SourceModule(Protocol):
    """What each module of this folder defines."""

    def recognises(self, address: str) -> bool:
        """Whether the address is of this kind."""
        ...

    def pieces(self, address: str) -> Iterator[Piece]:
        """The pieces of a source, streamed. Raises `UserError` if it can't be read or has none."""
        ...

    def items(self, piece: Piece) -> Iterator[Item]:
        """The images of a piece, streamed, always in the same order."""
        ...


def kinds() -> list[str]:
    """The names of all modules in this folder."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def module(kind: str) -> SourceModule:
    """The module of a kind."""
    return cast(SourceModule, import_module(f"{__name__}.{kind}"))


def kind_of(address: str) -> str:
    """The kind of a source.

    Raises:
        UserError: no module recognises it.
    """
    for kind in sorted(kinds(), key=lambda name: name == "folder"):  # any folder is one of images, so it comes last
        if module(kind).recognises(address):
            return kind
    raise UserError(
        f"Can't tell what kind of source {address} is.",
        "Name a folder of images, .tar or .parquet files, a .txt file of addresses, or hub:OWNER/NAME.",
    )
