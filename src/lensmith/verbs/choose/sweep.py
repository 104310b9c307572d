"""`lensmith sweep`: search settings, with trials shared by any number of workers; it ends in a recipe to train with."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError, optional
from lensmith.progress import Note, Tell, silent
from lensmith.runs.folder import Run, default_folder, new_run_folder, require_one_process, same_data
from lensmith.verbs import terminal

ABOUT = "search settings; several workers may share a search"
RECORD = "sweep.json"
DATABASE = "sweep.db"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    terminal.add_recipe(parser, "sweep")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """The command."""
    record = sweep(terminal.recipe_from(args.recipe), args.run, screen)
    return terminal.Output(record, text(record))


def text(record: dict[str, Any]) -> str:
    """What is printed of a record."""
    lines = [record["verdict"], *record["sentences"], f"Train with: lensmith train {shlex.quote(record['recipe'])}"]
    return "\n".join([*lines, f"Report: {record['report']}"])


def sweep(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Search for the settings that do best on the validation images.

    A fixed tune.alpha beside a searched tune.rank changes LoRA's scale with the rank (alpha / rank).

    Args:
        folder: the run folder, a new one; runs/NAME-sweep-TIME if None. Where `sweep.storage` is given, this worker
            joins the sweep of the recipe's name there.
        tell: called with progress.
        resume: the sweep in `folder`, or another worker for it; see `lensmith.resume`.

    Returns:
        The record, as it stands in sweep.json: `recipe` (the file to train with), `best`, `accuracy`, `trials`,
        `finalists`, `cost`, `report`, ...

    Raises:
        UserError: an option can't be searched; there are no validation images; the database doesn't answer, or
            holds another sweep of this name; no trial could be trained.
        Stopped: Ctrl-C; the current trial resumes from its checkpoint.
    """
    optional("optuna", "sweep", "A sweep")
    from lensmith.learn.learner import prepare
    from lensmith.search import worker
    from lensmith.search.board import Board
    from lensmith.search.database import Database, sqlite_url
    from lensmith.search.trials import search_space, suggest

    started, space, url = time.perf_counter(), search_space(recipe), recipe.sweep.storage
    require_one_process("sweep")
    dataset = open_data(recipe.data)
    for split, use in ((dataset.train, "learn from"), (dataset.validation, "choose by")):
        if not len(split):
            raise UserError(f"{recipe.data.uri} has no {split.name} images to {use}.", "See data.validation.")
    run = Run(folder or default_folder(recipe, "sweep"), recipe, dataset, tell)
    file = run.folder / DATABASE
    if resume:
        same_data(run.folder, dataset)
        if not url and not file.exists():
            raise UserError(f"{file} is gone, and with it the results of the trials.", "Start a new sweep.")
    else:
        prepare(worker.trial_recipe(recipe, suggest(space, [], recipe)), dataset)
        if not url:
            new_run_folder(run.folder)
    with Database(url or sqlite_url(file), recipe.sweep.wait, tell) as database:
        trials = Board(database, recipe.name, space)
        worker.same_sweep(trials, recipe, dataset)
        if not resume:
            if url:
                new_run_folder(run.folder)
            run.start("validation", "sweep")
            if ":***@" in database.shown:
                recipe_file = run.folder / "recipe.yaml"
                tell(Note(f"{recipe_file} holds the database's password: PGPASSWORD would keep it out."))
        database.hint = f"What was done is kept; resume with: lensmith resume {run.folder}"
        work = worker.Work(run, space, trials, Board(database, f"{recipe.name} finalists", {}))
        tell(Note(dataset.describe()))
        tell(Note(worker.plan(work)))
        try:
            worker.run_trials(work)
            worker.run_finalists(work)
            return worker.finish(work, started)
        except KeyboardInterrupt:
            raise Stopped(run.folder) from None
        finally:
            work.trials.leave()
            work.repeats.leave()
