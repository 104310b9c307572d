"""The verb that fits simple classifiers on what the frozen model sees: seconds, where training takes hours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import verbs
from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.records import Evaluation, Prediction, percent
from lensmith.runs.files import read_json, write_json
from lensmith.runs.folder import PREDICTIONS, begin_run, read_evaluation, require_one_process, resumed, start_run

if TYPE_CHECKING:
    from lensmith.learn.methods import Frozen

FIT = "fit.json"
"""In the run folder of a fitted classifier: which vector and setting were chosen, and what was tried."""


def probe(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Fit a probe, and nearest neighbours beside it, on frozen vectors; score both once on the test images.

    The run folder is one like any other: `evaluate`, `compare` and `predict` take it; `neighbours` within it too.

    Returns:
        The run's record: `run`, `accuracy` on test, `probe` and `neighbours` (what was chosen and tried), `report`.

    Raises:
        UserError: see `config`, `data`, `models` and `probes.fit`.
        Stopped: Ctrl-C; what was looked at is kept.
    """
    from lensmith.learn.batches import class_weights
    from lensmith.learn.methods import Frozen

    require_one_process("probe")
    started = time.perf_counter()
    dataset = open_data(recipe.data)
    for part in (dataset.train, dataset.test):
        if not len(part):
            raise UserError(f"{recipe.data.uri} has no {part.name} images.", "A probe needs both train and test.")
    class_weights(dataset.train, dataset.labels, recipe.train.class_weights)  # each class has an image
    frozen = Frozen(recipe, dataset, tell)
    folder = begin_run(folder, recipe, dataset, "probe", resume)
    beside = folder / "neighbours"
    if not (beside / "record.json").exists():
        beside.mkdir(exist_ok=True)
        start_run(beside, recipe, dataset)
    tell(Note(dataset.describe()))
    tell(Note(verbs.image_cost(frozen.asked, dataset.train, recipe.data.max_pixels)))
    if recipe.model.adapter:
        tell(Note(f"The adapter {recipe.model.adapter} is left aside: a probe is of the base model."))
    try:
        evaluations: list[Evaluation] = []
        predictions: Sequence[Prediction] = ()
        for rung, place in (("neighbours", beside), ("probe", folder)):
            found, predictions = fitted(frozen, rung, place, tell)
            evaluations.append(found)
    except KeyboardInterrupt:
        raise Stopped(folder, "probe") from None
    report = verbs.finish(folder, dataset.test, evaluations, predictions)
    record = {
        "run": str(folder),
        "accuracy": asdict(evaluations[-1].accuracy),
        "probe": read_json(folder / FIT),
        "neighbours": read_json(beside / FIT) | {"accuracy": asdict(evaluations[0].accuracy)},
        "evaluation": evaluations[-1].to_dict(),
        "report": str(report),
        "seconds": time.perf_counter() - started,
    }
    write_json(folder / "result.json", record)
    return record


def resume_probe(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Go on with a probe that was stopped.

    Raises:
        UserError: the folder holds no run, or the run is finished.
    """
    return probe(resumed(folder, "probe", "result.json"), folder, tell, resume=True)


def fitted(
    frozen: Frozen, rung: str, folder: Path, tell: Tell, verb: str = "probe"
) -> tuple[Evaluation, Sequence[Prediction]]:
    """Fit one classifier into its run folder, and score it on the test images; `verb` goes on after a stop."""
    from lensmith.runs.predictions import read_predictions

    if (folder / "evaluation.json").exists():  # before a stop
        return read_evaluation(folder), read_predictions(folder / PREDICTIONS)
    clock = time.perf_counter()
    found = frozen.fit(rung)
    frozen.keep(found, rung, folder)
    seconds = time.perf_counter() - clock
    write_json(folder / FIT, found.record() | {"seconds": seconds})
    tell(Note(f"{rung.capitalize()}: {found.sentence()[0].lower()}{found.sentence()[1:]}"))
    dataset, notes = frozen.dataset, [found.sentence()]
    evaluation, predictions = verbs.score(
        frozen.classifier(found), frozen.recipe, dataset, dataset.test, rung, folder, tell, verb, notes
    )
    verbs.keep_calibration(folder)
    tell(Note(f"{rung.capitalize()}: {percent(evaluation.accuracy)} of the test images right."))
    return evaluation, predictions
