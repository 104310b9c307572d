"""A folder of image files, or one image."""

from __future__ import annotations

from collections.abc import Iterator

from lensmith.bulk.reading import item_of
from lensmith.bulk.sources import Item, Piece
from lensmith.bulk.storage import Storage
from lensmith.data.images import is_image
from lensmith.errors import UserError


def recognises(address: str) -> bool:
    """A folder, or an image file."""
    storage = Storage(address)
    return storage.exists() and (is_image(address) or not storage.is_file())


def pieces(address: str) -> Iterator[Piece]:
    """A piece for each image file."""
    storage, found = Storage(address), False
    files = iter([(address, 0)]) if storage.is_file() else storage.walk()
    for file, size in files:
        if is_image(file):
            found = True
            yield Piece(file, size=size)
    if not found:
        raise UserError(f"There are no images in {address}.", "Check the path.")


def items(piece: Piece) -> Iterator[Item]:
    """The one image."""
    yield item_of(piece.address)
