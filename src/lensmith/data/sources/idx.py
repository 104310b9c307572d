"""`idx:PATH`: a folder of MNIST-style IDX files (`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, ...), gzipped
or not.

The format has no checksum and no class names. The header is checked against the data that follows, so that an
incomplete download isn't read as a smaller dataset.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from lensmith.data.paths import existing
from lensmith.data.source import Columns, Files, Row, Source, damaged, pnm
from lensmith.errors import UserError

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_IMAGES = re.compile(r"(.*)images([-.])idx3-ubyte(\.gz)?", re.IGNORECASE)
_UNSIGNED_BYTE = 0x08
_HINT = "Download the file again."


def recognises(path: Path) -> bool:
    """A folder that contains a file of IDX images."""
    return path.is_dir() and any(_IMAGES.fullmatch(file.name) for file in path.iterdir())


def read(location: str, columns: Columns) -> Source:
    """The images of all pairs of IDX files. Classes are named by their numbers; Fashion-MNIST's by the published names.

    Raises `UserError` for a missing, truncated or mismatched file.
    """
    folder = existing(location)
    available = _available(folder)
    pairs = []
    for name in sorted(available):
        if match := _IMAGES.fullmatch(name):
            labels = name[: match.start(2) - len("images")] + f"labels{match[2]}idx1-ubyte"
            if labels not in available:
                raise UserError(f"{available[name]} has no file of labels.", f"Put {labels} in the same folder.")
            pairs.append(_Pair(available[name], _labels(available[labels]), _split(match[1])))
    if not pairs:
        raise UserError(
            f"No IDX images in {folder}.", "Their file names end in images-idx3-ubyte or images-idx3-ubyte.gz."
        )
    highest = max(int(pair.labels.max(initial=0)) for pair in pairs)
    fashion = "fashion" in folder.resolve().name.lower() and highest < len(FASHION)
    return Source(chain.from_iterable(map(_rows, pairs)), names=FASHION if fashion else None)


def files(location: str, columns: Columns) -> Files | None:
    """All IDX files in the folder, gzipped ones only if there is no plain copy."""
    available = _available(existing(location)).values()
    return Files(location, {path.name: path for path in available if "ubyte" in path.name and path.is_file()})


@dataclass(frozen=True)
class _Pair:
    """A file of images, the labels of these images, and their split."""

    images: Path
    labels: npt.NDArray[np.uint8]
    split: str


def _available(folder: Path) -> dict[str, Path]:
    """The files in `folder` by their name without `.gz`. Of a file and its gzipped copy, the plain file is used."""
    return {file.name.removesuffix(".gz"): file for file in sorted(folder.glob("*"), reverse=True)}


def _split(prefix: str) -> str:
    prefix = prefix.lower()
    if "t10k" in prefix or "test" in prefix:
        return "test"
    return "validation" if "val" in prefix else "train" if "train" in prefix else ""


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _header(stream: BinaryIO, path: Path, dimensions: int) -> tuple[int, ...]:
    """The size of each dimension.

    The header has two zero bytes, the data type, the number of dimensions, and each size as a big-endian uint32.
    """
    head = stream.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions:
        raise UserError(f"{path} is truncated: its header is incomplete.", _HINT)
    if head[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        raise UserError(
            f"{path} isn't an IDX file of unsigned bytes with {dimensions} dimension{'s' * (dimensions > 1)}.", _HINT
        )
    return struct.unpack(f">{dimensions}I", head[4:])


def _labels(path: Path) -> npt.NDArray[np.uint8]:
    with damaged(path, "an IDX file", OSError, EOFError, zlib.error), _open(path) as stream:
        (number,) = _header(stream, path, 1)
        data = stream.read()
    if len(data) != number:
        raise UserError(
            f"{path} is truncated or too long: {len(data)} labels, but {number} according to its header.", _HINT
        )
    return np.frombuffer(data, np.uint8)


def _rows(pair: _Pair) -> Iterator[Row]:
    path, labels = pair.images, pair.labels
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
            yield Row(int(label), f"{path.name} row {i + 1}", pnm(pixels), pair.split)
        if stream.read(1):
            raise UserError(f"{path} is longer than its header says.", _HINT)
