"""What methods have made: the folders, classifiers and validation predictions of a ladder, and of a blend's parts.

A ladder chooses among its methods on validation images that chose nothing else of them. One half of these images
chooses settings, calibration and weights, and the other half judges them; then the halves change places.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensmith import models
from lensmith.data import Split
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.measure.calibration import LEAST, temperature
from lensmith.measure.choice import Judged
from lensmith.measure.evaluation import calibrate, classifier_for, predict_split
from lensmith.measure.metrics import accuracy
from lensmith.progress import Note
from lensmith.records import Calibration, Prediction
from lensmith.runs.files import write_json
from lensmith.runs.folder import CALIBRATION, PREDICTIONS, Run
from lensmith.runs.predictions import read_predictions, read_scores
from lensmith.runs.shapes import CalibrationFile, Cost, calibration_of, read_as

if TYPE_CHECKING:
    from lensmith.learn.methods import Method

VALIDATION, MADE = "validation.parquet", "made.json"
"""Files in a method's folder: its predictions on the validation images, and the cost of making its classifier."""
HALVES = "halves"
"""The folder, inside a ladder's, of what was made with half of the validation images."""


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


def judge(run: Run, compared: Sequence[Method], made: Mapping[str, Run]) -> dict[str, Judged]:
    """How each method does on validation images that chose nothing of it but the checkpoint of a training.

    With fewer than forty validation images, half of them are too few to choose by, and all of them judge what they have
    chosen.

    Args:
        run: the ladder's.
        made: by name, the runs of the methods' folders.
    """
    validation, names, index = run.dataset.validation, list(made), {y: k for k, y in enumerate(run.dataset.labels)}
    first = validation.take(0.5, run.recipe.seed)
    chosen, pairs = set(first.ids), list(zip(validation.ids, validation.labels, strict=True))
    second = validation.relabelled([None if name in chosen else label for name, label in pairs])
    if min(len(first), len(second)) < LEAST:
        for name in names:
            validation_predictions(made[name], name)
        parts = [(validation, {name: made[name].folder / VALIDATION for name in names})]
    else:
        parts = [
            (judges, _halved(run, compared, made, str(k), chooses, judges))
            for k, (chooses, judges) in enumerate([(first, second), (second, first)])
        ]
    y = torch.tensor([index[label] for judges, _ in parts for label in judges.labels])
    judged = {}
    for name in names:
        scores = torch.cat([_calibrated(files[name], run.dataset.labels) for _, files in parts])
        least = scores.nan_to_num(nan=torch.inf).amin(1, keepdim=True)  # infinite for an image that can't be read
        scores = scores.where(~scores.isnan(), least.where(least.isfinite(), 0.0))
        logs = (scores / temperature(scores, y)).log_softmax(1)
        rate = accuracy([row for _, files in parts for row in read_predictions(files[name])])
        judged[name] = Judged((-logs[torch.arange(len(y)), y]).tolist(), rate)
    return judged


def _halved(
    run: Run, compared: Sequence[Method], made: Mapping[str, Run], name: str, chooses: Split, judges: Split
) -> dict[str, Path]:
    """The files of each method's predictions for one half of the validation images, made with the other half."""
    dataset = replace(run.dataset, validation=chooses)
    half = replace(run, folder=run.folder / HALVES / name, dataset=dataset)
    half.folder.mkdir(parents=True, exist_ok=True)
    which = f"{int(name) + 1} of 2"
    run.tell(Note(f"To choose fairly, {which}: one half of the validation images chooses, the other judges."))
    shared, inner, files = SharedFrozenModel(run.recipe, dataset, run.tell), dict[str, Run](), dict[str, Path]()
    for method in compared:
        inner[method.name] = own = half.inner(method.name, method.recipe(run.recipe))
        files[method.name] = own.folder / PREDICTIONS
        if method.trains and not is_made(own):
            own.ensure_started()
            shutil.copytree(made[method.name].folder / "adapter", own.folder / "adapter", dirs_exist_ok=True)
            shutil.copyfile(made[method.name].folder / MADE, own.folder / MADE)
        make(method, half, shared)
    shared.release()
    for name, own in inner.items():
        if not files[name].exists():
            classifier = classifier_of(own)
            calibrate(own, classifier, judges.named("test"), f"calibrating ({name})")
            predict_split(own, classifier, judges, files[name], f"judging ({name})")
    for own in inner.values():
        shutil.rmtree(own.folder / "adapter", ignore_errors=True)
    return files


def _calibrated(predictions: Path, labels: Sequence[str]) -> torch.Tensor:
    """(images, classes) scores in a predictions file, with the calibration of its folder."""
    scores = torch.from_numpy(read_scores(predictions, labels))
    calibrated: torch.Tensor = calibration_in(predictions.parent, labels).apply(scores)
    return calibrated


def calibration_in(folder: Path, labels: Sequence[str]) -> Calibration:
    """The calibration in a method's folder; none if it was never calibrated."""
    path = folder / CALIBRATION
    if not path.exists():
        return Calibration()
    return calibration_of(path, read_as(path, CalibrationFile)["calibration"], labels)
