"""The trials of a sweep: what is searched, which setting comes next, and which trials are hopeless.

All of it follows from the entries on the board (`board`), which all workers read alike; nothing here waits or writes.
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

PARTS = 9
"""A trial is validated after each ninth of its training."""
RUNGS = (1, 3)
"""After so many of them it may be stopped: at a ninth and at a third."""
EARLY = 2
"""Full trainings that may be spent ahead of time."""
BEST = 3
"""One in so many goes on."""
SPEND = 0.4
"""At most this share of what all trials would cost to their ends is spent on them."""
SECTIONS = ("question", "model", "tune", "train", "augment")
FIXED = {
    *("model.adapter", "model.device", "train.validate_every", "train.patience", "train.micro_batch"),
    *("train.checkpoint_minutes", "train.cache_features", "train.tracker"),
}
"""Options of these sections that a sweep sets itself, or that change nothing of what is learned."""

State = Literal["running", "left", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Entry:
    """One claim on the board: a trial of these values, or a part of one that another worker went on with."""

    number: int
    """Given out by the database, in the order of the claims."""
    state: State
    """`left` is what a worker had to leave unfinished, for anybody to go on with."""
    values: dict[str, Any]
    key: str
    """What is claimed; of several with the same key the first stands."""
    origin: int
    """The number of the claim that this one goes on with the work of, at last; else its own."""
    reports: dict[int, float] = field(default_factory=dict)
    """After so many ninths of the training, the best share of the validation images right so far."""
    share: float = 0.0
    """How much of its training is done."""
    accuracy: float | None = None
    sentence: str = ""
    """Why it failed."""
    diverged: bool = False
    """A loss that is no number: of all failures the one that tells something about the values."""
    worker: dict[str, Any] = field(default_factory=dict)
    """The process that has it; see `database.this_process`."""
    beat: int = 0
    """Its signs of life."""
    killed: int = 0
    """How many of its workers were killed since it last got ahead."""
    id: int = -1
    """What the database calls it."""

    def at(self, rung: int) -> float | None:
        """What it had got when it reached a rung; None if it did not."""
        return next((value for part, value in sorted(self.reports.items()) if part >= rung), None)


def standing(entries: Sequence[Entry], most: int | None = None) -> list[Entry]:
    """The claims that count, the first `most` of them: of equal keys the first, and of work that was handed on its
    last part, in the order in which they were begun. A trial's place in this list never changes."""
    keys: set[str] = set()
    last: dict[int, Entry] = {}
    for entry in sorted(entries, key=lambda e: e.number):
        if entry.key not in keys:
            keys.add(entry.key)
            last[entry.origin] = entry
    return [last[origin] for origin in sorted(last)][:most]


# What is searched


@dataclass(frozen=True)
class Dimension:
    """What one option is searched in: choices, or a range of numbers."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def count(self) -> float:
        """How many values there are."""
        return len(self.choices) or (self.high - self.low + 1 if self.whole else float("inf"))

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(_said, self.choices))
        return f"{_said(self.low)} to {_said(self.high)}{', by its logarithm' * self.log}"

    def encode(self, value: Any) -> Any:
        """As Optuna holds it: a choice that isn't a plain value is written as JSON."""
        plain = all(isinstance(choice, bool | int | float | str | None) for choice in self.choices)
        return value if plain else json.dumps(value, sort_keys=True)

    def decode(self, value: Any) -> Any:
        """The value that was encoded."""
        return next((choice for choice in self.choices if self.encode(choice) == value), value)

    def near(self, value: Any) -> Any:
        """A number with three digits, so that what is shown is what was trained."""
        if self.choices or self.whole:
            return value
        return min(self.high, max(self.low, float(f"{value:.3g}")))

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution([self.encode(choice) for choice in self.choices])
        if self.whole:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


Space = dict[str, Dimension]


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip('"')


def said(values: Mapping[str, Any]) -> str:
    """Values as they are written on the command line."""
    return ", ".join(f"{key}={_said(value)}" for key, value in values.items())


def with_values(recipe: Recipe, values: Mapping[str, Any], where: str = "the sweep") -> Recipe:
    """The recipe with some options set.

    Raises:
        UserError: a value is of the wrong type or out of range; it names option and value.
    """
    plain = recipe.to_dict()
    for key, value in values.items():
        *path, last = key.split(".")
        section = plain
        for part in path:
            section = section[part]
        section[last] = value
    return recipe_from(plain, where)


def search_space(recipe: Recipe) -> Space:
    """What the recipe's sweep searches, checked.

    Raises:
        UserError: an unknown option, one that can't be searched, an empty range, or a value of the wrong type.
    """
    space: Space = {}
    for key, wanted in recipe.sweep.over.items():
        if key not in known_keys():
            raise UserError(f"There is no option {key!r} to search (sweep.over).", nearest(key, known_keys()))
        if key.partition(".")[0] not in SECTIONS or key in FIXED:
            raise UserError(
                f"{key} can't be searched (sweep.over): all trials must have it alike.",
                f"What can be: options of {', '.join(SECTIONS)} that change what is learned.",
            )

        def checked(value: Any, key: str = key) -> Any:
            return flat(with_values(recipe, {key: value}, "sweep.over"))[key]

        if isinstance(wanted, Range):
            low, high = checked(wanted.low), checked(wanted.high)
            if isinstance(low, bool) or not isinstance(low, int | float):
                raise UserError(f"{key} isn't a number: it has no range.", "Give a list of values in sweep.over.")
            if not low < high:
                raise UserError(f"The range of {key} in sweep.over is empty: low is {low}, high is {high}.")
            if wanted.log and low <= 0:
                raise UserError(f"The range of {key} in sweep.over begins at {low}, which has no logarithm.")
            space[key] = Dimension((), low, high, wanted.log, isinstance(low, int))
        else:
            choices = {json.dumps(value, sort_keys=True): value for value in map(checked, wanted)}
            if not choices:
                raise UserError(f"The list of {key} in sweep.over is empty.", "Give it values, or leave it out.")
            space[key] = Dimension(tuple(choices.values()))
    return space


def settings(space: Space) -> float:
    """How many different settings there are."""
    total = 1.0
    for dimension in space.values():
        total *= dimension.count
    return total


def key_of(values: Mapping[str, Any]) -> str:
    """Names a setting: no setting is tried twice."""
    return json.dumps(values, sort_keys=True)


def suggest(space: Space, tried: Sequence[Entry], recipe: Recipe) -> dict[str, Any]:
    """The next setting to try: the recipe's own first, if it lies within the ranges; then what Optuna's TPE proposes.

    The proposal follows from the recipe's seed and from what was tried, so one worker's sweep can be repeated.
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
            found = {key: d.near(d.decode(trial.params[key])) for key, d in space.items()}
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if key_of(found) not in keys:
                return found
    # It proposes the same again and again: of a few settings, one that is left.
    values = [d.choices or range(int(d.low), int(d.high) + 1) for d in space.values()]
    every = (dict(zip(space, combination, strict=True)) for combination in product(*values))
    return next(found for found in every if key_of(found) not in keys)


def _study(optuna: Any, space: Space, entries: Sequence[Entry]) -> Any:
    """A study in memory with what was tried. What failed for other reasons than its values says nothing of them."""
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
    """Optuna without its log and its warnings about what is new in it."""
    optuna: Any = optional("optuna", "sweep", "A sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield optuna


# Which trials are hopeless


def hopeful(own: Entry, others: Sequence[Entry], trials: int) -> bool:
    """Whether a trial that has just been validated goes on.

    At a rung it does if it is in the best third of those that got there; between equal ones lots are drawn, so that
    where all are still as good as chance, a third goes on all the same, and not all or none. And only if the sweep can
    afford it: what was spent, and what all the others take before they are judged again, stays within `limit`, which
    is spent evenly, so that there is something left for better trials that come late.
    """
    part = max(own.reports)
    rung = next((r for r in reversed(RUNGS) if part >= r), None)
    if rung is None or any(rung <= p < part for p in own.reports):
        return True  # between two rungs
    started = [e for e in others if e.origin != own.origin]
    there = [(value, _lot(e)) for e in started if (value := e.at(rung)) is not None]
    better = sum(other > (own.at(rung), _lot(own)) for other in there)
    if better >= max(1, (len(there) + 1) // BEST):
        return False
    cost = sum(_until(e) for e in started) + 1  # what goes on may have to go on to the end
    most, begun = limit(trials), len(started) + 1
    evenly = EARLY + (most - EARLY) * begun / trials
    return cost <= min(evenly, most - (trials - begun) * RUNGS[0] / PARTS) + 1e-9


def limit(trials: int) -> float:
    """What the trials cost at most, in full trainings: enough for two that are trained to the end."""
    return max(SPEND * trials, min(trials, EARLY + (trials - EARLY) * RUNGS[0] / PARTS))


def _lot(entry: Entry) -> bytes:
    return hashlib.blake2b(str(entry.origin).encode()).digest()


def _until(entry: Entry) -> float:
    """The share of its training that a trial takes before it is judged again, or took."""
    if entry.state not in ("running", "left"):
        return entry.share
    part = max(entry.reports, default=0)
    return max(entry.share, next((r for r in RUNGS if r > part), PARTS) / PARTS)
