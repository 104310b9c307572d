"""How a single image is read from its address."""

from __future__ import annotations

import re
from functools import lru_cache, partial
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lensmith.bulk.sources import Item
from lensmith.bulk.storage import Denied, Storage, is_remote, patiently
from lensmith.errors import ImageError

WEB = re.compile(r"https?://", re.IGNORECASE)
MOST = 100_000_000
"""Bytes of the largest image that is downloaded from the web."""


def item_of(address: str) -> Item:
    """An image's name, and a function that reads it."""
    if WEB.match(address):
        return address, partial(_from_web, address)
    if is_remote(address):
        return address, partial(_from_store, address)
    return address, partial(Path, address)


@lru_cache(maxsize=64)
def _folder(address: str) -> Storage:
    return Storage(address)


def _from_store(address: str) -> bytes:
    folder, _, name = address.rpartition("/")
    try:
        return _folder(folder).read(name)
    except FileNotFoundError:
        raise ImageError(f"There is no image file {address}.", "Check the address.") from None


def _from_web(address: str) -> bytes:
    def action() -> bytes:
        try:
            with urlopen(Request(address, headers={"User-Agent": "lensmith"}), timeout=30) as answer:
                content: bytes = answer.read(MOST + 1)
        except HTTPError as error:
            if error.code in (401, 403):
                raise ImageError(f"The server refuses the image {address} (HTTP {error.code}).") from None
            if error.code < 500 and error.code not in (408, 429):
                raise ImageError(f"There is no image at {address} (HTTP {error.code}).") from None
            raise OSError(f"HTTP {error.code}") from None
        except URLError as error:
            raise OSError(str(error.reason)) from None
        if len(content) > MOST:
            raise ImageError(f"The image {address} is larger than {MOST / 1e6:.0f} MB.", "Scale it down.")
        return content

    try:
        return patiently(action, address, wait=60)
    except (ImageError, Denied):
        raise
    except Exception as error:
        raise ImageError(f"The image {address} can't be downloaded: {error}") from None
