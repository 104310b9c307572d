"""`cifar:PATH`: CIFAR-10 and CIFAR-100 as published, in the Python or the binary version, as `.tar.gz` or extracted.

Also ciFAIR-10 and ciFAIR-100 (`.zip`), which replace the test images that CIFAR duplicates in its training split.

The Python version is pickled, and a pickle can run arbitrary code. So it is read by an unpickler that only knows the
few names that a NumPy array needs and refuses everything else. The archive is read in place and never extracted, so no
file is written under a name from the archive.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lensmith.data.paths import existing
from lensmith.data.source import Columns, Files, Row, Source, damaged, pnm
from lensmith.errors import UserError

_PIXELS = 3 * 32 * 32  # a red, a green and a blue plane
_HINT = "Download the archive again."
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)

_DUPLICATES_10, _DUPLICATES_100 = (
    f"About {percentage} of CIFAR-{n}'s test images have a near-duplicate among its training images (Barz and Denzler, "
    f"arXiv 1902.00423), so results are slightly too good. ciFAIR-{n} replaces these test images."
    for n, percentage in ((10, "3.3 %"), (100, "10 %"))
)

Members = Mapping[str, Callable[[], bytes]]
"""Functions that read the files of an archive or folder, by file name."""


@dataclass(frozen=True)
class _Batch:
    """A file of images, and their split."""

    name: str
    split: str


@dataclass(frozen=True)
class _Layout:
    """Which of the four published layouts an archive or folder has: CIFAR-10 or 100, Python or binary version."""

    ten: bool
    binary: bool

    @property
    def batches(self) -> tuple[_Batch, ...]:
        """The files of images."""
        train = [f"data_batch_{k}" for k in range(1, 6)] if self.ten else ["train"]
        test = "test_batch" if self.ten else "test"
        suffix = ".bin" if self.binary else ""
        return (*(_Batch(f"{name}{suffix}", "train") for name in train), _Batch(f"{test}{suffix}", "test"))

    @property
    def meta(self) -> str:
        """The file of class names."""
        if self.binary:
            return "batches.meta.txt" if self.ten else "fine_label_names.txt"
        return "batches.meta" if self.ten else "meta"


def _layout(names: Collection[str]) -> _Layout:
    return _Layout(
        ten=any(name.startswith(("data_batch_", "test_batch")) for name in names),
        binary=any(name.endswith(".bin") for name in names),
    )


def recognises(path: Path) -> bool:
    """An archive with a name such as `cifar-10.tar.gz` or `ciFAIR-10.zip`, or a folder that contains the batches."""
    if path.is_dir():
        files = {file.name for file in path.iterdir() if file.is_file()}
        return bool(files & {"batches.meta", "batches.meta.txt", "fine_label_names.txt"}) or files >= {"meta", "train"}
    return bool(re.search(r"cifa(i)?r.*\.(tar\.gz|tgz|tar|zip)$", path.name.lower()))


def read(location: str, columns: Columns) -> Source:
    """The images, for CIFAR-100 with the fine labels. Raises `UserError` for a missing, truncated or unsafe file."""
    path = existing(location)
    if path.is_dir():
        members: Members = {name: file.read_bytes for name, file in _in_folder(path).items()}
    else:
        members = _archive(path)
    layout = _layout(members)
    missing = [batch.name for batch in layout.batches if batch.name not in members]
    if len(missing) == len(layout.batches):
        raise UserError(f"No CIFAR batches in {path}.", "Give the published archive, or the folder extracted from it.")
    notes = [f"Missing batches: {', '.join(missing)}."] if missing else []
    return Source(_rows(members, layout, path, notes), names=_names(members, layout, path), notes=notes)


def files(location: str, columns: Columns) -> Files | None:
    """The archive, or the batches and class names in the folder."""
    path = existing(location)
    if not path.is_dir():
        return Files.beside(location, {path.name: path})
    members = _in_folder(path)
    layout = _layout(members)
    names = (*(batch.name for batch in layout.batches), layout.meta)
    paths = [members[name] for name in names if name in members]
    return Files(location, {file.relative_to(path).as_posix(): file for file in paths})


def _rows(members: Members, layout: _Layout, path: Path, notes: list[str]) -> Iterator[Row]:
    for batch in layout.batches:
        if batch.name not in members:
            continue
        with damaged(path, "a CIFAR archive", *_DAMAGE):
            data = members[batch.name]()
        content = (_binary_batch if layout.binary else _python_batch)(data, layout.ten, batch.name)
        if batch.split == "test" and not content.is_fair:
            notes.append(_DUPLICATES_10 if layout.ten else _DUPLICATES_100)
        for i, (planes, label) in enumerate(zip(content.pixels, content.labels, strict=True), 1):
            yield Row(label, f"{batch.name} row {i}", pnm(planes.reshape(3, 32, 32).transpose(1, 2, 0)), batch.split)


def _in_folder(path: Path) -> dict[str, Path]:
    # The archives contain one folder, so `path` may be that folder or its parent.
    return {file.name: file for file in [*path.glob("*/*"), *path.glob("*")] if file.is_file()}


def _archive(path: Path) -> Members:
    def reader(name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            if path.suffix.lower() == ".zip":
                with zipfile.ZipFile(path) as archive:
                    return archive.read(name)
            with tarfile.open(path) as tar:
                stream = tar.extractfile(name)
                return b"" if stream is None else stream.read()

        return read

    if path.suffix.lower() == ".zip":
        with damaged(path, "a CIFAR archive", *_DAMAGE), zipfile.ZipFile(path) as archive:
            return {Path(name).name: reader(name) for name in archive.namelist() if not name.endswith("/")}
    with damaged(path, "a CIFAR archive", *_DAMAGE), tarfile.open(path) as tar:
        return {Path(member.name).name: reader(member.name) for member in tar if member.isfile()}


def _names(members: Members, layout: _Layout, path: Path) -> tuple[str, ...] | None:
    """The class names from the meta file, or `None` if it is missing."""
    if layout.meta not in members:
        return None
    with damaged(path, "a CIFAR archive", *_DAMAGE):
        data = members[layout.meta]()
    if layout.binary:
        return tuple(line.strip() for line in _text(data).splitlines() if line.strip())
    names = _unpickle(data, layout.meta).get("label_names" if layout.ten else "fine_label_names")
    if not isinstance(names, list):
        raise UserError(f"{layout.meta} in {path} has no class names.", _HINT)
    return tuple(_text(name) for name in names)


@dataclass(frozen=True)
class _Content:
    """What a batch contains."""

    pixels: npt.NDArray[np.uint8]
    """(images, 3072)"""
    labels: list[int]
    is_fair: bool
    """Whether it may be ciFAIR's test split, the only batch without `filenames`."""


def _binary_batch(data: bytes, ten: bool, name: str) -> _Content:
    # In CIFAR-100, the coarse label precedes the fine one.
    head = 1 if ten else 2
    if not data or len(data) % (head + _PIXELS):
        raise UserError(f"{name} is truncated: its last image is incomplete.", _HINT)
    records = np.frombuffer(data, np.uint8).reshape(-1, head + _PIXELS)
    return _Content(records[:, head:], [int(label) for label in records[:, head - 1]], is_fair=False)


def _python_batch(data: bytes, ten: bool, name: str) -> _Content:
    batch = _unpickle(data, name)
    pixels, labels = batch.get("data"), batch.get("labels" if ten else "fine_labels")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or not isinstance(labels, list)
        or pixels.shape != (len(labels), _PIXELS)
    ):
        raise UserError(f"{name} doesn't contain CIFAR images and one label for each.", _HINT)
    return _Content(pixels, [int(label) for label in labels], is_fair="filenames" not in batch)


class _SafeUnpickler(pickle.Unpickler):
    """Only knows the names that the published pickles need for arrays and byte strings, and nothing that runs code."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data doesn't need")
        # The archives are older than NumPy 2, which renamed its core.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(data: bytes, name: str) -> dict[str, Any]:
    try:
        content = _SafeUnpickler(io.BytesIO(data), encoding="bytes").load()
    # On a damaged pickle, the unpickler raises almost anything.
    except Exception as error:
        raise UserError(f"{name} isn't a CIFAR batch, or is damaged: {error}", _HINT) from error
    if not isinstance(content, dict):
        raise UserError(f"{name} isn't a CIFAR batch.", _HINT)
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
