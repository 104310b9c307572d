"""Scores a split into a predictions file, and summarises it. Unreadable images count as incorrect and are listed.

A stopped evaluation can be resumed. Predictions are written window by window, each atomically, so the file of a resumed
run is identical to that of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lensmith.config import EvaluateOptions
from lensmith.data import ImageDataset, Split
from lensmith.engine.blend import classifier_of
from lensmith.engine.classifier import Classifier, predict, require_readable, windows
from lensmith.engine.question import Question
from lensmith.errors import Stopped, UserError
from lensmith.measure import metrics
from lensmith.measure.calibration import ENOUGH, LEAST, fit
from lensmith.measure.reliability import reliability, risk_coverage
from lensmith.models.tuned_files import weights_digest
from lensmith.models.tuning import Tuned
from lensmith.progress import counter
from lensmith.records import Calibration, Evaluation, Prediction
from lensmith.runs.files import write_json
from lensmith.runs.folder import CALIBRATION, PREDICTIONS, Run
from lensmith.runs.interrupts import uninterrupted
from lensmith.runs.predictions import Unfinished, read_predictions
from lensmith.runs.shapes import CalibrationFile, calibration_of, read_as

Progress = Callable[[int], Any]


@dataclass(frozen=True)
class Scored:
    """A scored split: the evaluation, and the predictions it summarises, without their scores."""

    evaluation: Evaluation
    predictions: list[Prediction]


def classifier_for(tuned: Tuned, question: Question, options: EvaluateOptions) -> Classifier:
    """A classifier with the recipe's evaluation options, not calibrated yet.

    Raises:
        UserError: the head was trained on other labels; or the recipe asks for a prior to be removed, which needs every
            label's score, but limits the number of labels that are scored exactly.
    """
    tuned.model.network.eval()
    classifier = classifier_of(tuned, question, None, options.top, options.batch_size)
    if classifier.top and options.calibration not in ("none", "temperature"):
        raise UserError(
            f"evaluate.calibration={options.calibration} needs every label's score, but evaluate.top is {options.top}.",
            "Leave evaluate.top out, or set evaluate.calibration=none.",
        )
    return classifier


def score_split(run: Run, classifier: Classifier, split: Split, name: str, notes: Sequence[str] = ()) -> Scored:
    """Calibrate the classifier, score a split into the run folder, and summarise it. Resumes what a stopped call left.

    Args:
        name: what is scored: `zero-shot`, `tuned`, `probe`.
        notes: additional sentences for the report.

    Raises:
        UserError, ImageError, Stopped: see `predict_split`.
    """
    write_json(run.folder / "question.json", {"text": classifier.prompt.text})
    calibration = calibrate(run, classifier, split)
    seconds = predict_split(run, classifier, split, run.folder / PREDICTIONS, f"scoring ({name})")
    predictions = read_predictions(run.folder / PREDICTIONS)
    evaluation = evaluate(name, predictions, run.dataset, split, seconds, calibration, classifier.top, run.recipe.seed)
    evaluation.notes += notes
    write_json(run.folder / "evaluation.json", evaluation.to_dict())
    return Scored(evaluation, predictions)


def predict_split(run: Run, classifier: Classifier, split: Split, path: Path, task: str) -> float:
    """Write the predictions for a split into the file `path`, resuming what a stopped call left there.

    Args:
        task: the name of the task in progress reports.

    Returns:
        The seconds it took, including those of stopped calls; 0 if the file existed already.

    Raises:
        UserError: the disk is full; or the existing predictions were made under other conditions.
        ImageError: an image can't be read and the recipe says to stop.
        Stopped: Ctrl-C, after the current window has been written.
    """
    if path.exists():
        return 0.0
    options, progress = run.recipe.data, counter(task, len(split), run.tell)
    about = {"images": split.order, "labels": list(classifier.labels), "calibration": asdict(classifier.calibration)}
    about["weights"] = weights_digest(classifier.model.folder, run.recipe.model.adapter)
    unfinished = Unfinished(path, classifier.labels, about, split.groups)
    items = islice(split.items(options.max_pixels, classifier.model.sufficient_size), unfinished.done, None)
    clock = time.perf_counter()
    scored = windows(classifier, items, unfinished.window)
    try:
        progress(unfinished.done)
        while True:
            with uninterrupted():
                window = next(scored, None)
                if window is None:
                    break
                require_readable(window, options.unreadable)
                now = time.perf_counter()
                unfinished.add(window, now - clock)
                clock = now
            progress(unfinished.done)
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    finally:
        scored.close()
    unfinished.join()
    return unfinished.seconds


def calibrate(run: Run, classifier: Classifier, split: Split, task: str = "calibrating") -> dict[str, Any]:
    """Set the classifier's calibration: the one saved in the run folder, or else a new one, which is then saved there.

    Args:
        split: the split that is going to be scored.
        task: the name of the task in progress reports.

    Returns:
        A record of the calibration: `prior`, `temperature`, `n`, `split`, and the candidates in `tried`; or a `note` on
        why there is none.

    Raises:
        Stopped: Ctrl-C.
    """
    path = run.folder / CALIBRATION
    if path.exists():
        saved = read_as(path, CalibrationFile, "Remove it to calibrate again.")
        classifier.calibration = calibration_of(path, saved["calibration"], classifier.labels)
        return saved["record"]
    progress = counter(task, min(len(run.dataset.validation), ENOUGH), run.tell)
    try:
        classifier.calibration, record = fit_calibration(run, classifier, split, progress)
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    write_json(path, {"calibration": asdict(classifier.calibration), "record": record})
    return record


def fit_calibration(
    run: Run, classifier: Classifier, split: Split, progress: Progress
) -> tuple[Calibration, dict[str, Any]]:
    """Choose a calibration on validation images by the recipe's method; returns it and its record (see `calibrate`)."""
    recipe = run.recipe
    method, validation = recipe.evaluate.calibration, run.dataset.validation.take(ENOUGH)
    if method == "none":
        return Calibration(), {}

    def uncalibrated(reason: str) -> tuple[Calibration, dict[str, Any]]:
        return Calibration(), {"note": f"Probabilities are not calibrated: {reason}."}

    if classifier.top:
        return uncalibrated("calibration needs every label's score")
    if split.name == "validation":
        return uncalibrated("these are the validation images, which calibration would use")
    if len(validation) < LEAST:
        return uncalibrated(f"calibration needs {LEAST} validation images, and there are {len(validation)}")
    index = {label: i for i, label in enumerate(classifier.labels)}
    items = validation.items(recipe.data.max_pixels, classifier.model.sufficient_size)
    predictions = [p for p in predict(classifier, items, progress) if not p.error]
    if not predictions:
        return uncalibrated("no validation image can be read")
    scores = torch.tensor([p.scores for p in predictions])
    labels = torch.tensor([index[str(p.label)] for p in predictions])
    chosen, tried = fit(classifier, scores, labels, method, recipe.seed)
    return chosen, {
        "prior": chosen.prior,
        "temperature": chosen.temperature,
        "n": len(predictions),
        "split": "validation",
        "tried": tried,
    }


def evaluate(
    name: str,
    predictions: Sequence[Prediction],
    dataset: ImageDataset,
    split: Split,
    seconds: float = 0.0,
    calibration: dict[str, Any] | None = None,
    top: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Summarise the predictions for a split.

    Args:
        name: what was scored: `zero-shot`, `tuned`, `pixels`.
        predictions: one per image, in the split's order.
        seconds: how long scoring took.
        calibration: the record of the calibration (see `calibrate`).
        top: the number of labels that were scored exactly, if not all.
        seed: for the bootstrap.

    Raises:
        UserError: there are no images.
        ValueError: the predictions don't belong to this split's images, in the split's order.
    """
    rate = metrics.accuracy(predictions)
    if [p.id for p in predictions] != list(split.ids):
        raise ValueError("The predictions don't belong to this split's images, in the split's order.")
    labels, calibration = list(dataset.labels), dict(calibration or {})
    counts = metrics.confusion(predictions, labels)
    cells_of = metrics.cells_of_groups(predictions, labels)
    calibration_curve = reliability(predictions)
    notes = list(dataset.notes)
    if split.name != "test":
        notes.append(f"These figures are for the {split.name} images, not for the test images.")
    if note := calibration.pop("note", None):
        notes.append(note)
    if cells_of:
        notes.append(
            f"The images are of {len(cells_of):,} groups (data.group), within which they aren't independent: intervals "
            "and p-values are those of that many groups."
        )
    data: dict[str, Any] = {"uri": dataset.uri, "split": split.name, "n": len(split), "hash": split.hash}
    if left_out := dataset.left_out.get(split.name):
        data["left_out"] = left_out
        notes.append(metrics.with_left_out(rate.accuracy, rate.n, left_out))
    return Evaluation(
        name=name,
        accuracy=rate,
        top5=metrics.top5(predictions, len(labels)),
        macro_f1=metrics.macro_f1_interval(counts, seed=seed, cells_of=cells_of),
        classes=metrics.per_class(counts, labels, metrics.recalls(predictions) if cells_of else None),
        confusion=counts,
        labels=labels,
        data=data | ({"top": top} if top else {}),
        calibration_error=calibration_curve.calibration_error if calibration_curve else None,
        reliability=calibration_curve.bins if calibration_curve else [],
        coverage=risk_coverage(predictions) if calibration_curve else [],
        calibration=calibration,
        unreadable=[p.error for p in predictions if p.error],
        seconds=seconds,
        notes=notes,
    )
