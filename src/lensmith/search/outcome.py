"""What came of a sweep: the finalists, the winner, what mattered, and sentences that say how sure that is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe, flat
from lensmith.errors import UserError
from lensmith.runs.files import disk_error, write, write_json
from lensmith.runs.folder import Run
from lensmith.runs.provenance import facts
from lensmith.search.trials import PARTS, RUNGS, Entry, Space, key_of, quiet_optuna, said, with_values

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Finalist:
    """A trial that was trained with several seeds."""

    number: int
    """Its place among the trials, from 1."""
    trial: Entry
    accuracies: list[float]
    """Of each training on the validation images, the trial's own first; 0 for one that diverged."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)


def best_first(trials: Sequence[Entry], most: int, again: bool) -> list[Entry]:
    """The finalists: the best of those that were trained to the end, or nearly went on to it.

    Args:
        again: finalists are trained again, so one may be among them that was stopped at the last rung.
    """
    last = [e for e in trials if e.state == "finished" or (again and e.state == "pruned" and e.at(RUNGS[-1]))]
    return sorted(last, key=lambda e: (-(e.accuracy or 0.0), e.number))[:most]


def finalists(chosen: Sequence[Entry], trials: Sequence[Entry], repeats: Sequence[Entry]) -> list[Finalist]:
    """The finalists with what all their trainings gave, the best mean first.

    Args:
        chosen: as `best_first` gives them.
        trials: all, in their order.
        repeats: trainings with other seeds, whose values are the `trial` (its origin) and the `shift` of the seed.
    """
    places = {entry.origin: i for i, entry in enumerate(trials, 1)}
    found = []
    for entry in chosen:
        own = [entry.accuracy] if entry.state == "finished" else []
        again = sorted((e for e in repeats if e.values["trial"] == entry.origin), key=lambda e: e.values["shift"])
        own += [0.0 if e.diverged else e.accuracy for e in again if e.diverged or e.state == "finished"]
        if accuracies := [a for a in own if a is not None]:
            found.append(Finalist(places[entry.origin], entry, accuracies))
    return sorted(found, key=lambda f: (-f.mean, f.number))


def verdict(best: Finalist, validation: int) -> str:
    """The winner, in a sentence."""
    times = len(best.accuracies)
    spread = f", the mean of {times} trainings ({_span(best.accuracies)})" if times > 1 else ", of one training"
    right = f"{100 * best.mean:.1f} % of {validation:,} validation images right"
    return f"Train with {said(best.trial.values)}: {right}{spread}."


def sentences(found: Sequence[Finalist], own: Entry | None, validation: int) -> list[str]:
    """How sure that is.

    Args:
        found: the finalists, the best first.
        own: the trial with the recipe's own values, if there was one; it is spoken of if it was trained to its end.
    """
    best, out = found[0], []
    if len(found) > 1 and (noise := scatter(found)) is not None:
        lead = best.mean - found[1].mean
        error = noise * math.sqrt(1 / len(best.accuracies) + 1 / len(found[1].accuracies))
        out.append(
            f"Its mean is {_points(lead)} above the next finalist's (trial {found[1].number}). Another seed alone "
            f"moves a training by about {_points(noise)} (standard deviation): "
            + ("more than chance explains." if lead > 2 * error else "so the two can't be told apart.")
        )
    if own and own.state == "finished" and own.accuracy is not None and key_of(own.values) != key_of(best.trial.values):
        change = best.mean - own.accuracy
        word = "above" if change >= 0 else "below"
        out.append(
            f"That is {_points(abs(change))} {word} the recipe as it was, of which there is one training "
            f"({100 * own.accuracy:.1f} %)."
        )
    p = min(max(best.mean, 1 / (validation + 2)), 1 - 1 / (validation + 2))
    half = 1.96 * math.sqrt(p * (1 - p) / validation)
    out.append(
        f"{validation:,} images give such a figure to within {_points(half)} either way (95 %), and the best of many "
        "looks better than it is. How good these settings are, a training with them shows on the test images, which "
        "had no part in the search."
    )
    return out


def scatter(found: Sequence[Finalist]) -> float | None:
    """The standard deviation of trainings that differ in their seed alone; None if there are no two."""
    several = [f.accuracies for f in found if len(f.accuracies) > 1]
    freedom = sum(len(a) - 1 for a in several)
    return math.sqrt(sum(statistics.variance(a) * (len(a) - 1) for a in several) / freedom) if freedom else None


def tied(trials: Sequence[Entry]) -> str:
    """A sentence, if pruning had little to judge by; else an empty one."""
    first = [value for e in trials if (value := e.at(RUNGS[0])) is not None]
    most = max(map(first.count, first), default=0)
    if len(first) < 4 or most <= len(first) / 2:
        return ""
    return (
        f"After the first part of its training, {most} of {len(first)} trials had the same images right, so which of "
        "them went on was a matter of lots. More epochs, more validation images, or sweep.prune=false tell more."
    )


def importance(space: Space, entries: Sequence[Entry], prune: bool) -> list[tuple[str, float]]:
    """How much of the differences between trials each option explains, the most first; the sum is 1.

    Judged where all trials can be compared: at the first rung if trials are pruned, else at the end. Empty where fewer
    than four got there, or nothing differs.
    """
    rung = RUNGS[0] if prune else PARTS
    found = [(e, value) for e in entries if (value := e.at(rung)) is not None]
    varied = [key for key in space if len({key_of({key: e.values[key]}) for e, _ in found}) > 1]
    if len(found) < 4 or not varied or len({value for _, value in found}) < 2:
        return []
    if len(varied) == 1:
        return [(varied[0], 1.0)]
    with quiet_optuna() as optuna:
        study = optuna.create_study(direction="maximize")
        for entry, value in found:
            study.add_trial(
                optuna.create_trial(
                    value=value,
                    params={key: space[key].encode(entry.values[key]) for key in varied},
                    distributions={key: space[key].distribution() for key in varied},
                )
            )
        judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return list(optuna.importance.get_param_importances(study, evaluator=judge).items())


def conclude(
    run: Run,
    space: Space,
    chosen: Sequence[Entry],
    trials: Sequence[Entry],
    repeats: Sequence[Entry],
    started: float,
) -> dict[str, Any]:
    """Write best.yaml, report.html and sweep.json, each whole, whoever else may do so at the same moment.

    Args:
        chosen: the finalists, as `best_first` gives them.
        trials: all, in their order.
        repeats: trainings of the finalists with other seeds.
        started: when work began, by `time.perf_counter`.

    Returns:
        The record, as in sweep.json.

    Raises:
        UserError: no trial was trained to its end, or the disk is full.
    """
    from lensmith.pages import sweep as sweep_page

    recipe, folder, dataset = run.recipe, run.folder, run.dataset
    found, n = finalists(chosen, trials, repeats), len(dataset.validation)
    if not found:
        last = next((entry.sentence for entry in reversed(trials) if entry.sentence), "")
        raise UserError(f"None of the {len(trials)} trials could be trained to its end: {last}", "Start a new sweep.")
    best, plain = found[0], flat(recipe)
    own = next(
        (e for e in trials if all(plain[key] == value for key, value in e.values.items())),
        None,
    )
    said_of = [verdict(best, n), *sentences(found, own, n)]
    notes = [f"Trial {i} failed: {entry.sentence}" for i, entry in enumerate(trials, 1) if entry.sentence]
    notes += [f"A training with another seed failed: {entry.sentence}" for entry in repeats if entry.sentence]
    notes += [tied(trials)] if recipe.sweep.prune and tied(trials) else []
    advised = with_values(recipe, best.trial.values)
    advised.model.adapter = None
    mattered = importance(space, trials, recipe.sweep.prune)
    record: dict[str, Any] = {
        "run": str(folder),
        "recipe": str(folder / "best.yaml"),
        "report": str(folder / "report.html"),
        "verdict": said_of[0],
        "sentences": said_of[1:],
        "best": best.trial.values,
        "chosen": best.number,
        "accuracy": best.mean,
        "validation": n,
        "trials": [
            {"number": i, "state": e.state, "values": e.values, "accuracy": e.accuracy, "share": round(e.share, 4)}
            | ({"sentence": e.sentence} if e.sentence else {})
            for i, e in enumerate(trials, 1)
        ],
        "finalists": [
            {"number": f.number, "values": f.trial.values, "accuracies": f.accuracies, "mean": f.mean} for f in found
        ],
        "cost": {
            "trials": round(sum(entry.share for entry in trials), 3),
            "finalists": round(sum(entry.share for entry in repeats), 3),
        },
        "importance": mattered,
        "notes": notes,
        "seconds": time.perf_counter() - started,
    }
    page = sweep_page.SweepData(
        title=f"Settings for {recipe.model.base} on {dataset.uri}",
        verdict=said_of[0],
        sentences=said_of[1:],
        trials=[sweep_page.Trial(i, e.state, e.values, e.accuracy, e.share) for i, e in enumerate(trials, 1)],
        importance=mattered,
        ranges={key: list(d.choices) or {"low": d.low, "high": d.high, "log": d.log} for key, d in space.items()},
        finalists=[sweep_page.Finalist(f.number, f.trial.values, f.accuracies) for f in found],
        chosen=best.number,
        validation=n,
        recipe=as_yaml(_changed(advised)),
        facts=facts(folder),
        notes=notes,
    )
    whole = advised.to_dict()
    del whole["sweep"]
    head = f"# Made by a sweep ({folder}). {said_of[0]}\n# lensmith train {folder / 'best.yaml'}\n"
    try:
        with TemporaryDirectory(prefix=".page-", dir=folder) as there:
            write(Path(there) / "best.yaml", head + as_yaml(whole))
            sweep_page.write_sweep(Path(there) / "report.html", page)
            write_json(Path(there) / "sweep.json", record)
            for name in ("best.yaml", "report.html", "sweep.json"):
                (Path(there) / name).replace(folder / name)
    except OSError as error:
        raise disk_error(folder / "sweep.json", error) from None
    return record


def as_yaml(values: dict[str, Any]) -> str:
    """As a recipe file holds it."""
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _changed(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe isn't at its default, without what the sweep was."""
    values: dict[str, Any] = {}
    usual = flat(Recipe())
    for key, value in flat(recipe).items():
        section, _, name = key.partition(".")
        if value != usual[key] and section != "sweep":
            (values.setdefault(section, {}) if name else values)[name or key] = value
    return values


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _span(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}"
