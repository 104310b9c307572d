"""Where a job runs: on this machine, or on one that is rented for it.

A new place is one file here with a class `Place`; it is found by its name, as in `--on modal`.
"""

from __future__ import annotations

import importlib
import pkgutil
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from lensmith.config import Recipe
    from lensmith.progress import Tell

NOTE = "place.json"
"""In a run folder: where its job runs."""
NOT_PLACES = {"prices", "remote", "transfers"}


@dataclass(frozen=True)
class Job:
    """A training or an evaluation that is to be done somewhere."""

    verb: Literal["train", "evaluate"]
    recipe: Recipe | None
    """None where a resumed run goes on with its own."""
    folder: Path | None = None
    """The run folder; None for runs/NAME-VERB-TIME."""
    resume: bool = False
    """Go on with the run in `folder`."""
    split: str = "test"
    """What an evaluation scores; a resumed one keeps its own."""


class Place(Protocol):
    """Somewhere a job can run."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        """Do the job and have its run folder here at the end.

        Returns:
            The verb's record; with `detach` at once, `run` and `detached`, a sentence on how to come back.

        Raises:
            UserError: see `verbs`; or the place can't be had. Where the job could not be started, nothing is left.
            Detached: Ctrl-C, where the job goes on elsewhere.
        """
        ...

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        """Follow the job of a run folder that was left, and bring it home; returns and raises as `run`."""
        ...

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        """End the job of a run folder and bring home what was done.

        Returns:
            `run`, and `cancelled`, a sentence.
        """
        ...


class Detached(KeyboardInterrupt):
    """Ctrl-C while a job was followed that goes on without; its text says how to come back."""

    def __init__(self, folder: Path) -> None:
        super().__init__(how_to_return(folder))


def how_to_return(folder: Path) -> str:
    """The sentence for somebody who leaves a job alone."""
    run = shlex.quote(str(folder))
    return (
        f"the job goes on. Follow it and bring it home: lensmith attach {run}. End it: lensmith attach {run} --cancel"
    )


def places() -> list[str]:
    """The places that can be named: the files in this folder."""
    return [m.name for m in pkgutil.iter_modules(__path__) if m.name not in NOT_PLACES]


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
    from lensmith.runs.files import read_json

    if not (folder / NOTE).exists():
        raise UserError(f"The run {folder} isn't at another place.", f"A run that is has a {NOTE}.")
    return place(str(read_json(folder / NOTE)["place"]))


def leave(folder: Path) -> None:
    """Write down that a run goes on here: what the other place holds of it is then an older copy."""
    from lensmith.runs.files import read_json, write_json

    if (folder / NOTE).exists():
        write_json(folder / NOTE, read_json(folder / NOTE) | {"state": "left"})


def away(folder: Path) -> bool:
    """Whether a run folder's job may still be running elsewhere."""
    from lensmith.runs.files import read_json

    return (folder / NOTE).exists() and read_json(folder / NOTE).get("state") == "running"
