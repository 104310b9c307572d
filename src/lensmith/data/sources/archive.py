"""`archive:PATH`: a zip or tar archive of anything that another source reads, such as class folders or a table.

It is unpacked into a temporary folder, and read as if that folder, or the only thing in it, had been given.
"""

from __future__ import annotations

import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from lensmith.data.dataset import Scratch
from lensmith.data.paths import existing, is_hidden_name
from lensmith.data.source import Columns, Files, Row, Source, count, damaged
from lensmith.data.splitting.names import split_like
from lensmith.errors import UserError

_ZIP = (".zip",)
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, LookupError, OverflowError, RuntimeError, ValueError),
)
"""What the libraries raise for a damaged archive."""


def recognises(path: Path) -> bool:
    """A file with the extension of an archive."""
    return path.is_file() and path.name.lower().endswith(_ZIP + _TAR)


def read(location: str, columns: Columns) -> Source:
    """The images in the archive. Raises `UserError` if it is damaged, encrypted or too large for the temporary folder,
    or as the source of its content does."""
    path = existing(location)
    if not recognises(path):
        raise UserError(f"{location} isn't an archive.", f"An archive ends in {', '.join(_ZIP + _TAR)}.")
    scratch = Scratch()
    notes = _unpack(path, scratch.path)
    try:
        source = _open(_inner(scratch.path), columns)
    except UserError as error:
        raise _placed(error, scratch.path, path) from None
    notes += source.notes  # so far, since an inner source may still add some
    return Source(_rows(source, scratch, path, notes), names=source.names, notes=notes)


def files(location: str, columns: Columns) -> Files | None:
    """The archive."""
    path = existing(location)
    return Files.beside(location, {path.name: path})


def _rows(source: Source, scratch: Scratch, archive: Path, notes: list[str]) -> Iterator[Row]:
    """The rows with the images' bytes, since the unpacked files are gone when the last row has been read."""
    said = len(source.notes)
    try:
        for row in source.rows:
            place = row.source.replace(str(scratch.path), archive.name, 1)
            try:
                data = row.data if row.data is not None else Path(row.source).read_bytes()
            except OSError:
                data = None  # a table names it, and it isn't in the archive
            yield replace(row, data=data, source=place)
    except UserError as error:
        raise _placed(error, scratch.path, archive) from None
    notes += source.notes[said:]
    notes[:] = [note.replace(str(scratch.path), archive.name) for note in notes]


def _open(root: Path, columns: Columns) -> Source:
    from lensmith.data.sources import open_source
    from lensmith.data.sources.table import recognises as is_table

    if recognises(root):
        raise UserError(f"{root} is an archive within an archive.", "Unpack the outer one, and give the inner one.")
    tables = [file for file in root.iterdir() if is_table(file)] if root.is_dir() else []
    try:
        return open_source(str(root), columns)
    except UserError:
        if len(tables) == 1:  # a table beside the folder of its images
            return open_source(str(tables[0]), columns)
        raise


def _inner(folder: Path) -> Path:
    """The file or folder that holds the dataset: the only one in its folder, unless that is a split."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and not (entries[0].is_dir() and split_like(entries[0].name)):
        return _inner(entries[0]) if entries[0].is_dir() else entries[0]
    return folder


def _placed(error: UserError, folder: Path, archive: Path) -> UserError:
    """An error that names a place in the archive instead of in the temporary folder."""
    message, hint = (text.replace(str(folder), archive.name) for text in (error.what, error.hint))
    return UserError(message, hint)


def _unpack(archive: Path, folder: Path) -> list[str]:
    """Write all regular files of an archive that aren't hidden. Returns sentences on the others."""
    free, used, odd = shutil.disk_usage(folder).free, 0, 0
    with damaged(archive, "an archive", *_ERRORS):
        for name, size, stream in _members(archive):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if stream is None or ".." in parts or PurePosixPath(*parts).is_absolute():
                odd += 1
                continue
            if any(map(is_hidden_name, parts)):
                continue
            used += size
            if 2 * used > free:  # the images are copied once more, into the dataset
                raise UserError(
                    f"{archive} doesn't fit into the temporary folder {folder.parent} when it is unpacked.",
                    "Set TMPDIR to a folder on a larger disk, or unpack it and give the folder.",
                )
            place = folder.joinpath(*parts)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with stream, place.open("xb") as file:
                    shutil.copyfileobj(stream, file)
            except OSError as error:  # also of the archive itself
                raise UserError(
                    f"{name} of {archive} can't be unpacked: {error.strerror or error}.", "Unpack it by hand."
                ) from None
    return [f"Links and other odd entries of the archive, ignored: {count(odd, 'entry', 'entries')}."] if odd else []


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """The name and size of each file in an archive, and its content; None for a link."""
    if archive.name.lower().endswith(_ZIP):
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():
                if member.flag_bits & 1:
                    raise UserError(f"{archive} is encrypted.", "Unpack it, and give the folder.")
                if not member.is_dir():
                    yield member.filename, member.file_size, zipped.open(member)
        return
    with tarfile.open(archive) as tar:
        for entry in tar:
            if not entry.isdir():
                yield entry.name, entry.size, tar.extractfile(entry) if entry.isreg() else None
