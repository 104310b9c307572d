"""`lensmith predict`: classify images with a run's model, or zero-shot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from lensmith.config import ModelOptions, QuestionOptions, Recipe, recipe_from
from lensmith.errors import UserError
from lensmith.progress import Note, Tell, counter, silent
from lensmith.records import TASK, Calibration, Prediction
from lensmith.runs.files import read_json
from lensmith.runs.folder import is_run, read_run
from lensmith.verbs import terminal

EXAMPLES = ("lensmith predict runs/mine new-images", "lensmith predict new-images --labels cat,dog")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="RUN|IMAGE|FOLDER",
        help="a run folder of `lensmith train` or `lensmith probe`; then image files, or folders of images",
    )
    parser.add_argument("--run", type=Path, help="the run folder, if it isn't the first argument")
    parser.add_argument("--labels", default="", help="class names for zero-shot classification: a,b,c")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    run, images = args.run, args.images
    if run is None and is_run(Path(images[0])):
        run, images = Path(images[0]), images[1:]
        if not images:
            raise UserError(f"Which images shall the run {run} classify?", "Add image files, or folders of images.")
    predictions = predict(images, run, labels, screen)
    lines = [
        f"{p.id}\tERROR\t{p.error}" if p.probability is None else f"{p.id}\t{p.predicted}\t{p.probability:.3f}"
        for p in predictions
    ]
    if not args.json:
        # On standard error, since the predictions are read by other programs.
        then = ("evaluate", run, "labelled-images") if run else ("train", "labelled-images")
        screen(Note(terminal.next_line(*then)))
    return terminal.Output({"predictions": [asdict(p) for p in predictions]}, lines)


def predict(
    paths: Sequence[str], run: Path | None, labels: Sequence[str] = (), tell: Tell = silent
) -> list[Prediction]:
    """Classify image files and folders of images with a run's tuned model, or zero-shot among `labels`.

    Raises:
        UserError: a file or the run doesn't exist, or neither a run nor labels are given.
    """
    from lensmith import models
    from lensmith.data import decode_image, list_images
    from lensmith.engine.classifier import Classifier
    from lensmith.engine.classifier import predict as predict_loop
    from lensmith.engine.question import make_question

    question, recipe, calibration = QuestionOptions(), Recipe(), Calibration()
    if run:
        recipe = read_run(run)
        if not (run / "adapter" / TASK).exists():
            raise UserError(
                f"The run {run} has no trained adapter.",
                "Use the run folder of a `lensmith train` or `lensmith probe`.",
            )
        task = read_json(run / "adapter" / TASK)
        question = recipe_from({"question": task["question"]}).question
        if not labels or list(labels) == task["labels"]:
            labels = task["labels"]
            calibration = Calibration(**task.get("calibration", {}))
        question.names = {label: names for label, names in question.names.items() if label in labels}
        options = replace(recipe.model, base=task["base"], adapter=str(run))
    elif labels:
        options = ModelOptions()
    else:
        raise UserError(
            "Which classes?", "Name the run folder of a `lensmith train` before the images, or add --labels a,b,c."
        )
    files = [file for path in paths for file in list_images(Path(path))]
    if not files:
        raise UserError("There are no images to classify.")
    tuned, scoring = models.load(options), recipe.evaluate
    asked = make_question(tuned.model, question, labels)
    classifier = Classifier(tuned.model, asked, tuned.head, calibration, scoring.top, batch_size=scoring.batch_size)
    decode = partial(decode_image, max_pixels=recipe.data.max_pixels, enough=tuned.model.sufficient_size)
    items = ((str(file), None, partial(decode, file, name=str(file))) for file in files)
    return list(predict_loop(classifier, items, counter("predicting", len(files), tell)))
