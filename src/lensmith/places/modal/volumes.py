"""What goes to Modal's volumes and comes back from them."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from lensmith.errors import UserError
from lensmith.jobs.cargo import Upload

LAST = ("result.json", "evaluation.json")
"""What says that a run is finished; put in its place after everything else."""


def send(upload: Upload, volume: Any) -> bool:
    """Upload what isn't there yet.

    The note that says so is written last, so that an upload that was cut off doesn't pass for a whole one.

    Returns:
        Whether there was anything to send.
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
    """Upload a run that was begun here, to go on there."""
    with runs.batch_upload(force=True) as batch:
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and not any(word.startswith(".") for word in inner.parts):
                batch.put_file(path, f"/{name}/{inner.as_posix()}")


def bring_home(runs: Any, name: str, folder: Path) -> bool:
    """Copy a run from its volume into its folder; each file whole or not at all, and those that mean "finished" last.

    Args:
        runs: the volume.
        name: of the run in it.

    Returns:
        Whether there was anything.

    Raises:
        UserError: a file came incomplete, or can't be written.
    """
    from modal.exception import NotFoundError
    from modal.types import FileEntryType

    part = folder / ".home.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        entries = list(runs.listdir(f"/{name}", recursive=True))
    except (NotFoundError, FileNotFoundError):
        return False
    try:
        for entry in entries:
            inner = PurePosixPath(entry.path.lstrip("/")).relative_to(name)
            # Hidden files are those that were being written; the others can't lead out of the folder.
            if entry.type != FileEntryType.FILE or any(word.startswith(".") for word in inner.parts):
                continue
            path = part / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for block in runs.read_file(entry.path):
                    file.write(block)
            if path.stat().st_size != entry.size:
                raise UserError(f"{entry.path} came home incomplete.", f"Again: lensmith attach {folder}")
        if not part.exists():
            return False
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _replace(part: Path, folder: Path) -> None:
    """Put what came home in its place; what an unfinished run holds goes if it didn't come."""
    for old in ("checkpoint", "predictions.unfinished"):
        shutil.rmtree(folder / old, ignore_errors=True)
    for path in sorted(part.iterdir(), key=lambda path: path.name in LAST):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        path.replace(folder / path.name)
