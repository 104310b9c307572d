"""`lensmith resume`: resume a run that was stopped or killed, whatever verb began it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lensmith.config import Recipe
from lensmith.errors import UserError
from lensmith.jobs.job import Job, perform
from lensmith.places import place
from lensmith.progress import Tell, silent
from lensmith.runs.folder import verb_of
from lensmith.verbs import module, terminal

ABOUT = "resume a run that was stopped or killed, whatever began it"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument("run", type=Path, metavar="RUN", help="its run folder")
    parser.add_argument(
        "recipe", nargs="*", metavar="OPTION", help="options that don't change the result, as train.micro_batch=4"
    )
    terminal.add_place(parser)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """The command."""
    verb = verb_of(args.run)
    recipe = terminal.recipe_from(args.recipe, args.run) if args.recipe else None
    record = place(args.on).run(Job(verb, recipe, args.run, resume=True), screen, args.detach)
    return terminal.Output(record, module(verb).text(record))


def run_by_flag(verb: str, args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """`lensmith VERB --resume RUN`, which was the way before version 0.2."""
    folder = args.resume
    if args.run:
        raise UserError("A resumed run keeps its folder.", "Give --resume RUN without --run.")
    if (began := verb_of(folder)) != verb:
        raise UserError(f"The run {folder} was begun by `lensmith {began}`.", f"lensmith resume {folder}")
    here = {"on": "local", "detach": False} | {key: vars(args)[key] for key in ("on", "detach") if key in args}
    return run(argparse.Namespace(run=folder, recipe=args.recipe, **here), screen)


def resume(folder: Path, tell: Tell = silent, recipe: Recipe | None = None) -> dict[str, Any]:
    """Resume a run that was stopped or killed. What it has done is kept, and the result is the same.

    Args:
        recipe: the run's own if None; another may differ only in what does not change the result.

    Returns:
        The record of the verb that began it.

    Raises:
        UserError: the folder holds no run, the run is finished, its images have changed, or the recipe differs.
        Stopped: Ctrl-C again.
    """
    return perform(Job(verb_of(folder), recipe, folder, resume=True), tell)
