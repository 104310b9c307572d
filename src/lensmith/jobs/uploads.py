"""What a job uploads from this machine to a remote one.

An upload is named after its content: a digest of all file names and bytes. So files that are there already are not sent
again, whatever their folder is called and whenever it was modified, and changed files can't be mistaken for old ones.
(Sizes and times would be faster to read. But copies and checkouts change times, and Modal reads every byte that it
sends anyway.)
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
from lensmith.runs.folder import adapter_folder, read_run

if TYPE_CHECKING:
    from lensmith.data.source import Files
    from lensmith.jobs.job import Job

DATA, WEIGHTS = "data", "weights"
"""Kinds of uploads, each stored separately."""


@dataclass(frozen=True)
class Upload:
    """Files of one folder to upload."""

    folder: str
    """The folder as named in the recipe; on the remote machine, the files appear in a folder of the same name."""
    volume: str
    """`DATA` or `WEIGHTS`."""
    files: Mapping[str, Path]
    """The files by their names in the folder."""
    name: str
    """Name of the upload, a digest of its content."""

    @property
    def stored(self) -> str:
        """Path below the folder where storage is mounted."""
        return f"{self.volume}/{self.name}"

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(path.stat().st_size for path in self.files.values())


def uploads(job: Job) -> list[Upload]:
    """All files that the recipe names and that are on this machine.

    Raises:
        UserError: they don't exist, or a table's images can't be uploaded.
    """
    from lensmith.data.paths import visible_files
    from lensmith.models import FILES, find, on_hub, read_config

    assert job.recipe
    needed = []
    if job.verb == "label":
        needed += [_upload(DATA, *_images(path)) for path in job.options["images"]]
    elif job.verb != "predict" and (data := _data(job)):  # a bulk prediction reads its source where it is
        needed.append(_upload(DATA, data.folder, data.paths))
    if taught := job.options.get("taught"):
        needed.append(_upload(WEIGHTS, taught, _run(Path(taught))))
    base = base_of(job)
    if base != "nano" and not on_hub(base):  # the remote machine downloads models of the hub itself
        folder = find(base)
        read_config(folder, base)  # raises an error if the folder isn't a model
        files = {
            name: file
            for name, file in visible_files(folder).items()
            if any(fnmatch(name, pattern) for pattern in FILES)
        }
        needed.append(_upload(WEIGHTS, base, files))
    if job.recipe.model.adapter and job.verb == "evaluate":  # a training ignores it
        needed.append(_upload(WEIGHTS, *_adapter(job.recipe.model.adapter)))
    return needed


def _data(job: Job) -> Files | None:
    """The image files to upload; None if the remote machine can get them itself."""
    from lensmith.data.source import Columns
    from lensmith.data.sources import needed_files

    assert job.recipe
    options = job.recipe.data
    for name in ("corrections", "more", "unlabelled"):
        if getattr(options, name):
            raise UserError(
                f"data.{name} names files of this machine, which aren't sent to another one.",
                "Train here, or without it; or put the corrected labels into a table of their own.",
            )
    files = needed_files(options.uri, Columns.of(options))
    if files and not files.paths:
        raise UserError(
            f"There is nothing to upload in {os.path.expanduser(files.folder)}.", "Check that this is the right folder."
        )
    return files


def base_of(job: Job) -> str:
    """The base model that a job loads: of a taught run, the one that it was taught on."""
    from lensmith.records import TASK
    from lensmith.runs.shapes import Task, read_as

    if taught := job.options.get("taught"):
        return read_as(adapter_folder(Path(taught)) / TASK, Task)["base"]
    assert job.recipe
    return job.recipe.model.base


def _images(path: str) -> tuple[str, dict[str, Path]]:
    """An image file, or the images of a folder, to be labelled."""
    from lensmith.data import list_images

    found = list_images(path)
    if Path(path).is_dir():
        return path, {file.relative_to(path).as_posix(): file for file in found}
    return str(Path(path).parent), {Path(path).name: found[0]}


def _run(run: Path) -> dict[str, Path]:
    """The files of a run that answers: its recipe and its adapter."""
    read_run(run)
    if not (inner := run / "adapter").is_dir():
        raise UserError(f"The run {run} has no trained adapter.", "Use the run folder of a `lensmith train`.")
    inside = sorted(filter(Path.is_file, inner.rglob("*")))
    files = {f"adapter/{file.relative_to(inner).as_posix()}": file for file in inside}
    return {"recipe.yaml": run / "recipe.yaml"} | files


def _adapter(adapter: str) -> tuple[str, dict[str, Path]]:
    """Folder and files of an adapter: of a run folder, only its adapter is needed."""
    from lensmith.data.paths import visible_files

    folder = Path(adapter)
    inner = adapter_folder(folder)
    if not inner.is_dir():
        raise UserError(
            f"There is no adapter in {adapter}.", "Use the run folder of a `lensmith train`, or a PEFT folder."
        )
    return os.path.join(adapter, inner.name) if inner != folder else adapter, visible_files(inner)


def _upload(volume: str, folder: str, files: Mapping[str, Path]) -> Upload:
    return Upload(folder, volume, files, digest_of(files))


def digest_of(files: Mapping[str, Path]) -> str:
    """The digest of files by name, after which an upload of them is named: 20 hex digits.

    Raises:
        UserError: one of them can't be read.
    """
    digest = hashlib.blake2b(digest_size=10)
    for name in sorted(files):
        try:
            with files[name].open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").digest()
        except OSError as error:
            raise UserError(f"{files[name]} can't be read: {error.strerror}.", "Check its permissions.") from None
        digest.update(len(name.encode()).to_bytes(4, "big") + name.encode() + content)
    return digest.hexdigest()
