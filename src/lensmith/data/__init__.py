"""A person's labelled images, from wherever they lie, as one `ImageDataset` with three fixed parts.

`open_dataset` takes a URI `scheme:location`. Each scheme is one module of this folder, found by its name, which
offers `read(location, columns) -> Source` and `recognises(path) -> bool`; a new source is a new file here and nothing
else to edit. What every source shares (ids, splits, checks, the memory-mapped table) is in `build`.

The heavy libraries (`datasets`, `pyarrow`, `sklearn`) are imported when a dataset is opened, so that importing this
package is quick and the command line starts at once.
"""

from __future__ import annotations

import os
import pkgutil
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from lensmith.data.build import build_dataset
from lensmith.data.dataset import ImageDataset, Sample, Split
from lensmith.data.images import decode_image, list_images
from lensmith.data.source import Columns, Source
from lensmith.errors import UserError, nearest

__all__ = ["ImageDataset", "Sample", "Split", "decode_image", "list_images", "open_dataset"]


class _SourceModule(Protocol):
    def read(self, location: str, columns: Columns) -> Source: ...
    def recognises(self, path: Path) -> bool: ...


def open_dataset(
    uri: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
) -> ImageDataset:
    """Open the labelled images at `uri` and divide them into train, validation and test.

    `uri` is `folder:PATH`, `table:PATH`, `idx:PATH`, `cifar:PATH`, `hub:NAME`, `demo:fashion`, `demo:digits`, or a
    bare path whose kind is guessed. `image_column` and `label_column` name the columns of a table or hub dataset.
    `class_names` gives names to numbered classes: the class numbered 0 gets the first.

    `validation` and `test` are the shares (0 to below 1) of the images to hold out where the source has no such part
    of its own; `build.assign_split` says how they are chosen. Every image's content is read once, to hash it.

    Raises `UserError` for whatever the user can put right. An image that can't be decoded raises later, from
    `Split.image`, as an `ImageError` of its own.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(
            f"Can't hold out validation={validation} and test={test} of the images.",
            "Both are shares of 0 or more that together stay below 1.",
        )
    if class_names is not None and len(set(class_names)) != len(class_names):
        raise UserError(f"A class name is given twice: {', '.join(class_names)}.", "Give every class its own name.")
    scheme, location = parse_uri(uri)
    source = _module(scheme).read(location, Columns(image_column, label_column))
    return build_dataset(uri, source, class_names=class_names, validation=validation, test=test)


def parse_uri(uri: str) -> tuple[str, str]:
    """The scheme and location of `uri`. A path that exists wins, and one letter is a Windows drive, no scheme."""
    path = Path(os.path.expanduser(uri))
    if uri and os.path.exists(path):
        return _guess(path), uri
    if re.match(r"(https?|s3|gs|ftp)://", uri):
        raise UserError(
            f"Lensmith doesn't fetch images from the web: {uri!r}.",
            "Fetch the images to a folder first and give its path.",
        )
    if match := re.match(r"([A-Za-z][A-Za-z0-9_]+):(.*)", uri, re.DOTALL):
        scheme, location = match[1].lower(), match[2]
        if scheme not in (known := _schemes()):
            hint = f"{nearest(scheme, known)} Known: {', '.join(known)}.".strip()
            raise UserError(f"Unknown kind of dataset {scheme!r} in {uri!r}.", hint)
        if not location:
            raise UserError(f"Nothing follows {uri!r}.", f"Write {scheme}: and then where the images are.")
        return scheme, location
    if re.fullmatch(r"[\w.-]+/[\w.-]+", uri) and not uri.startswith("."):
        hint = f"For a dataset of the Hugging Face hub write hub:{uri} instead."
    else:
        hint = nearest(path.name, _siblings(path)) or "Give the path of a folder or table of images, or demo:fashion."
    raise UserError(f"No such file or folder: {uri!r}.", hint)


def _guess(path: Path) -> str:
    # `folder` takes any folder, so it is asked last.
    for scheme in sorted(_schemes(), key=lambda name: name == "folder"):
        if _module(scheme).recognises(path):
            return scheme
    raise UserError(
        f"Can't tell what kind of dataset {path} is.",
        "Give a folder, a .csv, .tsv, .jsonl or .parquet table, or say the kind, as in cifar:PATH.",
    )


def _schemes() -> list[str]:
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if hasattr(_module(name), "read"))


def _module(scheme: str) -> _SourceModule:
    return cast(_SourceModule, import_module(f"{__name__}.{scheme}"))


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
