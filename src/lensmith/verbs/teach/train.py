"""`lensmith train`: tune the model on labelled images, and score it once on the test images."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.jobs.job import Job
from lensmith.places import place
from lensmith.progress import Note, Tell, silent, working
from lensmith.runs.files import write_json
from lensmith.runs.folder import Run, begin_run, keep_calibration, same_training
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening
from lensmith.verbs.words import recipe_from

RECORD = "result.json"
EXAMPLES = ("lensmith train my-images --run runs/mine", "lensmith train my-images tune.rank=32 train.epochs=8")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    terminal.add_recipe(parser, "train")
    terminal.add_place(parser)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    job = Job("train", recipe_from(args.recipe), args.run)
    record = place(args.on).run(job, screen, args.detach)
    return terminal.output(record, text)


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    if not record:  # under torchrun, the main process reports
        return []
    if record["accuracy"] is None:
        return terminal.untested_lines(record)
    unreadable = record["training"]["unreadable"]
    lines = terminal.unreadable_lines(unreadable, "left out of training, or counted as wrong in validation")
    lines += terminal.unreadable_lines(record["evaluation"]["unreadable"], "counted as wrong")
    lines += [*terminal.run_lines(record), terminal.next_line("predict", record["run"], "new-images")]
    return [terminal.rate_table({"tuned": record["accuracy"]}), *lines]


def train(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Train by a recipe, score the result once on the test images, and write the run folder.

    Args:
        folder: the run folder; runs/NAME-train-TIME if None.
        tell: called with progress.
        resume: resume the run in `folder`; see `lensmith.resume`.

    Returns:
        The run's record: `run`, `accuracy` on the test images, `validation`, `training`, `coverage`, `report`; without
        test images, `accuracy`, `evaluation` and `report` are None. Under torchrun, all processes but the main one
        return an empty dict.

    Raises:
        UserError: see `open_data`, `learn.learner.prepare` and `learn.loop.train`.
        Stopped: Ctrl-C; the run folder then has a checkpoint to resume from.
    """
    from lensmith.learn.learner import prepare
    from lensmith.learn.loop import train as train_loop
    from lensmith.learn.processes import Processes
    from lensmith.measure.evaluation import score_split
    from lensmith.measure.pace import measure
    from lensmith.models.cost import image_cost
    from lensmith.models.tuning import coverage_table
    from lensmith.pages.run import write_run

    started, processes = time.perf_counter(), Processes()
    tell = tell if processes.main else silent
    dataset = open_data(recipe.data, tell)
    dataset.require("train", hint="Training needs training images.")
    learner = prepare(recipe, dataset)
    free = same_training(recipe)
    run = begin_run(folder, recipe, dataset, "train", tell, resume, free=free) if processes.main else None
    folder = Path(processes.broadcast(str(run.folder) if run else ""))
    run = run or Run(folder, recipe, dataset, tell)
    if processes.main:
        classifier, max_pixels = learner.classifier(recipe.evaluate), recipe.data.max_pixels
        pace = measure(classifier, dataset.train, max_pixels)
        cost = image_cost(learner.tuned.model, dataset.train, len(learner.question.prompt.before), max_pixels)
        seconds = pace.training(recipe, dataset) + pace.evaluation(dataset, len(dataset.test)) if pace else None
        alone = seconds if processes.count == 1 and not resume else None
        memory = pace.peak([recipe]) if pace else None
        known = (known.sentence for known in (cost, pace) if known)
        details = [dataset.how_split, coverage_table(learner.coverage), *known]
        opening(run, alone, dataset.test, details, memory)
        if recipe.model.adapter:
            tell(Note(f"The adapter {recipe.model.adapter} is ignored: training starts from the base model."))

    training = train_loop(learner, run, resume, processes)
    processes.close()
    if not processes.main:
        return {}
    scored, report = None, None
    if len(dataset.test):
        scored = score_split(run, learner.classifier(recipe.evaluate), dataset.test, "tuned")
        keep_calibration(folder)
        with working("writing the report", tell):
            report = write_run(folder, dataset.test, [scored.evaluation], scored.predictions, training.unreadable)
    record = {
        "run": str(folder),
        "accuracy": asdict(scored.evaluation.accuracy) if scored else None,
        "validation": asdict(training.validation) if training.validation else None,
        "training": asdict(training),
        "coverage": [asdict(row) for row in learner.coverage],
        "evaluation": scored.evaluation.to_dict() if scored else None,
        "report": str(report) if report else None,
        "seconds": time.perf_counter() - started,
    }
    write_json(folder / RECORD, record)
    return record
