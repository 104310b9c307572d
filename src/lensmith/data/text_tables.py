"""Tables in text files, as spreadsheets and scripts write them: which encoding, which separator, and the rows.

In many countries a spreadsheet separates cells by semicolons, because the comma is the decimal separator; Excel's
"Unicode text" is UTF-16 with tabs; its plain CSV is in the code page of the country.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from lensmith.errors import UserError

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATORS = ",;\t|"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CHUNK = 1 << 20


def encoding_of(path: Path) -> str:
    """The encoding of a text file: by its byte order mark, else UTF-8 if all of it is, else Windows' Western code page.

    Raises:
        OSError: the file can't be read.
        UserError: it isn't text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        start = file.read(4096)
        if found := next((name for mark, name in _BOMS.items() if start.startswith(mark)), None):
            return found
        if (zeros := start.count(b"\0")) > len(start) // 4:  # of Western text in UTF-16, every second byte is 0
            return "utf-16-le" if start[1::2].count(b"\0") > start[::2].count(b"\0") else "utf-16-be"
        if zeros:
            raise UserError(f"{path} isn't a text file: it contains null bytes.", "Export the table again as CSV.")
        try:
            chunk = start
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(_CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def open_text(path: Path) -> TextIO:
    """A text file in whatever encoding, without a byte order mark. Raises as `encoding_of` does."""
    return path.open(encoding=encoding_of(path), newline="")


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a text table, each with the number of its last line in the file and its cells by column.

    Blank lines are skipped. Cells that a short row lacks are empty.

    Raises:
        OSError: the file can't be read.
        UserError: it isn't a text table, two columns have the same name, or a row has more cells than the header.
    """
    rows = cells_of(path, blank=True)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    while header and not header[-1]:  # empty columns at the end, which spreadsheets leave behind
        header.pop()
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{path} has two columns called {twice[0]!r}.", "Rename or remove one.")
    for number, cells in rows:
        if not any(map(str.strip, cells)):
            continue
        if any(map(str.strip, cells[len(header) :])):
            raise UserError(
                f"{path.name} line {number} has more cells than the header.",
                "Quote cells that contain commas.",
            )
        yield number, dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False))


def cells_of(path: Path, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a text table, with the number of its last line; the first may be a header.

    Args:
        blank: whether rows without any text are included.

    Raises:
        OSError: the file can't be read.
        UserError: it isn't a text table.
    """
    # A cell may contain an image. The limit of the `csv` module, 128 KiB, holds for the whole process.
    csv.field_size_limit(2**31 - 1)
    try:
        with open_text(path) as file:
            rows = _reader(file, path)
            for cells in rows:
                if blank or any(map(str.strip, cells)):
                    yield rows.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} isn't a table of text, or is damaged: {error}.", "Export it again as CSV.") from None


def _reader(file: TextIO, path: Path) -> Any:
    first = file.readline()
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own line
        separator = first.strip()[-1]
    else:
        separator = _separator(first, path)
        file.seek(0)
    return csv.reader(file, delimiter=separator, skipinitialspace=True)


def _separator(header: str, path: Path) -> str:
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    outside = "".join(header.split('"')[::2])  # not within quotes
    return max(_SEPARATORS, key=lambda mark: (outside.count(mark), mark == ","))


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: such a cell gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def unguarded(cell: str) -> str:
    """The text of which `guarded` made the cell."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_FORMULA, "'")) else cell
