"""Score a part of a dataset into a predictions file, and sum it up: what could not be read is wrong and listed.

Work that was stopped goes on where it was: predictions are kept window by window, and a window is done whole or not at
all, so the file of a stopped run is the file of one that wasn't.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lensmith.config import Recipe
from lensmith.data import ImageDataset, Split
from lensmith.engine.classifier import Classifier, predict, require_readable, windows
from lensmith.errors import Stopped, UserError
from lensmith.measure import metrics
from lensmith.measure.calibration import ENOUGH, LEAST, fit
from lensmith.measure.reliability import reliability, risk_coverage
from lensmith.models.base import Model
from lensmith.records import Calibration, Evaluation, Prediction
from lensmith.runs.files import write_json
from lensmith.runs.interrupts import uninterrupted
from lensmith.runs.predictions import Unfinished

Progress = Callable[[int], Any]


def classifier_for(model: Model, recipe: Recipe, dataset: ImageDataset) -> Classifier:
    """What scores the dataset as the recipe says, not yet calibrated.

    Raises:
        UserError: the labels can't be told apart or said, or a prior is to be taken away and not all labels are scored.
    """
    model.network.eval()
    options = recipe.evaluate
    classifier = Classifier(model, recipe.question, dataset.labels, top=options.top, batch_size=options.batch_size)
    if classifier.top and options.calibration not in ("none", "temperature"):
        raise UserError(
            f"evaluate.calibration={options.calibration} needs every label's score, but evaluate.top is {options.top}.",
            "Leave evaluate.top out, or set evaluate.calibration=none.",
        )
    return classifier


def score(classifier: Classifier, split: Split, path: Path, recipe: Recipe, verb: str, progress: Progress) -> float:
    """Predict a part of a dataset into the file `path`, going on from what an earlier call has left there.

    Returns:
        Seconds it took, those of earlier calls included; 0 if the file was there already.

    Raises:
        UserError: the disk is full; or what is left there was scored under other conditions.
        ImageError: an image can't be read and the recipe says to stop.
        Stopped: Ctrl-C, after the window in hand was kept.
    """
    if path.exists():
        return 0.0
    about = {"images": split.order, "labels": list(classifier.labels), "calibration": asdict(classifier.calibration)}
    unfinished = Unfinished(path, classifier.labels, about)
    items = islice(split.items(recipe.data.max_pixels, classifier.model.enough), unfinished.done, None)
    clock = time.perf_counter()
    scored = windows(classifier, items, unfinished.window)
    try:
        progress(unfinished.done)
        while True:
            with uninterrupted():
                window = next(scored, None)
                if window is None:
                    break
                require_readable(window, recipe.data.unreadable)
                now = time.perf_counter()
                unfinished.add(window, now - clock)
                clock = now
            progress(unfinished.done)
    except KeyboardInterrupt:
        raise Stopped(path.parent, verb) from None
    finally:
        scored.close()
    unfinished.join()
    return unfinished.seconds


def fit_calibration(
    classifier: Classifier, dataset: ImageDataset, recipe: Recipe, split: Split, progress: Progress
) -> tuple[Calibration, dict[str, Any]]:
    """Choose a calibration on validation images, as the recipe says.

    Returns:
        The calibration, and its record: `prior`, `temperature`, `n`, `split` and what was `tried`, or a `note` on why
        there is none.
    """
    method = recipe.evaluate.calibration
    part = dataset.validation.take(ENOUGH)
    if method == "none":
        return Calibration(), {}
    if classifier.top:
        return Calibration(), {"note": "Shares are as the model gives them: calibration needs every label's score."}
    if split.name == "validation":
        return Calibration(), {"note": "Shares are not calibrated: these are the images that would be used for it."}
    if len(part) < LEAST:
        return Calibration(), {
            "note": f"Shares are not calibrated: that takes {LEAST} validation images, there are {len(part)}."
        }
    place = {label: i for i, label in enumerate(classifier.labels)}
    items = part.items(recipe.data.max_pixels, classifier.model.enough)
    found = [p for p in predict(classifier, items, progress) if not p.error]
    if not found:
        return Calibration(), {"note": "Shares are not calibrated: no validation image can be read."}
    scores = torch.tensor([p.scores for p in found])
    truth = torch.tensor([place[str(p.label)] for p in found])
    chosen, tried = fit(classifier, scores, truth, method, recipe.seed)
    return chosen, {
        "prior": chosen.prior,
        "temperature": chosen.temperature,
        "n": len(found),
        "split": "validation",
        "tried": tried,
    }


def calibrated(
    classifier: Classifier, dataset: ImageDataset, recipe: Recipe, split: Split, path: Path, progress: Progress
) -> dict[str, Any]:
    """Set the classifier's calibration: the one kept at `path` if there is one, else a fresh one, which is kept there.

    Returns:
        Its record, as `fit_calibration` gives it.
    """
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        chosen, record = Calibration(**kept["calibration"]), kept["record"]
        chosen = Calibration(chosen.prior, tuple(chosen.offsets), chosen.temperature)
    else:
        chosen, record = fit_calibration(classifier, dataset, recipe, split, progress)
        write_json(path, {"calibration": asdict(chosen), "record": record})
    classifier.calibration = chosen
    return dict(record)


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
    """Figures of one classifier on one part of a dataset.

    Args:
        calibration: its record, as `fit_calibration` gives it.
        top: how many best labels were searched for; None if all were scored.
        seed: of the bootstrap.

    Raises:
        UserError: there are no predictions.
        ValueError: the predictions are not of this part's samples, in their order.
    """
    rate = metrics.accuracy(predictions)
    if [p.id for p in predictions] != list(split.ids):
        raise ValueError("The predictions are of other samples than the split's.")
    labels, calibration = list(dataset.labels), dict(calibration or {})
    counts = metrics.confusion(predictions, labels)
    sure = reliability(predictions)
    notes = list(dataset.notes)
    if split.name != "test":
        notes.append(f"These are the {split.name} images: not a test.")
    if note := calibration.pop("note", None):
        notes.append(note)
    data = {"uri": dataset.uri, "split": split.name, "n": len(split), "hash": split.hash}
    return Evaluation(
        name=name,
        accuracy=rate,
        top5=metrics.top5(predictions, len(labels)),
        macro_f1=metrics.macro_f1_interval(counts, seed=seed),
        classes=metrics.per_class(counts, labels),
        confusion=counts,
        labels=labels,
        data=data | ({"top": top} if top else {}),
        calibration_error=sure.calibration_error if sure else None,
        reliability=sure.bins if sure else [],
        coverage=risk_coverage(predictions) if sure else [],
        calibration=calibration,
        unreadable=[p.error for p in predictions if p.error],
        seconds=seconds,
        notes=notes,
    )
