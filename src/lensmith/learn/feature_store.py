"""What a frozen model makes of images, kept on disk: it is the same in every epoch and in every run.

A store belongs to one way of making features: the weights and settings that make them, and the number format. It holds
a tensor for each view of an image, or one for all its vectors, under the image's content id, so that it can't go stale:
another image, another model or other settings have other names. Files are written whole or not at all; one that is
damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import lensmith.data.images
import lensmith.models.base
import lensmith.models.views
from lensmith.errors import UserError
from lensmith.learn.processes import Processes
from lensmith.models.base import Model, grouped
from lensmith.models.memory import out_of_memory
from lensmith.models.views import Views, shape_of, stack, unstack
from lensmith.progress import Note, Tell, counter

WINDOW, BATCH = 256, 32
"""Images of one file, and images that go through the tower at once, at most."""
FIRST, ROOM = 16, 1 << 29
"""Images of the first file, which tell how large they are; bytes that a window's images or features may take."""
PREPARING = (lensmith.models.base, lensmith.models.views, lensmith.data.images)
"""Modules that an image goes through before the tower, whatever the family."""
SPARE = 2 << 30
"""Bytes that are left free on the disk."""


def cache_folder() -> Path:
    """$LENSMITH_CACHE, or lensmith in the user's cache folder."""
    if own := os.environ.get("LENSMITH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lensmith"


def fingerprint(model: Model, parts: Sequence[str], more: dict[str, Any] | None = None) -> str:
    """32 hex digits for how features are made: weights of these components, settings, number format, versions, and
    what more they depend on, as plain values."""
    digest = hashlib.blake2b(digest_size=16)
    about = {
        "parts": list(parts),
        "more": more,
        "compute": str(model.compute),
        "device": model.device.type,
        "code": code(sys.modules[type(model).__module__], *PREPARING),
        "pillow": PIL.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": model.settings,
        "image_tokens": model.options.image_tokens,
        "config": model.network.config.to_dict(),
    }
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, weight in model.network.named_parameters():
        if any(name.startswith(model.components[part] + ".") for part in parts):
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code(*modules: ModuleType) -> list[str]:
    """Digests of the modules' source, so that features made by other code have another name."""
    return [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in modules]


class Store:
    """Images' views by name in a folder of safetensors files; names are only ever added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._where: dict[str, Path] = {}
        self.reopen()

    def reopen(self) -> None:
        """Find what has been added since, by whomever."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._files:
                continue
            try:
                # Mapped, not read: only what is asked for comes into memory.
                self._files[path] = safe_open(path, "pt")
                self._where |= dict.fromkeys(self._files[path].keys(), path)
            except SafetensorError:  # cut short
                with suppress(OSError):
                    path.unlink()

    def __contains__(self, name: str) -> bool:
        return f"{name}/0" in self._where

    def get(self, name: str) -> Views | None:
        """The views of a name, or None."""
        if name not in self:
            return None
        keys = takewhile(self._where.__contains__, (f"{name}/{k}" for k in count()))
        return tuple(self._files[self._where[key]].get_tensor(key) for key in keys)

    def add(self, images: dict[str, Views]) -> None:
        """Write some under new names.

        Raises:
            OSError: the disk is full or can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}/{k}": view.contiguous() for name, views in images.items() for k, view in enumerate(views)}
        name = hashlib.sha256("\n".join(tensors).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.safetensors"
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file(tensors, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except SafetensorError as error:  # it has the system's words in it
            raise OSError(str(error)) from None
        finally:
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class Filled:
    """What `fill` did."""

    stored: bool
    """Whether all features are stored; False if the disk has no room for them."""
    computed: int
    """Images whose features were not stored before."""


def fill(
    store: Store,
    images: Any,
    ids: Sequence[str],
    model: Model,
    make: Callable[[Views], Views],
    processes: Processes,
    tell: Tell,
) -> Filled:
    """Extract the features of all readable images that the store doesn't have.

    Args:
        images: prepared views by index, or None for one that can't be read.
        ids: the name of each.
        make: a stack of prepared views -> their features, one stack or several.

    Returns:
        Whether they are all stored now, and how many were not before.
    """
    # One list for all, since others may add to the store meanwhile.
    missing = processes.agree([i for i in range(len(images)) if ids[i] not in store])
    share = missing[processes.rank :: processes.count]
    progress = counter("extracting features", len(share), tell if processes.main else lambda _: None)
    progress(0)
    room, first, width, largest = True, 0, min(FIRST, WINDOW), 1
    while first < len(share):
        window = share[first : first + width]
        made = {ids[i]: features for i, features in made_of(images, window, model, make)}
        sizes = [sum(view.nbytes for view in views) for views in made.values()]
        needed = sum(sizes) * (len(share) - first) / len(window) * processes.count
        largest = max(largest, model.photo_bytes(), *sizes)
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            if needed > shutil.disk_usage(store.folder).free - SPARE:
                raise OSError(f"they need {needed / 1e9:.1f} GB and {SPARE / 1e9:.0f} GB to spare")
            if made:
                store.add(made)
        except OSError as error:
            tell(Note(f"Features are not stored in {store.folder}: {error}. They are extracted again when needed."))
            room = False
            break
        first += len(window)
        progress(first)
        width = max(1, min(WINDOW, ROOM // largest))
    room = all(processes.all([room]))
    store.reopen()
    if missing and room:
        size = sum(path.stat().st_size for path in store.folder.glob("*.safetensors"))
        tell(Note(f"Features are stored in {store.folder} ({size / 1e6:,.0f} MB), for all runs."))
    return Filled(room, len(missing))


def made_of(
    images: Any, window: Sequence[int], model: Model, make: Callable[[Views], Views]
) -> Iterator[tuple[int, Views]]:
    """The features of some images, as far as they can be read, in no order; see `fill`."""
    read = [(i, views) for i in window if (views := images[i]) is not None]
    for places in grouped(shape_of(views) for _, views in read):
        # Tiles of many images at once can take more memory than there is, and a machine that grants memory before it
        # has it kills the process instead of saying so.
        fit = model.free_memory() // 4 // model.memory(shape_of(read[places[0]][1]), 0)
        size = max(1, min(BATCH, fit))
        for first in range(0, len(places), size):
            some = places[first : first + size]
            made = unstack(_seen(model, stack([read[k][1] for k in some]), make))
            yield from (
                (read[k][0], tuple(view.clone() for view in features)) for k, features in zip(some, made, strict=True)
            )


def _seen(model: Model, views: Views, make: Callable[[Views], Views]) -> Views:
    """Features of images of one shape; when memory runs out, of one half after the other."""
    try:
        with torch.no_grad(), model.autocast():
            return tuple(view.cpu() for view in make(views))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    if (n := len(views[0])) == 1:
        raise UserError("There is not enough memory for the features of one image.", "Use a smaller model.")
    torch.cuda.empty_cache()
    halves = zip(*(view.split((n + 1) // 2) for view in views), strict=True)
    return tuple(torch.cat(parts) for parts in zip(*(_seen(model, half, make) for half in halves), strict=True))
