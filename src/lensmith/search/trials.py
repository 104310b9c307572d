"""The trials of a sweep: the search space, the next setting to try, and which trials are pruned.

All of it is a function of the entries on the board (`board`), which are the same for all workers. Nothing here waits or
writes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from lensmith.config import Range, Recipe, flat, known_keys, recipe_from
from lensmith.errors import UserError, nearest, optional

STAGES = 9
"""A training is divided into this number of equal stages, with a validation after each."""
RUNGS = (1, 3)
"""The stages after which a trial may be pruned: after a ninth and after a third of its training."""
ADVANCE = 2
"""Full trainings that may be spent early, before the rest of the budget is spread evenly over the trials."""
REDUCTION = 3
"""One trial in this number continues beyond a rung."""
SPEND = 0.4
"""Maximum cost of all trials, as a fraction of the cost of training all of them in full."""
SECTIONS = ("question", "model", "tune", "train", "augment")
FIXED = {
    *("model.adapter", "model.device", "train.validate_every", "train.patience", "train.micro_batch"),
    *("train.checkpoint_minutes", "train.cache_features", "train.tracker"),
}
"""Options of these sections that a sweep sets itself, or that don't change what is learned."""

State = Literal["running", "left", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Entry:
    """One claim on the board: a worker trains with these values, or resumes the training of an earlier claim."""

    number: int
    """Assigned by the database, in the order of the claims."""
    state: State
    """`left` is unfinished work that its worker gave up, which any worker may resume."""
    values: dict[str, Any]
    key: str
    """What is claimed. Of several claims with the same key, only the first is valid."""
    origin: int
    """The number of the first claim whose work this one resumes, or of this claim if it began the work."""
    reports: dict[int, float] = field(default_factory=dict)
    """After each stage of the training, the best validation accuracy so far."""
    fraction: float = 0.0
    """The completed fraction of the training."""
    accuracy: float | None = None
    sentence: str = ""
    """Why it failed."""
    diverged: bool = False
    """Whether it failed with a NaN or infinite loss, the only kind of failure that is due to the values."""
    worker: dict[str, Any] = field(default_factory=dict)
    """The process that works on it; see `database.this_process`."""
    heartbeats: int = 0
    """The number of heartbeats of its worker."""
    killed: int = 0
    """How many of its workers were killed since it last made progress."""
    id: int = -1
    """The database's id of the claim."""

    def at(self, rung: int) -> float | None:
        """The accuracy when it reached a rung; None if it did not."""
        return next((accuracy for stage, accuracy in sorted(self.reports.items()) if stage >= rung), None)


def valid_entries(entries: Sequence[Entry], limit: int | None = None) -> list[Entry]:
    """The first `limit` valid claims, in the order in which their work was begun.

    Of claims with equal keys the first is valid, and of work that was resumed the last claim represents it. A trial's
    position in this list never changes.
    """
    keys: set[str] = set()
    last: dict[int, Entry] = {}
    for entry in sorted(entries, key=lambda e: e.number):
        if entry.key not in keys:
            keys.add(entry.key)
            last[entry.origin] = entry
    return [last[origin] for origin in sorted(last)][:limit]


# The search space


@dataclass(frozen=True)
class Dimension:
    """The values of one option to search: choices, or a range of numbers."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    @property
    def count(self) -> float:
        """The number of values."""
        return len(self.choices) or (self.high - self.low + 1 if self.integer else float("inf"))

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(_format, self.choices))
        return f"{_format(self.low)} to {_format(self.high)}{', on a logarithmic scale' * self.log}"

    def encode(self, value: Any) -> Any:
        """The value as Optuna stores it: a choice that isn't a plain value is encoded as JSON."""
        plain = all(isinstance(choice, bool | int | float | str | None) for choice in self.choices)
        return value if plain else json.dumps(value, sort_keys=True)

    def decode(self, value: Any) -> Any:
        """The inverse of `encode`."""
        return next((choice for choice in self.choices if self.encode(choice) == value), value)

    def rounded(self, value: Any) -> Any:
        """A number rounded to three digits, so that the values shown are exactly those used in training."""
        if self.choices or self.integer:
            return value
        return min(self.high, max(self.low, float(f"{value:.3g}")))

    def distribution(self) -> Any:
        """The dimension as an Optuna distribution."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution([self.encode(choice) for choice in self.choices])
        if self.integer:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


Space = dict[str, Dimension]


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip('"')


def format_values(values: Mapping[str, Any]) -> str:
    """Values in the form of command-line options."""
    return ", ".join(f"{key}={_format(value)}" for key, value in values.items())


def with_values(recipe: Recipe, values: Mapping[str, Any], where: str = "the sweep") -> Recipe:
    """A copy of the recipe with some options set.

    Raises:
        UserError: a value has the wrong type or is out of range; the message names option and value.
    """
    plain = recipe.to_dict()
    for key, value in values.items():
        *path, last = key.split(".")
        section = plain
        for name in path:
            section = section[name]
        section[last] = value
    return recipe_from(plain, where)


def search_space(recipe: Recipe) -> Space:
    """The validated search space of the recipe's sweep.

    Raises:
        UserError: an unknown option, one that can't be searched, an empty range, or a value of the wrong type.
    """
    space: Space = {}
    for key, values in recipe.sweep.over.items():
        if key not in known_keys():
            raise UserError(f"There is no option {key!r} to search (sweep.over).", nearest(key, known_keys()))
        if key.partition(".")[0] not in SECTIONS or key in FIXED:
            raise UserError(
                f"{key} can't be searched (sweep.over): it must be the same for all trials.",
                f"Search options of {', '.join(SECTIONS)} that change what is learned.",
            )

        def checked(value: Any, key: str = key) -> Any:
            return flat(with_values(recipe, {key: value}, "sweep.over"))[key]

        if isinstance(values, Range):
            low, high = checked(values.low), checked(values.high)
            if isinstance(low, bool) or not isinstance(low, int | float):
                raise UserError(
                    f"{key} isn't a number, so it can't have a range (sweep.over).", "Use a list of values."
                )
            if not low < high:
                raise UserError(f"The range of {key} in sweep.over is empty: low is {low}, high is {high}.")
            if values.log and low <= 0:
                raise UserError(f"The range of {key} in sweep.over starts at {low}, which has no logarithm.")
            space[key] = Dimension((), low, high, values.log, isinstance(low, int))
        else:
            choices = {json.dumps(value, sort_keys=True): value for value in map(checked, values)}
            if not choices:
                raise UserError(f"The list of {key} in sweep.over is empty.", "Add values, or remove the option.")
            space[key] = Dimension(tuple(choices.values()))
    return space


def settings(space: Space) -> float:
    """The number of different settings."""
    total = 1.0
    for dimension in space.values():
        total *= dimension.count
    return total


def key_of(values: Mapping[str, Any]) -> str:
    """A string that identifies a setting, so that none is tried twice."""
    return json.dumps(values, sort_keys=True)


def suggest(space: Space, tried: Sequence[Entry], recipe: Recipe) -> dict[str, Any]:
    """The next setting to try: first that of the recipe, if it lies within the ranges, then proposals of Optuna's TPE.

    A proposal is a function of the recipe's seed and of what was tried, so a sweep with one worker is reproducible.
    """
    own, keys = flat(recipe), {key_of(entry.values) for entry in tried}
    first = {key: own[key] for key in space}
    if all(own[key] in dimension for key, dimension in space.items()) and key_of(first) not in keys:
        return first
    with quiet_optuna() as optuna:
        study = _study(optuna, space, tried)
        for attempt in range(100):
            seed = (recipe.seed * 1_000_003 + 1_009 * len(tried) + attempt) % 2**32
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=5, multivariate=True, constant_liar=True, seed=seed
            )
            trial = study.ask({key: dimension.distribution() for key, dimension in space.items()})
            values = {key: d.rounded(d.decode(trial.params[key])) for key, d in space.items()}
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if key_of(values) not in keys:
                return values
    # TPE keeps proposing settings that were tried. So there are few settings, and the first untried one is returned.
    choices = [d.choices or range(int(d.low), int(d.high) + 1) for d in space.values()]
    settings_left = (dict(zip(space, combination, strict=True)) for combination in product(*choices))
    return next(values for values in settings_left if key_of(values) not in keys)


def _study(optuna: Any, space: Space, entries: Sequence[Entry]) -> Any:
    """An in-memory study of the settings tried. Trials that failed for reasons other than their values are ignored."""
    states = optuna.trial.TrialState
    study = optuna.create_study(direction="maximize")
    for entry in entries:
        if entry.state in ("finished", "pruned", "running") or entry.diverged:
            study.add_trial(
                optuna.create_trial(
                    state={"finished": states.COMPLETE, "running": states.RUNNING}.get(entry.state, states.PRUNED),
                    value=entry.accuracy if entry.state == "finished" else None,
                    params={key: d.encode(entry.values[key]) for key, d in space.items()},
                    distributions={key: d.distribution() for key, d in space.items()},
                    intermediate_values={} if entry.diverged else entry.reports,
                )
            )
    return study


@contextmanager
def quiet_optuna() -> Iterator[Any]:
    """Optuna without its log and without warnings about experimental features."""
    optuna: Any = optional("optuna", "sweep", "A sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield optuna


# Pruning


def should_continue(trial: Entry, others: Sequence[Entry], trials: int) -> bool:
    """Whether a trial that has just been validated continues.

    At a rung, it must be in the best third of the trials that got there. Ties are broken at random. So if all trials
    are at chance level, a third of them continues, and not all or none.

    The sweep must also be able to afford it. What was spent, plus what all other trials cost until their next rung,
    must stay within `budget`. The budget is spread evenly, so that something is left for better trials that start late.

    Args:
        trial: the trial, with its latest report.
        others: all trials so far; `trial` itself among them is ignored.
        trials: the number of trials of the sweep.
    """
    stage = max(trial.reports)
    rung = next((r for r in reversed(RUNGS) if stage >= r), None)
    if rung is None or any(rung <= s < stage for s in trial.reports):
        return True  # between two rungs
    started = [e for e in others if e.origin != trial.origin]
    reached = [(accuracy, _tie_break(e)) for e in started if (accuracy := e.at(rung)) is not None]
    better = sum(other > (trial.at(rung), _tie_break(trial)) for other in reached)
    if better >= max(1, (len(reached) + 1) // REDUCTION):
        return False
    cost = sum(_committed(e) for e in started) + 1  # this trial may have to be trained in full
    total, begun = budget(trials), len(started) + 1
    evenly = ADVANCE + (total - ADVANCE) * begun / trials
    return cost <= min(evenly, total - (trials - begun) * RUNGS[0] / STAGES) + 1e-9


def budget(trials: int) -> float:
    """The maximum cost of all trials, in full trainings: enough to train two in full."""
    return max(SPEND * trials, min(trials, ADVANCE + (trials - ADVANCE) * RUNGS[0] / STAGES))


def _tie_break(entry: Entry) -> bytes:
    return hashlib.blake2b(str(entry.origin).encode()).digest()


def _committed(entry: Entry) -> float:
    """The fraction of its training that a trial has used, or will have used at its next rung if it is unfinished."""
    if entry.state not in ("running", "left"):
        return entry.fraction
    stage = max(entry.reports, default=0)
    return max(entry.fraction, next((r for r in RUNGS if r > stage), STAGES) / STAGES)
