"""A worker of a sweep: it trains trials and then finalists, shared with any number of other workers by the board.

Trials are chosen, pruned and compared on the validation images alone. The best are trained again with other seeds, and
the best mean wins (`outcome`). What a stopped or killed worker began is resumed by any worker, in the same folder.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import RENAMED, Recipe, SweepOptions, known_keys, load_recipe
from lensmith.errors import Diverged, UserError
from lensmith.progress import Note, Tell
from lensmith.records import Rate
from lensmith.runs.files import disk_error, write
from lensmith.runs.folder import Run
from lensmith.search.board import Board
from lensmith.search.database import Gone, Lost
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
    said,
    settings,
    standing,
    suggest,
    with_values,
)

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.records import Training

ALIKE = 3
"""So many trainings of one worker that fail with the same sentence, one after another, end the sweep with it."""
HEAVY = ("adapter", "checkpoint")
"""What a trial's folder holds only while it is unfinished."""


class Pruned(Exception):
    """A trial is hopeless: its training ends here."""


@dataclass
class Work:
    """What a worker works on."""

    run: Run
    space: Space
    trials: Board
    repeats: Board
    failures: list[str] = field(default_factory=list)
    """Why its last trainings failed, since one that didn't."""

    @property
    def most(self) -> int:
        """How many trials there are to be: no setting is tried twice."""
        return int(min(self.run.recipe.sweep.trials, settings(self.space)))


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
    kept = {RENAMED.get(key, key): value for key, value in board.about(mine).items()}
    for key in mine:
        if kept.get(key) != mine[key]:
            change = "are others" if " " in key else f"was {kept.get(key)!r} and is {mine[key]!r}"
            raise UserError(
                f"The database {board.database.shown} has another sweep named {recipe.name!r}: {key} {change}.",
                "Give this one a name of its own (name=...), or the other's recipe and images.",
            )


def plan(work: Work) -> str:
    """What is going to be done, and what it costs at most."""
    options, most = work.run.recipe.sweep, work.most
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
        values = suggest(work.space, now, work.run.recipe)
        return key_of(values), values

    for entry in work.trials.work(propose, most):
        place = _place(work, entry)
        recipe = trial_recipe(work.run.recipe, entry.values)
        what = f"Trial {place} of {most}: {said(entry.values)}"
        train_entry(
            work,
            work.trials,
            entry,
            recipe,
            work.run.folder / "trials" / f"{place:03d}",
            what,
            work.run.recipe.sweep.prune,
        )


def run_finalists(work: Work) -> None:
    """Train the best trials with other seeds, until those of all workers are done."""
    chosen = {entry.origin: entry for entry in _chosen(work)}
    wanted = {
        f"{origin} with seed {shift}": {"trial": origin, "shift": shift}
        for shift in range(work.run.recipe.sweep.repeats)
        for origin, entry in chosen.items()
        if shift or entry.state != "finished"
    }

    def propose(now: Sequence[Entry]) -> tuple[str, dict[str, Any]] | None:
        begun = [entry.values for entry in now]
        return next(((key, values) for key, values in wanted.items() if values not in begun), None)

    for entry in work.repeats.work(propose):
        trial, shift = chosen[entry.values["trial"]], entry.values["shift"]
        recipe, place = trial_recipe(work.run.recipe, trial.values, shift), _place(work, trial)
        what = f"Trial {place} with seed {recipe.seed}: {said(trial.values)}"
        train_entry(
            work, work.repeats, entry, recipe, work.run.folder / "finalists" / f"{place:03d}-{shift}", what, prune=False
        )


def trial_recipe(recipe: Recipe, values: dict[str, Any], shift: int = 0) -> Recipe:
    """What a trial trains with: the recipe with its values, validated after each ninth of the training."""
    own = with_values(recipe, values)
    if own.train.patience:  # as many epochs as before
        own.train.patience = max(1, round(own.train.patience * own.train.validate_every * PARTS / own.train.epochs))
    own.train.validate_every = own.train.epochs / PARTS
    own.seed = (recipe.seed + shift) % 2**32
    own.model.adapter, own.sweep = None, SweepOptions()
    return own


def train_entry(work: Work, board: Board, entry: Entry, recipe: Recipe, folder: Path, what: str, prune: bool) -> None:
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
                training = train_once(Run(folder, recipe, work.run.dataset, _named(name, work.run.tell)), checked)
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
        work.run.tell(Note(f"{name} was given to another worker, since this one was silent for long."))
        return
    for part in HEAVY:
        shutil.rmtree(folder / part, ignore_errors=True)
    if trouble:
        work.run.tell(Note(f"{name} failed ({values}): {trouble.what}"))
    else:
        right = f"{accuracy if accuracy is not None else max(reports.values()):.1%}".replace("%", " %")
        early = f", stopped after {done_of[0]:.0%} of its training".replace("%", " %") if state == "pruned" else ""
        work.run.tell(Note(f"{name}: {right} right with {values}{early}."))
    if not trouble or isinstance(trouble, Diverged):
        work.failures.clear()
        return
    work.failures.append(trouble.what.replace(str(folder), ""))
    if len(work.failures) >= ALIKE and len(set(work.failures[-ALIKE:])) == 1:
        raise UserError(f"{ALIKE} trainings in a row have failed: {trouble.what}", trouble.hint)


def train_once(run: Run, checked: Callable[[int, int, Rate | None], None]) -> Training:
    """One training, resumed from the folder's last checkpoint if it has one; see `learn.loop.train`."""
    from lensmith.learn.learner import prepare
    from lensmith.learn.loop import train

    gc.collect()  # free the memory of the last one's model
    return train(prepare(run.recipe, run.dataset), run, resume=True, on_validation=checked)


def finish(work: Work, started: float) -> dict[str, Any]:
    """Write the record, the recipe to train with and the page. Every worker may do it: all read the same board.

    Raises:
        UserError: no trial was trained to its end, or the disk is full.
    """
    trials, repeats = standing(work.trials.entries(), work.most), standing(work.repeats.entries())
    return conclude(work.run, work.space, _chosen(work), trials, repeats, started)


def _chosen(work: Work) -> list[Entry]:
    options = work.run.recipe.sweep
    return best_first(standing(work.trials.entries(), work.most), options.finalists, options.repeats > 1)


def _place(work: Work, trial: Entry) -> int:
    """A trial's number as it is shown: 1 for the first."""
    return 1 + sum(entry.origin < trial.origin for entry in standing(work.trials.entries(), work.most))


def _prepare(folder: Path, recipe: Recipe, begun: bool) -> None:
    """A trial's folder: with what is there if that is of the same training, else empty."""
    same = False
    with suppress(UserError):
        same = begun and load_recipe(folder / "recipe.yaml", quiet=True) == recipe
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
