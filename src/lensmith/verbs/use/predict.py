"""`lensmith predict`: classify images with a run's model, or zero-shot."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from lensmith.data.text_tables import guarded
from lensmith.errors import UserError
from lensmith.progress import Note, Tell, counter, silent
from lensmith.records import Prediction
from lensmith.runs.files import write
from lensmith.runs.folder import is_run, read_run
from lensmith.verbs import terminal
from lensmith.verbs.words import listed

EXAMPLES = (
    "lensmith predict runs/mine new-images",
    "lensmith predict runs/mine new-images --out answers.csv",
    "lensmith predict new-images --labels cat,dog",
)
FORMATS = (".csv", ".jsonl", ".parquet")
"""Extensions of the tables that answers can be written to."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="RUN|IMAGE|FOLDER",
        help="a run folder of `lensmith train` or `lensmith probe`; then image files, or folders of images",
    )
    parser.add_argument("--run", type=Path, help="the run folder, if it isn't the first argument")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the answers to a table: .csv, .jsonl, .parquet")
    parser.add_argument("--labels", default="", help="class names for zero-shot classification: a,b,c")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    labels = listed(args.labels)
    run, images = args.run, args.images
    if run is None and is_run(Path(images[0])):
        run, images = Path(images[0]), images[1:]
        if not images:
            raise UserError(f"Which images shall the run {run} classify?", "Add image files, or folders of images.")
    if args.out and (kind := args.out.suffix.lower()) not in FORMATS:
        raise UserError(f"{args.out} ends in {kind or 'nothing'}.", f"Answers can be written to {', '.join(FORMATS)}.")
    predictions = predict(images, run, labels, screen)
    if args.out:
        write_answers(args.out, predictions)
        unread = sum(p.probability is None for p in predictions)
        lines = [f"{len(predictions):,} images, of which {unread:,} can't be read: {args.out}"]
    else:
        lines = ["\t".join(map(visible, cells(p))) for p in predictions]
    if not args.json:
        # On standard error, since the predictions are read by other programs.
        then = ("evaluate", run, "labelled-images") if run else ("train", "labelled-images")
        screen(Note(terminal.next_line(*then)))
    return terminal.Output({"predictions": [asdict(p) for p in predictions]}, lines)


def cells(prediction: Prediction) -> tuple[str, str, str]:
    """The image, its class, and the probability of the class; for an image that can't be read, `ERROR` and why."""
    if prediction.probability is None:
        return prediction.id, "ERROR", str(prediction.error)
    return prediction.id, str(prediction.predicted), f"{prediction.probability:.3f}"


def write_answers(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a table with the columns `image`, `label`, `probability` and `error`, of which one or two are empty.

    In CSV, a cell that a spreadsheet would take for a formula begins with an apostrophe.

    Raises:
        UserError: the file can't be written; what was there before is kept.
    """
    rows = [{"image": p.id, "label": p.predicted, "probability": p.probability, "error": p.error} for p in predictions]
    out = io.StringIO()
    if path.suffix.lower() == ".csv":
        table = csv.writer(out, lineterminator="\n")
        table.writerow(rows[0])
        table.writerows([guarded(cell) if isinstance(cell, str) else cell for cell in row.values()] for row in rows)
    elif path.suffix.lower() == ".jsonl":
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [p.id.encode(errors="backslashreplace").decode() for p in predictions]  # perhaps not UTF-8
        rows = [row | {"image": name} for row, name in zip(rows, names, strict=True)]
        kinds = pa.schema([(name, pa.float64() if name == "probability" else pa.string()) for name in rows[0]])
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, kinds), buffer)
        return write(path, buffer.getvalue())
    return write(path, out.getvalue())


def visible(text: str) -> str:
    """Text in which tabs and line ends, which would break the table, are escaped."""
    return text.translate({ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"})


def predict(
    paths: Sequence[str], run: Path | None, labels: Sequence[str] = (), tell: Tell = silent
) -> list[Prediction]:
    """Classify image files and folders of images with a run's tuned model, or zero-shot among `labels`.

    Raises:
        UserError: a file or the run doesn't exist, or neither a run nor labels are given.
    """
    from lensmith.data import decode_image, list_images
    from lensmith.engine.classifier import predict as predict_loop
    from lensmith.engine.taught import load_taught

    if not run and not labels:
        raise UserError(
            "Which classes?", "Name the run folder of a `lensmith train` before the images, or add --labels a,b,c."
        )
    if run:
        read_run(run)  # an error in the run comes before one in the images
    files = [file for path in paths for file in list_images(Path(path))]
    if not files:
        raise UserError("There are no images to classify.")
    taught = load_taught(run, labels)
    enough = taught.classifier.model.sufficient_size
    decode = partial(decode_image, max_pixels=taught.recipe.data.max_pixels, enough=enough)
    items = ((str(file), None, partial(decode, file, name=str(file))) for file in files)
    return list(predict_loop(taught.classifier, items, counter("predicting", len(files), tell)))
