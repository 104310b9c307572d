"""A worker of a sweep, which trains trials and then finalists, and shares them with other workers through the board.

Trials are chosen, pruned and compared only on the validation images. The best are trained again with other seeds, and
the best mean wins (`outcome`). Any worker can resume what a stopped or killed worker began, in the same folder.
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

from lensmith.config import RENAMED, Recipe, SweepOptions, known_keys, load_recipe, written
from lensmith.errors import Diverged, UserError
from lensmith.progress import Note, Tell
from lensmith.records import Rate
from lensmith.runs.files import disk_error, write
from lensmith.runs.folder import Run, settled
from lensmith.search.board import Board
from lensmith.search.database import Gone, Lost
from lensmith.search.outcome import best_first, conclude
from lensmith.search.trials import (
    FIXED,
    SECTIONS,
    STAGES,
    Entry,
    Space,
    State,
    budget,
    format_values,
    key_of,
    settings,
    should_continue,
    suggest,
    valid_entries,
    with_values,
)

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.records import Training

MAX_FAILURES = 3
"""The sweep ends with an error after this number of consecutive trainings of a worker that fail in the same way."""
HEAVY = ("adapter", "checkpoint")
"""Folders in a trial's folder that are removed when the trial ends."""


class Pruned(Exception):
    """A trial is pruned: its training ends early."""


@dataclass
class Work:
    """The state of a worker."""

    run: Run
    space: Space
    trials: Board
    repeats: Board
    failures: list[str] = field(default_factory=list)
    """Why the latest consecutive trainings failed."""

    @property
    def trial_count(self) -> int:
        """The number of trials to run, at most the number of settings."""
        return int(min(self.run.recipe.sweep.trials, settings(self.space)))


def same_sweep(board: Board, recipe: Recipe, dataset: ImageDataset) -> None:
    """Raises UserError if the board belongs to a sweep with other options or images."""
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
    stored = {RENAMED.get(key, key): value for key, value in board.about(mine).items()}
    for key in mine:
        if stored.get(key) != mine[key]:
            change = "have changed" if " " in key else f"was {stored.get(key)!r} and is now {mine[key]!r}"
            raise UserError(
                f"The database {board.database.shown} has another sweep named {recipe.name!r}: {key} {change}.",
                "Give this sweep another name (name=...), or use the same recipe and images.",
            )


def trainings(recipe: Recipe, space: Space) -> float:
    """About how many full trainings a sweep takes: its trials and its finalists."""
    options, trials = recipe.sweep, int(min(recipe.sweep.trials, settings(space)))
    return (budget(trials) if options.prune else trials) + min(options.finalists, trials) * (options.repeats - 1)


def plan(work: Work) -> str:
    """A sentence on the planned trainings and their maximum cost."""
    options, trials = work.run.recipe.sweep, work.trial_count
    searched = "; ".join(f"{key} ({dimension})" for key, dimension in work.space.items())
    cost = f"at most {budget(trials):.1f} full trainings" if options.prune else f"{trials} full trainings"
    text = f"{trials} trials over {searched}: {cost}."
    finalists = min(options.finalists, trials)
    fewest, most = finalists * (options.repeats - 1), finalists * options.repeats
    repeats = (
        f"{fewest} to {most}" if options.prune else fewest
    )  # a pruned finalist is also trained with the first seed
    return text + (f" Then {repeats} trainings of the best trials with other seeds." if fewest else "")


def run_trials(work: Work) -> None:
    """Train trials, until those of all workers are done."""
    trials = work.trial_count

    def propose(current: Sequence[Entry]) -> tuple[str, dict[str, Any]] | None:
        if len(current) >= trials:
            return None
        values = suggest(work.space, current, work.run.recipe)
        return key_of(values), values

    for entry in work.trials.work(propose, trials):
        number = _number(work, entry)
        recipe = trial_recipe(work.run.recipe, entry.values)
        label = f"Trial {number} of {trials}: {format_values(entry.values)}"
        train_entry(
            work,
            work.trials,
            entry,
            recipe,
            work.run.folder / "trials" / f"{number:03d}",
            label,
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

    def propose(current: Sequence[Entry]) -> tuple[str, dict[str, Any]] | None:
        begun = [entry.values for entry in current]
        return next(((key, values) for key, values in wanted.items() if values not in begun), None)

    for entry in work.repeats.work(propose):
        trial, shift = chosen[entry.values["trial"]], entry.values["shift"]
        recipe, number = trial_recipe(work.run.recipe, trial.values, shift), _number(work, trial)
        label = f"Trial {number} with seed {recipe.seed}: {format_values(trial.values)}"
        train_entry(
            work,
            work.repeats,
            entry,
            recipe,
            work.run.folder / "finalists" / f"{number:03d}-{shift}",
            label,
            prune=False,
        )


def trial_recipe(recipe: Recipe, values: dict[str, Any], shift: int = 0) -> Recipe:
    """The recipe of a trial: the sweep's recipe with the trial's values, validated after each stage of the training."""
    trial = with_values(recipe, values)
    if trial.train.patience:  # the same number of epochs
        trial.train.patience = max(
            1, round(trial.train.patience * trial.train.validate_every * STAGES / trial.train.epochs)
        )
    trial.train.validate_every = trial.train.epochs / STAGES
    trial.seed = (recipe.seed + shift) % 2**32
    trial.model.adapter, trial.sweep = None, SweepOptions()
    return trial


def train_entry(work: Work, board: Board, entry: Entry, recipe: Recipe, folder: Path, label: str, prune: bool) -> None:
    """Train an entry, or resume its training, and store the result on the board.

    Args:
        label: the name and values of the trial, as "NAME: VALUES".
        prune: whether it may be stopped early.

    Raises:
        UserError: the database doesn't respond, or the third training in a row has failed in the same way.
    """
    reports, fraction = dict(entry.reports), entry.fraction
    name, _, values = label.partition(": ")

    def checked(done: int, steps: int, rate: Rate | None) -> None:
        nonlocal fraction
        if rate is None:
            return
        stage = int(STAGES * done / steps + 0.5)
        reports[stage], fraction = max([rate.accuracy, *reports.values()]), done / steps
        current = valid_entries(board.report(entry, stage, reports[stage], fraction), work.trial_count)
        if prune and done < steps and not should_continue(replace(entry, reports=reports), current, work.trial_count):
            raise Pruned

    _prepare(folder, recipe, begun=entry.origin != entry.number)
    state: State = "finished"
    accuracy, trouble = None, None
    try:
        try:
            with board.alive(entry):
                training = train_once(Run(folder, recipe, work.run.dataset, _named(name, work.run.tell)), checked)
            if not training.validation:
                raise UserError("None of the validation images can be read.")
            accuracy = training.validation.accuracy
            if STAGES not in reports and not recipe.train.patience:  # it was stopped just after its last validation
                board.report(entry, STAGES, accuracy, 1.0)
        except Pruned:
            state = "pruned"
        except Gone:
            raise
        except UserError as error:
            state, trouble = "pruned" if isinstance(error, Diverged) else "failed", error
        board.end(entry, state, accuracy, trouble.what if trouble else "")
    except Lost:
        work.run.tell(Note(f"{name} was given to another worker, because this one sent no heartbeat for too long."))
        return
    for heavy in HEAVY:
        shutil.rmtree(folder / heavy, ignore_errors=True)
    if trouble:
        work.run.tell(Note(f"{name} failed ({values}): {trouble.what}"))
    else:
        correct = f"{accuracy if accuracy is not None else max(reports.values()):.1%}".replace("%", " %")
        early = f", stopped after {fraction:.0%} of its training".replace("%", " %") if state == "pruned" else ""
        work.run.tell(Note(f"{name}: {correct} correct with {values}{early}."))
    if not trouble or isinstance(trouble, Diverged):
        work.failures.clear()
        return
    work.failures.append(trouble.what.replace(str(folder), ""))
    if len(work.failures) >= MAX_FAILURES and len(set(work.failures[-MAX_FAILURES:])) == 1:
        raise UserError(f"{MAX_FAILURES} trainings in a row have failed: {trouble.what}", trouble.hint)


def train_once(run: Run, checked: Callable[[int, int, Rate | None], None]) -> Training:
    """Run one training, resumed from the last checkpoint in the folder if there is one; see `learn.loop.train`."""
    from lensmith.learn.learner import prepare
    from lensmith.learn.loop import train

    gc.collect()  # free the memory of the previous model
    return train(prepare(run.recipe, run.dataset), run, resume=True, on_validation=checked)


def finish(work: Work, started: float) -> dict[str, Any]:
    """Write the record, the recipe of the winner and the report. Every worker may do so: all read the same board.

    Raises:
        UserError: no trial was trained in full, or the disk is full.
    """
    trials, repeats = valid_entries(work.trials.entries(), work.trial_count), valid_entries(work.repeats.entries())
    return conclude(work.run, work.space, _chosen(work), trials, repeats, started)


def _chosen(work: Work) -> list[Entry]:
    options = work.run.recipe.sweep
    return best_first(valid_entries(work.trials.entries(), work.trial_count), options.finalists, options.repeats > 1)


def _number(work: Work, trial: Entry) -> int:
    """The number of a trial as it is shown, from 1."""
    return 1 + sum(entry.origin < trial.origin for entry in valid_entries(work.trials.entries(), work.trial_count))


def _prepare(folder: Path, recipe: Recipe, begun: bool) -> None:
    """Prepare a trial's folder. Its content is kept if it belongs to the same training, and removed otherwise."""
    recipe, same = settled(recipe), False
    with suppress(UserError):
        same = begun and load_recipe(folder / "recipe.yaml", quiet=True) == recipe
    try:
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    write(folder / "recipe.yaml", written(recipe.to_dict()))


def _named(name: str, tell: Tell) -> Tell:
    """A callback that adds the trial's name to the sentences of its training."""
    return lambda event: tell(Note(f"{name}: {event.text}") if isinstance(event, Note) else event)
