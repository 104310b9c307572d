"""From a source's rows to an `ImageDataset`: ids, splits, checks, and the memory-mapped table.

`_write` streams the rows once into an Arrow file in a new temporary folder. A cache keyed by the folder's name would be
quicker to reopen, but wrong as soon as an image changes. Only reading the content shows a change, so it is always read.
Images in files are stored by path. Images from tables and archives are copied into the Arrow file, so for large ones
`TMPDIR` should be on a disk with enough space. The folder is removed when the dataset is no longer used.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lensmith.data.dataset import ImageDataset, Scratch, Split, written_targets
from lensmith.data.paths import natural_key
from lensmith.data.source import Row, Source, count
from lensmith.data.splitting.groups import group_notes, group_pattern, units
from lensmith.data.splitting.holdout import assign_splits
from lensmith.data.splitting.names import SPLITS
from lensmith.errors import UserError
from lensmith.progress import Tell, counter, silent

_BATCH_ROWS, _BATCH_BYTES = 1000, 32 << 20
_CHUNK = 1 << 20  # bytes read from a file at once
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # opening a pipe would block forever
_SHOWN = 100  # rows between two reports of progress
_LEAKS = (
    ("test", "train", "Test results will look too good."),
    ("test", "validation", "Test results will look too good."),
    ("validation", "train", "Settings are chosen by what was learned."),
)


def content_id(row: Row) -> str:
    """First 16 hex digits of the SHA-256 of the encoded image.

    For a file that can't be read, the path is hashed instead. It remains a sample, and `Split.image` raises the error.
    """
    return _digest(row) or hashlib.sha256(b"unreadable:" + row.source.encode()).hexdigest()[:16]


def _digest(row: Row) -> str:
    """The content id, or an empty string if the file can't be read."""
    if row.data is not None:
        return hashlib.sha256(row.data).hexdigest()[:16]
    try:
        handle = os.open(row.source, _READ)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        digest = hashlib.sha256()
        while chunk := os.read(handle, _CHUNK):
            digest.update(chunk)
        return digest.hexdigest()[:16]
    except OSError:
        return ""
    finally:
        os.close(handle)


@dataclass
class _Table:
    """What stays in memory of the rows written: one short entry per row in each list."""

    contents: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)  # as the source gives them
    groups: list[str] = field(default_factory=list)  # empty for an image without a group
    copies: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)  # content id -> first row with that content
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # files, with their labels
    conflicts: dict[str, int] = field(default_factory=dict)  # content id -> first row with a different label


def build_dataset(
    uri: str,
    source: Source,
    *,
    class_names: Sequence[str] | None,
    validation: float,
    test: float,
    group: str | None = None,
    tell: Tell = silent,
) -> ImageDataset:
    """Read all rows of `source`, check them and split them. Raises `UserError`; see `open_dataset`."""
    import numpy as np
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]

    scratch = Scratch()
    file = scratch.path / "rows.arrow"
    try:
        name, group_of = _namer(source.names, class_names), group_pattern(group, uri)
        table = _write(source, file, name, group_of, counter("reading images", 0, tell))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise UserError(
            f"The images can't be copied to the temporary folder {scratch.path}: {os.strerror(error.errno)}.",
            "Set TMPDIR to a folder with more space.",
        ) from None
    if not table.labels:
        raise UserError(f"No images in {uri}.", "Check the path and the kind of dataset.")
    _check_files(table, uri)
    if group and not any(table.groups):
        raise UserError(
            f"data.group={group} names no group of any image in {uri}, for example of {_example(file)}.",
            "Give a column of the table, or a pattern that occurs in the images' paths, such as (house[0-9]+)_.",
        )
    if class_names is not None and source.names is None:
        _check_length(class_names, table.labels)
    rows = Dataset.from_file(str(file))
    source_splits = set(table.splits)
    test = 0.0 if source.by_models else test
    kept_together = units(table.contents, table.groups)
    splits = assign_splits(kept_together, table.labels, table.splits, validation=validation, test=test)
    trainable = not source_splits <= {"validation", "test"}
    labels, notes = _class_order(table.labels, class_names or source.names)
    _check_classes(table.labels, splits, labels, trainable)

    indices: dict[str, list[int]] = {split: [] for split in SPLITS}
    for i, split in enumerate(splits):
        indices[split].append(i)
    # As arrays: of a list, `datasets` hashes each number by itself.
    chosen = (rows.select(np.array(indices[name], dtype=np.int64)) for name in SPLITS)
    train_split, validation_split, test_split = (
        Split(name, s, scratch) for name, s in zip(SPLITS, chosen, strict=True)
    )
    how_split = _split_note(source_splits, trainable, validation, test)
    notes = [*source.notes, *notes, how_split]
    notes += group_notes(table.groups, splits)
    notes += _singles_note(table.labels, splits) + _file_notes(table, splits, rows["source"])
    return ImageDataset(uri, labels, train_split, validation_split, test_split, tuple(notes), how_split)


def _write(
    source: Source,
    file: Path,
    name: Callable[[Row], str],
    group_of: Callable[[str], str],
    progress: Callable[[int], None],
) -> _Table:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    text = dict.fromkeys(("id", "label", "source"), pa.string())
    schema = pa.schema(text | {"bytes": pa.binary(), "targets": pa.string(), "group": pa.string()})
    table = _Table()
    batch: list[tuple[str, str, str, bytes | None, str | None, str]] = []
    buffered_bytes = 0
    with pa.ipc.new_stream(str(file), schema) as writer:

        def flush() -> None:
            columns = list(zip(*batch, strict=True))
            writer.write_batch(pa.record_batch([list(column) for column in columns], schema=schema))
            batch.clear()

        for i, row in enumerate(source.rows):
            label, digest = name(row), _digest(row)
            content = digest or content_id(row)
            first = table.first.setdefault(content, i)
            if first != i and table.labels[first] != label:
                table.conflicts.setdefault(content, i)
            table.copies[content] += 1
            if not digest:
                table.unreadable.append((row.source, label))
            table.contents.append(content)
            table.labels.append(label)
            table.splits.append(row.split)
            table.groups.append(row.group or group_of(row.source))
            number = table.copies[content]
            batch.append(
                (
                    content if number == 1 else f"{content}-{number}",
                    label,
                    row.source,
                    row.data,
                    written_targets(row.targets),
                    table.groups[-1],
                )
            )
            buffered_bytes += len(row.data or b"")
            if i % _SHOWN == 0:
                progress(i)
            if len(batch) == _BATCH_ROWS or buffered_bytes >= _BATCH_BYTES:
                flush()
                buffered_bytes = 0
        if batch:
            flush()
    return table


def _check_files(table: _Table, uri: str) -> None:
    """Refuse a dataset, or a class, of which no file can be read."""
    lost, numbers = Counter(label for _, label in table.unreadable), Counter(table.labels)
    for file, label in table.unreadable:
        if lost[label] == numbers[label]:
            everything = len(table.unreadable) == len(table.labels)
            what = uri if everything else f"the class {label!r}"
            raise UserError(
                f"None of the {count(len(table.labels) if everything else lost[label], 'image file')} of {what} can be "
                f"read, for example {file}.",
                "Check that the files exist, and their permissions. Paths in a table are relative to its folder, or to "
                "data.images.",
            )


def _namer(source_names: tuple[str, ...] | None, given: Sequence[str] | None) -> Callable[[Row], str]:
    """The function from a row to its class name. A number is an index into `given`, or else into `source_names`."""
    if source_names is not None and given is not None and len(source_names) != len(given):
        raise UserError(
            f"class_names has {count(len(given), 'name')}, but the dataset has {len(source_names)} classes.",
            f"Give one name for each, in the order of: {', '.join(source_names)}.",
        )
    names = given if given is not None else source_names

    def name(row: Row) -> str:
        label = row.label
        if given is not None and isinstance(label, str):
            if source_names is not None and label in source_names:
                label = source_names.index(label)
            elif label.strip().isdecimal():
                label = int(label)
            else:
                raise UserError(
                    f"class_names is for numbered classes, but {row.source} has the label {label!r}.",
                    "Remove class_names.",
                )
        if isinstance(label, int) and names is not None:
            if not 0 <= label < len(names):
                raise UserError(
                    f"{row.source} has the label {label}, but there are only names for 0 to {len(names) - 1}.",
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
            "Give one name for each class, starting with class 0.",
        )


def _class_order(labels: Sequence[str], order: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """The classes that have images, in the given order or else in natural order; and a note on classes without any."""
    used = set(labels)
    if order is None:
        return tuple(sorted(used, key=natural_key)), []
    missing = [name for name in order if name not in used]
    notes = [f"Classes without any image, ignored: {', '.join(missing)}."] if missing else []
    known = [name for name in order if name in used]
    return tuple(known + sorted(used - set(known), key=natural_key)), notes


def _check_classes(labels: Sequence[str], splits: Sequence[str], classes: Sequence[str], trainable: bool) -> None:
    """Refuse classes that can't be distinguished or trained. `labels` and `splits` have one entry per image."""
    spellings: dict[str, str] = {}
    for name in classes:
        # NFKC: two file systems may spell the same accented name with different code points.
        key = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        if (other := spellings.setdefault(key, name)) != name:
            raise UserError(
                f"Two labels differ only in case or spaces: {other!r} and {name!r}.",
                "Rename one to the other if they are the same class, or give them different names.",
            )
    if not trainable:  # a dataset that is only evaluated on may have any classes
        return
    if len(classes) == 1:
        raise UserError(
            f"There is only one class, {classes[0]!r}.",
            "A classifier needs at least two: add images that don't belong to this class.",
        )
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    if lost := [name for name in classes if name not in trained]:
        names = f"class{'es' if len(lost) > 1 else ''} {', '.join(map(repr, lost[:5]))}{', ...' * (len(lost) > 5)}"
        raise UserError(
            f"The training split has no image of the {names}.",
            "Add training images, or remove these images from the other splits.",
        )


def _split_note(source_splits: set[str], trainable: bool, validation: float, test: float) -> str:
    if not trainable:
        return "No training split: this dataset can be evaluated on, not trained on."
    clauses = [f"the source's {name} split is kept" for name in ("validation", "test") if name in source_splits]
    clauses += [
        f"{fraction * 100:g}% of the images are held out for {name} by content hash"
        for name, fraction in (("validation", validation), ("test", test))
        if name not in source_splits and fraction > 0
    ]
    return f"Split: {'; '.join(clauses) or 'nothing is held out'}."


def _example(file: Path) -> str:
    """Where the first image of a written table comes from."""
    from datasets import Dataset

    return str(Dataset.from_file(str(file))[0]["source"])


def _singles_note(labels: Sequence[str], splits: Sequence[str]) -> list[str]:
    number = Counter(labels)
    alone = (label for label, split in zip(labels, splits, strict=True) if number[label] == 1 and split == "train")
    single = sorted(alone, key=natural_key)
    if not single:
        return []
    shown = ", ".join(single[:5]) + ", ..." * (len(single) > 5)
    return [f"Only one image, for training: {count(len(single), 'class', 'classes')} ({shown}). They can't be tested."]


def _file_notes(table: _Table, splits: Sequence[str], sources: Sequence[str]) -> list[str]:
    notes = []
    if table.unreadable:
        example, _ = table.unreadable[0]
        notes.append(f"Can't be read: {count(len(table.unreadable), 'file')}, for example {example}.")
    if extra := len(table.contents) - len(table.first):
        notes.append(f"Exact copies: {count(extra, 'image')} repeat another image byte for byte.")
    if table.conflicts:
        content, i = next(iter(table.conflicts.items()))
        notes.append(
            f"Copies under different labels: {count(len(table.conflicts), 'image')}, "
            f"for example {sources[table.first[content]]} and {sources[i]}."
        )
    rows = list(zip(table.contents, splits, strict=True))
    for first, second, harm in _LEAKS:
        held = {content for content, split in rows if split == first}
        if leaked := sum(content in held for content, split in rows if split == second):
            name = second.replace("train", "training")
            notes.append(f"Copies of {first} images in the {name} split: {leaked:,}. {harm}")
    return notes
