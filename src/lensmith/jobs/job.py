"""A job: the work of a verb with a recipe, on any machine; and the note in a run folder of where its job runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.runs.files import read_json, write_json
from lensmith.runs.folder import is_finished, unfinished

if TYPE_CHECKING:
    from lensmith.progress import Tell

NOTE = "place.json"
"""File in a run folder that says where its job runs."""


@dataclass(frozen=True)
class Job:
    """The work of a verb, which can run on any machine."""

    verb: str
    recipe: Recipe | None
    """None if a resumed run keeps its recipe."""
    folder: Path | None = None
    """The run folder; None for runs/NAME-VERB-TIME."""
    resume: bool = False
    """Resume the run in `folder`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the verb's function, as plain values; a resumed run keeps its options."""


def perform(job: Job, tell: Tell) -> dict[str, Any]:
    """Run a job in this process, and return the verb's record.

    Raises:
        UserError: see the verb; also if there is nothing to resume.
        Stopped: Ctrl-C.
    """
    verb = module_of(job.verb)
    function = getattr(verb, getattr(verb, "JOB", job.verb))
    record: dict[str, Any]
    if job.resume:
        assert job.folder, "a resumed job has a folder"
        recipe = unfinished(job.folder, verb.RECORD)
        record = function(job.recipe or recipe, job.folder, tell, resume=True)
    else:
        assert job.recipe, "a new job has a recipe"
        record = function(job.recipe, job.folder, tell, **job.options)
    return record


def module_of(verb: str) -> Any:
    """A verb's module, imported by name because verbs are in a layer above jobs."""
    return import_module("lensmith.verbs").module(verb)


def record_of(folder: Path, verb: str) -> dict[str, Any] | None:
    """The record of a verb's finished run; None if it isn't finished."""
    path = folder / module_of(verb).RECORD
    return read_json(path) if is_finished(folder, path.name) else None


class Detached(KeyboardInterrupt):
    """Ctrl-C while following a remote job, which continues; the message says how to follow it again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(how_to_return(folder))


def how_to_return(folder: Path) -> str:
    """The message for a user who leaves a remote job running."""
    run = shlex.quote(str(folder))
    follow = f"lensmith attach {run}"
    return f"the job continues. To follow it and copy its run back: {follow}. To end it: {follow} --cancel"


def leave(folder: Path) -> None:
    """Note that a run is resumed on this machine, which makes the remote copy outdated."""
    if (folder / NOTE).exists():
        write_json(folder / NOTE, read_json(folder / NOTE) | {"state": "left"})


def away(folder: Path) -> bool:
    """Whether the job of a run folder may still be running on a remote machine."""
    return (folder / NOTE).exists() and read_json(folder / NOTE).get("state") == "running"
