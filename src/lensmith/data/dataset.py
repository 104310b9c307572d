"""The dataset as the rest of Lensmith sees it: three parts of samples, decoded one at a time.

Rows lie in a memory-mapped Arrow file, so a part with a million images costs memory only for its ids and labels.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lensmith.data.images import MAX_PIXELS, Enough, decode_image
from lensmith.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]


@dataclass(frozen=True)
class Sample:
    """One decoded image (RGB) with its class and its content id."""

    id: str
    label: str
    image: Image.Image


class Scratch:
    """A temporary folder that lives as long as this object does, in this process.

    A copy unpickled in a worker process points at the same folder and doesn't remove it.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="lensmith-data-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Split:
    """One named part of a dataset (`train`, `validation` or `test`), decoded lazily. Can be pickled for workers."""

    def __init__(self, name: str, rows: Dataset, scratch: Scratch) -> None:
        self.name = name
        self._rows = rows  # columns id, label, source, bytes; see `build`
        self._scratch = scratch  # kept only so that the mapped file outlives its last reader

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} images)"

    def __getitem__(self, i: int) -> Sample:
        """Sample `i`, decoded. Raises `ImageError` as `image` does, and `IndexError` past the end."""
        return Sample(self.ids[i], self.labels[i], self.image(i))

    @cached_property
    def ids(self) -> Sequence[str]:
        """Content id of each sample: 16 hex digits, and `-2`, `-3`, ... for the further exact copies of an image."""
        return list(self._rows["id"][:])

    @cached_property
    def contents(self) -> Sequence[str]:
        """What each image holds, as 16 hex digits: exact copies have the same."""
        return [name.partition("-")[0] for name in self.ids]

    @cached_property
    def labels(self) -> Sequence[str]:
        """Class name of each sample."""
        # A class name is repeated for each of its images: keep one string of each.
        return [sys.intern(label) for label in self._rows["label"][:]]

    def image(self, i: int, max_pixels: int = MAX_PIXELS, enough: Enough | None = None) -> Image.Image:
        """Image `i`, decoded to RGB; see `decode_image`. Raises `ImageError` naming the file or row if it can't be."""
        row = self._rows[i]
        source = Path(row["source"]) if row["bytes"] is None else row["bytes"]
        return decode_image(source, name=row["source"], max_pixels=max_pixels, enough=enough)

    def items(
        self, max_pixels: int = MAX_PIXELS, enough: Enough | None = None
    ) -> Iterator[tuple[str, str, Callable[[], Image.Image]]]:
        """Each sample's id, its label, and how to get its image, in order; nothing is decoded yet."""
        for i, (name, label) in enumerate(zip(self.ids, self.labels, strict=True)):
            yield name, label, partial(self.image, i, max_pixels, enough)

    def source(self, i: int) -> str:
        """Where sample `i` is from: its path, or like `"birds.parquet row 17"`."""
        return str(self._rows["source"][i])

    @cached_property
    def hash(self) -> str:
        """16 hex digits that tell this set of (id, label) pairs from any other, whatever its order."""
        pairs = sorted(zip(self.ids, self.labels, strict=True))
        digest = hashlib.sha256()
        for pair in pairs:
            digest.update(json.dumps(pair).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def order(self) -> str:
        """16 hex digits that tell these samples in this order from any other."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:16]

    def take(self, n: int | float | None, seed: int = 0) -> Split:
        """A stable subset: `n` images (int), a share of them (float, above 0 to 1), or all (`None`).

        Subsets of one seed are nested: a larger one contains the smaller. In each class the samples with the smallest
        content hash come first, so neither the order of the files nor the other classes matter; another seed hashes
        the hash. Sample k (from 0) of a class
        with m images has the place k/m, and the samples with the lowest places are taken: each class is represented
        by its share, rounded up, and a subset with at least as many images as there are classes has every class.
        The samples keep their order. Asking for more than there are gives all. Raises `UserError` for `n` at or
        below 0, or a float above 1.
        """
        if n is None:
            return self
        if n <= 0 or (isinstance(n, float) and not n <= 1):
            raise UserError(
                f"Can't take {n} of the {self.name} images.", "Give a number of 1 or more, or a share up to 1.0."
            )

        def order(i: int) -> str:
            name = self.ids[i]
            return hashlib.sha256(f"{seed} {name}".encode()).hexdigest() if seed else name

        members: dict[str, list[int]] = defaultdict(list)
        for i, label in enumerate(self.labels):
            members[label].append(i)
        chosen: list[int] = []
        places: list[tuple[float, str, int]] = []
        for label, rows in members.items():
            rows.sort(key=order)
            if isinstance(n, float):
                chosen += rows[: math.ceil(n * len(rows))]
            places += [(k / len(rows), label, i) for k, i in enumerate(rows)]
        if not isinstance(n, float):
            chosen = [i for _, _, i in sorted(places)[:n]]
        return Split(self.name, self._rows.select(sorted(chosen)), self._scratch)

    def relabelled(self, labels: Sequence[str | None]) -> Split:
        """The same images with other labels, one for each in their order; those with None are left out."""
        kept = [i for i, label in enumerate(labels) if label is not None]
        rows = self._rows.select(kept).remove_columns("label").add_column("label", [labels[i] for i in kept])
        return Split(self.name, rows, self._scratch)


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images in three parts. `labels` is the class order; `notes` are sentences on what was noticed."""

    uri: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...]

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, validation and test."""
        return self.train, self.validation, self.test

    def split(self, name: str) -> Split:
        """The split called `train`, `validation` or `test`."""
        return {split.name: split for split in self.splits}[name]

    def describe(self) -> str:
        """One sentence on the classes and splits, and the notes."""
        sizes = ", ".join(f"{len(split):,} {split.name}" for split in self.splits)
        return "\n".join([f"{self.uri}: {len(self.labels)} classes; {sizes} images.", *self.notes])
