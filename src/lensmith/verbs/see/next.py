"""`lensmith next`: choose the images to label next, and write them as tables to fill in."""

from __future__ import annotations

import argparse
import csv
import io
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from lensmith.config import Recipe
from lensmith.data.paths import each
from lensmith.data.text_tables import guarded
from lensmith.errors import ImageError, UserError
from lensmith.progress import Tell, counter, silent
from lensmith.runs.files import write, write_json
from lensmith.runs.folder import REPORT, claimed, is_run, read_run, require_one_process
from lensmith.verbs import terminal

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.engine.taught import Taught
    from lensmith.pages.next import NextData

EXAMPLES = (
    "lensmith next my-unlabelled-images --number 20",
    "lensmith next runs/mine my-unlabelled-images --number 50 --out runs/next",
)
TABLE, TASKS, INTERFACE, RECORD_FILE = "next.csv", "label-studio.json", "label-studio.xml", "next.json"
COLUMNS = ("image", "label", "split", "suggested", "probability")
UNASKED = ("one", "another")
"""Classes of a model that is only looked through, and never asked."""
FEATURE = "tower mean"
"""The feature by which images are alike or not."""


@dataclass(frozen=True)
class Chosen:
    """An image to label."""

    file: Path
    split: str
    """`train`, or `test` for an image that was drawn by chance."""
    suggested: str = ""
    """What the model takes it for, if a run was given."""
    probability: float | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="RUN|IMAGES",
        help="perhaps a run folder of `lensmith train`, `probe` or `ladder`; then image files or folders of images",
    )
    parser.add_argument("--run", type=Path, help="the run folder, if it isn't the first argument")
    parser.add_argument("-n", "--number", type=int, default=50, metavar="N", help="images to choose (default: 50)")
    parser.add_argument(
        "--test",
        type=int,
        metavar="N",
        help="images to draw by chance for the test (default: as many, unless the run has test images)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to create (default: runs/NAME-next-TIME)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    images, taught = list(args.images), args.run
    if taught is None and is_run(Path(images[0])):
        taught, images = Path(images[0]), images[1:]
    record = next(images, taught, args.number, args.test, args.out, screen)
    then = [record["table"]]
    if taught:
        data = read_run(taught).data
        tables = [*each(data.corrections), record["table"]]
        then = [data.uri, f"data.corrections={tables[0] if len(tables) == 1 else '[' + ', '.join(tables) + ']'}"]
    lines = [record["verdict"], *record["notes"], terminal.path_line("Table", record["table"])]
    lines += [terminal.path_line("Report", record["report"]), "Fill in the column `label` of the table."]
    return terminal.Output(record, [*lines, terminal.next_line("train", *then)])


def next(
    images: Sequence[str],
    run: Path | None = None,
    number: int = 50,
    test: int | None = None,
    out: Path | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Choose images to label: typical ones while there are few labels, and later those in doubt.

    Images that the run knows already, and copies, are left out. Writes a table to fill in, the same images for Label
    Studio, and a page.

    Args:
        images: image files and folders of images.
        run: a taught model; None if nothing is labelled yet.
        number: of images to choose.
        test: number of images to draw by chance for the test; None for as many as are chosen, or none if the run has
            test images.
        out: folder to create; runs/NAME-next-TIME if None.

    Returns:
        The record: `chosen` (the files), `drawn` (those for the test), `how`, `verdict`, `notes`, `table`, `report`,
        `run`.

    Raises:
        UserError: there are too few images that aren't known yet, or the run can't be used.
    """
    require_one_process("next")
    started = time.perf_counter()
    if number < 1 or (test is not None and test < 0):
        raise UserError(
            f"--number is {number}, --test is {test}.", "Give at least 1 image, and 0 or more for the test."
        )
    from lensmith.data import list_images, open_data
    from lensmith.engine.taught import load_taught
    from lensmith.pages.next import NextData

    recipe = read_run(run) if run else Recipe(name="first")
    dataset = open_data(recipe.data, tell) if run else None
    known = {content for split in dataset.splits for content in split.contents} if dataset else set[str]()
    found = [file for path in images for file in list_images(Path(path))]
    if not found:
        raise UserError("Which images can be labelled next?", "Add image files or folders.")
    files, left_out = _new(found, known, tell)
    if test is None:
        test = 0 if dataset is not None and len(dataset.test) else min(number, len(files) // 5)
    if len(files) < number + test:
        raise UserError(
            f"There are {len(files):,} images that aren't labelled yet, and {number + test:,} are wanted.",
            "Choose a smaller --number, or add images.",
        )
    taught = load_taught(run, () if run else UNASKED)
    drawn = sorted(random.Random(recipe.seed).sample(range(len(files)), test))
    taken = set(drawn)
    rest = [file for i, file in enumerate(files) if i not in taken]
    chosen, how = _choose(rest, number, taught, dataset, tell)
    rows = [*chosen, *(Chosen(files[i], "test") for i in drawn)]
    labels = list(taught.classifier.labels) if run else []
    folder, lock = claimed(out, recipe, "next")
    table, report = folder / TABLE, folder / REPORT
    write(table, _table(rows))
    write_json(folder / TASKS, [_task(row) for row in rows])
    write(folder / INTERFACE, _interface(labels))
    verdict = f"Label these {len(chosen):,} of {len(files):,} images next: {how}."
    notes = [f"{left_out:,} images are labelled already or are copies, and were left out."] if left_out else []
    if test:
        notes.append(
            f"{test:,} more were drawn by chance, for the test: what was chosen is no fair sample of the images, so it "
            "can't say how good a model is."
        )
    facts = [("Images", f"{len(files):,} that aren't labelled"), ("Model", str(run) if run else recipe.model.base)]
    facts += [("Chosen", f"{len(chosen):,}: {how}"), ("Drawn by chance", f"{test:,}, for the test")]
    _write_page(report, NextData("Which images to label next", verdict, notes, [], facts), chosen, recipe)
    record = {
        "chosen": [str(row.file) for row in chosen],
        "drawn": [str(files[i]) for i in drawn],
        "how": how,
        "verdict": verdict,
        "notes": notes,
        "seconds": time.perf_counter() - started,
        "table": str(table),
        "run": str(folder),
        "report": str(report),
    }
    write_json(folder / RECORD_FILE, record)
    if lock:
        lock.close()
    return record


def _new(files: Sequence[Path], known: set[str], tell: Tell) -> tuple[list[Path], int]:
    """The files whose content isn't known, each content once, and the number of the others."""
    from lensmith.data.more import contents_of

    seen, new = set(known), list[Path]()
    show = counter("reading images", len(files), tell)

    def counted() -> Iterator[Path]:
        for k, file in enumerate(files):
            show(k)
            yield file

    for content, file in contents_of(counted()):
        if content not in seen:
            seen.add(content)
            new.append(file.resolve())
    show(len(files))
    return new, len(files) - len(new)


def _choose(
    files: Sequence[Path], number: int, taught: Taught, dataset: ImageDataset | None, tell: Tell
) -> tuple[list[Chosen], str]:
    """The images to label, and how they were chosen."""
    import numpy as np

    from lensmith.learn import choosing
    from lensmith.learn.looking import answers_about, features_of, split_images, the_images

    asked = taught.classifier
    items = the_images(files, asked.model)
    found, readable = features_of(asked, items, [FEATURE], "looking at the images", tell)
    vectors = found[FEATURE]
    files = [files[i] for i in readable]
    if len(files) < number:
        raise UserError(f"Only {len(files):,} of these images can be read.", "Choose a smaller --number.")
    each = len(dataset.train) / len(asked.labels) if dataset else 0.0
    if dataset is None or each < choosing.TYPICAL:
        labelled = vectors[:0]
        if dataset is not None and len(dataset.train):
            known = split_images(dataset.train)
            labelled = features_of(asked, known, [FEATURE], "looking at the labelled ones", tell)[0][FEATURE]
        every = choosing.standardised(np.concatenate([vectors, labelled]))
        rows = choosing.choose_typical(every, range(len(vectors), len(every)), number)
        how = "typical ones, of groups of similar images that have no label yet"
        shown = answers_about(asked, the_images([files[i] for i in rows], asked.model)) if dataset else []
    else:
        answered = answers_about(asked, the_images(files, asked.model), tell)
        probabilities = np.array([prediction.probabilities for prediction in answered], np.float32)
        rows = choosing.choose_uncertain(choosing.standardised(vectors), probabilities, number)
        how = "those whose class is in most doubt, of different kinds"
        shown = [answered[i] for i in rows]
    if not shown:
        return [Chosen(files[i], "train") for i in rows], how
    return [Chosen(files[i], "train", a.label, a.probability) for i, a in zip(rows, shown, strict=True)], how


def _table(rows: Sequence[Chosen]) -> str:
    """The images as CSV, with an empty label each; see `data.corrections`."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        probability = "" if row.probability is None else f"{row.probability:.3f}"
        table.writerow([row.file, "", row.split, guarded(row.suggested), probability])
    return out.getvalue()


def _task(row: Chosen) -> dict[str, Any]:
    """An image as a task of Label Studio, with the model's answer as a suggestion."""
    task: dict[str, Any] = {"data": {"image": f"/data/local-files/?d={quote(row.file.as_posix().lstrip('/'))}"}}
    task["data"] |= {"split": row.split}
    if row.suggested:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [row.suggested]}}
        task["predictions"] = [{"result": [result], "score": row.probability}]
    return task


def _interface(labels: Sequence[str]) -> str:
    """Label Studio's labelling interface; without labels, its choices are to be filled in."""
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels or ["replace me", "and me"])
    image, start = '  <Image name="image" value="$image"/>', '  <Choices name="label" toName="image" choice="single">'
    return f"<View>\n{image}\n{start}\n{choices}\n  </Choices>\n</View>\n"


def _write_page(path: Path, page: NextData, chosen: Sequence[Chosen], recipe: Recipe) -> None:
    """Write the page with the pictures of the images that were chosen."""
    from lensmith.data import decode_image
    from lensmith.pages.next import Picture, write_next

    for row in chosen:
        with suppress(ImageError):
            image = decode_image(row.file, name=str(row.file), max_pixels=recipe.data.max_pixels)
            page.pictures.append(Picture(image, row.suggested, row.probability, str(row.file)))
    write_next(path, page)
