"""Where jobs run: one module each, with a class `Place`, found by its name, as in `--on modal`."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lensmith.errors import UserError, nearest
from lensmith.jobs.job import NOTE, Job
from lensmith.runs.files import read_json

if TYPE_CHECKING:
    from lensmith.progress import Tell


class Place(Protocol):
    """Somewhere a job can run."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        """Do the job, and have its run folder here at the end.

        Returns:
            The verb's record; with `detach` at once, `run` and `detached`, a sentence on how to return.

        Raises:
            UserError: see the verb; or the place can't be used. If the job could not be started, nothing is left.
            Detached: Ctrl-C, where the job continues elsewhere.
        """
        ...

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        """Follow the job of a run folder that was left, and copy its run back; returns and raises as `run`."""
        ...

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        """End the job of a run folder and copy back what was done.

        Returns:
            `run`, and `cancelled`, a sentence.
        """
        ...


def places() -> list[str]:
    """The places that can be named: the modules of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def place(name: str) -> Place:
    """The place of that name.

    Raises:
        UserError: there is none; the known ones are named.
    """
    if name not in places():
        hint = f"{nearest(name, places())} Known places: {', '.join(places())}.".strip()
        raise UserError(f"There is no place {name!r} to run on.", hint)
    found: Place = importlib.import_module(f"{__name__}.{name}").Place()
    return found


def place_of(folder: Path) -> Place:
    """The place where a run folder's job runs.

    Raises:
        UserError: the run was never sent anywhere.
    """
    if not (folder / NOTE).exists():
        raise UserError(f"The run {folder} isn't at another place.", f"A run that is has a {NOTE}.")
    return place(str(read_json(folder / NOTE)["place"]))
