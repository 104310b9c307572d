"""The verb that searches for settings: a recipe in, trials shared by any number of workers, a recipe to train with out.

Trials are chosen, pruned and compared on the validation images alone. The best are trained again with other seeds, and
the best mean wins (`outcome`). What was begun goes on after a stop or a kill, in the same folder, by any worker.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe, SweepOptions, known_keys, load_recipe
from lensmith.errors import Diverged, Stopped, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.records import Rate
from lensmith.runs.files import disk_error, recover, write
from lensmith.runs.folder import default_folder, new_run_folder, require_one_process, resumed, same_data, start_run
from lensmith.search.board import Board
from lensmith.search.database import Database, Gone, Lost, sqlite_url
from lensmith.search.outcome import as_yaml, best_first, conclude
from lensmith.search.trials import (
    FIXED,
    PARTS,
    SECTIONS,
    Entry,
    Space,
    State,
    hopeful,
    key_of,
    limit,
    quiet_optuna,
    said,
    search_space,
    settings,
    standing,
    suggest,
    with_values,
)

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.records import Training

DATABASE = "sweep.db"
ALIKE = 3
"""So many trainings of one worker that fail with the same sentence, one after another, end the sweep with it."""
HEAVY = ("adapter", "checkpoint")
"""What a trial's folder holds only while it is unfinished."""


class Pruned(Exception):
    """A trial is hopeless: its training ends here."""


@dataclass
class Work:
    """What a worker has to do with."""

    recipe: Recipe
    folder: Path
    dataset: ImageDataset
    space: Space
    trials: Board
    repeats: Board
    tell: Tell
    failures: list[str] = field(default_factory=list)
    """Why its last trainings failed, since one that didn't."""

    @property
    def most(self) -> int:
        """How many trials there are to be: no setting is tried twice."""
        return int(min(self.recipe.sweep.trials, settings(self.space)))


def sweep(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Search for the settings that do best on the validation images.

    A fixed tune.alpha beside a searched tune.rank changes LoRA's scale with the rank (alpha / rank).

    Args:
        folder: the run folder; a new one. Where `sweep.storage` is given, it joins a sweep of the recipe's name there.
        resume: the folder holds a sweep that was begun; see `resume_sweep`.

    Returns:
        The record, as it stands in sweep.json: `recipe` (the file to train with), `best`, `accuracy`, `trials`,
        `finalists`, `cost`, `report`, ...

    Raises:
        UserError: what is to be searched can't be; there are no validation images; the database doesn't answer, or
            holds another sweep of this name; no trial could be trained.
        Stopped: Ctrl-C; the trial in hand goes on from its checkpoint.
    """
    from lensmith.data import open_data
    from lensmith.learn.methods import require_trainable

    started, space, url = time.perf_counter(), search_space(recipe), recipe.sweep.storage
    with quiet_optuna():
        pass  # that it is missing is said before anything is done
    require_one_process("sweep")
    dataset = open_data(recipe.data)
    for split, use in ((dataset.train, "learn from"), (dataset.validation, "choose by")):
        if not len(split):
            raise UserError(f"{recipe.data.uri} has no {split.name} images to {use}.", "See data.validation.")
    folder = folder or default_folder(recipe, "sweep")
    if resume:
        same_data(folder, dataset)
        if not url and not (folder / DATABASE).exists() and (folder / "trials").exists():
            raise UserError(f"{folder / DATABASE} is gone, and with it what came of the trials.", "Start a new sweep.")
    else:
        require_trainable(trial_recipe(recipe, suggest(space, [], recipe)), dataset)
        folder = folder if url else new_run_folder(folder)
    with Database(url or sqlite_url(folder / DATABASE), recipe.sweep.wait, tell) as database:
        trials = Board(database, recipe.name, space)
        same_sweep(trials, recipe, dataset)
        if not resume:
            start_run(new_run_folder(folder) if url else folder, recipe, dataset, "validation", "sweep")
            if ":***@" in database.shown:
                tell(Note(f"{folder / 'recipe.yaml'} holds the database's password: PGPASSWORD would keep it out."))
        database.hint = f"What was done is kept; go on with: lensmith sweep --resume {folder}"
        work = Work(recipe, folder, dataset, space, trials, Board(database, f"{recipe.name} finalists", {}), tell)
        tell(Note(dataset.describe()))
        tell(Note(plan(work)))
        try:
            run_trials(work)
            run_finalists(work)
            return finish(work, started)
        except KeyboardInterrupt:
            raise Stopped(folder, "sweep") from None
        finally:
            work.trials.leave()
            work.repeats.leave()


def resume_sweep(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Go on with a sweep that was stopped or killed, or help with one that is going on.

    Raises:
        UserError: the folder holds no sweep, or it is finished.
    """
    recipe = resumed(folder, "sweep", "sweep.json")
    if not (folder / DATABASE).exists() and not recipe.sweep.storage:
        raise UserError(f"{folder} holds no sweep: it has no {DATABASE}.", "Give a folder made by `lensmith sweep`.")
    return sweep(recipe, folder, tell, resume=True)


def same_sweep(board: Board, recipe: Recipe, dataset: ImageDataset) -> None:
    """Raises UserError if the board is of a sweep of other options or images than these."""
    free = FIXED - {"train.validate_every", "train.patience"}
    options = recipe.to_dict()
    mine: dict[str, Any] = {
        key: options[section][name] if name else options[section]
        for key in known_keys()
        for section, _, name in [key.partition(".")]
        if (section in (*SECTIONS, "seed", "sweep") and key not in free | {"sweep.storage", "sweep.wait"})
    }
    for split in (dataset.train, dataset.validation):
        mine[f"the {split.name} images"] = split.hash
    mine = json.loads(json.dumps(mine))
    kept = board.about(mine)
    for key in mine:
        if kept.get(key) != mine[key]:
            change = "are others" if " " in key else f"was {kept.get(key)!r} and is {mine[key]!r}"
            raise UserError(
                f"The database {board.database.shown} has another sweep named {recipe.name!r}: {key} {change}.",
                "Give this one a name of its own (name=...), or the other's recipe and images.",
            )


def plan(work: Work) -> str:
    """What is going to be done, and what it costs at most."""
    options, most = work.recipe.sweep, work.most
    searched = "; ".join(f"{key} ({dimension})" for key, dimension in work.space.items())
    cost = f"at most {limit(most):.1f} full trainings" if options.prune else f"{most} full trainings"
    text = f"{most} trials over {searched}: {cost}."
    finalists = min(options.finalists, most)
    few, many = finalists * (options.repeats - 1), finalists * options.repeats
    again = f"{few} to {many}" if options.prune else few  # one that was stopped is trained anew
    return text + (f" Then {again} more, of the best with other seeds." if few else "")


def run_trials(work: Work) -> None:
    """Train trials, until those of all workers are done."""
    most = work.most

    def propose(now: Sequence[Entry]) -> tuple[str, dict[str, Any]] | None:
        if len(now) >= most:
            return None
        values = suggest(work.space, now, work.recipe)
        return key_of(values), values

    for entry in work.trials.work(propose, most):
        place = _place(work, entry)
        recipe = trial_recipe(work.recipe, entry.values)
        what = f"Trial {place} of {most}: {said(entry.values)}"
        run(work, work.trials, entry, recipe, work.folder / "trials" / f"{place:03d}", what, work.recipe.sweep.prune)


def run_finalists(work: Work) -> None:
    """Train the best trials with other seeds, until those of all workers are done."""
    chosen = {entry.origin: entry for entry in _chosen(work)}
    wanted = {
        f"{origin} with seed {shift}": {"trial": origin, "shift": shift}
        for shift in range(work.recipe.sweep.repeats)
        for origin, entry in chosen.items()
        if shift or entry.state != "finished"
    }

    def propose(now: Sequence[Entry]) -> tuple[str, dict[str, Any]] | None:
        begun = [entry.values for entry in now]
        return next(((key, values) for key, values in wanted.items() if values not in begun), None)

    for entry in work.repeats.work(propose):
        trial, shift = chosen[entry.values["trial"]], entry.values["shift"]
        recipe, place = trial_recipe(work.recipe, trial.values, shift), _place(work, trial)
        what = f"Trial {place} with seed {recipe.seed}: {said(trial.values)}"
        run(work, work.repeats, entry, recipe, work.folder / "finalists" / f"{place:03d}-{shift}", what, prune=False)


def trial_recipe(recipe: Recipe, values: dict[str, Any], shift: int = 0) -> Recipe:
    """What a trial trains with: the recipe with its values, validated after each ninth of the training."""
    own = with_values(recipe, values)
    if own.train.patience:  # as many epochs as before
        own.train.patience = max(1, round(own.train.patience * own.train.validate_every * PARTS / own.train.epochs))
    own.train.validate_every = own.train.epochs / PARTS
    own.seed = (recipe.seed + shift) % 2**32
    own.model.adapter, own.sweep = None, SweepOptions()
    return own


def run(work: Work, board: Board, entry: Entry, recipe: Recipe, folder: Path, what: str, prune: bool) -> None:
    """Train an entry, or go on with it, and write on the board what came of it.

    Args:
        what: name and values of it.
        prune: stop it when it is hopeless.

    Raises:
        UserError: the database doesn't answer, or the third training in a row has failed with the same sentence.
    """
    reports, done_of = dict(entry.reports), [entry.share]
    name, _, values = what.partition(": ")

    def checked(done: int, steps: int, found: Rate | None) -> None:
        if found is None:
            return
        part = int(PARTS * done / steps + 0.5)
        reports[part], done_of[0] = max([found.accuracy, *reports.values()]), done / steps
        now = standing(board.report(entry, part, reports[part], done / steps), work.most)
        if prune and done < steps and not hopeful(replace(entry, reports=reports), now, work.most):
            raise Pruned

    _prepare(folder, recipe, begun=entry.origin != entry.number)
    state: State = "finished"
    accuracy, trouble = None, None
    try:
        try:
            with board.alive(entry):
                training = train_once(recipe, work.dataset, folder, _named(name, work.tell), checked)
            if not training.validation:
                raise UserError("No validation image can be read.")
            accuracy = training.validation.accuracy
            if PARTS not in reports and not recipe.train.patience:  # it was stopped just after its last validation
                board.report(entry, PARTS, accuracy, 1.0)
        except Pruned:
            state = "pruned"
        except Gone:
            raise
        except UserError as error:
            state, trouble = "pruned" if isinstance(error, Diverged) else "failed", error
        board.end(entry, state, accuracy, trouble.what if trouble else "")
    except Lost:
        work.tell(Note(f"{name} was given to another worker, since this one was silent for long."))
        return
    for part in HEAVY:
        shutil.rmtree(folder / part, ignore_errors=True)
    if trouble:
        work.tell(Note(f"{name} failed ({values}): {trouble.what}"))
    else:
        right = f"{accuracy if accuracy is not None else max(reports.values()):.1%}".replace("%", " %")
        early = f", stopped after {done_of[0]:.0%} of its training".replace("%", " %") if state == "pruned" else ""
        work.tell(Note(f"{name}: {right} right with {values}{early}."))
    if not trouble or isinstance(trouble, Diverged):
        work.failures.clear()
        return
    work.failures.append(trouble.what.replace(str(folder), ""))
    if len(work.failures) >= ALIKE and len(set(work.failures[-ALIKE:])) == 1:
        raise UserError(f"{ALIKE} trainings in a row have failed: {trouble.what}", trouble.hint)


def train_once(
    recipe: Recipe,
    dataset: ImageDataset,
    folder: Path,
    tell: Tell,
    checked: Callable[[int, int, Rate | None], None],
) -> Training:
    """One training, from the folder's last checkpoint if it has one; see `training.train`."""
    from lensmith import models
    from lensmith.learn.loop import train
    from lensmith.models.tuning import attach

    recover(folder / "adapter")
    gc.collect()  # the last one's model, for want of memory
    model = models.load(recipe.model)
    attach(model, recipe.tune, dataset.labels, recipe.seed)
    return train(model, dataset, recipe, folder, tell, resume=True, checked=checked)


def finish(work: Work, started: float) -> dict[str, Any]:
    """Write the record, the recipe to train with and the page. Every worker may do it: all read the same board.

    Raises:
        UserError: no trial was trained to its end, or the disk is full.
    """
    trials, repeats = standing(work.trials.entries(), work.most), standing(work.repeats.entries())
    return conclude(work.recipe, work.folder, work.dataset, work.space, _chosen(work), trials, repeats, started)


def _chosen(work: Work) -> list[Entry]:
    options = work.recipe.sweep
    return best_first(standing(work.trials.entries(), work.most), options.finalists, options.repeats > 1)


def _place(work: Work, trial: Entry) -> int:
    """A trial's number as it is shown: 1 for the first."""
    return 1 + sum(entry.origin < trial.origin for entry in standing(work.trials.entries(), work.most))


def _prepare(folder: Path, recipe: Recipe, begun: bool) -> None:
    """A trial's folder: with what is there if that is of the same training, else empty."""
    same = False
    with suppress(UserError):
        same = begun and load_recipe(folder / "recipe.yaml") == recipe
    try:
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    write(folder / "recipe.yaml", as_yaml(recipe.to_dict()))


def _named(name: str, tell: Tell) -> Tell:
    """Passes on what a training says, with the trial's name before its sentences."""
    return lambda event: tell(Note(f"{name}: {event.text}") if isinstance(event, Note) else event)
