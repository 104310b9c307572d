"""The dataset as the rest of Lensmith sees it: three splits of samples, decoded one at a time.

Rows are stored in a memory-mapped Arrow file, so a split of a million images only needs memory for its ids and labels.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lensmith.data.images import MAX_PIXELS, Enough, decode_image, read_file
from lensmith.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]


@dataclass(frozen=True)
class Sample:
    """One decoded image (RGB) with its class and its content id."""

    id: str
    label: str
    image: Image.Image


def content_of(sample_id: str) -> str:
    """The content id (16 hex digits) within a sample's id."""
    return sample_id.partition("-")[0]


def written_targets(targets: Mapping[str, float] | None) -> str | None:
    """Targets as a cell of the stored table."""
    return json.dumps(targets, ensure_ascii=False) if targets else None


class Scratch:
    """A temporary folder that is removed when this object is garbage-collected in the process that created it.

    A copy unpickled in a worker process refers to the same folder and doesn't remove it.
    """

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="lensmith-data-"))
        except OSError as error:
            raise UserError(
                f"No temporary folder can be made: {error.strerror or error}.",
                "Set TMPDIR to a folder with free space.",
            ) from None
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Split:
    """The train, validation or test split of a dataset, decoded lazily. Can be pickled for worker processes."""

    def __init__(self, name: str, rows: Dataset, scratch: Scratch) -> None:
        self.name = name
        self._rows = rows  # columns id, label, source, bytes, targets, group; see `build`
        self._scratch = scratch  # keeps the mapped file as long as anything reads it

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} images)"

    def __getitem__(self, i: int) -> Sample:
        """Sample `i`, decoded. Raises `ImageError` as `image` does, and `IndexError` past the end."""
        return Sample(self.ids[i], self.labels[i], self.image(i))

    @cached_property
    def ids(self) -> Sequence[str]:
        """Id of each sample: its content id (16 hex digits), with `-2`, `-3`, ... appended for further exact copies."""
        return list(self._rows["id"][:])

    @cached_property
    def contents(self) -> Sequence[str]:
        """Content id of each sample: 16 hex digits, which exact copies share."""
        return [content_of(name) for name in self.ids]

    @cached_property
    def labels(self) -> Sequence[str]:
        """Class name of each sample."""
        # Every image repeats its class name: keep one string object per class.
        return [sys.intern(label) for label in self._rows["label"][:]]

    @cached_property
    def groups(self) -> Sequence[str]:
        """Of each sample the name of its group (`data.group`); empty if it has none."""
        return [sys.intern(group) for group in self._rows["group"][:]]

    @cached_property
    def targets(self) -> Sequence[Mapping[str, float] | None]:
        """Of each sample that a model labelled, the probabilities that it gave to the labels; else None."""
        return [json.loads(cell) if cell else None for cell in self._rows["targets"][:]]

    def image(self, i: int, max_pixels: int = MAX_PIXELS, enough: Enough | None = None) -> Image.Image:
        """Image `i`, decoded to RGB; see `decode_image`. If that fails, raises an `ImageError` with the file or row."""
        row = self._rows[i]
        source = Path(row["source"]) if row["bytes"] is None else row["bytes"]
        return decode_image(source, name=row["source"], max_pixels=max_pixels, enough=enough)

    def encoded(self, i: int) -> bytes:
        """The file of image `i`. Raises `ImageError` if it can't be read."""
        row = self._rows[i]
        return row["bytes"] if row["bytes"] is not None else read_file(Path(row["source"]))

    def items(
        self, max_pixels: int = MAX_PIXELS, enough: Enough | None = None
    ) -> Iterator[tuple[str, str, Callable[[], Image.Image]]]:
        """In order, each sample's id, its label, and a function that decodes its image."""
        for i, (name, label) in enumerate(zip(self.ids, self.labels, strict=True)):
            yield name, label, partial(self.image, i, max_pixels, enough)

    def source(self, i: int) -> str:
        """Where sample `i` comes from: its path, or for example `"birds.parquet row 17"`."""
        return str(self._rows["source"][i])

    def row(self, i: int) -> int:
        """The position of sample `i` among all samples of the source."""
        indices = self._rows._indices  # of a selection; a complete table has none
        return i if indices is None else int(indices.column(0)[i].as_py())

    def sources(self) -> list[str]:
        """Where all samples come from; see `source`. Not kept, since the paths of a million files take much memory."""
        return list(self._rows["source"][:])

    @cached_property
    def hash(self) -> str:
        """16 hex digits that identify this set of (id, label) pairs, whatever their order."""
        pairs = sorted(zip(self.ids, self.labels, strict=True))
        digest = hashlib.sha256()
        for pair in pairs:
            digest.update(json.dumps(pair).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def order(self) -> str:
        """16 hex digits that identify these samples in this order."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:16]

    def take(self, n: int | float | None, seed: int = 0) -> Split:
        """A stable subset: `n` images (int), a fraction of them (float, above 0 and at most 1), or all (`None`).

        Subsets with the same seed are nested: a larger one contains every smaller one. Each class is sorted by id (a
        hash of the content), so neither the order of the files nor the other classes matter. A `seed` other than 0
        sorts by a hash of the seed and the id instead. Sample k (from 0) of a class with m images gets the rank k/m,
        and the samples with the lowest ranks are taken. So each class keeps its proportion, rounded up, and a subset
        with at least as many images as there are classes contains every class. The samples keep their order. If `n`
        exceeds the number of images, all are taken.

        Of training images with groups, those of a group are taken together as far as possible: fewer labels then mean
        fewer groups, as they would if fewer had been collected. Other splits are taken from all groups alike.

        Raises `UserError` if `n` is 0 or less, or a float above 1.
        """
        if n is None:
            return self
        if n <= 0 or (isinstance(n, float) and not n <= 1):
            raise UserError(
                f"Can't take {n} of the {self.name} images.",
                "Give a number of at least 1, or a fraction of at most 1.0.",
            )

        def salted(name: str) -> str:
            return hashlib.sha256(f"{seed} {name}".encode()).hexdigest() if seed else name

        def sort_key(i: int) -> tuple[str, str]:
            group = self.groups[i] if self.name == "train" else ""
            return hashlib.sha256(f"{seed} {group}".encode()).hexdigest() if group else "", salted(self.ids[i])

        members: dict[str, list[int]] = defaultdict(list)
        for i, label in enumerate(self.labels):
            members[label].append(i)
        chosen: list[int] = []
        ranked: list[tuple[float, str, int]] = []
        for label, rows in members.items():
            rows.sort(key=sort_key)
            if isinstance(n, float):
                chosen += rows[: math.ceil(n * len(rows))]
            ranked += [(k / len(rows), label, i) for k, i in enumerate(rows)]
        if not isinstance(n, float):
            chosen = [i for _, _, i in sorted(ranked)[:n]]
        return Split(self.name, self._rows.select(sorted(chosen)), self._scratch)

    def relabelled(self, labels: Sequence[str | None]) -> Split:
        """The same images with new labels, given in the order of the images; images with the label None are removed."""
        kept = [i for i, label in enumerate(labels) if label is not None]
        rows = self._rows.select(kept).remove_columns("label").add_column("label", [labels[i] for i in kept])
        if any(self.targets[i] and labels[i] != self.labels[i] for i in kept):  # a corrected label is certain
            cells = [written_targets(self.targets[i]) if labels[i] == self.labels[i] else None for i in kept]
            rows = rows.remove_columns("targets").add_column("targets", cells)
        return Split(self.name, rows, self._scratch)

    def named(self, name: str) -> Split:
        """The same images as another split."""
        return Split(name, self._rows, self._scratch)

    def extended(self, files: Sequence[tuple[str, str, str, Mapping[str, float] | None]]) -> Split:
        """The same images followed by others: files, each given as its content id, its class, its path and its targets
        (see `targets`)."""
        from datasets import Dataset, concatenate_datasets

        ids, labels, sources, targets = zip(*files, strict=True)
        columns = {"id": list(ids), "label": list(labels), "source": list(sources), "bytes": [None] * len(files)}
        columns["targets"] = [written_targets(target) for target in targets]
        columns["group"] = [""] * len(files)
        more = Dataset.from_dict(columns, features=self._rows.features)
        return Split(self.name, concatenate_datasets([self._rows, more]), self._scratch)


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images in three splits. `labels` is the class order; `notes` are sentences about what was noticed."""

    uri: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...]
    how_split: str = ""
    """The note on how the images were split."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By split, the number of images whose class the model never learned; see `among`."""

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, validation and test."""
        return self.train, self.validation, self.test

    def split(self, name: str) -> Split:
        """The split called `train`, `validation` or `test`."""
        return {split.name: split for split in self.splits}[name]

    def among(self, labels: Sequence[str]) -> ImageDataset:
        """The images that a model taught these classes can be scored on, with its classes in its order.

        Images of other classes are left out and counted in a note: no answer to them could be right.

        Raises:
            UserError: none of the images is of such a class.
        """
        known = set(labels)
        if known >= set(self.labels):
            return replace(self, labels=tuple(labels))
        splits = [split.relabelled([x if x in known else None for x in split.labels]) for split in self.splits]
        left_out = {a.name: len(a) - len(b) for a, b in zip(self.splits, splits, strict=True) if len(b) < len(a)}
        other = [label for label in self.labels if label not in known]
        if not any(map(len, splits)):
            raise UserError(
                f"None of the images of {self.uri} is of a class that the model was taught. Its classes: "
                f"{', '.join(labels[:10])}. Theirs: {', '.join(other[:10])}.",
                "Use images with the same class names, or evaluate.labels=data.",
            )
        notes = self.notes
        if left_out:
            numbers = ", ".join(f"{number:,} {name}" for name, number in left_out.items())
            shown = ", ".join(other[:5]) + ", ..." * (len(other) > 5)
            notes += (f"Left out: {numbers} images of classes that the model never learned ({shown}).",)
        train, validation, test = splits
        known_only = replace(self, train=train, validation=validation, test=test, left_out=left_out)
        return replace(known_only, labels=tuple(labels), notes=notes)

    def require(self, *names: str, hint: str = "") -> None:
        """Raises UserError, with the hint, if one of the named splits has no images."""
        for name in names:
            if not len(self.split(name)):
                which = " of a class that the model was taught" if self.left_out.get(name) else ""
                raise UserError(f"{self.uri} has no {name} images{which}.", hint)

    def describe(self) -> str:
        """One sentence about the classes and splits, followed by the notes on what is odd, one per line."""
        sizes = ", ".join(f"{len(split):,} {split.name}" for split in self.splits)
        odd = [note for note in self.notes if note != self.how_split]
        return "\n".join([f"{self.uri}: {len(self.labels)} classes; {sizes} images.", *odd])
