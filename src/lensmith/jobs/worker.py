"""What a remote machine does with a job.

The machine is set up to look like the local one. Uploaded files appear in the folders that the recipe names, relative
to the same working directory, and the run folder has the same name. So the recipe, the records and the report that are
copied back are the same as those of a local run, and a run that was started locally can be resumed remotely.
"""

from __future__ import annotations

import filecmp
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.jobs.job import Job, perform, record_of
from lensmith.progress import Advance, Note
from lensmith.runs.files import read_json, write_json

ROOT = Path("/lensmith")
"""The folder where storage is mounted, with subfolders `data`, `weights` and `runs`."""
ATTEMPTS = "{}.attempts.json"
"""File beside a run in storage, with the seconds that each attempt took."""


def attempt(
    job: dict[str, Any], put: Callable[[dict[str, Any]], Any], commit: Callable[[], Any], root: Path = ROOT
) -> dict[str, Any]:
    """Run a job, or resume it if an earlier attempt has started.

    Args:
        job: `verb`, `recipe` as plain values, `options` of the verb's function; `name` of the run in storage; `cwd` and
            `folder`, the run folder, as on the local machine; `uploads`, each with `folder` as on the local machine and
            `stored`, its path below `root`.
        put: passes on a progress event.
        commit: makes changes to the runs' storage permanent.
        root: the folder where storage is mounted.

    Returns:
        `record`, as the verb returns it; or `error` and `hint` for an error that the user can fix, since retrying would
        not help. In both cases also `seconds`, the sum over all attempts.

    Raises:
        RuntimeError: any other error, as text; the place then retries.
    """
    run = root / "runs" / job["name"]
    attempts = run.with_name(ATTEMPTS.format(job["name"]))
    before = read_json(attempts)["seconds"] if attempts.exists() else []
    began = time.monotonic()
    seconds: list[float] = []

    def save() -> None:
        seconds[:] = [*before, time.monotonic() - began]
        write_json(attempts, {"seconds": seconds})
        commit()

    outcome: dict[str, Any]
    try:
        outcome = {"record": _do(job, run, Reporter(put, save), root)}
    except UserError as error:
        outcome = {"error": error.what, "hint": error.hint}
    except BaseException as error:
        with suppress(Exception):
            save()
        if isinstance(error, Exception):  # its class may not exist, or may differ, on the local machine
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
    save()
    return outcome | {"seconds": sum(seconds)}


def _do(job: dict[str, Any], run: Path, tell: Reporter, root: Path) -> dict[str, Any]:
    from lensmith.config import recipe_from

    begun = (run / "record.json").exists()
    if not begun:  # there is nothing worth keeping
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    os.makedirs(job["cwd"], exist_ok=True)
    os.chdir(job["cwd"])
    for upload in job["uploads"]:
        link_files(root / upload["stored"], Path(upload["folder"]).expanduser())
    folder = Path(job["folder"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        folder.symlink_to(run, target_is_directory=True)
    if record := record_of(run, job["verb"]):  # an earlier attempt ended after the run, but before it was reported
        return record | {"run": str(folder), "report": str(folder / "report.html")}
    return perform(Job(job["verb"], recipe_from(job["recipe"]), folder, begun, job["options"]), tell)


def link_files(stored: Path, folder: Path) -> None:
    """Create links in a folder to all files of an uploaded folder.

    Files are linked, not folders, since some readers don't descend into linked folders.

    Raises:
        UserError: the folder contains another file of the same name.
    """
    for source, _, files in os.walk(stored):
        destination = folder / Path(source).relative_to(stored)
        try:
            destination.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The remote machine can't have a folder {destination}: {error.strerror}.",
                "Name your files by paths that count from the current folder.",
            ) from None
        for name in files:
            target, link = Path(source, name), destination / name
            if link.is_symlink() and link.readlink() == target:
                continue
            try:
                link.symlink_to(target)
            except FileExistsError:
                if link.is_file() and filecmp.cmp(link, target, shallow=False):
                    continue
                raise UserError(f"The remote machine already has another file {link}.", "Rename the folder.") from None


class Reporter:
    """Passes on progress, at a limited rate, and saves the run at intervals."""

    PAUSE, SAVE = 2.0, 60.0
    """Seconds between two counts, and between two saves."""

    def __init__(self, put: Callable[[dict[str, Any]], Any], save: Callable[[], Any]) -> None:
        self._put, self._save = put, save
        self._sent, self._saved = -math.inf, time.monotonic()

    def __call__(self, event: Note | Advance) -> None:
        now = time.monotonic()
        if isinstance(event, Note) or event.done >= event.total or now - self._sent >= self.PAUSE:
            self._sent = now if isinstance(event, Advance) else self._sent
            with suppress(Exception):  # a lost event must not end the job
                self._put(asdict(event))
        if now - self._saved >= self.SAVE:
            self._saved = now
            with suppress(Exception):  # storage also saves by itself, and the end of the attempt saves again
                self._save()


def event_from(values: dict[str, Any]) -> Note | Advance:
    """The event that `Reporter` has passed on as plain values."""
    return Note(**values) if "text" in values else Advance(**values)
