"""`annotations:PATH`: labels in the file of an annotation tool or another service (`data.annotations`), or a folder
with such a file, or a `metadata.csv` or `metadata.jsonl`, beside the images, perhaps in one folder for each split.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lensmith.data.annotations import JSON, TEXT, entries_of, format_of, module, names
from lensmith.data.columns import image_name, is_label_name, to_row
from lensmith.data.json_records import first_record
from lensmith.data.locate import Images
from lensmith.data.paths import existing, is_hidden_name
from lensmith.data.source import Columns, Files, Row, Several, Source, count
from lensmith.data.sources.table import files_of, text_rows
from lensmith.data.splitting.column import PATH, Cells, split_column, split_folder
from lensmith.data.splitting.names import meaning_of, split_like
from lensmith.data.text_tables import cells_of
from lensmith.errors import UserError

_BESIDE = ("_classes.csv", "_annotations.coco.json", "metadata.csv", "metadata.jsonl")
"""Names of files that hold the labels of the images beside them."""
_SPLIT = "ml_use"
"""What the field with the split is called in messages."""


def recognises(path: Path) -> bool:
    """A file of a known format, or a folder in which one lies beside the images."""
    return bool(_parts(path)) if path.is_dir() else format_of(path) is not None


def read(location: str, columns: Columns) -> Source:
    """The annotated images. Raises `UserError` if the format isn't known, or an image has several labels."""
    path = existing(location)
    if not path.is_dir():
        notes: list[str] = []
        return Source(_rows(path, columns, Images(columns.folder(path), path.stem), notes), notes=notes)
    parts = _parts(path)
    if not parts:
        raise UserError(f"{path} has no file of annotations.", f"It may be called {', '.join(_BESIDE)}.")
    notes = []
    if "" in parts:
        used: dict[Path, str | None] = {parts[""]: None}
    else:
        meaning = meaning_of(parts, columns.splits, str(path))
        used = {parts[name]: split for name, split in meaning.splits.items()}
        if meaning.unused:
            notes.append(f"Splits of the dataset that aren't used: {', '.join(meaning.unused)}.")
    return Source(_beside(used, columns, notes), notes=notes)


def files(location: str, columns: Columns) -> Files | None:
    """The files of annotations, and the existing images that they name."""
    path = existing(location)
    tables = list(_parts(path).values()) if path.is_dir() else [path]
    folder = path if path.is_dir() else path.parent
    found = files_of(folder, tables, read(location, columns).rows)
    return Files(location, found) if path.is_dir() else Files.beside(location, found)


def _parts(root: Path) -> dict[str, Path]:
    """The files of annotations in a folder or in its folders of splits, by the name of the split's folder."""
    if file := _beside_images(root):
        return {"": file}
    try:
        inner = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden_name(entry.name))
    except OSError:
        return {}
    return {name: file for name in inner if split_like(name) and (file := _beside_images(root / name))}


def _beside_images(folder: Path) -> Path | None:
    found = [folder / name for name in _BESIDE if (folder / name).is_file()]
    found = [file for file in found if not file.name.startswith("metadata.") or _has_labels(file)]
    if len(found) > 1:
        raise UserError(
            f"{folder} has two files of labels: {found[0].name} and {found[1].name}.", "Give the path of one of them."
        )
    return found[0] if found else None


def _has_labels(table: Path) -> bool:
    """Whether a table names both images and labels. Other metadata lies beside images whose folders are classes."""
    try:
        csv = table.suffix == ".csv"
        header = next(cells_of(table), (0, []))[1] if csv else list(first_record(table) or {})
    except (OSError, UserError):
        return False
    return bool(image_name(header)) and any(map(is_label_name, header))


def _beside(parts: dict[Path, str | None], columns: Columns, notes: list[str]) -> Iterator[Row]:
    """The images of all files, and a note on the images beside them that none names."""
    used, there = set(), set()
    for file, split in parts.items():
        images = Images(columns.folder(file))
        for row in _rows(file, columns, images, notes, split):
            used.add(row.source)
            yield row
        there |= images.files()
    if unnamed := len(there - used):
        notes.append(f"Without a line in the table of labels, ignored: {count(unnamed, 'image')}.")


def _rows(path: Path, columns: Columns, images: Images, notes: list[str], split: str | None = None) -> Iterable[Row]:
    """The images of one file, all of the given split, if any."""
    format_ = format_of(path)
    if not format_:
        if path.name.startswith("metadata."):
            return text_rows(path, columns, notes, split)
        known = ", ".join(module(name).TITLE for name in names())
        raise UserError(
            f"{path} isn't a file of annotations that Lensmith knows.",
            f"It reads {known}; they end in {', '.join(sorted(JSON | TEXT))}. Write table:PATH for any other table.",
        )
    several, cells, picked = Several(columns.several), Cells(), []
    for entry in entries_of(path, format_, columns.label, columns.image):
        label = several.pick(entry.labels, entry.where)
        if label is not None:
            cells.add(_SPLIT, entry.split)
            cells.add_path(entry.image)
            picked.append((entry, label))
    notes += several.notes()
    column = split_column(cells, columns, path.name) if split is None else None
    if column and column.note:
        notes.append(column.note)
    rows = []
    for entry, label in picked:
        text: str | None = split or ""
        if column:
            text = column.of(split_folder(entry.image) if column.name == PATH else entry.split)
        if text is not None:
            rows.append(to_row(entry.image, label, entry.where, images, text))
    return rows
