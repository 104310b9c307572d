"""`lensmith sweep`: search for the best settings, with trials shared by any number of workers, and write a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError, optional
from lensmith.progress import Note, Tell, silent
from lensmith.runs.folder import Run, default_folder, new_run_folder, require_one_process, same_data
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening

RECORD = "sweep.json"
EXAMPLES = ("lensmith sweep my-images 'sweep.over={tune.rank: [8, 32]}' --run runs/sweep",)
DATABASE = "sweep.db"


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    then = terminal.next_line("train", record["recipe"])
    return [record["verdict"], *record["sentences"], terminal.path_line("Report", record["report"]), then]


def sweep(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Search for the settings with the best accuracy on the validation images.

    If tune.rank is searched and tune.alpha is fixed, LoRA's scale (alpha / rank) changes with the rank.

    Args:
        folder: a new run folder; runs/NAME-sweep-TIME if None. If `sweep.storage` is given, this worker joins the
            sweep with the recipe's name in that database.
        tell: called with progress.
        resume: resume the sweep in `folder`, or join it as another worker; see `lensmith.resume`.

    Returns:
        The record, as in sweep.json: `recipe` (the file to train with), `best`, `accuracy`, `trials`,
        `finalists`, `cost`, `report`, ...

    Raises:
        UserError: an option can't be searched; there are no validation images; the database doesn't respond, or
            contains another sweep with this name; no trial could be trained.
        Stopped: Ctrl-C; the current trial resumes from its checkpoint.
    """
    optional("optuna", "sweep", "A sweep")
    from lensmith.learn.learner import prepare
    from lensmith.measure.pace import measure
    from lensmith.search import worker
    from lensmith.search.board import Board
    from lensmith.search.database import Database, sqlite_url
    from lensmith.search.trials import search_space, suggest

    started, space, url = time.perf_counter(), search_space(recipe), recipe.sweep.storage
    require_one_process("sweep")
    dataset = open_data(recipe.data, tell)
    for split, use in ((dataset.train, "train on"), (dataset.validation, "choose by")):
        if not len(split):
            raise UserError(f"{recipe.data.uri} has no {split.name} images to {use}.", "See data.validation.")
    run = Run(folder or default_folder(recipe, "sweep"), recipe, dataset, tell)
    seconds = memory = None
    file = run.folder / DATABASE
    if resume:
        same_data(run.folder, dataset)
        if not url and not file.exists():
            raise UserError(
                f"{file} no longer exists, and the results of the trials are lost with it.", "Start a new sweep."
            )
    else:
        trial = worker.trial_recipe(recipe, suggest(space, [], recipe))
        learner = prepare(trial, dataset)
        if pace := measure(learner.classifier(trial.evaluate), dataset.train, trial.data.max_pixels):
            seconds = pace.training(trial, dataset) * worker.trainings(recipe, space)
            memory = pace.peak([trial])
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
                tell(Note(f"{recipe_file} contains the database's password. Set PGPASSWORD instead to keep it out."))
        database.hint = f"Completed trials are kept. Resume with: lensmith resume {run.folder}"
        work = worker.Work(run, space, trials, Board(database, f"{recipe.name} finalists", {}))
        opening(run, seconds, None, [dataset.how_split], memory)
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


_command = terminal.RecipeCommand("sweep", sweep, text, anywhere=True)
arguments, run = _command.arguments, _command.run
