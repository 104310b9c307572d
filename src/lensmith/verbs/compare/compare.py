"""`lensmith compare`: compare finished runs on the same images, with a report that shows which predictions changed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lensmith.config import LadderOptions, Recipe, flat, load_recipe
from lensmith.data import open_data
from lensmith.errors import ImageError, UserError
from lensmith.measure.paired import compare_all
from lensmith.progress import Tell, silent, working
from lensmith.records import Comparison, Evaluation, Prediction
from lensmith.runs.files import write_json
from lensmith.runs.folder import PREDICTIONS, claimed, read_evaluation, read_run
from lensmith.runs.provenance import facts
from lensmith.runs.shapes import Record, read_as
from lensmith.verbs import terminal
from lensmith.verbs.words import divided

EXAMPLES = ("lensmith compare runs/before runs/mine", "lensmith compare runs/api runs/mine ladder.label_cost=0.03")
COSTS = ("ladder.hourly_cost", "ladder.label_cost")
"""The options that a comparison has."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="RUN|OPTION",
        help="run folders; each is compared with the first. To compare costs with those of an outside model: "
        "ladder.hourly_cost=... of this machine, ladder.label_cost=... of an image",
    )
    parser.add_argument("--run", type=Path, help="run folder to create (default: runs/NAME-compare-TIME)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    options, words = divided(args.recipe)
    runs = list(map(Path, words))
    record = compare(runs, args.run, _costs(options), screen)
    best = max(record["accuracies"], key=lambda name: float(record["accuracies"][name]["accuracy"]))
    run = next(run for run in runs if best in (run.name, str(run)))
    paid = record["costs"].get("runs") or [{"outside": False}] * len(runs)
    local = [other for other, cost in zip(runs, paid, strict=True) if not cost["outside"]]
    then = ("predict", run, "new-images") if (run / "adapter").exists() else ("train", run)
    if run not in local:  # the outside model is ahead: would more labels help the local one?
        then = ("curve", local[0]) if local else ("report", run)
    parts: list[terminal.Part] = [terminal.rate_table(record["accuracies"]), ""]
    parts += [c["sentence"] for c in record["comparisons"]]
    if costs := record["costs"]:
        parts += ["", terminal.Table(costs["head"], costs["rows"]), "", *costs["sentences"], *costs["notes"]]
    return terminal.Output(record, [*parts, terminal.path_line("Report", record["report"]), terminal.next_line(*then)])


def _costs(options: Sequence[str]) -> LadderOptions:
    """The costs that options name. Raises UserError for other options."""
    if other := [word for word in options if word.partition("=")[0] not in COSTS]:
        raise UserError(f"A comparison has no option {other[0]!r}.", f"It has {' and '.join(COSTS)}.")
    return load_recipe(None, options).ladder


def compare(
    runs: Sequence[Path], folder: Path | None = None, costs: LadderOptions | None = None, tell: Tell = silent
) -> dict[str, Any]:
    """Compare each of several finished runs with the first, on the same images, and write a report of what changed.

    Args:
        costs: of this machine and of labels, for a comparison with an outside model.
        tell: called with progress.

    Returns:
        `comparisons`, one for each run after the first, `accuracies` by run, `costs` (empty without an outside model),
        `run` and `report`.

    Raises:
        UserError: fewer than two runs; one isn't finished or is damaged; they scored different images.
    """
    from lensmith.pages.comparison import ComparisonData, write_comparison
    from lensmith.runs.predictions import read_predictions

    if len(set(map(Path.resolve, runs))) < 2:
        raise UserError("A comparison needs two runs or more.", "Give their folders: lensmith compare RUN RUN.")
    names = [run.name for run in runs] if len({run.name for run in runs}) == len(runs) else [str(run) for run in runs]
    recipes, evaluations = [], []
    for run, name in zip(runs, names, strict=True):
        recipes.append(read_run(run))
        evaluations.append(replace(read_evaluation(run), name=name, notes=[]))
    predictions = [read_predictions(run / PREDICTIONS) for run in runs]
    _require_same_classes(names, evaluations, predictions)
    comparisons = compare_all(names, predictions)
    paid = _paid(runs, names, evaluations, recipes, costs or LadderOptions(), tell)
    folder, _lock = claimed(folder, Recipe(name=names[-1]), "compare")
    record = {
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "accuracies": {name: asdict(e.accuracy) for name, e in zip(names, evaluations, strict=True)},
        "costs": paid,
        "run": str(folder),
        "report": str(folder / "report.html"),
    }
    pictures, note = changes(runs[0], comparisons[0], predictions[0], predictions[1])
    second = {c.label: c for c in evaluations[1].classes}
    data = ComparisonData(
        title=f"{', '.join(names[1:])} compared with {names[0]}",
        evaluations=evaluations,
        comparisons=comparisons,
        lost=[pictures[name] for name in comparisons[0].lost if name in pictures],
        gained=[pictures[name] for name in comparisons[0].gained if name in pictures],
        settings=differing(recipes),
        classes=[
            (c.label, c.recall.accuracy, second[c.label].recall.accuracy, c.recall.n)
            for c in evaluations[0].classes
            if c.label in second
        ],
        facts=[(key, value) for key, value in facts(runs[0]) if key in ("Data", "Commit", "Versions", "Machine")],
        notes=[],
        costs=paid,
        picture_note=note,
    )
    write_comparison(folder / "report.html", data)
    write_json(folder / "comparison.json", record)
    return record


def _paid(
    runs: Sequence[Path],
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    recipes: Sequence[Recipe],
    costs: LadderOptions,
    tell: Tell,
) -> dict[str, Any]:
    """Costs and delays as tables show them; empty if no outside model is among the runs."""
    from lensmith.measure.expense import HEAD, alone, expense, notes, rows, verdict
    from lensmith.measure.outside import summary_of

    if not any(map(summary_of, runs)):
        return {}
    expenses = []
    for run, name, evaluation, recipe in zip(runs, names, evaluations, recipes, strict=True):
        record = read_as(run / "record.json", Record)
        taught = record["data"]["train"]["n"] if (run / "adapter").exists() else 0
        paid = expense(run, name, evaluation, taught, costs)
        if not paid.outside and (run / "adapter").exists():
            with suppress(UserError), working(f"timing {name}", tell):  # the images may be gone
                split = open_data(recipe.data).split(record["split"])
                paid = replace(paid, delay=alone(run, split, recipe.data.max_pixels))
        expenses.append(paid)
    pairs = [(a, b) for a in expenses for b in expenses if a.outside and not b.outside]
    sentences = [sentence for a, b in pairs if (sentence := verdict(a, b))]
    return {
        "head": HEAD,
        "rows": rows(expenses),
        "sentences": sentences,
        "notes": notes(expenses),
        "runs": [asdict(paid) for paid in expenses],
    }


def _require_same_classes(
    names: Sequence[str], evaluations: Sequence[Evaluation], predictions: Sequence[Sequence[Prediction]]
) -> None:
    """Raises UserError if a run left out images, of classes that it never learned, which another one scored."""
    scored = [{p.id for p in those} for those in predictions]
    for name, evaluation, ids in zip(names, evaluations, scored, strict=True):
        left_out = evaluation.data.get("left_out", 0)
        for other, theirs in zip(names, scored, strict=True):
            if left_out and theirs - ids:
                raise UserError(
                    f"{name} left out {left_out:,} images of classes that it never learned, and {other} scored them.",
                    "Evaluate it among the classes of the images, with evaluate.labels=data, or both on other images.",
                )


def changes(
    run: Path, comparison: Comparison, before: Sequence[Prediction], after: Sequence[Prediction], most: int = 40
) -> tuple[dict[str, Any], str]:
    """Pictures, by id, of images that only one of two runs classified correctly; and a sentence if some are missing."""
    from lensmith.pages.comparison import Change

    try:
        split = open_data(read_run(run).data).split(read_as(run / "record.json", Record)["split"])
    except UserError as error:
        return {}, f"Pictures are not shown, because the images can't be opened any more: {error}"
    index = {name: i for i, name in enumerate(split.ids)}
    first, second = ({p.id: p.predicted for p in predictions} for predictions in (before, after))
    shown, out = [*comparison.lost[:most], *comparison.gained[:most]], {}
    for name in shown:
        if name in index:
            with suppress(ImageError):  # one of the runs could read it, but the file has changed
                image = split.image(index[name])
                out[name] = Change(image, split.labels[index[name]], first[name], second[name])
    missing = len(shown) - len(out)
    return out, f"{missing} of the pictures can't be shown, because the images have changed since." if missing else ""


def differing(recipes: Sequence[Recipe]) -> list[tuple[str, list[str]]]:
    """The options in which recipes differ, each with its value in every recipe."""
    values = [flat(recipe) for recipe in recipes]
    rows = [(key, [str(value[key]) for value in values]) for key in values[0]]
    return [(key, row) for key, row in rows if len(set(row)) > 1]
