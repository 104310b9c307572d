"""What methods have made: the folders, classifiers and validation predictions of a ladder, and of a blend's parts.

A ladder chooses among its methods on validation images that didn't choose what they judge: of five parts, four choose
settings and weights, and the fifth judges them, until each part has judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensmith import models
from lensmith.data.splitting.groups import units
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.learn.features.folds import folds_of
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.measure.calibration import temperature
from lensmith.measure.choice import Judged
from lensmith.measure.evaluation import calibrate, classifier_for, predict_split
from lensmith.measure.metrics import wilson
from lensmith.progress import Note
from lensmith.records import Calibration, Prediction
from lensmith.runs.files import write_json
from lensmith.runs.folder import CALIBRATION, Run
from lensmith.runs.predictions import read_predictions, read_scores
from lensmith.runs.shapes import CalibrationFile, Cost, calibration_of, read_as

if TYPE_CHECKING:
    from lensmith.learn.methods import Method

VALIDATION, MADE = "validation.parquet", "made.json"
"""Files in a method's folder: its predictions on the validation images, and the cost of making its classifier."""
PARTS = 5
FEWEST = 25
"""With so many validation images, four of five parts are enough to fit something by (`LEAST`)."""


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


def validation_scores(run: Run, name: str) -> Tensor:
    """(validation images, classes) calibrated scores of a method's classifier, NaN where a label was not scored."""
    validation_predictions(run, name)
    scores = torch.from_numpy(read_scores(run.folder / VALIDATION, run.dataset.labels))
    calibrated: Tensor = calibration_in(run.folder, run.dataset.labels).apply(scores)
    return calibrated


def judge(
    run: Run, compared: Sequence[Method], made: Mapping[str, Run], shared: SharedFrozenModel
) -> dict[str, Judged]:
    """How each method does on validation images that chose nothing of it but the checkpoint of a training, a
    calibration, and the features that a blend looks at.

    With fewer validation images than `FEWEST`, all of them judge what they have chosen.

    Args:
        run: the ladder's.
        made: by name, the runs of the methods' folders.
        shared: its memory is freed once it isn't needed.
    """
    validation, index = run.dataset.validation, {label: k for k, label in enumerate(run.dataset.labels)}
    y = torch.tensor([index[label] for label in validation.labels])
    run.tell(Note("Choosing a method by the validation images."))
    images = units(validation.contents, validation.groups)
    fold = folds_of(y, images, PARTS if len(validation) >= FEWEST else 1, run.recipe.seed)
    parts = [part for k in range(PARTS) if (part := (fold == k).nonzero()[:, 0].tolist())]
    judged = {}
    for method in sorted(compared, key=lambda method: method.trains or not method.learns):  # first what `shared` is for
        scores = method.held_out(made[method.name], shared, parts)
        if scores is None:
            shared.release()
            scores = validation_scores(made[method.name], method.name)
        read = ~scores.isnan().all(1)
        least = scores.nan_to_num(nan=torch.inf).amin(1, keepdim=True)  # infinite for an image that can't be read
        scores = scores.where(~scores.isnan(), least.where(least.isfinite(), 0.0))
        logs = (scores / temperature(scores, y)).log_softmax(1)
        right = int(((scores.argmax(1) == y) & read).sum())
        judged[method.name] = Judged((-logs[torch.arange(len(y)), y]).tolist(), wilson(right, len(y)))
    shared.release()
    return judged


def calibration_in(folder: Path, labels: Sequence[str]) -> Calibration:
    """The calibration in a method's folder; none if it was never calibrated."""
    path = folder / CALIBRATION
    if not path.exists():
        return Calibration()
    return calibration_of(path, read_as(path, CalibrationFile)["calibration"], labels)
