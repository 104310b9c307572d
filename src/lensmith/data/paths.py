"""Helpers for files and folders: walk them, sort their names, ignore hidden files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lensmith.errors import UserError

EMPTY = "empty"
_OF_SYSTEMS = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "system volume information", "lost+found"}
"""Folders of network drives, Windows, macOS and Linux. They contain thumbnails and deleted images."""


def existing(location: str) -> Path:
    """The path `location`, with `~` expanded. Raises `UserError` if nothing exists there."""
    path = Path(os.path.expanduser(location))
    if not os.path.exists(path):  # unlike `Path.exists`, never raises
        raise UserError(f"No such file or folder: {location!r}.", "Check the path.")
    return path


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts "2" before "10"; the text itself breaks the tie between "1" and "01"."""
    runs = (run for run in re.split(r"(\d+)", text) if run)
    return [(0, int(run), "") if run.isdecimal() else (1, 0, run) for run in runs], text


def walk(root: Path) -> Iterator[Path]:
    """All files below `root` in natural order, streamed. Follows links to folders, except links back to a parent."""
    for folder, _, files in walk_folders(root):
        for file in files:
            yield Path(folder, file)


def walk_folders(
    root: Path, odd: Callable[[Path, str], None] | None = None, ordered: bool = True
) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """The folders below `root` that can be listed, streamed: path, names from the root to it, and its files.

    With millions of files, a `Path` for each would take longer than reading them.

    Args:
        odd: called with each folder without files that would otherwise go unnoticed, and why: `EMPTY`, or the system's
            reason for not listing it.
        ordered: whether folders and files are in natural order.
    """
    odd = odd or (lambda folder, reason: None)
    start = len(root.parts)
    for folder, folders, files in os.walk(
        root, followlinks=True, onerror=lambda error: odd(Path(error.filename), error.strerror or "unknown")
    ):
        if not folders and not files:
            odd(Path(folder), EMPTY)
        here = os.path.realpath(folder)
        folders[:] = [name for name in folders if not _is_loop(os.path.join(folder, name), here)]
        if ordered:
            folders.sort(key=natural_key)
            files.sort(key=natural_key)
        yield folder, Path(folder).parts[start:], files


def is_hidden_name(name: str) -> bool:
    """Whether a file or folder with this name is hidden or made by a system for itself."""
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def is_hidden(path: Path, root: Path) -> bool:
    """Whether `path`, or a folder between it and `root`, is hidden or made by a system for itself."""
    return any(map(is_hidden_name, path.relative_to(root).parts))


def visible_files(root: Path) -> dict[str, Path]:
    """All regular files below `root` that aren't hidden, by their name relative to `root` (with forward slashes)."""
    return {p.relative_to(root).as_posix(): p for p in walk(root) if not is_hidden(p, root) and p.is_file()}


def _is_loop(folder: str, parent: str) -> bool:
    real = os.path.realpath(folder)
    return parent == real or parent.startswith(real.rstrip(os.sep) + os.sep)


def each(paths: list[str] | str | None) -> list[str]:
    """The paths of an option that may be one, several or none."""
    return [paths] if isinstance(paths, str) else paths or []
