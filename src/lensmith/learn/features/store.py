"""An on-disk cache of the features that a frozen model extracts from images: the same in every epoch and every run.

A store belongs to one way of extracting features: certain weights, settings and number format. It holds a tensor for
each view of an image, or a single tensor with all features of the image, under the image's content id. It can't go
stale, because another image, another model or other settings have another name. Files are written atomically, with a
digest of each tensor. The features of a damaged file are extracted again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
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
import lensmith.models.layers.int8
import lensmith.models.tower_attention
import lensmith.models.views
from lensmith.errors import UserError
from lensmith.learn.processes import Processes
from lensmith.models.base import Model, grouped
from lensmith.models.layers.int8 import in_eight_bits
from lensmith.models.memory import out_of_memory
from lensmith.models.views import Views, shape_of, stack, unstack
from lensmith.progress import Note, Tell, counter
from lensmith.runs.files import as_usual

WINDOW, BATCH = 256, 32
"""The maximum number of images per file, and of images that go through the tower at once."""
FIRST_WINDOW, WINDOW_BYTES = 16, 1 << 29
"""The number of images in the first file, from which the size of the others is estimated; and the maximum size of the
images, or of the features, of one file."""
PREPARATION_MODULES = (
    lensmith.models.base,
    lensmith.models.views,
    lensmith.models.tower_attention,
    lensmith.models.layers.int8,
    lensmith.data.images,
)
"""Modules that prepare an image for the tower, and parts of the tower, for every model family."""
SPARE_BYTES = 2 << 30
"""Bytes to leave free on the disk."""


def cache_folder() -> Path:
    """$LENSMITH_CACHE, or `lensmith` in the user's cache folder."""
    if folder := os.environ.get("LENSMITH_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lensmith"


def fingerprint(model: Model, components: Sequence[str], more: dict[str, Any] | None = None) -> str:
    """A digest, 32 hex digits, of everything that features depend on except the image.

    Args:
        components: the model's components whose weights the features depend on. Settings, number format, source code
            and library versions are included as well.
        more: whatever else the features depend on, as plain values.
    """
    digest = hashlib.blake2b(digest_size=16)
    about = {
        "parts": list(components),
        "more": more,
        "compute": str(model.compute),
        "device": model.device.type,
        "code": source_digests(sys.modules[type(model).__module__], *PREPARATION_MODULES),
        "pillow": PIL.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": model.settings,
        "image_tokens": model.options.image_tokens,
        "quantize": model.options.quantize,
        "config": model.network.config.to_dict(),
    }
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, weight in [*model.network.named_parameters(), *in_eight_bits(model.network)]:
        if any(name.startswith(model.components[component] + ".") for component in components):
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def source_digests(*modules: ModuleType) -> list[str]:
    """Digests of the modules' source files, so that features extracted by other code have another name."""
    return [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in modules]


class FeatureStore:
    """The features of images, by name, in a folder of safetensors files. Names are added and never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._file_of: dict[str, Path] = {}
        self.reopen()

    def reopen(self) -> None:
        """Open the files that this or another process has added since."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._files:
                continue
            try:
                # The file is memory-mapped: only the tensors that are requested are read.
                self._files[path] = safe_open(path, "pt")
                self._file_of |= dict.fromkeys(self._files[path].keys(), path)
            except SafetensorError:  # truncated
                with suppress(OSError):
                    path.unlink()

    def __contains__(self, name: str) -> bool:
        return f"{name}/0" in self._file_of

    def get(self, name: str) -> Views | None:
        """The features stored under a name, or None."""
        if name not in self:
            return None
        keys = takewhile(self._file_of.__contains__, (f"{name}/{k}" for k in count()))
        return tuple(self._files[self._file_of[key]].get_tensor(key) for key in keys)

    def drop_damaged(self, names: Sequence[str]) -> int:
        """Remove the files that contain damaged features of these images; returns the number of these images lost.

        After a power failure a file may have its length but not its content, so its digests are compared. Features are
        read once more for this, at several times the speed of extracting them.
        """
        stored = [name for name in names if name in self]
        damaged = {self._file_of[f"{name}/0"] for name in stored if not self._is_intact(name)}
        for path in damaged:
            del self._files[path]
            with suppress(OSError):
                path.unlink()
        self._file_of = {key: path for key, path in self._file_of.items() if path not in damaged}
        return sum(name not in self for name in stored)

    def _is_intact(self, name: str) -> bool:
        digests = self._files[self._file_of[f"{name}/0"]].metadata() or {}
        try:
            return all(digests.get(f"{name}/{k}") == digest_of(tensor) for k, tensor in enumerate(self.get(name) or ()))
        except (SafetensorError, OSError):
            return False

    def add(self, images: dict[str, Views]) -> None:
        """Write the features of some images, by name, into a new file. `get` returns them after `reopen`.

        Raises:
            OSError: the disk is full or can't be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}/{k}": view.contiguous() for name, views in images.items() for k, view in enumerate(views)}
        name = hashlib.sha256("\n".join(tensors).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.safetensors"
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file(tensors, partial, {key: digest_of(tensor) for key, tensor in tensors.items()})
            as_usual(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except SafetensorError as error:  # its text contains the operating system's message
            raise OSError(str(error)) from None
        finally:
            partial.unlink(missing_ok=True)


def digest_of(tensor: torch.Tensor) -> str:
    """16 hex digits that identify a tensor's content."""
    return hashlib.blake2b(tensor.contiguous().view(torch.uint8).numpy().data, digest_size=8).hexdigest()


@dataclass(frozen=True)
class FillResult:
    """The result of `fill`."""

    stored: bool
    """Whether all features are stored now; False if there isn't enough space on the disk."""
    computed: int
    """The number of images whose features were not stored before."""


def fill(
    store: FeatureStore,
    images: Any,
    ids: Sequence[str],
    model: Model,
    extract: Callable[[Views], Views],
    processes: Processes,
    tell: Tell,
) -> FillResult:
    """Extract and store the features of all readable images that are not in the store yet.

    Args:
        images: prepared views by index; None for an image that can't be read.
        ids: the name of each image in the store.
        extract: turns stacked prepared views into one or several stacks of features.
    """
    if lost := store.drop_damaged(ids):
        tell(Note(f"{lost:,} cached features in {store.folder} were damaged, and are extracted again."))
    # All processes use the main process's list, since other runs may add to the store meanwhile.
    missing = processes.broadcast([i for i in range(len(images)) if ids[i] not in store])
    mine = missing[processes.rank :: processes.count]
    stored = all(processes.gather([_extract_and_store(store, images, ids, mine, model, extract, processes, tell)]))
    store.reopen()
    if processes.count > 1 and stored:
        # Another machine's disk may have features that this machine's lacks. Those that share a disk share this, too.
        lacking = _lacking_here(store, ids, processes)
        stored = all(
            processes.gather([_extract_and_store(store, images, ids, lacking, model, extract, processes, tell)])
        )
        store.reopen()
    if missing and stored:
        size = sum(path.stat().st_size for path in store.folder.glob("*.safetensors"))
        tell(Note(f"Features are cached in {store.folder} ({size / 1e6:,.0f} MB) and shared by all runs.", detail=True))
    return FillResult(stored, len(missing))


def _lacking_here(store: FeatureStore, ids: Sequence[str], processes: Processes) -> list[int]:
    """This process's share of the images whose features are not in the store of its machine."""
    place = (socket.gethostname(), str(store.folder))
    ranks = [rank for rank, where in processes.gather([(processes.rank, place)]) if where == place]
    first = processes.rank == ranks[0]
    lists = processes.gather([(place, [i for i, name in enumerate(ids) if name not in store])] if first else [])
    lacking: list[int] = next(found for where, found in lists if where == place)
    return lacking[ranks.index(processes.rank) :: len(ranks)]


def _extract_and_store(
    store: FeatureStore,
    images: Any,
    ids: Sequence[str],
    mine: Sequence[int],
    model: Model,
    extract: Callable[[Views], Views],
    processes: Processes,
    tell: Tell,
) -> bool:
    """Extract and store the features of the images `mine`; returns False if the disk has no space for them."""
    progress = counter("extracting features", len(mine), tell if processes.main else lambda _: None)
    progress(0)
    first, width, largest = 0, min(FIRST_WINDOW, WINDOW), 1
    while first < len(mine):
        window = mine[first : first + width]
        extracted = {ids[i]: features for i, features in extract_features(images, window, model, extract)}
        sizes = [sum(view.nbytes for view in views) for views in extracted.values()]
        needed = sum(sizes) * (len(mine) - first) / len(window) * processes.count
        largest = max(largest, model.photo_bytes(), *sizes)
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            if needed > shutil.disk_usage(store.folder).free - SPARE_BYTES:
                spare = f"{SPARE_BYTES / 1e9:.0f} GB"
                raise OSError(f"they need {needed / 1e9:.1f} GB, and {spare} of disk space must stay free")
            if extracted:
                store.add(extracted)
        except OSError as error:
            tell(Note(f"Features can't be cached in {store.folder}: {error}. They are extracted again when needed."))
            return False
        first += len(window)
        progress(first)
        width = max(1, min(WINDOW, WINDOW_BYTES // largest))
    return True


def extract_features(
    images: Any, window: Sequence[int], model: Model, extract: Callable[[Views], Views]
) -> Iterator[tuple[int, Views]]:
    """Index and features of the images in `window`, in no particular order, skipping unreadable ones; see `fill`."""
    readable = [(i, views) for i in window if (views := images[i]) is not None]
    for group in grouped(shape_of(views) for _, views in readable):
        # The tiles of many images can need more memory than is available. On a machine that overcommits memory, the
        # process would be killed without an error, so the batch size is limited beforehand.
        fit = model.free_memory() // 4 // model.memory(shape_of(readable[group[0]][1]), 0)
        size = max(1, min(BATCH, fit))
        for first in range(0, len(group), size):
            batch = group[first : first + size]
            extracted = unstack(_extract_batch(model, stack([readable[k][1] for k in batch]), extract))
            for k, features in zip(batch, extracted, strict=True):
                yield readable[k][0], tuple(view.clone() for view in features)


def _extract_batch(model: Model, views: Views, extract: Callable[[Views], Views]) -> Views:
    """Features of images of one shape. If memory runs out, the batch is split in half."""
    try:
        with torch.no_grad(), model.autocast():
            return tuple(view.cpu() for view in extract(views))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    if (n := len(views[0])) == 1:
        raise UserError("There is not enough memory to extract the features of one image.", "Use a smaller model.")
    torch.cuda.empty_cache()
    halves = zip(*(view.split((n + 1) // 2) for view in views), strict=True)
    extracted = (_extract_batch(model, half, extract) for half in halves)
    return tuple(torch.cat(parts) for parts in zip(*extracted, strict=True))
