"""`lensmith suspects`: list the images whose labels are likely wrong, as a page of pictures and a table to correct."""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.data.corrections import COLUMNS
from lensmith.errors import ImageError, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import write, write_json
from lensmith.runs.folder import REPORT, Run, default_folder, new_run_folder, require_one_process
from lensmith.runs.provenance import facts
from lensmith.verbs import terminal

if TYPE_CHECKING:
    from lensmith.check.suspects import Suspect
    from lensmith.data import ImageDataset
    from lensmith.pages import suspects as page

ABOUT = "find the labels that are likely wrong"
TABLE = "suspects.csv"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    terminal.add_recipe(parser, "suspects", resumable=False)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """The command."""
    record = suspects(terminal.recipe_from(args.recipe), args.run, screen)
    lines = [record["verdict"], *record["notes"], f"Table: {record['table']}", f"Report: {record['report']}"]
    return terminal.Output(record, "\n".join(lines))


def suspects(recipe: Recipe, folder: Path | None = None, tell: Tell = silent) -> dict[str, Any]:
    """Find the training and validation images whose labels are likely wrong: a page of pictures, and a table to
    correct, which `data.corrections` reads.

    A stopped call leaves no run folder, but extracted features stay in the cache, so the next one is fast.

    Returns:
        The record: `suspects` (number), `images` examined, `table`, `report`, `run`, `pairs`.

    Raises:
        UserError: `cleanlab` isn't installed; or fewer than two classes have enough images.
    """
    require_one_process("suspects")
    started = time.perf_counter()
    from lensmith.check.suspects import find_suspects
    from lensmith.pages import suspects as page

    dataset = open_data(recipe.data)
    if not len(dataset.train):
        raise UserError(f"{recipe.data.uri} has no training images.", "Suspects are searched for among them.")
    run = Run(new_run_folder(folder or default_folder(recipe, "suspects")), recipe, dataset, tell)
    tell(Note(dataset.describe()))
    try:
        found = find_suspects(recipe, dataset, tell)
    except BaseException:
        run.folder.rmdir()  # nothing is in it yet
        raise
    run.start("train")
    count, images = len(found.suspects), found.images
    verdict = f"None of {images:,} labels is in doubt."
    if count:
        verdict = f"{count:,} of {images:,} images ({100 * count / images:.1f} %) may have a wrong label."
    pairs = [(a, b, n) for (a, b), n in Counter((s.label, s.suggested) for s in found.suspects).most_common()]
    write(run.folder / TABLE, table(found.suspects, dataset))
    report = run.folder / REPORT
    pictures = (picture(suspect, dataset) for suspect in found.suspects[: recipe.suspects.most])
    page.write_suspects(
        report,
        page.SuspectsData(
            title=f"Labels in doubt, of {dataset.uri}",
            verdict=verdict,
            sentences=found.notes,
            suspects=[shown for shown in pictures if shown is not None],
            total=count,
            images=images,
            pairs=pairs,
            facts=facts(run.folder),
            notes=list(dataset.notes),
        ),
    )
    record = {
        "suspects": count,
        "images": images,
        "pairs": pairs,
        "notes": found.notes,
        "verdict": verdict,
        "seconds": time.perf_counter() - started,
        "table": str(run.folder / TABLE),
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / "suspects.json", record)
    return record


def table(found: Sequence[Suspect], dataset: ImageDataset) -> str:
    """The suspects as CSV, a row each; see `data.corrections`."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow([*COLUMNS, "suggested", "probability_of_label", "probability_of_suggested", "split", "file"])
    for s in found:
        split = dataset.split(s.split)
        probabilities = f"{s.label_probability:.3f}", f"{s.suggested_probability:.3f}"
        labels = s.label, s.label, s.suggested
        rows.writerow([split.ids[s.index], *labels, *probabilities, s.split, split.source(s.index)])
    return out.getvalue()


def picture(suspect: Suspect, dataset: ImageDataset) -> page.Suspect | None:
    """A suspect for the page; None if the image has gone since."""
    from lensmith.pages import suspects as page

    split = dataset.split(suspect.split)
    with suppress(ImageError):
        image, source = split.image(suspect.index), split.source(suspect.index)
        probabilities = suspect.label_probability, suspect.suggested_probability
        return page.Suspect(image, suspect.label, suspect.suggested, *probabilities, source)
    return None
