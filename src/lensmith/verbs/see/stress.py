"""`lensmith stress`: where a taught model breaks, by its answers to mildly changed images."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import UserError
from lensmith.progress import Note, Tell, silent, working
from lensmith.records import percent
from lensmith.runs.files import write_json
from lensmith.runs.folder import REPORT, Run, claimed, require_one_process
from lensmith.runs.provenance import facts
from lensmith.verbs import terminal
from lensmith.verbs.words import divided, kind_of, recipe_from

EXAMPLES = ("lensmith stress runs/mine", "lensmith stress runs/mine more-labelled-images stress.images=2000")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    terminal.add_recipe(parser, "stress", resumable=False)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    runs = [Path(word) for word in divided(args.recipe)[1] if kind_of(word) == "run"]
    if not runs:
        raise UserError("Which run shall be stressed?", "Name the folder of a taught one: lensmith stress runs/mine.")
    record = stress(runs[0], recipe_from(args.recipe), args.run, screen)
    rows = [["as they are", "", terminal.points(record["clean"]), "", ""]]
    for row in record["changes"]:
        change, p = row["difference"], f"{row['changed']:,}"
        difference = f"{100 * change['value']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
        rows.append([row["change"], row["about"], terminal.points(row["accuracy"]), difference, p])
    head = ["change", "", "accuracy", "difference, points", "answers changed"]
    parts: list[terminal.Part] = [terminal.Table(head, rows, frozenset({0, 1})), record["verdict"]]
    parts.append(terminal.path_line("Report", record["report"]))
    return terminal.Output(record, [*parts, terminal.next_line("check", runs[0])])


def stress(
    of_run: Path, recipe: Recipe | None = None, folder: Path | None = None, tell: Tell = silent
) -> dict[str, Any]:
    """Score a taught model on test images as they are and under mild, stated changes, and show where it breaks.

    Args:
        of_run: the folder of a taught run.
        recipe: the images and options; those of the run if None.

    Returns:
        The record: `clean` (an accuracy), `changes` (each with `change`, `about`, `severity`, `accuracy`, `difference`
        from the clean answers, in -1..1, `p`, and `changed`, the number of answers), `verdict`, `run`, `report`.

    Raises:
        UserError: the run was taught nothing, or there are no test images of its classes.
    """
    require_one_process("stress")
    started = time.perf_counter()
    from lensmith.checks.stress import CHANGES
    from lensmith.checks.stress import stress as stressed
    from lensmith.engine.taught import load_taught
    from lensmith.measure.metrics import accuracy
    from lensmith.measure.pace import measure
    from lensmith.measure.paired import LEVEL, holm
    from lensmith.pages.checks import stress as page
    from lensmith.runs.folder import recipe_for

    recipe = recipe or recipe_for(str(of_run), [])
    taught = load_taught(of_run)
    dataset = open_data(recipe.data, tell).among(taught.classifier.labels)
    dataset.require("test", hint="Name other labelled images: lensmith stress RUN IMAGES.")
    split = dataset.test.take(recipe.stress.images)
    folder, lock = claimed(folder, recipe, "stress")
    run = Run(folder, recipe, dataset, tell, lock)
    try:
        tell(Note(dataset.describe()))
        if pace := measure(taught.classifier, split, recipe.data.max_pixels):
            times = 1 + sum(len(change.large) for change in CHANGES)
            tell(
                Note(
                    f"{len(split):,} images, {times} times: about {max(1, round(pace.scoring(len(split)) * times))} s."
                )
            )
        clean, results = stressed(taught.classifier, split, CHANGES, recipe.data.max_pixels, recipe.seed, tell)
    except BaseException:
        shutil.rmtree(run.folder)  # nothing is in it yet
        raise
    run.start("test")
    rate, adjusted = accuracy(clean), holm([r.comparison.p for r in results])
    lost = [r for r, p in zip(results, adjusted, strict=True) if p < LEVEL and r.comparison.difference.value < 0]
    verdict = f"{len(split):,} images don't show that any of these changes costs accuracy ({percent(rate)})."
    if lost:
        first = min(lost, key=lambda r: (r.severity, r.comparison.difference.value))
        after = percent(first.comparison.accuracy_second)
        verdict = f"It breaks first when images are {first.about}: {after} instead of {percent(rate)}."
    report = run.folder / REPORT
    with working("writing the report", tell):
        page.write_stress(
            report,
            page.StressData(
                title=f"{of_run.name} on changed images of {dataset.uri}",
                verdict=verdict,
                clean=rate,
                rows=[
                    page.Row(r.change, r.about, r.severity, r.comparison, r.changed, p < LEVEL)
                    for r, p in zip(results, adjusted, strict=True)
                ],
                facts=facts(run.folder),
                notes=list(dataset.notes),
            ),
        )
    record = {
        "clean": asdict(rate),
        "changes": [
            {
                "change": r.change,
                "about": r.about,
                "severity": r.severity,
                "accuracy": asdict(r.comparison.accuracy_second),
                "difference": asdict(r.comparison.difference),
                "p": p,
                "changed": r.changed,
            }
            for r, p in zip(results, adjusted, strict=True)
        ],
        "verdict": verdict,
        "of": str(of_run),
        "images": len(split),
        "seconds": time.perf_counter() - started,
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / "stress.json", record)
    return record
