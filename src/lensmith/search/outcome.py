"""The conclusions of a sweep: the finalists, the winner, the importance of options, and how certain all that is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lensmith.config import Recipe, flat, written
from lensmith.errors import UserError
from lensmith.runs.files import disk_error, write, write_json
from lensmith.runs.folder import Run
from lensmith.runs.provenance import facts
from lensmith.search.trials import RUNGS, STAGES, Entry, Space, format_values, key_of, quiet_optuna, with_values


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, trained with several seeds."""

    number: int
    """Number of the trial, from 1."""
    trial: Entry
    accuracies: list[float]
    """Validation accuracy of each training, the trial's first; 0 for a training that diverged."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)


def best_first(trials: Sequence[Entry], limit: int, retrained: bool) -> list[Entry]:
    """The best `limit` trials among those that were trained in full or reached the last rung.

    Args:
        retrained: whether finalists are trained again. Only then can they include trials pruned at the last rung.
    """
    eligible = [e for e in trials if e.state == "finished" or (retrained and e.state == "pruned" and e.at(RUNGS[-1]))]
    return sorted(eligible, key=lambda e: (-(e.accuracy or 0.0), e.number))[:limit]


def finalists(chosen: Sequence[Entry], trials: Sequence[Entry], repeats: Sequence[Entry]) -> list[Finalist]:
    """The finalists with the accuracies of all their trainings, by descending mean.

    Args:
        chosen: the result of `best_first`.
        trials: all trials, in their order.
        repeats: trainings with other seeds. Their values are `trial` (its origin) and `shift` (of the seed).
    """
    numbers = {entry.origin: i for i, entry in enumerate(trials, 1)}
    ranked = []
    for entry in chosen:
        results = [entry.accuracy] if entry.state == "finished" else []
        again = sorted((e for e in repeats if e.values["trial"] == entry.origin), key=lambda e: e.values["shift"])
        results += [0.0 if e.diverged else e.accuracy for e in again if e.diverged or e.state == "finished"]
        if accuracies := [a for a in results if a is not None]:
            ranked.append(Finalist(numbers[entry.origin], entry, accuracies))
    return sorted(ranked, key=lambda f: (-f.mean, f.number))


def verdict(best: Finalist, validation: int) -> str:
    """A sentence that names the winner."""
    n = len(best.accuracies)
    basis = f"the mean of {n} trainings ({_span(best.accuracies)})" if n > 1 else "from one training"
    accuracy = f"{100 * best.mean:.1f} % of {validation:,} validation images correct"
    return f"Train with {format_values(best.trial.values)}: {accuracy}, {basis}."


def sentences(ranked: Sequence[Finalist], original: Entry | None, validation: int) -> list[str]:
    """Sentences on how certain the result is.

    Args:
        ranked: the finalists, the best first.
        original: the trial with the recipe's own values, if any. It is compared only if it was trained in full.
        validation: the number of validation images.
    """
    best, out = ranked[0], []
    if len(ranked) > 1 and (noise := scatter(ranked)) is not None:
        lead = best.mean - ranked[1].mean
        error = noise * math.sqrt(1 / len(best.accuracies) + 1 / len(ranked[1].accuracies))
        out.append(
            f"Its mean is {_points(lead)} above that of the next finalist (trial {ranked[1].number}). "
            f"Accuracy varies by about {_points(noise)} between seeds (standard deviation), "
            + ("so chance doesn't explain the lead." if lead > 2 * error else "so the two can't be distinguished.")
        )
    if (
        original
        and original.state == "finished"
        and original.accuracy is not None
        and key_of(original.values) != key_of(best.trial.values)
    ):
        change = best.mean - original.accuracy
        word = "above" if change >= 0 else "below"
        out.append(
            f"That is {_points(abs(change))} {word} the original recipe, which was trained once "
            f"({100 * original.accuracy:.1f} %)."
        )
    p = min(max(best.mean, 1 / (validation + 2)), 1 - 1 / (validation + 2))
    half = 1.96 * math.sqrt(p * (1 - p) / validation)
    out.append(
        f"With {validation:,} images, such an accuracy is known to within ±{_points(half)} (95 % interval), and the "
        "best of many trials looks better than it is. To measure these settings, train with them: the test images were "
        "not used in the search."
    )
    return out


def scatter(ranked: Sequence[Finalist]) -> float | None:
    """The pooled standard deviation of trainings that differ only in their seed; None if there are none."""
    several = [f.accuracies for f in ranked if len(f.accuracies) > 1]
    freedom = sum(len(a) - 1 for a in several)
    return math.sqrt(sum(statistics.variance(a) * (len(a) - 1) for a in several) / freedom) if freedom else None


def tied(trials: Sequence[Entry]) -> str:
    """A sentence if most trials were tied when they were first pruned; otherwise an empty string."""
    first = [value for e in trials if (value := e.at(RUNGS[0])) is not None]
    most = max(map(first.count, first), default=0)
    if len(first) < 4 or most <= len(first) / 2:
        return ""
    return (
        f"After the first stage of training, {most} of {len(first)} trials had the same accuracy, so it was partly "
        "random which of them continued. More epochs, more validation images or sweep.prune=false would tell more."
    )


def importance(space: Space, entries: Sequence[Entry], prune: bool) -> list[tuple[str, float]]:
    """The fraction of the variance between trials that each option explains, in descending order; the sum is 1.

    Trials are compared at the first rung if they are pruned, otherwise at the end. The result is empty if fewer than
    four trials got there, or if nothing differs.
    """
    rung = RUNGS[0] if prune else STAGES
    reached = [(e, accuracy) for e in entries if (accuracy := e.at(rung)) is not None]
    varied = [key for key in space if len({key_of({key: e.values[key]}) for e, _ in reached}) > 1]
    if len(reached) < 4 or not varied or len({accuracy for _, accuracy in reached}) < 2:
        return []
    if len(varied) == 1:
        return [(varied[0], 1.0)]
    with quiet_optuna() as optuna:
        study = optuna.create_study(direction="maximize")
        for entry, accuracy in reached:
            study.add_trial(
                optuna.create_trial(
                    value=accuracy,
                    params={key: space[key].encode(entry.values[key]) for key in varied},
                    distributions={key: space[key].distribution() for key in varied},
                )
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return list(optuna.importance.get_param_importances(study, evaluator=evaluator).items())


def conclude(
    run: Run,
    space: Space,
    chosen: Sequence[Entry],
    trials: Sequence[Entry],
    repeats: Sequence[Entry],
    started: float,
) -> dict[str, Any]:
    """Write best.yaml, report.html and sweep.json, each atomically, since other workers may do so at the same time.

    Args:
        chosen: the finalists, from `best_first`.
        trials: all trials, in their order.
        repeats: trainings of the finalists with other seeds.
        started: when the work began, by `time.perf_counter`.

    Returns:
        The record, as in sweep.json.

    Raises:
        UserError: no trial was trained in full, or the disk is full.
    """
    from lensmith.pages import sweep as sweep_page

    recipe, folder, dataset = run.recipe, run.folder, run.dataset
    ranked, n = finalists(chosen, trials, repeats), len(dataset.validation)
    if not ranked:
        last = next((entry.sentence for entry in reversed(trials) if entry.sentence), "")
        raise UserError(f"None of the {len(trials)} trials could be trained in full: {last}", "Start a new sweep.")
    best, plain = ranked[0], flat(recipe)
    original = next(
        (e for e in trials if all(plain[key] == value for key, value in e.values.items())),
        None,
    )
    conclusions = [verdict(best, n), *sentences(ranked, original, n)]
    notes = [f"Trial {i} failed: {entry.sentence}" for i, entry in enumerate(trials, 1) if entry.sentence]
    notes += [f"A training with another seed failed: {entry.sentence}" for entry in repeats if entry.sentence]
    notes += [tied(trials)] if recipe.sweep.prune and tied(trials) else []
    winner = with_values(recipe, best.trial.values)
    winner.model.adapter = None
    importances = importance(space, trials, recipe.sweep.prune)
    record: dict[str, Any] = {
        "run": str(folder),
        "recipe": str(folder / "best.yaml"),
        "report": str(folder / "report.html"),
        "verdict": conclusions[0],
        "sentences": conclusions[1:],
        "best": best.trial.values,
        "chosen": best.number,
        "accuracy": best.mean,
        "validation": n,
        "trials": [
            {"number": i, "state": e.state, "values": e.values, "accuracy": e.accuracy, "share": round(e.fraction, 4)}
            | ({"sentence": e.sentence} if e.sentence else {})
            for i, e in enumerate(trials, 1)
        ],
        "finalists": [
            {"number": f.number, "values": f.trial.values, "accuracies": f.accuracies, "mean": f.mean} for f in ranked
        ],
        "cost": {
            "trials": round(sum(entry.fraction for entry in trials), 3),
            "finalists": round(sum(entry.fraction for entry in repeats), 3),
        },
        "importance": importances,
        "notes": notes,
        "seconds": time.perf_counter() - started,
    }
    page = sweep_page.SweepData(
        title=f"Settings for {recipe.model.base} on {dataset.uri}",
        verdict=conclusions[0],
        sentences=conclusions[1:],
        trials=[sweep_page.Trial(i, e.state, e.values, e.accuracy, e.fraction) for i, e in enumerate(trials, 1)],
        importance=importances,
        ranges={key: list(d.choices) or {"low": d.low, "high": d.high, "log": d.log} for key, d in space.items()},
        finalists=[sweep_page.Finalist(f.number, f.trial.values, f.accuracies) for f in ranked],
        chosen=best.number,
        validation=n,
        recipe=written(_changed(winner)),
        facts=facts(folder),
        notes=notes,
    )
    values = winner.to_dict()
    del values["sweep"]
    head = f"# Written by the sweep {folder}. {conclusions[0]}\n# lensmith train {folder / 'best.yaml'}\n"
    try:
        with TemporaryDirectory(prefix=".page-", dir=folder) as temporary:
            write(Path(temporary) / "best.yaml", head + written(values))
            sweep_page.write_sweep(Path(temporary) / "report.html", page)
            write_json(Path(temporary) / "sweep.json", record)
            for name in ("best.yaml", "report.html", "sweep.json"):
                (Path(temporary) / name).replace(folder / name)
    except OSError as error:
        raise disk_error(folder / "sweep.json", error) from None
    return record


def _changed(recipe: Recipe) -> dict[str, Any]:
    """The options of a recipe that differ from their defaults, except those of the sweep."""
    values: dict[str, Any] = {}
    defaults = flat(Recipe())
    for key, value in flat(recipe).items():
        section, _, name = key.partition(".")
        if value != defaults[key] and section != "sweep":
            (values.setdefault(section, {}) if name else values)[name or key] = value
    return values


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _span(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}"
