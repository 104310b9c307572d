"""A text file with the address of an image in each line: a path, or `s3://`, `gs://`, `az://` or `https://`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lensmith.bulk.reading import WEB, item_of
from lensmith.bulk.sources import Item, Piece
from lensmith.bulk.storage import Storage, is_remote
from lensmith.errors import UserError


def recognises(address: str) -> bool:
    """A .txt file."""
    return address.lower().endswith(".txt")


def pieces(address: str) -> Iterator[Piece]:
    """A piece for each line that isn't empty. Paths count from the folder of the file."""
    import io

    storage, found = Storage(address), False
    base = os.path.dirname(storage.root) if storage.local else ""
    try:
        with storage.stream("") as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
            for line in lines:
                if not (name := line.strip()):
                    continue
                whole = is_remote(name) or WEB.match(name)
                if not whole and not base:
                    raise UserError(
                        f"{address} names {name!r}, but a list in an object store needs whole addresses.",
                        "Write s3://, gs://, az:// or https:// before each.",
                    )
                found = True
                yield Piece(name if whole else os.path.join(base, os.path.expanduser(name)))
    except FileNotFoundError:
        raise UserError(f"There is no file {address}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise UserError(f"{address} isn't text in UTF-8.", "Save it as UTF-8, one address a line.") from None
    if not found:
        raise UserError(f"{address} has no addresses.", "Write one in each line.")


def items(piece: Piece) -> Iterator[Item]:
    """The one image."""
    yield item_of(piece.address)
