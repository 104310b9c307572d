"""What methods have made: the folders, classifiers and validation predictions of a ladder, and of a blend's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lensmith import models
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.measure.evaluation import calibrate, classifier_for, predict_split
from lensmith.progress import Note
from lensmith.records import Prediction
from lensmith.runs.files import write_json
from lensmith.runs.folder import Run
from lensmith.runs.predictions import read_predictions
from lensmith.runs.shapes import Cost, read_as

if TYPE_CHECKING:
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.methods import Method

VALIDATION, MADE = "validation.parquet", "made.json"
"""Files in a method's folder: its predictions on the validation images, and the cost of making its classifier."""


def make(method: Method, run: Run, shared: SharedFrozenModel) -> Run:
    """Make a method's classifier in its folder inside a run, unless it exists already; test images are not used.

    Returns:
        The run of the method's folder.
    """
    inner = run.inner(method.name, method.recipe(run.recipe))
    if not is_made(inner):
        run.tell(Note(f"{method.name}: {method.about}."))
        made = method.make(inner, shared, resume=inner.ensure_started())
        cost = {"seconds": made.seconds, "note": made.note, "features_cached": made.cached}
        write_json(inner.folder / MADE, cost)
    return inner


def is_made(run: Run) -> bool:
    """Whether a method's folder has its complete classifier."""
    return (run.folder / MADE).exists()


def cost_of(run: Run) -> dict[str, Any]:
    """The cost of making a method's classifier, from its folder."""
    cost = read_as(run.folder / MADE, Cost)
    return {"features_cached": cost.get("looked_before", False)} | cost  # its name before version 0.2


def classifier_of(run: Run) -> Classifier:
    """The classifier in a method's folder, not calibrated yet."""
    adapter = str(run.folder) if (run.folder / "adapter").is_dir() else None
    tuned = models.load(replace(run.recipe.model, adapter=adapter))
    question = make_question(tuned.model, run.recipe.question, run.dataset.labels)
    return classifier_for(tuned, question, run.recipe.evaluate)


def validation_predictions(run: Run, name: str) -> Sequence[Prediction]:
    """A method's predictions on the validation images, read from its folder or computed now.

    Args:
        name: the method's, for progress.
    """
    path = run.folder / VALIDATION
    if not path.exists():
        classifier = classifier_of(run)
        calibrate(run, classifier, run.dataset.test, f"calibrating ({name})")
        predict_split(run, classifier, run.dataset.validation, path, f"validating ({name})")
    return read_predictions(path)
