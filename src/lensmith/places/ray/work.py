"""A job's work on a machine of the cluster: the folders are set up as on the client, then the verb runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lensmith.bulk.storage import Storage
from lensmith.jobs.worker import attempt, link_files
from lensmith.places.ray.stored import Events, fetch_run, save_run, scratch, unpacked


def root_of(name: str, part: str) -> Path:
    """The folder of a process of a job on its machine."""
    return scratch() / "jobs" / f"{name}-{part}"


def inputs(job: dict[str, Any], storage: Storage, root: Path) -> None:
    """Link the uploads below the root, where `jobs.worker` expects them. Each is fetched once a machine."""
    for upload in job["uploads"]:
        link = root / upload["stored"]
        link.parent.mkdir(parents=True, exist_ok=True)
        folder = unpacked(upload["stored"], storage)
        if not link.is_symlink():
            link.symlink_to(folder, target_is_directory=True)


def in_client_folder(job: dict[str, Any], storage: Storage, part: str) -> Path:
    """Make the working directory look like that of the client, for a worker that only reads; returns its folder."""
    root = root_of(job["name"], part)
    (root / "cwd").mkdir(parents=True, exist_ok=True)
    inputs(job, storage, root)
    os.chdir(root / "cwd")
    for upload in job["uploads"]:
        link_files(root / upload["stored"], Path(upload["folder"]).expanduser())
    return root


def perform_here(
    job: dict[str, Any], part: str = "main", main: bool = True, meet: Any = lambda: None
) -> dict[str, Any]:
    """Do the job in this process, from where an earlier attempt has left it.

    Args:
        job: as in job.json.
        part: tells processes on one machine apart.
        main: whether this process reports and saves.
        meet: called when the stored run has been read, before anything is written.

    Returns:
        As `jobs.worker.attempt`, and `cwd`, the folder that stood for the client's working directory.

    Raises:
        RuntimeError: see `attempt`.
    """
    storage, root = Storage(job["storage"]), root_of(job["name"], part)
    shutil.rmtree(root, ignore_errors=True)
    fetch_run(storage, job["name"], root / "runs")
    meet()
    inputs(job, storage, root)
    put = Events(storage, job["submission"]).put if main else lambda event: None
    commit = (lambda: save_run(storage, job["name"], root / "runs")) if main else lambda: None
    home = os.getcwd()
    try:
        return attempt(job | {"cwd": str(root / "cwd")}, put, commit, root) | {"cwd": str(root / "cwd")}
    finally:
        os.chdir(home)
