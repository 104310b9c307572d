"""What goes from this machine to the rented one, and what comes back.

An upload is named after its content: a digest of all names and bytes. So what is there already is not sent again,
whatever it is called and whenever it was touched, and what has changed can't be mistaken for what was sent before.
(Sizes and times alone would be quicker to read, but copies and checkouts change times, and Modal reads every byte
anyway for what it sends.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith.errors import UserError

if TYPE_CHECKING:
    from lensmith.data.source import Files
    from lensmith.jobs.job import Job

DATA, WEIGHTS = "data", "weights"
"""The volumes that hold uploads, without the `lensmith-` of their names."""


@dataclass(frozen=True)
class Upload:
    """Files of one folder."""

    folder: str
    """As the recipe names it; there, the files appear under the same name."""
    volume: str
    files: Mapping[str, Path]
    """By their names in the folder."""
    name: str
    """Of the folder in the volume."""

    @property
    def stored(self) -> str:
        """Its place below the folder where the volumes are mounted."""
        return f"{self.volume}/{self.name}"

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(path.stat().st_size for path in self.files.values())


def uploads(job: Job) -> list[Upload]:
    """All that the recipe names and that lies here.

    Raises:
        UserError: it isn't there, or a table's images can't be taken along.
    """
    from lensmith.data.paths import visible_files
    from lensmith.models import FILES, find, on_hub, read_config

    assert job.recipe
    found = []
    if data := _data(job):
        found.append(_upload(DATA, data.folder, data.paths))
    base = job.recipe.model.base
    if base != "nano" and not on_hub(base):  # what the hub has is fetched there
        folder = find(base)
        read_config(folder, base)  # a folder that isn't a model is not for uploading
        files = {
            name: file for name, file in visible_files(folder).items() if any(fnmatch(name, kind) for kind in FILES)
        }
        found.append(_upload(WEIGHTS, base, files))
    if job.recipe.model.adapter and job.verb == "evaluate":  # a training leaves it aside
        found.append(_upload(WEIGHTS, *_adapter(job.recipe.model.adapter)))
    return found


def _data(job: Job) -> Files | None:
    """The images that have to be uploaded; None if the remote machine gets them without this one."""
    from lensmith.data.source import Columns
    from lensmith.data.sources import needed_files

    assert job.recipe
    options = job.recipe.data
    files = needed_files(options.uri, Columns(options.image_column, options.label_column))
    if files and not files.paths:
        raise UserError(
            f"There is nothing to upload in {os.path.expanduser(files.folder)}.", "Check that this is the right place."
        )
    return files


def _adapter(adapter: str) -> tuple[str, dict[str, Path]]:
    """Of a run folder its adapter, which is all that is read of it; or an adapter's own folder."""
    from lensmith.data.paths import visible_files

    folder = Path(adapter)
    inner = folder / "adapter" if (folder / "adapter").is_dir() else folder
    if not inner.is_dir():
        raise UserError(
            f"There is no adapter in {adapter}.", "Give a run folder of `lensmith train`, or a PEFT folder."
        )
    return os.path.join(adapter, inner.name) if inner != folder else adapter, visible_files(inner)


def _upload(volume: str, folder: str, files: Mapping[str, Path]) -> Upload:
    digest = hashlib.blake2b(digest_size=10)
    for name in sorted(files):
        try:
            with files[name].open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").digest()
        except OSError as error:
            raise UserError(f"{files[name]} can't be read: {error.strerror}.", "Check its permissions.") from None
        digest.update(len(name.encode()).to_bytes(4, "big") + name.encode() + content)
    return Upload(folder, volume, files, digest.hexdigest())
