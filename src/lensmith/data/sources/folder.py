"""`folder:PATH`: one folder of images per class, with or without splits; see `splitting.layout`.

Lensmith walks the folder itself. The `imagefolder` builder of `datasets` drops the label if there is only one class
folder, and its caching rules are hard to predict.

An image belongs to the class folder that it is in, however deeply it is nested: `cats/2024/tom.jpg` belongs to `cats`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lensmith.data.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, is_image, is_unreadable_image, suffix_of
from lensmith.data.paths import EMPTY, existing, is_hidden, is_hidden_name, visible_files, walk_folders
from lensmith.data.source import Columns, Files, Row, Source, count
from lensmith.data.splitting.layout import Layout, Place, Tree, layout_of
from lensmith.errors import UserError

_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".manifest", ".parquet"}


def recognises(path: Path) -> bool:
    """Any folder."""
    return path.is_dir()


def read(location: str, columns: Columns) -> Source:
    """The images of all class folders.

    Raises:
        UserError: there are none; the layout is ambiguous; or a class folder can't be listed, or none of its images
            can be read.
    """
    root = _root(location)
    found = _survey(root)
    if not found.images:
        kinds = ", ".join(sorted({suffix for kinds in found.unreadable.values() for suffix in kinds}))
        hint = _how_to_read(kinds) if kinds else "Put each class in a separate folder."
        raise UserError(
            f"No images in the folder {root}{f' that can be read ({kinds})' if kinds else ''}.",
            f"{hint} Images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    try:
        layout = layout_of(root, Tree(found.images), columns.splits)
    except UserError as error:
        raise UserError(error.what, f"{error.hint}{found.tables(root)}") from None
    outside = sum(number for place, number in found.images.items() if not layout.of(place))
    if outside == found.images.total():
        more = ", or write data.splits={} if these folders are classes" if any(layout.tops.values()) else ""
        raise UserError(
            f"The images in {root} aren't in class folders.",
            f"Put the images of each class in a folder that has the name of the class{more}.{found.tables(root)}",
        )
    notes = [*found.notes(root, layout), *layout.notes]
    classes = {placed[0] for place in found.images if (placed := layout.of(place))}
    if len(classes) == 1 and (tables := found.tables(root)):
        raise UserError(f"All images in {root} are in one folder, {classes.pop()!r}.", tables.strip())
    if outside and not layout.notes:
        notes.append(f"Outside any class folder, ignored: {count(outside, 'image')}.")
    return Source(_rows(root, layout), notes=notes)


def files(location: str, columns: Columns) -> Files | None:
    """All image files in the folder, including those outside class folders, which `read` counts in a note."""
    return Files(location, {name: path for name, path in visible_files(_root(location)).items() if is_image(path)})


def _root(location: str) -> Path:
    root = existing(location)
    if not root.is_dir():
        raise UserError(f"{location} is a file, not a folder.", "Give the folder that contains the class folders.")
    return root


def _rows(root: Path, layout: Layout) -> Iterator[Row]:
    for folder, place, files in walk_folders(root):
        if any(map(is_hidden_name, place)) or not (found := layout.of(place)):
            continue
        label, split = found
        for name in files:
            if is_image(name) and not is_hidden_name(name):
                yield Row(label, os.path.join(folder, name), split=split)


@dataclass
class _Survey:
    """What a first walk finds, which keeps no paths of images."""

    images: Counter[Place] = field(default_factory=Counter)
    """Number of images directly in each folder."""
    unreadable: dict[Place, Counter[str]] = field(default_factory=dict)
    """Extensions of images of a kind that can't be read, in each folder."""
    others: Counter[str] = field(default_factory=Counter)
    """Extensions of other files."""
    hidden: int = 0
    folders: dict[Path, str] = field(default_factory=dict)
    """Folders without files, and why."""

    def tables(self, root: Path) -> str:
        """A sentence on the tables in the folder, one of which may hold the labels; empty if there is none."""
        names = [
            path.relative_to(root).as_posix()
            for path in sorted([*root.glob("*"), *root.glob("*/*")])
            if suffix_of(path) in _TABLES and not is_hidden(path, root)
        ]
        if not names:
            return ""
        usual = next((name for name in names if name.rpartition("/")[2].startswith("train")), names[0])
        return f" If the labels are in a table ({', '.join(names[:5])}), give that: {root / usual}."

    def notes(self, root: Path, layout: Layout) -> list[str]:
        """Sentences on what isn't used. Raises `UserError` if a class would lose all its images."""
        classes = {found[0] for place in self.images if (found := layout.of(place))}
        for folder, reason in self.folders.items():
            label = layout.of(folder.relative_to(root).parts)
            if reason != EMPTY and label and label[0] not in classes:
                raise UserError(f"The class folder {folder} can't be listed: {reason}.", "Check its permissions.")
        for place, kinds in self.unreadable.items():
            label = layout.of(place)
            if label and label[0] not in classes:
                suffixes = ", ".join(kinds)
                raise UserError(
                    f"None of the images of the class {label[0]!r} can be read: {root.joinpath(*place)} has "
                    f"{count(kinds.total(), 'file')} that end in {suffixes}.",
                    f"{_how_to_read(suffixes)} Or move the folder elsewhere.",
                )
        notes = []
        unlisted = {folder: reason for folder, reason in self.folders.items() if reason != EMPTY}
        if unlisted:
            folder, reason = next(iter(unlisted.items()))
            notes.append(
                f"Can't be listed, ignored: {count(len(unlisted), 'folder')}, for example {folder} ({reason})."
            )
        if empty := [str(folder.relative_to(root)) for folder in self.folders if folder not in unlisted]:
            shown = ", ".join(empty[:5]) + ", ..." * (len(empty) > 5)
            notes.append(f"Empty, ignored: {count(len(empty), 'folder')} ({shown}).")
        others = self.others + sum(self.unreadable.values(), Counter[str]())
        if others:
            extensions = ", ".join(extension for extension, _ in others.most_common(5))
            notes.append(f"Not images by their extension, ignored: {count(others.total(), 'file')} ({extensions}).")
        if self.hidden:
            notes.append(f"Hidden, ignored: {count(self.hidden, 'file')}.")
        return notes


def _survey(root: Path) -> _Survey:
    found = _Survey()
    _require_text(str(root))

    def odd(folder: Path, reason: str) -> None:
        if folder != root and not is_hidden(folder, root):
            found.folders[folder] = reason

    for folder, place, files in walk_folders(root, odd, ordered=False):
        if any(map(is_hidden_name, place)):
            found.hidden += len(files)
            continue
        for name in files:
            _require_text(name, folder)
            if is_hidden_name(name):
                found.hidden += 1
            elif is_image(name):
                found.images[place] += 1
            elif is_unreadable_image(name):
                found.unreadable.setdefault(place, Counter())[suffix_of(name)] += 1
            else:
                found.others[suffix_of(name) or "no extension"] += 1
    return found


def _require_text(name: str, folder: str = "") -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        hint = "Rename the file or its folder."
        if sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
            hint = "Python takes file names for ASCII here: set PYTHONUTF8=1, or LC_ALL=C.UTF-8."
        raise UserError(f"A file name isn't valid UTF-8: {os.path.join(folder, name)!r}.", hint) from None


def _how_to_read(suffixes: str) -> str:
    if HEIF_SUFFIXES & set(suffixes.split(", ")):
        return "To read photos of phones, run: pip install 'lensmith[heic]'."
    return "Convert them to JPEG or PNG."
