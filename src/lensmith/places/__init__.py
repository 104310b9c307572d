"""Places where jobs run, one module each with a class `Place`, found by its name, as in `--on modal`."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lensmith.errors import UserError, nearest
from lensmith.jobs.job import NOTE, Job
from lensmith.runs.shapes import JobNote, read_as

if TYPE_CHECKING:
    from lensmith.progress import Tell


class Place(Protocol):
    """A place where jobs can run."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        """Run the job, and copy its run folder to this machine at the end.

        Returns:
            The verb's record. With `detach`, returns at once `run` and `detached`, a sentence on how to follow the job.

        Raises:
            UserError: see the verb; also if the place can't be used. If the job can't be started, no folder is left.
            Detached: Ctrl-C, while the job continues on a remote machine.
        """
        ...

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        """Follow the detached job of a run folder, and copy its run back; returns and raises as `run`."""
        ...

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        """End the job of a run folder, and copy back the unfinished run.

        Returns:
            `run`, and `cancelled`, a sentence.
        """
        ...


def places() -> list[str]:
    """The names of all places, which are the modules of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def place(name: str) -> Place:
    """The place with this name.

    Raises:
        UserError: it doesn't exist; the message lists the known ones.
    """
    if name not in places():
        hint = f"{nearest(name, places())} Known places: {', '.join(places())}.".strip()
        raise UserError(f"There is no place {name!r} to run on.", hint)
    instance: Place = importlib.import_module(f"{__name__}.{name}").Place()
    return instance


def place_of(folder: Path) -> Place:
    """The place where a run folder's job runs.

    Raises:
        UserError: the run was never sent to a remote machine.
    """
    if not (folder / NOTE).exists():
        raise UserError(
            f"The run {folder} has no remote job.", f"Only a run that was sent to a remote machine has a {NOTE}."
        )
    return place(read_as(folder / NOTE, JobNote)["place"])
