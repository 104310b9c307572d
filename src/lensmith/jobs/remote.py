"""What every remote place does with a run folder before a job leaves and when its run comes back."""

from __future__ import annotations

import re
import shlex
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.jobs.job import NOTE, Job, away, record_of
from lensmith.runs.folder import ANYWHERE, default_folder, new_run_folder, read_run, same_recipe, same_training
from lensmith.runs.lock import LOCK
from lensmith.runs.shapes import JobNote, read_as

LAST = ("result.json", "evaluation.json", "ladder.json", "sweep.json", "summary.json", "labels.json")
"""Files that only a finished run has; they are copied back after all others."""


def prepared(job: Job, place: str) -> tuple[Job, Path, dict[str, Any] | None]:
    """The job with its recipe and options, its run folder, and the note of an earlier job of the same run there.

    Raises:
        UserError: the run can't be resumed.
    """
    if not job.resume:
        assert job.recipe
        return job, job.folder or default_folder(job.recipe, job.verb), None
    assert job.folder
    folder = job.folder
    if away(folder):
        raise UserError(
            f"The run {folder} is already running.", f"Follow it with: lensmith attach {shlex.quote(str(folder))}"
        )
    if record_of(folder, job.verb):
        raise UserError(f"The run {folder} is finished: there is nothing to resume.")
    original = read_run(folder)
    if job.recipe:
        same_recipe(folder, original, job.recipe, same_training(job.recipe) if job.verb == "train" else ANYWHERE)
    note: dict[str, Any] | None = {**read_as(folder / NOTE, JobNote)} if (folder / NOTE).exists() else None
    if note and note["verb"] != job.verb:
        raise UserError(f"The run {folder} was started by `lensmith {note['verb']}`.", how_to_resume(folder, place))
    if note and (note["state"] == "left" or note["place"] != place):
        # It has progressed elsewhere since, so it is uploaded under a new name.
        note = {"options": note.get("options", {})}
    options = note.get("options", {}) if note else {}
    there = note if note and "name" in note else None
    return replace(job, recipe=job.recipe or original, options=options), folder, there


@contextmanager
def new_folder(folder: Path, resume: bool) -> Iterator[None]:
    """Create a run folder, and remove it and its new parents if the block fails. A resumed run keeps its folder."""
    if resume:
        yield
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    new_run_folder(folder)
    try:
        yield
    except BaseException:
        for name in ("recipe.yaml", NOTE, LOCK):
            (folder / name).unlink(missing_ok=True)
        for path in created:
            with suppress(OSError):
                path.rmdir()
        raise


def unique_name(folder: Path) -> str:
    """A unique name for a run in a place's storage, in characters that every storage accepts."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip(".-")[:40]
    return f"{words}-{uuid.uuid4().hex[:8]}".lstrip("-")


def how_to_resume(folder: Path, place: str) -> str:
    """What to do next with a run that hasn't finished."""
    return f"Resume it with: lensmith resume {shlex.quote(str(folder))} --on {place}"


def replace_run(temporary: Path, folder: Path) -> None:
    """Move downloaded files to their final paths, and remove outdated files of an unfinished run."""
    for old in ("checkpoint", "predictions.unfinished"):
        shutil.rmtree(folder / old, ignore_errors=True)
    for path in sorted(temporary.iterdir(), key=lambda path: path.name in LAST):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        path.replace(folder / path.name)
