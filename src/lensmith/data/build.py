"""From a source's rows to an `ImageDataset`: ids, splits, checks, and the memory-mapped table.

Rows stream once through `_write` into an Arrow file in a fresh temporary folder. A cache keyed by the folder's name
would be quicker to reopen, and wrong as soon as an image changes: the content has to be read to know, so it is read.
Images that lie in files are stored by path; images from tables and archives are copied into that file, so for large
ones `TMPDIR` should point at a disk with room for them. The folder goes when the dataset is no longer used.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lensmith.data.dataset import ImageDataset, Scratch, Split
from lensmith.data.source import PARTS, Row, Source, count, natural_key
from lensmith.errors import UserError

_BATCH_ROWS, _BATCH_BYTES = 1000, 32 << 20


def content_id(row: Row) -> str:
    """First 16 hex digits of the SHA-256 of the encoded image.

    A file that can't be read is known by its place instead: it stays a sample, and `Split.image` says what is wrong.
    """
    if row.data is not None:
        return hashlib.sha256(row.data).hexdigest()[:16]
    try:
        if os.path.isfile(row.source):  # opening a pipe would wait for ever
            with open(row.source, "rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError:
        pass
    return hashlib.sha256(b"unreadable:" + row.source.encode()).hexdigest()[:16]


def held_out(digest: str, part: str, share: float) -> bool:
    """Whether the image with this content id falls into the `share` (0 to 1) that is held out for `part`."""
    salted = hashlib.sha256(part.encode() + digest.encode()).digest()
    return int.from_bytes(salted[:8], "big") / 2**64 < share


def assign_split(digest: str, own: str, has: Collection[str], *, validation: float, test: float) -> str:
    """The part of an image with content id `digest`, where the source says `own` and has the parts `has`.

    A part that the source has is kept as it is; only what it lacks is cut, and only from what is for training. The
    cut depends on nothing but the image's own content: adding images moves none, and exact copies stay together.
    Every class is cut at the same share, so the parts are stratified in expectation, not exactly: the number of
    held-out images of a small class varies as if drawn by lot. Of the whole, `test` and `validation` are the shares;
    where the source has its own test part, `validation` is the share of the rest.
    """
    if own in ("validation", "test"):
        return own
    if "test" not in has:
        if held_out(digest, "test", test):
            return "test"
        validation /= 1 - test
    return "validation" if "validation" not in has and held_out(digest, "validation", validation) else "train"


@dataclass
class _Table:
    """What is kept in memory of the rows written: one short entry each."""

    digests: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)  # content id -> first row that has it
    unreadable: list[str] = field(default_factory=list)  # files
    disputed: dict[str, int] = field(default_factory=dict)  # content id -> first row that gives it another label


def build_dataset(
    uri: str, source: Source, *, class_names: Sequence[str] | None, validation: float, test: float
) -> ImageDataset:
    """Read all rows of `source`, check them and divide them. Raises `UserError`; see `open_dataset`."""
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]

    scratch = Scratch()
    file = scratch.path / "rows.arrow"
    table = _write(source, file, _namer(source.names, class_names))
    if not table.labels:
        raise UserError(f"No images in {uri}.", "Check that this is the right place and the right kind of dataset.")
    if len(table.unreadable) == len(table.labels):
        raise UserError(
            f"None of the {len(table.labels):,} image files of {uri} can be read, such as {table.unreadable[0]}.",
            "Check that the files are there; paths in a table are relative to its folder.",
        )
    if class_names is not None and source.names is None:
        _check_length(class_names, table.labels)
    rows = Dataset.from_file(str(file))
    has = set(table.parts)
    parts = [
        assign_split(digest, own, has, validation=validation, test=test)
        for digest, own in zip(table.digests, table.parts, strict=True)
    ]
    trainable = not has <= {"validation", "test"}
    labels, notes = _class_order(table.labels, class_names or source.names)
    _check_classes(table.labels, parts, labels, trainable, cut="test" not in has or "validation" not in has)

    where: dict[str, list[int]] = {part: [] for part in PARTS}
    for i, part in enumerate(parts):
        where[part].append(i)
    train, valid, tested = (Split(part, rows.select(where[part]), scratch) for part in PARTS)
    notes = [*source.notes, *notes, _split_note(has, trainable, validation, test)]
    notes += _singles_note(table.labels) + _file_notes(table, parts, rows["source"])
    return ImageDataset(uri, labels, train, valid, tested, tuple(notes))


def _write(source: Source, file: Path, name: Callable[[Row], str]) -> _Table:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    schema = pa.schema({"id": pa.string(), "label": pa.string(), "source": pa.string(), "bytes": pa.binary()})
    table = _Table()
    batch: list[tuple[str, str, str, bytes | None]] = []
    held = 0
    with pa.ipc.new_stream(str(file), schema) as writer:

        def flush() -> None:
            columns = list(zip(*batch, strict=True))
            writer.write_batch(pa.record_batch([list(column) for column in columns], schema=schema))
            batch.clear()

        for i, row in enumerate(source.rows):
            label, digest = name(row), content_id(row)
            first = table.first.setdefault(digest, i)
            if first != i and table.labels[first] != label:
                table.disputed.setdefault(digest, i)
            table.copies[digest] += 1
            if row.data is None and not os.access(row.source, os.R_OK):
                table.unreadable.append(row.source)
            table.digests.append(digest)
            table.labels.append(label)
            table.parts.append(row.part)
            number = table.copies[digest]
            batch.append((digest if number == 1 else f"{digest}-{number}", label, row.source, row.data))
            held += len(row.data or b"")
            if len(batch) == _BATCH_ROWS or held >= _BATCH_BYTES:
                flush()
                held = 0
        if batch:
            flush()
    return table


def _namer(own: tuple[str, ...] | None, given: Sequence[str] | None) -> Callable[[Row], str]:
    """The function from a row to its class name: numbers count into the names given, or else the source's own."""
    if own is not None and given is not None and len(own) != len(given):
        raise UserError(
            f"class_names has {count(len(given), 'name')}, but the dataset has {len(own)} classes.",
            f"Give one name for each, in the order of: {', '.join(own)}.",
        )
    names = given if given is not None else own

    def name(row: Row) -> str:
        label = row.label
        if given is not None and isinstance(label, str):
            if own is not None and label in own:
                label = own.index(label)
            elif label.strip().isdecimal():
                label = int(label)
            else:
                raise UserError(
                    f"class_names is for numbered classes, but {row.source} has the label {label!r}.",
                    "Leave class_names away.",
                )
        if isinstance(label, int) and names is not None:
            if not 0 <= label < len(names):
                raise UserError(
                    f"{row.source} has the label {label}, but there are names for 0 to {len(names) - 1}.",
                    "Give class_names one name for each class, in the order of their numbers.",
                )
            return names[label]
        label = str(label)
        if not label.strip():
            raise UserError(f"{row.source} has an empty label.", "Give every image a label, or remove it.")
        return label

    return name


def _check_length(names: Sequence[str], labels: Sequence[str]) -> None:
    used = max(names.index(label) for label in set(labels)) + 1
    if used != len(names):
        raise UserError(
            f"class_names has {count(len(names), 'name')}, but the highest label is {used - 1}.",
            "Give one name for each class, the first for the class numbered 0.",
        )


def _class_order(found: Sequence[str], order: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """The classes that have images, in the source's order or else sorted naturally; and a note on those without."""
    used = set(found)
    if order is None:
        return tuple(sorted(used, key=natural_key)), []
    missing = [name for name in order if name not in used]
    notes = [f"Classes without any image, left out: {', '.join(missing)}."] if missing else []
    known = [name for name in order if name in used]
    return tuple(known + sorted(used - set(known), key=natural_key)), notes


def _check_classes(
    found: Sequence[str], parts: Sequence[str], labels: Sequence[str], trainable: bool, *, cut: bool
) -> None:
    written: dict[str, str] = {}
    for label in labels:
        # NFKC: two file systems may spell the same accented name with different code points.
        key = "".join(unicodedata.normalize("NFKC", label).casefold().split())
        if (other := written.setdefault(key, label)) != label:
            raise UserError(
                f"Two labels differ only in case or spaces: {other!r} and {label!r}.",
                "Rename one to the other if they are the same class, or give them different names.",
            )
    if not trainable:  # a set to evaluate on may hold any classes
        return
    if len(labels) == 1:
        raise UserError(
            f"There is only one class, {labels[0]!r}.", "A classifier needs two: add images of what it isn't."
        )
    train = {label for label, part in zip(found, parts, strict=True) if part == "train"}
    if lost := [label for label in labels if label not in train]:
        names = f"class{'es' if len(lost) > 1 else ''} {', '.join(map(repr, lost[:5]))}{', ...' * (len(lost) > 5)}"
        raise UserError(
            f"No training image is left for the {names}: all fell into validation or test."
            if cut
            else f"The training part has no image of the {names}.",
            "Add more images of it, or hold out fewer (a smaller validation or test share)."
            if cut
            else "Add training images of it, or remove it from the other parts.",
        )


def _split_note(has: set[str], trainable: bool, validation: float, test: float) -> str:
    if not trainable:
        return "No training part: this dataset can be evaluated on, not trained on."
    said = [f"the source's own {part} part is kept" for part in ("validation", "test") if part in has]
    said += [
        f"{share * 100:g}% of the images are cut off for {part} by their content hash"
        for part, share in (("validation", validation), ("test", test))
        if part not in has and share > 0
    ]
    return f"Split: {'; '.join(said) or 'nothing is held out'}."


def _singles_note(found: Sequence[str]) -> list[str]:
    single = sorted((label for label, number in Counter(found).items() if number == 1), key=natural_key)
    return [f"Only one image: {', '.join(single)}. Such a class can be trained or tested, not both."] if single else []


def _file_notes(table: _Table, parts: Sequence[str], sources: Sequence[str]) -> list[str]:
    notes = []
    if table.unreadable:
        notes.append(f"Can't be read: {count(len(table.unreadable), 'file')}, such as {table.unreadable[0]}.")
    if extra := len(table.digests) - len(table.first):
        notes.append(f"Exact copies: {count(extra, 'image')} repeat another image byte for byte.")
    if table.disputed:
        digest, i = next(iter(table.disputed.items()))
        notes.append(
            f"Copies under different labels: {count(len(table.disputed), 'image')}, "
            f"such as {sources[table.first[digest]]} and {sources[i]}."
        )
    tested = {digest for digest, part in zip(table.digests, parts, strict=True) if part == "test"}
    leaked = sum(digest in tested for digest, part in zip(table.digests, parts, strict=True) if part == "train")
    if leaked:
        notes.append(f"Copies of test images in the training part: {leaked:,}. Test results will look too good.")
    return notes
