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
from typing import Any

from lensmith.config import Recipe
from lensmith.data.text_tables import guarded
from lensmith.errors import UserError
from lensmith.jobs.job import Job
from lensmith.places import place
from lensmith.progress import Note, Tell, counter, silent
from lensmith.records import Prediction
from lensmith.runs.files import write
from lensmith.runs.folder import is_run, read_run, recipe_for
from lensmith.verbs import terminal
from lensmith.verbs.bulk import SUMMARY, predict_many, size_of, text
from lensmith.verbs.words import divided, listed

EXAMPLES = (
    "lensmith predict runs/mine new-images",
    "lensmith predict runs/mine new-images --out answers.csv",
    "lensmith predict new-images --labels cat,dog",
    "lensmith predict runs/mine s3://bucket/photos --out s3://bucket/answers",
)
FORMATS = (".csv", ".jsonl", ".parquet")
"""Extensions of the tables that answers can be written to."""
WHICH = "Which classes?"
NAME_THEM = "Name the run folder of a `lensmith train` before the images, or add --labels a,b,c."
_OF_FOLDERS = ("scores", "workers", "shard_images", "shard_bytes", "metrics", "detach")
RECORD = SUMMARY
JOB = "predict_many"
"""The function that does this verb's work as a job."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="RUN|SOURCE|OPTION",
        help="a run folder of `lensmith train` or `lensmith probe`; then image files or folders of images, or with a "
        "folder for the answers also a .txt file of addresses, Parquet files, tar archives or hub:OWNER/NAME, here or "
        "at s3://, gs:// or az://; and options, such as ray.address=http://HOST:8265",
    )
    parser.add_argument("--run", type=Path, help="the run folder, if it isn't the first argument")
    parser.add_argument(
        "--out",
        metavar="FILE|FOLDER",
        help="write the answers to a table (.csv, .jsonl, .parquet); or to a folder, here or at s3://, gs:// or az://, "
        "part by part, which is for any number of images and goes on where it was stopped",
    )
    parser.add_argument("--labels", default="", help="class names for zero-shot classification: a,b,c")
    folder = parser.add_argument_group("with a folder for the answers")
    folder.add_argument("--scores", action="store_true", help="also write the probability of every class")
    folder.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each GPU, or one)")
    folder.add_argument("--shard-images", type=int, metavar="N", help="most images in a part (default: 1,000)")
    folder.add_argument("--shard-bytes", metavar="SIZE", help="most bytes read for a part, such as 500MB")
    folder.add_argument("--metrics", type=int, metavar="PORT", help="let Prometheus read the progress on this port")
    terminal.add_place(folder)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    labels = listed(args.labels)
    options, images = divided(args.recipe)
    run = args.run
    if run is None and images and is_run(Path(images[0])):
        run, images = Path(images[0]), images[1:]
    if not images:
        raise UserError(
            f"Which images shall {f'the run {run}' if run else 'the model'} classify?", "Add image files, or folders."
        )
    if args.out and _is_folder(args.out):
        return _run_many(args, screen, run, images, options, labels)
    only = [f"--{name.replace('_', '-')}" for name in _OF_FOLDERS if getattr(args, name)]
    only += ["--on"] * (args.on != "local") + options
    if only:
        raise UserError(f"{only[0]} is for answers that are written to a folder.", "Add --out FOLDER.")
    predictions = predict(images, run, labels, screen)
    if args.out:
        write_answers(Path(args.out), predictions)
        unread = sum(p.probability is None for p in predictions)
        lines = [f"{len(predictions):,} images, of which {unread:,} can't be read: {args.out}"]
    else:
        lines = ["\t".join(map(visible, cells(p))) for p in predictions]
    if not args.json:
        # On standard error, since the predictions are read by other programs.
        then = ("evaluate", run, "labelled-images") if run else ("train", "labelled-images")
        screen(Note(terminal.next_line(*then)))
    return terminal.Output({"predictions": [asdict(p) for p in predictions]}, lines)


def _is_folder(out: str) -> bool:
    """Whether answers go to a folder of parts. Raises `UserError` for a file of a kind that can't be written."""
    if "://" in out or Path(out).is_dir() or out.endswith("/"):
        return True
    if (kind := Path(out).suffix.lower()) and kind not in FORMATS:
        raise UserError(
            f"{out} ends in {kind}.",
            f"Answers can be written to {', '.join(FORMATS)}, or to a folder without an ending.",
        )
    return not kind


def _run_many(
    args: argparse.Namespace,
    screen: terminal.Screen,
    run: Path | None,
    images: Sequence[str],
    options: Sequence[str],
    labels: Sequence[str],
) -> terminal.Output:
    """Run the command for a folder of answers."""
    if len(images) > 1:
        raise UserError(
            f"{images[0]} and {images[1]} are two sources.", "Give one; a .txt file can list images from anywhere."
        )
    if not run and not labels:
        raise UserError(WHICH, NAME_THEM)
    for name in ("workers", "shard_images"):
        if (number := getattr(args, name)) is not None and number < 1:
            raise UserError(f"--{name.replace('_', '-')} is {number}.", "It is a number from 1.")
    if args.on != "local" and (local := next((n for n in ("workers", "metrics") if getattr(args, n)), "")):
        hint = {"workers": "Set ray.workers.", "metrics": "Ray's own metrics have the progress."}[local]
        raise UserError(f"--{local} is for workers on this machine.", hint)
    given: dict[str, Any] = {"source": images[0], "out": args.out, "taught": str(run) if run else None}
    given |= {"labels": labels, "scores": args.scores, "workers": args.workers, "metrics": args.metrics}
    given |= {"shard_images": args.shard_images, "shard_bytes": size_of(args.shard_bytes) if args.shard_bytes else None}
    recipe = recipe_for(None, options, read_run(run) if run else Recipe(name="zero-shot"))
    record = place(args.on).run(Job("predict", recipe, options=given), screen, args.detach)
    return terminal.output(record, text)


__all__ = ["JOB", "RECORD", "arguments", "predict", "predict_many", "run", "text"]


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
        raise UserError(WHICH, NAME_THEM)
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
