"""What a remote machine does with a job, wherever it is.

The machine is made to look like the local one. What was uploaded appears in the folders that the recipe names, seen
from the same working directory, and the run folder has its own name too. So the recipe, the records and the report that
are copied back are those of a local run, and a run that was started locally can be resumed there.
"""

from __future__ import annotations

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
"""Where storage is mounted: `data`, `weights` and `runs`."""
ATTEMPTS = "{}.attempts.json"
"""Beside a run in storage: the seconds that each attempt took."""


def attempt(
    job: dict[str, Any], put: Callable[[dict[str, Any]], Any], commit: Callable[[], Any], root: Path = ROOT
) -> dict[str, Any]:
    """Do a job, or resume it if an earlier attempt has begun.

    Args:
        job: `verb`, `recipe` as plain values, `options` of the verb's function; `name` of the run in storage; `cwd` and
            `folder`, the run folder, as on the local machine; `uploads`, each with `folder` as on the local machine and
            `stored`, its path below `root`.
        put: passes on a progress event.
        commit: makes what was written to the runs' storage last.

    Returns:
        `record` as the verb returns it; or `error` and `hint` for what the user can put right, since trying that
        again would be in vain. Both with `seconds`, the sum over all attempts.

    Raises:
        RuntimeError: anything else, in words; the place then tries again.
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
        if isinstance(error, Exception):  # its class may be unknown, or mean something else, on the local machine
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
    save()
    return outcome | {"seconds": sum(seconds)}


def _do(job: dict[str, Any], run: Path, tell: Reporter, root: Path) -> dict[str, Any]:
    from lensmith.config import recipe_from

    begun = (run / "record.json").exists()
    if not begun:  # nothing worth keeping
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    os.makedirs(job["cwd"], exist_ok=True)
    os.chdir(job["cwd"])
    for upload in job["uploads"]:
        appear(root / upload["stored"], Path(upload["folder"]).expanduser())
    folder = Path(job["folder"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        folder.symlink_to(run, target_is_directory=True)
    if record := record_of(run, job["verb"]):  # an attempt may end after the run did and before that was known
        return record | {"run": str(folder), "report": str(folder / "report.html")}
    return perform(Job(job["verb"], recipe_from(job["recipe"]), folder, begun, job["options"]), tell)


def appear(stored: Path, folder: Path) -> None:
    """Have the files of an uploaded folder appear in another, as links.

    Files and not folders, since some readers don't look into linked folders.

    Raises:
        UserError: the machine has something else there.
    """
    for here, _, files in os.walk(stored):
        there = folder / Path(here).relative_to(stored)
        there.mkdir(parents=True, exist_ok=True)
        for name in files:
            target, link = Path(here, name), there / name
            if link.is_symlink() and link.readlink() == target:
                continue
            try:
                link.symlink_to(target)
            except FileExistsError:
                raise UserError(f"The rented machine has a file {link} of its own.", "Rename the folder.") from None


class Reporter:
    """Passes progress on, a few events a minute of each kind, and saves now and then."""

    PAUSE, SAVE = 2.0, 60.0
    """Seconds between two counts, and between two times of saving."""

    def __init__(self, put: Callable[[dict[str, Any]], Any], save: Callable[[], Any]) -> None:
        self._put, self._save = put, save
        self._told, self._saved = -math.inf, time.monotonic()

    def __call__(self, event: Note | Advance) -> None:
        now = time.monotonic()
        if isinstance(event, Note) or event.done >= event.total or now - self._told >= self.PAUSE:
            self._told = now if isinstance(event, Advance) else self._told
            with suppress(Exception):  # not worth a job
                self._put(asdict(event))
        if now - self._saved >= self.SAVE:
            self._saved = now
            with suppress(Exception):  # the volume saves by itself too, and the end tries again
                self._save()


def event_from(values: dict[str, Any]) -> Note | Advance:
    """The event that `Reporter` passed on."""
    return Note(**values) if "text" in values else Advance(**values)
