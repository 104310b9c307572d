"""`idx:PATH`: a folder of MNIST-style IDX files (`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, ...), gzipped
or not.

The format has no checksum and no names, so the header is checked against what follows it: a file cut short in the
download must not become a smaller dataset.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from lensmith.data.source import Columns, Row, Source, damaged, existing, pnm
from lensmith.errors import UserError

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_IMAGES = re.compile(r"(.*)images([-.])idx3-ubyte(\.gz)?", re.IGNORECASE)
_UNSIGNED_BYTE = 0x08
_HINT = "Fetch the file again."


def recognises(path: Path) -> bool:
    """A folder with a file of IDX images."""
    return path.is_dir() and any(_IMAGES.fullmatch(file.name) for file in path.iterdir())


def read(location: str, columns: Columns) -> Source:
    """The images of all pairs of IDX files. Classes are named by their digits, or for Fashion-MNIST as published.

    Raises `UserError` for a missing, truncated or mismatched file.
    """
    folder = existing(location)
    # A file and its gzipped twin are the same images: one of each is enough, and the plain one is quicker.
    files = {file.name.removesuffix(".gz"): file for file in sorted(folder.glob("*"), reverse=True)}
    pairs = []
    for stem in sorted(files):
        if match := _IMAGES.fullmatch(stem):
            twin = stem[: match.start(2) - len("images")] + f"labels{match[2]}idx1-ubyte"
            if twin not in files:
                raise UserError(f"{files[stem]} has no labels beside it.", f"Put {twin} in the same folder.")
            pairs.append((files[stem], _labels(files[twin]), _part(match[1])))
    if not pairs:
        raise UserError(f"No IDX images in {folder}.", "The names end in images-idx3-ubyte or images-idx3-ubyte.gz.")
    fashion = "fashion" in folder.resolve().name.lower() and max(int(y.max(initial=0)) for _, y, _ in pairs) < 10
    rows = chain.from_iterable(_rows(*pair) for pair in pairs)
    return Source(rows, names=FASHION if fashion else None)


def _part(prefix: str) -> str:
    prefix = prefix.lower()
    if "t10k" in prefix or "test" in prefix:
        return "test"
    return "validation" if "val" in prefix else "train" if "train" in prefix else ""


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _header(stream: BinaryIO, path: Path, dimensions: int) -> tuple[int, ...]:
    """The sizes in the header: two zero bytes, the type, the number of dimensions, and each as a big-endian int32."""
    head = stream.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions:
        raise UserError(f"{path} is truncated: its header is incomplete.", _HINT)
    if head[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        raise UserError(f"{path} isn't an IDX file of bytes with {dimensions} dimensions.", _HINT)
    return struct.unpack(f">{dimensions}I", head[4:])


def _labels(path: Path) -> npt.NDArray[np.uint8]:
    with damaged(path, "an IDX file", OSError, EOFError, zlib.error), _open(path) as stream:
        (number,) = _header(stream, path, 1)
        data = stream.read()
    if len(data) != number:
        raise UserError(f"{path} is truncated or too long: {len(data)} labels, but {number} by its header.", _HINT)
    return np.frombuffer(data, np.uint8)


def _rows(path: Path, labels: npt.NDArray[np.uint8], part: str) -> Iterator[Row]:
    with damaged(path, "an IDX file", OSError, EOFError, zlib.error), _open(path) as stream:
        number, height, width = _header(stream, path, 3)
        if number != len(labels):
            raise UserError(f"{path} has {number} images, but there are {len(labels)} labels.", _HINT)
        if not height or not width:
            raise UserError(f"{path} has images of {width} x {height} pixels.", _HINT)
        for i, label in enumerate(labels):
            data = stream.read(height * width)
            if len(data) < height * width:
                raise UserError(f"{path} is truncated: image {i + 1} of {number} is incomplete.", _HINT)
            pixels = np.frombuffer(data, np.uint8).reshape(height, width)
            yield Row(int(label), f"{path.name} row {i + 1}", pnm(pixels), part)
        if stream.read(1):
            raise UserError(f"{path} is longer than its header says.", _HINT)
