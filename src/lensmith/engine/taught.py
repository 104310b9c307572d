"""The classifier that a run has taught, with the question, classes and calibration that it was taught with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lensmith import models
from lensmith.config import ModelOptions, Recipe, recipe_from
from lensmith.config.options import QuestionOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.errors import UserError
from lensmith.records import TASK, Calibration
from lensmith.runs.folder import read_run
from lensmith.runs.shapes import Task, calibration_of, read_as


@dataclass(frozen=True)
class Taught:
    """A classifier that is ready to answer, and the recipe that it was taught by."""

    classifier: Classifier
    recipe: Recipe


def load_taught(run: Path | None, labels: Sequence[str] = ()) -> Taught:
    """The classifier of a run, or the base model asked zero-shot.

    Args:
        run: a run folder with an adapter; None for the shipped model.
        labels: the classes to choose among. Empty for those that the run was taught; other classes aren't calibrated.

    Raises:
        UserError: the run has no adapter, or its files are damaged.
    """
    question, recipe, calibration = QuestionOptions(), Recipe(), Calibration()
    options = ModelOptions()
    if run:
        recipe, path = read_run(run), run / "adapter" / TASK
        if not path.exists():
            raise UserError(
                f"The run {run} has no trained adapter.",
                "Use the run folder of a `lensmith train` or `lensmith probe`.",
            )
        task = read_as(path, Task)
        question = recipe_from({"question": task["question"]}).question
        if not labels or list(labels) == task["labels"]:
            labels = task["labels"]
            calibration = calibration_of(path, task.get("calibration", {}), labels)
        question.names = {label: names for label, names in question.names.items() if label in labels}
        options = replace(recipe.model, base=task["base"], adapter=str(run))
    tuned, scoring = models.load(options), recipe.evaluate
    asked = make_question(tuned.model, question, labels)
    return Taught(
        Classifier(tuned.model, asked, tuned.head, calibration, scoring.top, batch_size=scoring.batch_size), recipe
    )
