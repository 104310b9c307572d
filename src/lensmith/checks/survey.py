"""One pass over the images: what their files say, a thumbnail of each, and a few statistics of its pixels.

Everything else in this room works on what this pass found, and opens single images again only to look closer.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lensmith.data import ImageDataset, Split
from lensmith.data.images import decode_image
from lensmith.errors import ImageError
from lensmith.progress import Tell, counter

SIDE = 32
"""Pixels of a thumbnail's side: a small photograph is complete in it, and copies of a large one can be aligned."""
FEW = 3_000
"""Fewer images are read by one process: starting others takes two seconds."""
PIXELS = ("brightness", "contrast", "sharpness", "saturation", "border", "border contrast", "red", "green", "blue")
"""The statistics of an image's pixels, in the order of `Survey.pixels`. All are in levels of 0..255."""
_MAKE, _MODEL, _ORIENTATION, _SOFTWARE, _TAKEN = 271, 272, 274, 305, 36867
_EXIF = 0x8769
_STANDARD_TABLE = 3_685
"""The sum of JPEG's standard table for brightness, at quality 50."""
_BATCH = 64


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """An image: its split, and its index in the split."""

    split: str
    index: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What an image's file says, without its pixels."""

    width: int
    height: int
    format: str
    mode: str
    quality: int = 0
    """Of a JPEG, the quality that its quantisation tables stand for, 1 to 100; 0 for other formats."""
    tables: str = ""
    """Of a JPEG, a digest of its quantisation tables."""
    progressive: bool = False
    orientation: int = 1
    camera: str = ""
    taken: str = ""
    """When the photograph was taken, as EXIF writes it: `2024:05:17 09:31:02`."""
    software: str = ""
    dpi: int = 0
    profile: bool = False
    """Whether there is a colour profile."""


@dataclass(frozen=True)
class Survey:
    """What one pass over a dataset's images found. Each list and array has one entry for each image."""

    dataset: ImageDataset
    spots: list[Spot]
    ids: list[str]
    contents: list[str]
    labels: list[str]
    sources: list[str]
    files: list[FileFacts | None]
    """None for an image that can't be read."""
    thumbnails: NDArray[np.uint8]
    """(images, 32, 32) the image in grey, squeezed into a square."""
    pixels: NDArray[np.float32]
    """(images, statistics) see `PIXELS`; NaN for an image that can't be read."""
    errors: dict[int, str] = field(default_factory=dict)
    """One sentence for each image that can't be read."""

    def __len__(self) -> int:
        return len(self.spots)

    def readable(self) -> list[int]:
        """The images that can be read."""
        return [i for i in range(len(self)) if i not in self.errors]

    def split(self, name: str) -> list[int]:
        """The images of one split."""
        return [i for i, spot in enumerate(self.spots) if spot.split == name]

    def image(self, i: int, least: int = 256) -> Image.Image:
        """Image `i`, perhaps at a reduced size with sides of at least `least` pixels. Raises `ImageError`."""
        spot = self.spots[i]
        return self.dataset.split(spot.split).image(spot.index, enough=lambda h, w: (min(h, least), min(w, least)))


@dataclass(frozen=True)
class _Batch:
    """What is known of some images, in order."""

    files: list[FileFacts | None]
    thumbnails: NDArray[np.uint8]
    pixels: NDArray[np.float32]
    errors: dict[int, str]
    """By the image's position in the batch."""


def survey(dataset: ImageDataset, max_pixels: int, tell: Tell) -> Survey:
    """Read all images once; those that can't be read are kept, with their error."""
    splits = [split for split in dataset.splits if len(split)]
    spots = [Spot(split.name, i) for split in splits for i in range(len(split))]
    sources = [source for split in splits for source in split.sources()]
    progress, batches = counter("looking at images", len(spots), tell), []
    done, errors = 0, dict[int, str]()
    for batch in _batches(splits, sources, max_pixels):
        errors |= {done + k: error for k, error in batch.errors.items()}
        done += len(batch.files)
        batches.append(batch)
        progress(done)
    return Survey(
        dataset,
        spots,
        [name for split in splits for name in split.ids],
        [name for split in splits for name in split.contents],
        [label for split in splits for label in split.labels],
        sources,
        [file for batch in batches for file in batch.files],
        np.concatenate([batch.thumbnails for batch in batches]),
        np.concatenate([batch.pixels for batch in batches]),
        errors,
    )


def _batches(splits: Sequence[Split], sources: Sequence[str], max_pixels: int) -> Iterator[_Batch]:
    """All images in order; many are read by several processes, since threads would wait for the interpreter's lock."""
    ranges = [(k, start) for k, split in enumerate(splits) for start in range(0, len(split), _BATCH)]
    offsets = np.cumsum([0, *map(len, splits)])
    ends = [min(offsets[k] + start + _BATCH, offsets[k + 1]) for k, start in ranges]
    tasks = [(k, start, sources[offsets[k] + start : end]) for (k, start), end in zip(ranges, ends, strict=True)]
    workers = os.cpu_count() or 1
    if len(sources) < FEW or workers == 1 or not _starts_cleanly():
        yield from (_read(splits, max_pixels, *task) for task in tasks)
        return
    # A forked process would inherit PyTorch's threads, which don't exist in it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (splits, max_pixels)) as pool:
        yield from pool.map(_read_here, tasks, chunksize=4)


def _starts_cleanly() -> bool:
    """Whether a new process may import this one's main module, as it does: somebody's script may lack the guard
    `if __name__ == "__main__"`, and would then run again."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is None or os.path.basename(main) in ("lensmith", "lensmith.exe", "__main__.py")


@dataclass
class _Worker:
    """What a worker process reads from."""

    splits: Sequence[Split] = ()
    max_pixels: int = 0


_worker = _Worker()


def _start(splits: Sequence[Split], max_pixels: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    _worker.splits, _worker.max_pixels = splits, max_pixels


def _read_here(task: tuple[int, int, Sequence[str]]) -> _Batch:
    return _read(_worker.splits, _worker.max_pixels, *task)


def _read(splits: Sequence[Split], max_pixels: int, k: int, start: int, sources: Sequence[str]) -> _Batch:
    """Images `start` and following of split `k`, as many as there are sources."""
    files: list[FileFacts | None] = []
    small: dict[int, list[tuple[int, NDArray[np.uint8]]]] = {}
    errors: dict[int, str] = {}
    for i, source in enumerate(sources):
        facts: list[FileFacts] = []
        try:
            image = decode_image(
                splits[k].encoded(start + i),
                name=source,
                max_pixels=max_pixels,
                enough=_enough,
                look=partial(_note_facts, facts),
            )
        except ImageError as error:
            errors[i] = str(error)
            files.append(None)
            continue
        files.append(facts[0])
        side = SIDE if max(image.size) <= 2 * SIDE else 2 * SIDE
        square = image.resize((side, side), Image.Resampling.BICUBIC)
        small.setdefault(side, []).append((i, np.asarray(square)))
    thumbnails = np.zeros((len(sources), SIDE, SIDE), np.uint8)
    pixels = np.full((len(sources), len(PIXELS)), np.nan, np.float32)
    for side, found in small.items():
        rows, colours = [i for i, _ in found], np.stack([array for _, array in found]).astype(np.float32)
        levels = colours @ np.array([0.299, 0.587, 0.114], np.float32)
        shape = (len(rows), SIDE, side // SIDE, SIDE, side // SIDE)
        thumbnails[rows] = (levels.reshape(shape).mean((2, 4)) + 0.5).astype(np.uint8)
        pixels[rows] = _statistics(levels, colours)
    return _Batch(files, thumbnails, pixels, errors)


def _note_facts(facts: list[FileFacts], file: Image.Image) -> None:
    facts.append(_file_facts(file))


def _enough(height: int, width: int) -> tuple[int, int]:
    return min(height, 2 * SIDE), min(width, 2 * SIDE)


def _file_facts(file: Image.Image) -> FileFacts:
    exif: dict[int, Any] = {}
    with suppress(Exception):  # damaged metadata is no reason to refuse the image
        if found := file.getexif():
            exif = {**found, **found.get_ifd(_EXIF)}
    tables = getattr(file, "quantization", None) or {}
    dpi = file.info.get("dpi")
    orientation = exif.get(_ORIENTATION, 1)
    return FileFacts(
        file.width,
        file.height,
        str(file.format),
        file.mode,
        _quality(tables.get(0, ())),
        hashlib.sha256(repr(sorted(tables.items())).encode()).hexdigest()[:8] if tables else "",
        bool(file.info.get("progressive") or file.info.get("progression")),
        orientation if isinstance(orientation, int) else 1,
        " ".join(_text(exif.get(tag)) for tag in (_MAKE, _MODEL)).strip(),
        _text(exif.get(_TAKEN)),
        _text(exif.get(_SOFTWARE)),
        round(float(dpi[0])) if isinstance(dpi, tuple) and dpi and _is_number(dpi[0]) else 0,
        "icc_profile" in file.info,
    )


def _quality(table: Sequence[int]) -> int:
    """The quality, 1 to 100, at which libjpeg would scale its standard table to about this one."""
    if not table:
        return 0
    scale = 100 * sum(table) / _STANDARD_TABLE
    return max(1, min(100, round(5000 / scale if scale > 100 else (200 - scale) / 2)))


def _text(value: Any) -> str:
    return value.strip("\0 ")[:60] if isinstance(value, str) else ""


def _is_number(value: Any) -> bool:
    with suppress(Exception):  # such as a rational number with the denominator 0
        return bool(np.isfinite(float(value)))
    return False


def _statistics(levels: NDArray[np.float32], colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """(images, statistics) of (images, side, side) grey levels and (images, side, side, 3) colours; see `PIXELS`."""
    edge = np.concatenate([levels[:, 0], levels[:, -1], levels[:, :, 0], levels[:, :, -1]], 1)
    inner, axes = 4 * levels[:, 1:-1, 1:-1], (1, 2)
    inner = inner - levels[:, :-2, 1:-1] - levels[:, 2:, 1:-1] - levels[:, 1:-1, :-2] - levels[:, 1:-1, 2:]
    columns = [levels.mean(axes), levels.std(axes), np.abs(inner).mean(axes)]
    columns += [(colours.max(3) - colours.min(3)).mean(axes), edge.mean(1), edge.std(1)]
    return np.column_stack([*columns, *colours.mean(axes).T]).astype(np.float32)
