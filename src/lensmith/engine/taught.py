"""The classifiers that runs have taught, with the question, classes and calibration that they were taught with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lensmith import models
from lensmith.config import ModelOptions, Recipe, recipe_from
from lensmith.config.options import QuestionOptions
from lensmith.engine.blend import classifier_of
from lensmith.engine.classifier import Classifier
from lensmith.engine.panel import Panel
from lensmith.engine.question import make_question
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.tuned_files import only_head
from lensmith.records import TASK, Calibration
from lensmith.runs.folder import read_run
from lensmith.runs.shapes import Task, read_as, stored_calibration


@dataclass(frozen=True)
class Taught:
    """A classifier that is ready to answer, and the recipe that it was taught by."""

    classifier: Classifier
    recipe: Recipe


def load_taught(run: Path | None, labels: Sequence[str] = (), model: Model | None = None) -> Taught:
    """The classifier of a run, or the base model asked zero-shot.

    Args:
        run: a run folder with an adapter; None for the shipped model.
        labels: the classes to choose among. Empty for those that the run was taught; other classes aren't calibrated.
        model: the run's base model, if it is loaded already.

    Raises:
        UserError: the run has no adapter, or its files are damaged.
    """
    question, recipe, calibration = QuestionOptions(), Recipe(), Calibration()
    options = ModelOptions()
    if run:
        recipe, task = _taught(run)
        question = recipe_from({"question": task["question"]}).question
        if not labels or list(labels) == task["labels"]:
            labels = task["labels"]
            calibration = stored_calibration(run / "adapter", task, labels)
        question.names = {label: names for label, names in question.names.items() if label in labels}
        options = replace(recipe.model, base=task["base"], adapter=str(run))
    tuned, scoring = models.load(options, model), recipe.evaluate
    asked = make_question(tuned.model, question, labels)
    return Taught(classifier_of(tuned, asked, calibration, scoring.top, scoring.batch_size), recipe)


def load_panels(runs: Mapping[str, Path | None], labels: Sequence[str] = ()) -> list[Panel]:
    """The classifiers of several runs, which score all labels. Those that differ in their heads only share a model.

    Args:
        runs: by the names of their classifiers; see `load_taught`.

    Raises:
        UserError: as `load_taught` does.
    """
    groups: dict[str, dict[str, Classifier]] = {}
    for name, run in runs.items():
        group = groups.setdefault((run and _unchanged(run)) or f"name {name}", {})
        model = next(iter(group.values())).model if group else None
        group[name] = load_taught(run, labels, model).classifier
        group[name].top = None
    return [Panel(group) for group in groups.values()]


def _taught(run: Path) -> tuple[Recipe, Task]:
    """What a run was taught by, and what it was taught."""
    recipe, path = read_run(run), run / "adapter" / TASK
    if not path.exists():
        raise UserError(
            f"The run {run} has no trained adapter.",
            "Use the run folder of a `lensmith train` or `lensmith probe`.",
        )
    return recipe, read_as(path, Task)


def _unchanged(run: Path) -> str:
    """Which model the run's head was made for, and how it is loaded; empty if the run changed the model itself."""
    if not only_head(run):
        return ""
    recipe, task = _taught(run)
    return repr((replace(recipe.model, base=task["base"], adapter=None), task.get("image_tokens")))
