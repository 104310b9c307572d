"""Which column of a table holds the splits, and what its cells mean.

A column is a split by its name (`split`, `set`, `Usage`, ...) or because all its cells are words for splits. A table
without one may have the split in its images' paths (`train/cat/1.png`). All rows are looked at first, since in JSON
Lines only later ones may have the column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lensmith.data.source import Columns
from lensmith.data.splitting.names import SPLITS, how_to_say, meaning_of, split_like, split_name
from lensmith.errors import UserError, nearest

_NAMES = (
    *("split", "splits", "set", "subset", "partition", "dataset", "datasplit", "usage", "mluse", "phase", "fold"),
    *("traintest", "traintestsplit", "istrain", "istest", "isvalid", "isvalidation", "istraining"),
)
"""Names of columns, without case, spaces and punctuation, in order of preference."""
FEW = 20
"""A column with more distinct cells is no split."""
PATH = ""
"""Stands for the images' paths instead of a column."""


class Cells:
    """The distinct cells of the columns that have few, and the folders in the images' paths that name a split."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, None] | None] = {}
        """By column: its distinct cells, in the order of the rows; None for a column with many."""
        self.folders: dict[str, None] = {}
        self.paths = self.paths_with_split = 0

    def add(self, column: str, cell: Any) -> None:
        """Look at a cell of a column that isn't the image or the label."""
        values = self.values.setdefault(column, {})
        if values is None:
            return
        if isinstance(cell, str | int | float | None):
            values.setdefault(_text(cell))
        if len(values) > FEW or not isinstance(cell, str | int | float | None):
            self.values[column] = None

    def add_path(self, path: Any) -> None:
        """Look at the path of an image."""
        self.paths += 1
        if folder := split_folder(path):
            self.paths_with_split += 1
            self.folders.setdefault(folder)


@dataclass(frozen=True)
class SplitColumn:
    """The column of the splits, or `PATH`, and the split of each of its cells; those it lacks aren't used."""

    name: str
    splits: Mapping[str, str]
    note: str = ""

    def of(self, cell: Any) -> str | None:
        """The split that a cell (or a folder of a path) means; empty if it is empty, None if its image isn't used."""
        text = _text(cell)
        return self.splits.get(text) if text else ""


def is_split_name(name: str) -> bool:
    """Whether a column with this name is usually the split."""
    return _plain(name) in _NAMES


def split_folder(path: Any) -> str:
    """The only folder in a path that names a split, else an empty string."""
    if not isinstance(path, str) or len(path) > 4096:
        return ""
    found = [name for name in re.split(r"[\\/]", path)[:-1] if split_name(name)]
    return found[0] if len(found) == 1 else ""


def split_column(cells: Cells, columns: Columns, where: str) -> SplitColumn | None:
    """The column of the splits, named by the user or guessed; None if there is none.

    Raises:
        UserError: a column looks like one and has cells that name no split; two columns do; or the one that the user
            named doesn't exist.
    """
    if columns.split == "":
        return None
    if columns.split is not None:
        if columns.split not in cells.values:
            listed = f"Its columns: {', '.join(cells.values)}."
            hint = f"{nearest(columns.split, list(cells.values))} {listed}".strip()
            raise UserError(f"{where} has no column {columns.split!r}.", hint)
        return _meant(columns.split, cells, columns, where)
    found = [name for name in cells.values if _is_split(name, cells, columns)]
    found.sort(key=lambda name: (_plain(name) not in _NAMES, _plain(name) != "split"))
    if len(found) > 1 and _plain(found[0]) != "split":
        raise UserError(
            f"{where} has two columns that look like splits: {found[0]!r} and {found[1]!r}.",
            f'Name one with "data.split_column={found[0]}".',
        )
    return _meant(found[0], cells, columns, where) if found else _by_path(cells, columns, where)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _is_split(name: str, cells: Cells, columns: Columns) -> bool:
    values = [value for value in cells.values[name] or () if value]
    named = _plain(name) in _NAMES
    if not values:
        return False
    if columns.splits is not None:  # the user says what the cells are, so the column is the one that has them
        return {text for given in columns.splits.values() for text in _list(given)} <= set(values)
    if named and (
        _plain(name) == "split" or all(re.fullmatch(r"[0-9](\.0)?|true|false", v.casefold()) for v in values)
    ):
        return True
    like = {split_like(value) for value in values}
    if named:
        return like != {""}
    exact = {split_name(value) for value in values} - {""}
    return len(exact) > 1 or ("" not in like and len(like) > 1)


def _meant(name: str, cells: Cells, columns: Columns, where: str) -> SplitColumn:
    values = cells.values[name]
    if values is None:
        raise UserError(
            f"The column {name!r} of {where} has more than {FEW} different cells, so it can't be the split.",
            "Name another with data.split_column=, or leave it empty for none.",
        )
    names = [value for value in values if value]
    if columns.splits is None:
        splits = {value: split for value in names if (split := split_like(value))}
        if unknown := [value for value in names if value not in splits]:
            examples = dict(zip(("train", "test", "validation"), [*splits, *unknown], strict=False))
            raise UserError(
                f"The column {name!r} of {where} looks like the split, but has the cell {unknown[0]!r}.",
                f'Say what its cells mean, such as "{how_to_say(examples)}", or "data.split_column=" for no split.',
            )
        plain = all(map(split_name, names)) and _plain(name) == "split"
    else:
        splits, plain = dict(meaning_of(names, columns.splits, where).splits), False
    unused = [value for value in names if value not in splits]
    said = "; ".join(f"{split} is {', '.join(v for v in splits if splits[v] == split)}" for split in _used(splits))
    note = f"Splits by the column {name!r}: {said}{'; not used: ' * bool(unused)}{', '.join(unused)}."
    return SplitColumn(name, splits, "" if plain else note)


def _by_path(cells: Cells, columns: Columns, where: str) -> SplitColumn | None:
    """The split as a folder in the images' paths, if all have one."""
    if columns.splits is not None:
        raise UserError(
            f"No column of {where} has the cells that data.splits names.", "Name it with data.split_column=."
        )
    splits = {folder: split_name(folder) for folder in cells.folders}
    if len(set(splits.values())) < 2:
        return None
    if cells.paths_with_split < cells.paths:
        raise UserError(
            f"{cells.paths_with_split:,} of the {cells.paths:,} paths in {where} contain a split: "
            f"{', '.join(cells.folders)}.",
            'Add a column `split`, or write "data.split_column=" to use no splits.',
        )
    said = ", ".join(cells.folders)
    return SplitColumn(PATH, splits, f"Splits by the folders in the paths: {said}.")


def _used(splits: Mapping[str, str]) -> Iterable[str]:
    return (split for split in SPLITS if split in splits.values())


def _list(given: list[str] | str) -> list[str]:
    return [given] if isinstance(given, str) else given
