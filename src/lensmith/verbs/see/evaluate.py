"""`lensmith evaluate`: score a model, zero-shot or tuned, on labelled images."""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.apis import is_outside
from lensmith.config import Recipe
from lensmith.config import recipe_from as recipe_of
from lensmith.data import open_data
from lensmith.errors import UserError
from lensmith.jobs.job import Job
from lensmith.places import place
from lensmith.progress import Note, Tell, silent, working
from lensmith.records import TASK
from lensmith.runs.folder import ANYWHERE, ASKING, adapter_folder, begin_run, name_of, read_run, taught_labels
from lensmith.runs.shapes import Record, Task, read_as
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening
from lensmith.verbs.words import recipe_from, words_for

if TYPE_CHECKING:
    from lensmith.data import ImageDataset, Split

RECORD = "evaluation.json"
EXAMPLES = ("lensmith evaluate my-images", "lensmith evaluate runs/mine more-labelled-images")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    terminal.add_recipe(parser, "evaluate")
    parser.add_argument("--split", choices=("test", "validation", "train"), default="test", help="images to score")
    parser.add_argument("--yes", action="store_true", help="send images to an outside model without asking")
    terminal.add_place(parser)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    recipe, options = recipe_from(args.recipe), {"split": args.split}
    if is_outside(recipe.model.base):
        if not any(word.startswith("model.adapter=") for word in args.recipe):
            recipe.model.adapter = None  # of a run that was named for its images and its question
        if args.on != "local":
            raise UserError(f"{recipe.model.base} is asked from this machine.", "Leave --on out.")
        options["yes"] = args.yes
    job = Job("evaluate", recipe, args.run, options=options)
    record = place(args.on).run(job, screen, args.detach)
    return terminal.output(record, text)


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    from lensmith.measure.metrics import with_left_out

    table = terminal.rate_table({record["name"]: record["accuracy"]})
    rate, left_out = record["accuracy"], record["data"].get("left_out")
    lines = [with_left_out(rate["accuracy"], rate["n"], left_out)] if left_out else []
    lines += terminal.unreadable_lines(record["unreadable"], "counted as wrong")
    lines += terminal.unreadable_lines(record.get("unanswered", []), "counted as wrong", "got no answer")
    lines += record.get("outside", []) + terminal.run_lines(record)
    recipe = read_run(Path(record["run"]))
    if is_outside(recipe.model.base):
        then = terminal.next_line("compare", record["run"], "runs/mine")
    elif recipe.model.adapter:
        then = terminal.next_line("predict", recipe.model.adapter, "new-images")
    else:
        then = terminal.next_line("train", *words_for(recipe, record["run"]))
    return [table, *lines, then]


def evaluate(
    recipe: Recipe,
    folder: Path | None = None,
    tell: Tell = silent,
    split: str = "test",
    resume: bool = False,
    yes: bool = False,
) -> dict[str, Any]:
    """Score the recipe's model, zero-shot or with its adapter, and write the run folder.

    Args:
        folder: the run folder; runs/NAME-evaluate-TIME if None.
        tell: called with progress.
        split: the images to score; a resumed run keeps its split.
        resume: resume the run in `folder`; see `lensmith.resume`.
        yes: images may be sent to an outside model without asking.

    Returns:
        The evaluation as plain values, with `run` and `report`; of an outside model also `outside`, sentences on its
        cost and delays.

    Raises:
        UserError: see `open_data`, `models.load` and `measure.evaluation`.
        Stopped: Ctrl-C; the predictions so far are kept in the run folder.
    """
    from lensmith import models
    from lensmith.engine.question import make_question
    from lensmith.measure.evaluation import classifier_for, score_split
    from lensmith.measure.pace import measure, shorter
    from lensmith.models.cost import image_cost
    from lensmith.pages.run import write_run

    if resume and folder and (folder / "record.json").exists():
        split = read_as(folder / "record.json", Record)["split"]
    recipe, dataset = asked_images(recipe, tell)
    if len(dataset.labels) == 1:
        raise UserError(
            f"All images of {dataset.uri} are of the class {dataset.labels[0]!r}: with nothing else to choose from, "
            "every answer would be right.",
            "Add images of other classes, or evaluate a taught model.",
        )
    images = dataset.split(split)
    dataset.require(split, hint="Give more images, or score others: --split train, --split validation.")
    if is_outside(recipe.model.base):
        return _evaluate_outside(recipe, dataset, images, folder, tell, resume, yes or resume)
    tuned = models.load(recipe.model)
    question = make_question(tuned.model, recipe.question, dataset.labels)
    classifier = classifier_for(tuned, question, recipe.evaluate)  # raises errors before anything is written
    run = begin_run(folder, recipe, dataset, "evaluate", tell, resume, split)
    pace = measure(classifier, images, recipe.data.max_pixels)
    cost = image_cost(tuned.model, images, len(question.prompt.before), recipe.data.max_pixels)
    details = [dataset.how_split, *(known.sentence for known in (cost, pace) if known)]
    seconds = pace.evaluation(dataset, len(images)) if pace else None
    memory = pace.peak() if pace else None
    faster = shorter(pace, cost, images, lambda pace, n: pace.evaluation(dataset, n)) if pace else []
    opening(run, seconds, images, details, memory, faster)
    scored = score_split(run, classifier, images, name_of(recipe.model.adapter))
    with working("writing the report", tell):
        report = write_run(run.folder, images, [scored.evaluation], scored.predictions)
    return scored.evaluation.to_dict() | {"run": str(run.folder), "report": str(report)}


def _evaluate_outside(
    recipe: Recipe, dataset: ImageDataset, images: Split, folder: Path | None, tell: Tell, resume: bool, yes: bool
) -> dict[str, Any]:
    """Score an outside model. A run that is resumed was agreed to when it was started."""
    from lensmith.apis.batches import Submitted
    from lensmith.measure.outside import items, repeated, score_outside, sentences, summary_of, to_calibrate
    from lensmith.pages.run import write_run
    from lensmith.verbs.outside import (
        SAMPLES,
        consent,
        leaving_nothing,
        outside_model,
        planned,
        submitted,
        write_question,
    )

    outside = outside_model(recipe, dataset.labels)
    validation = to_calibrate(dataset, recipe.evaluate.calibration, outside.provider.PROBABILITIES, images.name)
    again = repeated(images, recipe.api.repeat, recipe.seed)
    requests = sum(len(split) for split in (images, validation, again) if split)
    samples = list(islice(items(images, recipe.data.max_pixels, recipe.api.pixels), SAMPLES))
    plan = planned(outside, recipe, requests, samples)
    tell(Note(dataset.describe()))
    consent(plan, tell, yes)
    run = begin_run(folder, recipe, dataset, "evaluate", tell, resume, images.name, free=ANYWHERE | ASKING)
    write_question(outside, recipe, run.folder, samples[0])
    with leaving_nothing(run.folder, resume), closing(outside.asking(recipe, run.folder)) as asking:
        try:
            scored = score_outside(run, asking, images, outside.labels, plan, wait=resume)
        except Submitted:
            return submitted(run.folder)
    with working("writing the report", tell):
        report = write_run(run.folder, images, [scored.evaluation], scored.predictions)
    record = scored.evaluation.to_dict() | {"outside": sentences(summary_of(run.folder))}
    return record | {"run": str(run.folder), "report": str(report)}


def asked_images(recipe: Recipe, tell: Tell) -> tuple[Recipe, ImageDataset]:
    """The images that a recipe scores, among the classes that the model was taught; and the recipe as it is then."""
    dataset = open_data(recipe.data, tell)
    if recipe.evaluate.labels == "taught" and (taught := taught_labels(recipe.model.adapter)):
        dataset = dataset.among(taught)
    return _asked_as_taught(recipe, dataset) if recipe.model.adapter else (recipe, dataset)


def _asked_as_taught(recipe: Recipe, dataset: ImageDataset) -> tuple[Recipe, ImageDataset]:
    """The recipe without names of classes that aren't asked for; a note if the model was taught another question."""
    path = adapter_folder(Path(str(recipe.model.adapter))) / TASK
    if not path.exists():
        return recipe, dataset
    taught, asked = recipe_of({"question": read_as(path, Task)["question"]}).question, recipe.question
    if differing := [f"question.{key}" for key, value in asdict(taught).items() if value != getattr(asked, key)]:
        note = f"The model was taught with another question than it is asked here: {', '.join(differing)} differs."
        dataset = replace(dataset, notes=(*dataset.notes, note))
    names = {
        label: names for label, names in asked.names.items() if label in dataset.labels or label not in taught.names
    }
    return replace(recipe, question=replace(asked, names=names)), dataset


def resume_evaluation(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """The name of `lensmith.resume` before version 0.2."""
    from lensmith.verbs.teach.resume import resume

    return resume(folder, tell)
