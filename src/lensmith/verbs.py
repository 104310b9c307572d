"""What the command line's verbs do, as functions: a recipe in, a run folder and a record out. Nothing here prints.

Long work reports through `tell`, which is called with a `Note` (a sentence) or an `Advance` (a count).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.errors import ImageError, Stopped, UserError
from lensmith.measure.paired import power_hint
from lensmith.progress import Note, Tell, counter, silent
from lensmith.records import TASK, Calibration, Evaluation, Prediction, percent
from lensmith.runs.files import read_json, recover, write_json
from lensmith.runs.folder import (
    PREDICTIONS,
    default_folder,
    facts,
    new_run_folder,
    read_run,
    resumed,
    same_data,
    start_run,
)

if TYPE_CHECKING:
    from lensmith.data import ImageDataset, Split
    from lensmith.engine.classifier import Classifier


CALIBRATION = "calibration.json"


def train(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Train an adapter, score it once on the test images, and write the run folder.

    Returns:
        The run's record: `run`, `accuracy` on test, `validation`, `training`, `coverage`, `report`.

    Raises:
        UserError: see `config`, `data`, `models` and `train`.
        Stopped: Ctrl-C; the run folder then holds a checkpoint to resume from.

    Of several processes (torchrun), those that are not the main one return nothing.
    """
    from lensmith import models
    from lensmith.learn.batches import class_weights
    from lensmith.learn.loop import train as loop
    from lensmith.learn.processes import Processes
    from lensmith.learn.trackers import require_tracker
    from lensmith.measure.evaluation import classifier_for
    from lensmith.models.tuning import attach, coverage_table

    started, processes = time.perf_counter(), Processes()
    tell = tell if processes.main else silent
    dataset = open_data(recipe.data)
    for split in (dataset.train, dataset.test):
        if not len(split):
            raise UserError(f"{recipe.data.uri} has no {split.name} images.", "Training needs both train and test.")
    # What can't go well is refused before hours are spent, and before there is a run folder.
    require_tracker(recipe.train.tracker)
    class_weights(dataset.train, dataset.labels, recipe.train.class_weights)
    model = models.load(replace(recipe.model, adapter=None))
    rows = attach(model, recipe.tune, dataset.labels, recipe.seed)
    asked = classifier_for(model, recipe, dataset)
    folder = Path(processes.agree(str(folder or default_folder(recipe, "train"))))
    begun = resume and (folder / "record.json").exists()
    if begun:
        same_data(folder, dataset)
        recover(folder / "adapter")
    elif processes.main:
        start_run(folder if resume else new_run_folder(folder), recipe, dataset, verb="train")
    processes.agree(None)  # that the folder is there
    tell(Note(dataset.describe()))
    tell(Note(power_hint(len(dataset.test))))
    tell(Note(coverage_table(rows)))
    tell(Note(image_cost(asked, dataset.train, recipe.data.max_pixels)))
    if recipe.model.adapter:
        tell(Note(f"The adapter {recipe.model.adapter} is left aside: training begins with the base model."))

    training = loop(model, dataset, recipe, folder, tell, resume, processes)
    processes.close()
    if not processes.main:
        return {}
    tuned = classifier_for(model, recipe, dataset)
    evaluation, predictions = score(tuned, recipe, dataset, dataset.test, "tuned", folder, tell, "train")
    keep_calibration(folder)
    report = finish(folder, dataset.test, [evaluation], predictions, training.unreadable)
    record = {
        "run": str(folder),
        "accuracy": asdict(evaluation.accuracy),
        "validation": asdict(training.validation) if training.validation else None,
        "training": asdict(training),
        "coverage": [asdict(row) for row in rows],
        "evaluation": evaluation.to_dict(),
        "report": str(report),
        "seconds": time.perf_counter() - started,
    }
    write_json(folder / "result.json", record)
    return record


def resume(folder: Path, tell: Tell = silent, recipe: Recipe | None = None) -> dict[str, Any]:
    """Go on with a training that was stopped or killed.

    Args:
        recipe: the run's own if None; another may differ only in what does not change the result.

    Raises:
        UserError: the folder holds no run, the run is finished, or the recipe differs.
    """
    from lensmith.learn.checkpoint import same_recipe

    own = resumed(folder, "train", "result.json")
    same_recipe(folder, own, recipe or own)
    return train(recipe or own, folder, tell, resume=True)


def evaluate(
    recipe: Recipe, folder: Path | None = None, tell: Tell = silent, split: str = "test", resume: bool = False
) -> dict[str, Any]:
    """Score the recipe's model, zero-shot or with its adapter, and write the run folder.

    Returns:
        The evaluation as plain values, with `run` and `report`.

    Raises:
        UserError: see `config`, `data`, `models` and `evaluate`.
        Stopped: Ctrl-C; what was scored is kept in the run folder.
    """
    from lensmith import models
    from lensmith.measure.evaluation import classifier_for

    dataset = open_data(recipe.data)
    part: Split = getattr(dataset, split)
    if not len(part):
        raise UserError(f"{recipe.data.uri} has no {split} images.")
    model = models.load(recipe.model)
    classifier = classifier_for(model, recipe, dataset)  # what can't be scored is refused before anything is written
    folder = folder or default_folder(recipe, "evaluate")
    if not resume:
        start_run(new_run_folder(folder), recipe, dataset, split, "evaluate")
    tell(Note(dataset.describe()))
    tell(Note(power_hint(len(part))))
    tell(Note(image_cost(classifier, part, recipe.data.max_pixels)))
    name = _name(recipe.model.adapter)
    evaluation, predictions = score(classifier, recipe, dataset, part, name, folder, tell, "evaluate")
    report = finish(folder, part, [evaluation], predictions)
    return evaluation.to_dict() | {"run": str(folder), "report": str(report)}


def _name(adapter: str | None) -> str:
    """What is scored: `zero-shot`, or what is said beside the weights: `tuned`, `probe`."""
    if not adapter:
        return "zero-shot"
    place = Path(adapter) / "adapter" if (Path(adapter) / "adapter").is_dir() else Path(adapter)
    return str(read_json(place / TASK).get("name", "tuned")) if (place / TASK).exists() else "tuned"


def resume_evaluation(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Go on with an evaluation that was stopped; nothing is scored twice.

    Raises:
        UserError: the folder holds no run, or the run is finished.
    """
    recipe = resumed(folder, "evaluate", "evaluation.json")
    return evaluate(recipe, folder, tell, str(read_json(folder / "record.json")["split"]), resume=True)


def predict(
    paths: Sequence[str], run: Path | None, labels: Sequence[str] = (), tell: Tell = silent
) -> list[Prediction]:
    """Classify image files and folders of images with a run's tuned model, or zero-shot among `labels`.

    Raises:
        UserError: no such file or run, or neither run nor labels are given.
    """
    from lensmith import models
    from lensmith.config import ModelOptions, QuestionOptions
    from lensmith.data import decode_image, list_images
    from lensmith.engine.classifier import Classifier
    from lensmith.engine.classifier import predict as loop

    question, recipe, calibration = QuestionOptions(), Recipe(), Calibration()
    if run:
        recipe = read_run(run)
        if not (run / "adapter" / TASK).exists():
            raise UserError(
                f"The run {run} holds no trained adapter.",
                "Give a folder made by `lensmith train` or `lensmith probe`.",
            )
        task = read_json(run / "adapter" / TASK)
        question = QuestionOptions(**task["question"])
        if not labels or list(labels) == task["labels"]:
            labels = task["labels"]
            calibration = Calibration(**task.get("calibration", {}))
        question.spoken = {label: said for label, said in question.spoken.items() if label in labels}
        options = replace(recipe.model, base=task["base"], adapter=str(run))
    elif labels:
        options = ModelOptions()
    else:
        raise UserError("Which classes?", "Give --run with a folder made by `lensmith train`, or --labels a,b,c.")
    files = [file for path in paths for file in list_images(Path(path))]
    if not files:
        raise UserError("There are no images to classify.")
    scoring = recipe.evaluate
    classifier = Classifier(
        models.load(options), question, labels, calibration, scoring.top, batch_size=scoring.batch_size
    )
    decode = partial(decode_image, max_pixels=recipe.data.max_pixels, enough=classifier.model.enough)
    items = ((str(file), None, partial(decode, file, name=str(file))) for file in files)
    return list(loop(classifier, items, counter("predicting", len(files), tell)))


def score(
    classifier: Classifier,
    recipe: Recipe,
    dataset: ImageDataset,
    split: Split,
    name: str,
    folder: Path,
    tell: Tell,
    verb: str,
    notes: Sequence[str] = (),
) -> tuple[Evaluation, list[Prediction]]:
    """Predict a part of the dataset into the run folder, or go on with that, and sum it up.

    Args:
        name: what is scored: `zero-shot`, `tuned`, `probe`.
        verb: the command that goes on after a stop.
        notes: sentences on it for the report.
    """
    from lensmith.measure import evaluation
    from lensmith.measure.calibration import ENOUGH
    from lensmith.runs.predictions import read_predictions

    write_json(folder / "question.json", {"text": classifier.prompt.text})
    checked = counter("calibrating", min(len(dataset.validation), ENOUGH), tell)
    try:
        calibration = evaluation.calibrated(classifier, dataset, recipe, split, folder / CALIBRATION, checked)
    except KeyboardInterrupt:
        raise Stopped(folder, verb) from None
    progress = counter(f"scoring ({name})", len(split), tell)
    seconds = evaluation.score(classifier, split, folder / PREDICTIONS, recipe, verb, progress)
    predictions = read_predictions(folder / PREDICTIONS)
    found = evaluation.evaluate(name, predictions, dataset, split, seconds, calibration, classifier.top, recipe.seed)
    found.notes += notes
    write_json(folder / "evaluation.json", found.to_dict())
    return found, predictions


def keep_calibration(folder: Path) -> None:
    """Put a training's calibration beside its adapter, so that predictions have it too."""
    task = folder / "adapter" / TASK
    calibration = read_json(folder / CALIBRATION)["calibration"]
    write_json(task, read_json(task) | {"calibration": calibration})


def finish(
    folder: Path,
    split: Split,
    evaluations: list[Evaluation],
    predictions: Sequence[Prediction],
    unreadable: Sequence[str] = (),
    verdict: str = "",
) -> Path:
    """Write report.html for evaluations, the last of which is that of the predictions.

    Returns:
        The report's path.
    """
    from lensmith.pages.evaluation import EvaluationData, write_evaluation
    from lensmith.runs.files import read_lines

    last, log = evaluations[-1], folder / "metrics.jsonl"
    recipe = read_run(folder)
    data = EvaluationData(
        title=f"{last.name.capitalize()} {recipe.model.base} on {last.data['uri']}",
        question=read_json(folder / "question.json")["text"],
        evaluations=evaluations,
        steps=list(read_lines(log)) if log.exists() else [],
        mistakes=worst(split, predictions),
        facts=facts(folder),
        verdict=verdict or f"{percent(last.accuracy)} of {last.accuracy.n:,} images right.",
        notes=list(last.notes) + [f"Not used in training: {sentence}" for sentence in unreadable],
    )
    write_evaluation(folder / "report.html", data)
    return folder / "report.html"


def worst(split: Split, predictions: Sequence[Prediction], most: int = 40) -> list[Any]:
    """The wrong answers that were surest, as pictures."""
    from lensmith.pages.evaluation import Mistake

    wrong = [(p.probability or 0.0, i) for i, p in enumerate(predictions) if p.predicted and p.predicted != p.label]
    out = []
    for share, i in sorted(wrong, reverse=True)[:most]:
        p = predictions[i]
        out.append(Mistake(split.image(i), str(p.label), str(p.predicted), share))
    return out


def image_cost(classifier: Classifier, split: Split, max_pixels: int, most: int = 16) -> str:
    """What an image costs, as a sentence; by the sizes of some of a split."""
    from lensmith.data.images import full_size
    from lensmith.models.cost import describe

    sizes = []
    for i in range(0, len(split), -(-len(split) // most)):
        with suppress(ImageError):  # what can't be read is listed where it is scored
            sizes.append(full_size(split.image(i, max_pixels, lambda *_: (1, 1))))
    return describe(classifier.model, sizes, len(classifier.prompt.before)) if sizes else "No image can be read."


def recipe_for(source: str | None, overrides: Sequence[str], base: Recipe | None = None) -> Recipe:
    """A recipe from a file, the name of a shipped one, or a run folder (then with the run's adapter); else `base`."""
    if source and Path(source).is_dir():
        recipe = read_run(Path(source))
        recipe.model.adapter = source if (Path(source) / "adapter").is_dir() else None
        return load_recipe(None, overrides, base=recipe)
    return load_recipe(source, overrides, base)
