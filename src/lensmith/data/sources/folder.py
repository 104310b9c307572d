"""`folder:PATH`: one folder of images for each class, with or without train, validation and test folders above.

The table is built from a directory walk of our own. The `imagefolder` builder of `datasets` drops the label when
there is only one class folder, and caches by rules that we would have to second-guess.

An image belongs to the folder just below the root (or below its train, validation or test folder), however deep it
lies: `cats/2024/tom.jpg` is one of `cats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lensmith.data.images import IMAGE_SUFFIXES, is_hidden, is_image, walk
from lensmith.data.source import Columns, Row, Source, count, existing, part_name
from lensmith.errors import UserError


def recognises(path: Path) -> bool:
    """Any folder."""
    return path.is_dir()


def read(location: str, columns: Columns) -> Source:
    """The images of all class folders. Raises `UserError` if there are none, or the layout is ambiguous."""
    root = existing(location)
    if not root.is_dir():
        raise UserError(f"{location} is a file, not a folder.", "Give the folder that holds the class folders.")
    found, notes = _survey(root)
    if not found:
        raise UserError(
            f"No images in the folder {root}.",
            f"Put each class in a folder of its own. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    depth = 1 if _has_parts(root, found) else 0
    stray = sum(number for (_, folders), number in found.items() if folders <= depth)
    if stray == found.total():
        raise UserError(
            f"The images in {root} aren't in class folders.",
            "Put the images of each class in a folder with the name of the class.",
        )
    if stray:
        notes.append(f"Outside any class folder, left out: {count(stray, 'image')}.")
    return Source(_rows(root, depth), notes=notes)


def _rows(root: Path, depth: int) -> Iterator[Row]:
    for path in walk(root):
        parts = path.relative_to(root).parts
        if is_image(path) and not is_hidden(path, root) and len(parts) > depth + 1:
            yield Row(parts[depth], str(path), part=part_name(parts[0]) if depth else "")


# The number of images by the folder of the root they lie below ("" for none) and how deep: 0, 1, or 2 for more.
Survey = Counter[tuple[str, int]]


def _survey(root: Path) -> tuple[Survey, list[str]]:
    """What lies where, in a first walk that keeps no paths, and notes on the files that aren't images."""
    images: Survey = Counter()
    others: Counter[str] = Counter()
    hidden = 0
    for path in walk(root):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"A file name isn't valid UTF-8: {str(path)!r}", "Rename the file or its folder.") from None
        parts = path.relative_to(root).parts
        if is_hidden(path, root):
            hidden += 1
        elif is_image(path):
            images[parts[0] if len(parts) > 1 else "", min(len(parts) - 1, 2)] += 1
        else:
            others[path.suffix.lower() or "no extension"] += 1
    notes = []
    if others:
        kinds = ", ".join(kind for kind, _ in others.most_common(5))
        notes.append(f"Not images by their extension, left out: {count(others.total(), 'file')} ({kinds}).")
    if hidden:
        notes.append(f"Hidden, left out: {count(hidden, 'file')}.")
    return images, notes


def _has_parts(root: Path, found: Survey) -> bool:
    """Whether the folders of `root` are train, validation and test parts rather than classes."""
    folders = {name for name, _ in found if name}
    named = {name for name in folders if part_name(name)}
    if folders and named == folders:
        return True
    # A folder `train` full of pictures beside `bus` is a class of vehicles; one that holds only folders is a part.
    if parts := sorted(name for name in named if (name, 1) not in found):
        other = sorted(folders - named)[0]
        raise UserError(
            f"{root} has both parts ({', '.join(parts)}) and other folders ({other!r}).",
            "Keep only train, validation and test folders at the top, or only class folders.",
        )
    return False
