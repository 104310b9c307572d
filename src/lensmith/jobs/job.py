"""A job: what a verb is to do with which recipe, wherever it runs; and the note in a run folder of where that is."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.runs.files import read_json, write_json
from lensmith.runs.folder import unfinished

if TYPE_CHECKING:
    from lensmith.progress import Tell

NOTE = "place.json"
"""In a run folder: where its job runs."""


@dataclass(frozen=True)
class Job:
    """A verb's work, to be done somewhere."""

    verb: str
    recipe: Recipe | None
    """None where a resumed run keeps its own."""
    folder: Path | None = None
    """The run folder; None for runs/NAME-VERB-TIME."""
    resume: bool = False
    """Resume the run in `folder`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the verb's function, as plain values; a resumed run keeps its own."""


def perform(job: Job, tell: Tell) -> dict[str, Any]:
    """Do a job in this process; returns the verb's record.

    Raises:
        UserError: see the verb; or there is nothing to resume.
        Stopped: Ctrl-C.
    """
    verb = _module(job.verb)
    function = getattr(verb, job.verb)
    record: dict[str, Any]
    if job.resume:
        assert job.folder, "a resumed job has a folder"
        own = unfinished(job.folder, verb.RECORD)
        record = function(job.recipe or own, job.folder, tell, resume=True)
    else:
        assert job.recipe, "a new job has a recipe"
        record = function(job.recipe, job.folder, tell, **job.options)
    return record


def _module(verb: str) -> Any:
    """A verb's module, found by name, because verbs are above jobs."""
    return import_module("lensmith.verbs").module(verb)


def record_of(folder: Path, verb: str) -> dict[str, Any] | None:
    """The record of a verb's finished run; None if it isn't finished."""
    path = folder / _module(verb).RECORD
    return read_json(path) if path.exists() and (folder / "report.html").exists() else None


class Detached(KeyboardInterrupt):
    """Ctrl-C while a job was followed that continues without us; its text says how to return."""

    def __init__(self, folder: Path) -> None:
        super().__init__(how_to_return(folder))


def how_to_return(folder: Path) -> str:
    """The sentence for somebody who leaves a job alone."""
    run = shlex.quote(str(folder))
    follow = f"lensmith attach {run}"
    return f"the job continues. Follow it and copy its run back: {follow}. End it: {follow} --cancel"


def leave(folder: Path) -> None:
    """Write down that a run goes on here: what the other place holds of it is then an older copy."""
    if (folder / NOTE).exists():
        write_json(folder / NOTE, read_json(folder / NOTE) | {"state": "left"})


def away(folder: Path) -> bool:
    """Whether a run folder's job may still be running elsewhere."""
    return (folder / NOTE).exists() and read_json(folder / NOTE).get("state") == "running"
