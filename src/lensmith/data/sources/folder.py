"""`folder:PATH`: one folder of images per class, with or without train, validation and test folders above them.

Lensmith walks the folder itself. The `imagefolder` builder of `datasets` drops the label if there is only one class
folder, and its caching rules are hard to predict.

An image belongs to the folder directly below the root (or below its train, validation or test folder), however deeply
it is nested: `cats/2024/tom.jpg` belongs to `cats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lensmith.data.images import IMAGE_SUFFIXES, is_image
from lensmith.data.paths import existing, is_hidden, visible_files, walk
from lensmith.data.source import Columns, Files, Row, Source, count, split_name
from lensmith.errors import UserError


def recognises(path: Path) -> bool:
    """Any folder."""
    return path.is_dir()


def read(location: str, columns: Columns) -> Source:
    """The images of all class folders. Raises `UserError` if there are none, or the layout is ambiguous."""
    root = _root(location)
    images, notes = _survey(root)
    if not images:
        raise UserError(
            f"No images in the folder {root}.",
            f"Put each class in a separate folder. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    depth = 1 if _has_splits(root, images) else 0
    stray = sum(number for (_, folders), number in images.items() if folders <= depth)
    if stray == images.total():
        raise UserError(
            f"The images in {root} aren't in class folders.",
            "Put the images of each class in a folder that has the name of the class.",
        )
    if stray:
        notes.append(f"Outside any class folder, ignored: {count(stray, 'image')}.")
    return Source(_rows(root, depth), notes=notes)


def files(location: str, columns: Columns) -> Files | None:
    """All image files in the folder, including those outside class folders, which `read` counts in a note."""
    return Files(location, {name: path for name, path in visible_files(_root(location)).items() if is_image(path)})


def _root(location: str) -> Path:
    root = existing(location)
    if not root.is_dir():
        raise UserError(f"{location} is a file, not a folder.", "Give the folder that contains the class folders.")
    return root


def _rows(root: Path, depth: int) -> Iterator[Row]:
    for path in walk(root):
        names = path.relative_to(root).parts
        if is_image(path) and not is_hidden(path, root) and len(names) > depth + 1:
            yield Row(names[depth], str(path), split=split_name(names[0]) if depth else "")


Survey = Counter[tuple[str, int]]
"""Number of images by top-level folder ("" for none) and by how many folders below the root they are: 0, 1, or 2 for
two or more."""


def _survey(root: Path) -> tuple[Survey, list[str]]:
    """Count the images in a first walk that keeps no paths; and notes on the files that aren't images."""
    images: Survey = Counter()
    others: Counter[str] = Counter()
    hidden = 0
    for path in walk(root):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"A file name isn't valid UTF-8: {str(path)!r}", "Rename the file or its folder.") from None
        names = path.relative_to(root).parts
        if is_hidden(path, root):
            hidden += 1
        elif is_image(path):
            images[names[0] if len(names) > 1 else "", min(len(names) - 1, 2)] += 1
        else:
            others[path.suffix.lower() or "no extension"] += 1
    notes = []
    if others:
        extensions = ", ".join(extension for extension, _ in others.most_common(5))
        notes.append(f"Not images by their extension, ignored: {count(others.total(), 'file')} ({extensions}).")
    if hidden:
        notes.append(f"Hidden, ignored: {count(hidden, 'file')}.")
    return images, notes


def _has_splits(root: Path, images: Survey) -> bool:
    """Whether the folders of `root` are train, validation and test splits rather than classes."""
    folders = {name for name, _ in images if name}
    named_as_split = {name for name in folders if split_name(name)}
    if folders and named_as_split == folders:
        return True
    # A folder `train` full of images beside `bus` is a class of vehicles; one that contains only folders is a split.
    if splits := sorted(name for name in named_as_split if (name, 1) not in images):
        other = min(folders - named_as_split)
        raise UserError(
            f"{root} has both splits ({', '.join(splits)}) and other folders ({other!r}).",
            "At the top, keep either only train, validation and test folders or only class folders.",
        )
    return False
