"""`lensmith suspects`: list images whose labels are likely wrong, on a page of pictures and in a table to correct."""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.data.corrections import COLUMNS
from lensmith.data.text_tables import guarded
from lensmith.errors import ImageError, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import write, write_json
from lensmith.runs.folder import REPORT, Run, claimed, require_one_process
from lensmith.runs.provenance import facts
from lensmith.verbs import terminal
from lensmith.verbs.words import recipe_from, words_for

if TYPE_CHECKING:
    from lensmith.checks.suspects import Suspect
    from lensmith.data import ImageDataset
    from lensmith.pages.checks import suspects as page

TABLE = "suspects.csv"
EXAMPLES = ("lensmith suspects my-images --run runs/suspects",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    terminal.add_recipe(parser, "suspects", resumable=False)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    record = suspects(recipe := recipe_from(args.recipe), args.run, screen)
    corrected = [f"data.corrections={record['table']}"] if record["suspects"] else []
    then = terminal.next_line("train", *words_for(recipe, record["run"]), *corrected)
    lines = [
        record["verdict"],
        *record["notes"],
        terminal.path_line("Table", record["table"]),
        terminal.path_line("Report", record["report"]),
    ]
    return terminal.Output(record, [*lines, then])


def suspects(recipe: Recipe, folder: Path | None = None, tell: Tell = silent) -> dict[str, Any]:
    """Find training and validation images whose labels are likely wrong.

    Writes a page of pictures, and a table to correct, which `data.corrections` reads. A stopped call leaves no run
    folder, but extracted features stay in the cache, so the next call is fast.

    Returns:
        The record: `suspects` (their number), `images` (the number examined), `table`, `report`, `run`, `pairs`.

    Raises:
        UserError: `cleanlab` isn't installed, or fewer than two classes have enough images.
    """
    require_one_process("suspects")
    started = time.perf_counter()
    from lensmith.checks.suspects import find_suspects
    from lensmith.pages.checks import suspects as page

    dataset = open_data(recipe.data, tell)
    if not len(dataset.train):
        raise UserError(
            f"{recipe.data.uri} has no training images.", "Suspects are found among training and validation images."
        )
    folder, lock = claimed(folder, recipe, "suspects")
    run = Run(folder, recipe, dataset, tell, lock)
    tell(Note(dataset.describe()))
    try:
        result = find_suspects(recipe, dataset, tell)
    except BaseException:
        shutil.rmtree(run.folder)  # nothing is in it yet
        raise
    run.start("train")
    count, images = len(result.suspects), result.images
    verdict = f"None of {images:,} labels looks wrong."
    if count:
        verdict = f"{count:,} of {images:,} images ({100 * count / images:.1f} %) may have a wrong label."
    pairs = [(a, b, n) for (a, b), n in Counter((s.label, s.suggested) for s in result.suspects).most_common()]
    write(run.folder / TABLE, table(result.suspects, dataset))
    report = run.folder / REPORT
    pictures = (picture(suspect, dataset) for suspect in result.suspects[: recipe.suspects.most])
    page.write_suspects(
        report,
        page.SuspectsData(
            title=f"Labels that may be wrong in {dataset.uri}",
            verdict=verdict,
            sentences=result.notes,
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
        "notes": result.notes,
        "verdict": verdict,
        "seconds": time.perf_counter() - started,
        "table": str(run.folder / TABLE),
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / "suspects.json", record)
    return record


def table(suspected: Sequence[Suspect], dataset: ImageDataset) -> str:
    """The suspects as CSV, one row each; see `data.corrections`."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow([*COLUMNS, "suggested", "probability_of_label", "probability_of_suggested", "split", "file"])
    for s in suspected:
        split = dataset.split(s.split)
        probabilities = f"{s.label_probability:.3f}", f"{s.suggested_probability:.3f}"
        labels = map(guarded, (s.label, s.label, s.suggested))
        rows.writerow([split.ids[s.index], *labels, *probabilities, s.split, guarded(split.source(s.index))])
    return out.getvalue()


def picture(suspect: Suspect, dataset: ImageDataset) -> page.Suspect | None:
    """A suspect for the page; None if its image can't be read any more."""
    from lensmith.pages.checks import suspects as page

    split = dataset.split(suspect.split)
    with suppress(ImageError):
        image, source = split.image(suspect.index), split.source(suspect.index)
        probabilities = suspect.label_probability, suspect.suggested_probability
        return page.Suspect(image, suspect.label, suspect.suggested, *probabilities, source)
    return None
