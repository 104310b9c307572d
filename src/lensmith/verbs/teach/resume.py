"""`lensmith resume`: resume a run that was stopped or killed, whichever verb started it."""

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
from lensmith.verbs.words import recipe_from

EXAMPLES = ("lensmith resume runs/mine",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument(
        "recipe", nargs="*", metavar="OPTION", help="options that don't change the result, such as train.micro_batch=4"
    )
    terminal.add_place(parser)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    verb = verb_of(args.run)
    recipe = recipe_from(args.recipe, args.run) if args.recipe else None
    record = place(args.on).run(Job(verb, recipe, args.run, resume=True), screen, args.detach)
    return terminal.output(record, module(verb).text)


def run_by_flag(verb: str, args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """`lensmith VERB --resume RUN`, as runs were resumed before version 0.2."""
    folder = args.resume
    if args.run:
        raise UserError("A resumed run keeps its folder.", "Use --resume RUN without --run.")
    if (started_by := verb_of(folder)) != verb:
        raise UserError(
            f"The run {folder} was started by `lensmith {started_by}`.", f"Resume it with: lensmith resume {folder}"
        )
    place_options = {"on": "local", "detach": False} | {key: vars(args)[key] for key in ("on", "detach") if key in args}
    return run(argparse.Namespace(run=folder, recipe=args.recipe, **place_options), screen)


def resume(folder: Path, tell: Tell = silent, recipe: Recipe | None = None) -> dict[str, Any]:
    """Resume a run that was stopped or killed. Completed work is kept, and the result is the same as without a stop.

    Args:
        recipe: None for the run's recipe; another may differ from it only in options that don't change the result.

    Returns:
        The record of the verb that started the run.

    Raises:
        UserError: the folder holds no run, the run is finished, its images have changed, or the recipe differs.
        Stopped: Ctrl-C again.
    """
    return perform(Job(verb_of(folder), recipe, folder, resume=True), tell)
