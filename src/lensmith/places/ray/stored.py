"""What a Ray job keeps in its storage: inputs, the run with its checkpoints, progress, and how it ended.

    uploads/DATA-OR-WEIGHTS/DIGEST.tar   files of the client, named after their content
    jobs/NAME/job.json, events.json, outcome.json
    runs/NAME.tar                        the run folder, as last saved

One tar archive instead of many files: it is written atomically, and an object store bills by the request.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lensmith.bulk.storage import Storage
from lensmith.errors import UserError
from lensmith.jobs.job import NOTE
from lensmith.jobs.uploads import Upload, digest_of
from lensmith.runs.lock import LOCK

_PATIENCE = 2.0
"""Seconds to wait for the storage before an event isn't written."""
_TRIES = 5
"""Times that progress is read, since an object store may give the beginning of a newer object that is longer."""
_KEPT = 500
"""Sentences that are kept for a client that comes back."""


def archive(name: str) -> str:
    """The name of an upload's archive, from `Upload.stored`."""
    return f"uploads/{name}.tar"


def send(upload: Upload, storage: Storage) -> bool:
    """Upload files, unless they are there; returns whether anything was sent."""
    if storage.exists(archive(upload.stored)):
        return False
    with tempfile.TemporaryDirectory(prefix="lensmith-") as folder:
        _pack(upload.files, Path(folder, "upload.tar"))
        storage.put(archive(upload.stored), Path(folder, "upload.tar"))
    return True


def scratch() -> Path:
    """A folder of this machine for what jobs unpack, of this user."""
    return Path(tempfile.gettempdir(), f"lensmith-ray-{getpass.getuser()}")


def unpacked(stored: str, storage: Storage) -> Path:
    """An upload's files in a folder of this machine, fetched once for all of its processes and jobs.

    Raises:
        UserError: what arrived isn't what was sent.
    """
    from filelock import FileLock

    folder = scratch() / "uploads" / stored
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(prefix="lensmith-", dir=folder.parent) as temporary:
            try:
                storage.get(archive(stored), Path(temporary, "upload.tar"))
            except FileNotFoundError:
                raise UserError(
                    f"The storage {storage.address} has no {archive(stored)}, which the job needs.",
                    "Start the job again, so that it is sent again.",
                ) from None
            files = Path(temporary, "files")
            with tarfile.open(Path(temporary, "upload.tar")) as tar:
                tar.extractall(files, filter="data")
            if (found := content_digest(files)) != Path(stored).name:
                raise UserError(
                    f"{archive(stored)} in {storage.address} is damaged: its content is {found}.",
                    "Remove it, and start the job again.",
                )
            files.replace(folder)
    return folder


def content_digest(folder: Path) -> str:
    """The digest of a folder's content, as `jobs.uploads` names uploads."""
    return digest_of({path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()})


def save_run(storage: Storage, name: str, runs: Path) -> None:
    """Store a run, as it is now, from the folder that has it and its attempts."""
    files = {
        path.relative_to(runs).as_posix(): path
        for path in sorted(runs.rglob("*"))
        if path.is_file() and path.name != LOCK and not any(w.startswith(".") for w in path.relative_to(runs).parts)
    }
    with tempfile.TemporaryDirectory(prefix="lensmith-") as folder:
        _pack(files, Path(folder, "run.tar"))
        storage.put(f"runs/{name}.tar", Path(folder, "run.tar"))


def save_copy(storage: Storage, name: str, folder: Path) -> None:
    """Store a run from its folder on the client, to be resumed on the cluster."""
    with tempfile.TemporaryDirectory(prefix="lensmith-") as temporary:
        shutil.copytree(folder, Path(temporary, name), ignore=shutil.ignore_patterns(".*", NOTE))
        save_run(storage, name, Path(temporary))


def has_run(storage: Storage, name: str) -> bool:
    """Whether a run is stored."""
    return storage.exists(f"runs/{name}.tar")


def fetch_run(storage: Storage, name: str, runs: Path) -> bool:
    """Replace a folder by the stored run and its attempts; returns whether there is one."""
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="lensmith-") as folder:
        try:
            storage.get(f"runs/{name}.tar", Path(folder, "run.tar"))
        except FileNotFoundError:
            return False
        with tarfile.open(Path(folder, "run.tar")) as tar:
            tar.extractall(runs, filter="data")
    return True


def _pack(files: Mapping[str, Path], target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            with suppress(FileNotFoundError):  # a temporary file that has gone since
                tar.add(os.path.realpath(files[name]), name, recursive=False)


class Events:
    """The progress of a job, kept in the storage for whoever follows it. Called with events as plain values.

    Work doesn't wait for a storage that is away: its events of that time are told with the next one that is written.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = Storage(storage.address, wait=_PATIENCE)
        self._file, self._lock = f"jobs/{name}/events.json", threading.Lock()
        self._events = read_events(storage, name)

    def put(self, event: dict[str, Any]) -> None:
        """Add an event. A count replaces the latest count of the same task."""
        with self._lock:
            last = self._events[-1] if self._events else {}
            number = last.get("number", 0) + 1
            if "task" in event and last.get("task") == event["task"]:
                self._events.pop()
            self._events = [*self._events, event | {"number": number}][-_KEPT:]
            self._storage.write(self._file, json.dumps(self._events).encode())


def read_events(storage: Storage, name: str) -> list[dict[str, Any]]:
    """The events of a job so far, each with its `number`; none if they are just being replaced again and again."""
    for _ in range(_TRIES):
        try:
            found: list[dict[str, Any]] = json.loads(storage.read(f"jobs/{name}/events.json"))
        except FileNotFoundError:
            return []
        except ValueError:
            continue
        return found
    return []


def write_outcome(storage: Storage, name: str, outcome: dict[str, Any]) -> None:
    """Keep how a job has ended."""
    storage.write(f"jobs/{name}/outcome.json", json.dumps(outcome).encode())


def read_outcome(storage: Storage, name: str) -> dict[str, Any] | None:
    """How a job has ended; None if it hasn't."""
    try:
        found: dict[str, Any] = json.loads(storage.read(f"jobs/{name}/outcome.json"))
    except FileNotFoundError:
        return None
    return found
