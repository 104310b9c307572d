"""Tar archives of images, as webdataset writes them: one archive, or a folder of them. An archive is a piece."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial

from lensmith.bulk.sources import Item, Piece
from lensmith.bulk.storage import Storage, is_remote
from lensmith.data.images import is_image
from lensmith.errors import ImageError, UserError

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def recognises(address: str) -> bool:
    """A tar archive, or a folder that contains archives itself."""
    if address.lower().endswith(_ENDINGS):
        return True
    return any(name.lower().endswith(_ENDINGS) for name in Storage(address).some())


def pieces(address: str) -> Iterator[Piece]:
    """A piece for each archive. How many images it has isn't known before it is read."""
    storage, found = Storage(address), False
    if not storage.exists():
        raise UserError(f"There is no file {address}.", "Check the path.")
    whole = address if is_remote(address) else storage.root
    for file, size in iter([(whole, 0)]) if storage.is_file() else storage.walk():
        if file.lower().endswith(_ENDINGS):
            found = True
            yield Piece(file, images=0, size=size)
    if not found:
        raise UserError(f"There are no tar archives in {address}.", "Check the path.")


def items(piece: Piece) -> Iterator[Item]:
    """The images of an archive by their names in it. What follows a damaged place is one image with an error."""
    number = 0
    with Storage(piece.address).stream("") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    hidden = any(word.startswith(".") for word in member.name.split("/") if word != ".")
                    if not member.isfile() or hidden or not is_image(member.name):
                        continue
                    file = archive.extractfile(member)
                    content = file.read() if file else b""
                    number += 1
                    yield f"{piece.address}#{member.name}", partial(bytes, content)
        except _DAMAGE as error:
            sentence = f"The archive {piece.address} is damaged after {number:,} images: {error}."

            def damaged() -> bytes:
                raise ImageError(sentence, "Write or copy it again.")

            yield piece.address, damaged
