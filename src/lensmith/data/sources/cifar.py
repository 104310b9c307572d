"""`cifar:PATH`: CIFAR-10 and CIFAR-100 as published, in the Python or the binary version, as `.tar.gz` or extracted.

So are ciFAIR-10 and ciFAIR-100 (`.zip`), which differ in the test images that CIFAR has in its training part too.

The Python version is pickled, and a pickle can run any code its author likes. So it is read by an unpickler that
knows only the few names a NumPy array needs and refuses all else. The archive is read in place, never extracted: its
member names touch no file.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lensmith.data.source import Columns, Row, Source, damaged, existing, pnm
from lensmith.errors import UserError

_PIXELS = 3 * 32 * 32  # a red, a green and a blue plane
_TRAIN_10 = tuple(f"data_batch_{k}" for k in range(1, 6))
_HINT = "Fetch the archive again."
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)

_DUPLICATES_10, _DUPLICATES_100 = (
    f"About {share} of CIFAR-{n}'s test images have a near-duplicate among its training images (Barz and Denzler, "
    f"arXiv 1902.00423), so its figures are a little too good; ciFAIR-{n} has other images in their place."
    for n, share in ((10, "3.3 %"), (100, "10 %"))
)

Members = dict[str, Callable[[], bytes]]


def recognises(path: Path) -> bool:
    """An archive or folder called cifar, or a folder that holds the batches."""
    if path.is_dir():
        files = {file.name for file in path.iterdir() if file.is_file()}
        return bool(files & {"batches.meta", "batches.meta.txt", "fine_label_names.txt"}) or files >= {"meta", "train"}
    return bool(re.search(r"cifa(i)?r.*\.(tar\.gz|tgz|tar|zip)$", path.name.lower()))


def read(location: str, columns: Columns) -> Source:
    """The images; for CIFAR-100 with the fine labels. Raises `UserError` for a missing, truncated or unsafe file."""
    path = existing(location)
    members = _folder(path) if path.is_dir() else _archive(path)
    binary = any(name.endswith(".bin") for name in members)
    ten = any(name.startswith(("data_batch_", "test_batch")) for name in members)
    train, test = (_TRAIN_10, "test_batch") if ten else (("train",), "test")
    suffix = ".bin" if binary else ""
    batches = [(f"{name}{suffix}", "train") for name in train] + [(f"{test}{suffix}", "test")]
    found = [(name, part) for name, part in batches if name in members]
    if not found:
        raise UserError(f"No CIFAR batches in {path}.", "Give the published archive, or the folder extracted from it.")
    missing = [name for name, _ in batches if name not in members]
    notes = [f"Batches that aren't there: {', '.join(missing)}."] if missing else []
    rows = _rows([(name, members[name], part) for name, part in found], binary, ten, path, notes)
    return Source(rows, names=_names(members, ten, binary, path), notes=notes)


def _rows(
    batches: list[tuple[str, Callable[[], bytes], str]], binary: bool, ten: bool, path: Path, notes: list[str]
) -> Iterator[Row]:
    for name, load, part in batches:
        with damaged(path, "a CIFAR archive", *_DAMAGE):
            data = load()
        pixels, labels, fair = (_binary_batch if binary else _python_batch)(data, ten, name)
        if part == "test" and not fair:
            notes.append(_DUPLICATES_10 if ten else _DUPLICATES_100)
        for i, (planes, label) in enumerate(zip(pixels, labels, strict=True), 1):
            yield Row(label, f"{name} row {i}", pnm(planes.reshape(3, 32, 32).transpose(1, 2, 0)), part)


def _folder(path: Path) -> Members:
    # The archives hold one folder: take the files of the folder given and of those just inside it.
    return {file.name: file.read_bytes for file in [*path.glob("*/*"), *path.glob("*")] if file.is_file()}


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


def _names(members: Members, ten: bool, binary: bool, path: Path) -> tuple[str, ...] | None:
    """The class names from the meta file, or `None` if it is missing."""
    name = ("batches.meta.txt" if ten else "fine_label_names.txt") if binary else ("batches.meta" if ten else "meta")
    if name not in members:
        return None
    with damaged(path, "a CIFAR archive", *_DAMAGE):
        data = members[name]()
    if binary:
        return tuple(line.strip() for line in _text(data).splitlines() if line.strip())
    names = _unpickle(data, name).get("label_names" if ten else "fine_label_names")
    if not isinstance(names, list):
        raise UserError(f"{name} in {path} has no class names.", _HINT)
    return tuple(_text(entry) for entry in names)


def _binary_batch(data: bytes, ten: bool, name: str) -> tuple[npt.NDArray[np.uint8], list[int], bool]:
    # CIFAR-100 puts the coarse label before the fine one.
    head = 1 if ten else 2
    if not data or len(data) % (head + _PIXELS):
        raise UserError(f"{name} is truncated: it doesn't end with a whole image.", _HINT)
    records = np.frombuffer(data, np.uint8).reshape(-1, head + _PIXELS)
    return records[:, head:], [int(label) for label in records[:, head - 1]], False


def _python_batch(data: bytes, ten: bool, name: str) -> tuple[npt.NDArray[np.uint8], list[int], bool]:
    """A batch's pixels (N x 3072), labels, and whether it may be ciFAIR's test part, which alone lacks `filenames`."""
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
        raise UserError(f"{name} doesn't hold CIFAR images and as many labels.", _HINT)
    return pixels, [int(label) for label in labels], "filenames" not in batch


class _SafeUnpickler(pickle.Unpickler):
    """Knows what the published pickles use to make an array and a byte string, and nothing that runs code."""

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
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data has no use for")
        # The archives were made before NumPy 2 moved its core.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(data: bytes, name: str) -> dict[str, Any]:
    try:
        content = _SafeUnpickler(io.BytesIO(data), encoding="bytes").load()
    # A damaged pickle makes the unpickler raise almost anything.
    except Exception as error:
        raise UserError(f"{name} isn't a CIFAR batch, or is damaged: {error}", _HINT) from error
    if not isinstance(content, dict):
        raise UserError(f"{name} isn't a CIFAR batch.", _HINT)
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
