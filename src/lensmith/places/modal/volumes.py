"""Uploads to Modal's volumes, and downloads from them."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from lensmith.errors import UserError
from lensmith.jobs.remote import replace_run
from lensmith.jobs.uploads import Upload


def send(upload: Upload, volume: Any) -> bool:
    """Upload files, unless they were uploaded before.

    A note is written last, so that an interrupted upload isn't taken for a complete one.

    Returns:
        Whether anything was sent.
    """
    note = f"{upload.name}.json"
    if note in {entry.path.lstrip("/") for entry in volume.listdir("/")}:
        return False
    with volume.batch_upload(force=True) as batch:
        for name, path in upload.files.items():
            batch.put_file(path, f"/{upload.name}/{name}")
    about = {"from": upload.folder, "files": len(upload.files), "bytes": upload.size}
    with volume.batch_upload(force=True) as batch:
        batch.put_file(BytesIO(json.dumps(about).encode()), f"/{note}")
    return True


def send_run(runs: Any, folder: Path, name: str) -> None:
    """Upload a run that was started on this machine, to be resumed remotely."""
    with runs.batch_upload(force=True) as batch:
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and not any(word.startswith(".") for word in inner.parts):
                batch.put_file(path, f"/{name}/{inner.as_posix()}")


def copy_back(runs: Any, name: str, folder: Path) -> bool:
    """Download a run from its volume to its folder, each file atomically, and the files of finished runs last.

    Args:
        runs: the volume.
        name: the name of the run in the volume.
        folder: the run folder on this machine.

    Returns:
        Whether there was anything to download.

    Raises:
        UserError: a file was downloaded incompletely, or can't be written.
    """
    from modal.exception import NotFoundError
    from modal.types import FileEntryType

    temporary = folder / ".home.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        entries = list(runs.listdir(f"/{name}", recursive=True))
    except (NotFoundError, FileNotFoundError):
        return False
    try:
        for entry in entries:
            inner = PurePosixPath(entry.path.lstrip("/")).relative_to(name)
            # Hidden files are incomplete. Skipping them also skips "..", so no path leads out of the folder.
            if entry.type != FileEntryType.FILE or any(word.startswith(".") for word in inner.parts):
                continue
            path = temporary / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for block in runs.read_file(entry.path):
                    file.write(block)
            if path.stat().st_size != entry.size:
                raise UserError(
                    f"The download of {entry.path} is incomplete.", f"Try again with: lensmith attach {folder}"
                )
        if not temporary.exists():
            return False
        replace_run(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True
