"""What the command line's verbs do, as functions: a recipe in, a run folder and a record out. Nothing here prints.

Long work reports through `tell`, which is called with a `Note` (a sentence) or an `Advance` (a count).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe, load_recipe
from lensmith.data import ImageDataset, Split, decode_image, list_images, open_dataset
from lensmith.errors import UserError
from lensmith.evaluate import evaluate as summarize
from lensmith.records import (
    Evaluation,
    Prediction,
    new_run_folder,
    provenance,
    read_lines,
    write,
    write_json,
    write_predictions,
)

if TYPE_CHECKING:
    from lensmith.train import Progress


@dataclass(frozen=True)
class Note:
    """One sentence on what is going on."""

    text: str


@dataclass(frozen=True)
class Advance:
    """How far a long piece of work is."""

    task: str
    done: int
    total: int
    rate: float
    """Images a second."""
    seconds_left: float
    detail: str = ""


Tell = Callable[[Note | Advance], Any]


def silent(_: Note | Advance) -> None:
    """Reports to nobody."""


def open_data(recipe: Recipe) -> ImageDataset:
    """The recipe's dataset with its limits applied."""
    d = recipe.data
    dataset = open_dataset(
        d.uri,
        image_column=d.image_column,
        label_column=d.label_column,
        class_names=d.class_names,
        validation=d.validation,
        test=d.test,
    )
    return replace(dataset, train=_limit(dataset.train, d.train_limit), test=_limit(dataset.test, d.test_limit))


def _limit(split: Split, limit: float | None) -> Split:
    return split.take(limit if limit is None or limit < 1 else int(limit))


def train(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Train an adapter, score it once on the test images, and write the run folder.

    Returns:
        The run's record: `run`, `accuracy` on test, `validation`, `training`, `coverage`, `report`.

    Raises:
        UserError: see `config`, `data`, `models` and `train`.
        Stopped: Ctrl-C; the run folder then holds a checkpoint to resume from.
    """
    from lensmith import models
    from lensmith.models.lora import attach, coverage_table
    from lensmith.train import train as loop

    started = time.perf_counter()
    dataset = open_data(recipe)
    for split in (dataset.train, dataset.test):
        if not len(split):
            raise UserError(f"{recipe.data.uri} has no {split.name} images.", "Training needs both train and test.")
    model = models.load(replace(recipe.model, adapter=None))
    rows = attach(model, recipe.tune, recipe.seed)
    folder = folder or default_folder(recipe, "train")
    if not resume:
        start_run(new_run_folder(folder), recipe, dataset)
    tell(Note(describe(dataset)))
    tell(Note(coverage_table(rows)))

    training = loop(model, dataset, recipe, folder, training_progress(tell), resume)
    evaluation, predictions = score(model, recipe, dataset, dataset.test, "tuned", tell)
    report = finish(folder, recipe, dataset, [evaluation], predictions, training.unreadable)
    record = {
        "run": str(folder),
        "accuracy": asdict(evaluation.accuracy),
        "validation": asdict(training.validation) if training.validation else None,
        "training": asdict(training),
        "coverage": [asdict(row) for row in rows],
        "evaluation": evaluation.to_dict(),
        "report": str(report),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / "result.json", record)
    return record


def resume(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Go on with a training that was stopped.

    Raises:
        UserError: the folder holds no run, or the run is finished.
    """
    recipe = read_run(folder)
    if (folder / "result.json").exists():
        raise UserError(f"The run {folder} is finished: there is nothing to resume.")
    return train(recipe, folder, tell, resume=True)


def evaluate(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, split: str = "test") -> dict[str, Any]:
    """Score the recipe's model, zero-shot or with its adapter, and write the run folder.

    Returns:
        The evaluation as plain values, with `run` and `report`.
    """
    from lensmith import models

    dataset = open_data(recipe)
    part: Split = getattr(dataset, split)
    if not len(part):
        raise UserError(f"{recipe.data.uri} has no {split} images.")
    model = models.load(recipe.model)
    folder = new_run_folder(folder or default_folder(recipe, "evaluate"))
    start_run(folder, recipe, dataset)
    tell(Note(describe(dataset)))
    evaluation, predictions = score(
        model, recipe, dataset, part, "tuned" if recipe.model.adapter else "zero-shot", tell
    )
    report = finish(folder, recipe, replace(dataset, test=part), [evaluation], predictions)
    return evaluation.to_dict() | {"run": str(folder), "report": str(report)}


def predict(
    paths: Sequence[str], run: Path | None, labels: Sequence[str] = (), tell: Tell = silent
) -> list[Prediction]:
    """Classify image files and folders of images with a run's tuned model, or zero-shot among `labels`.

    Raises:
        UserError: no such file or run, or neither run nor labels are given.
    """
    import json

    from lensmith import models
    from lensmith.config import ModelOptions, QuestionOptions
    from lensmith.predict import Classifier
    from lensmith.predict import predict as loop

    question, recipe = QuestionOptions(), Recipe()
    if run:
        recipe = read_run(run)
        task = run / "adapter" / "lensmith.json"
        if not task.exists():
            raise UserError(f"The run {run} holds no trained adapter.", "Give a folder made by `lensmith train`.")
        values = json.loads(task.read_text(encoding="utf-8"))
        labels, question = labels or values["labels"], QuestionOptions(**values["question"])
        options = replace(recipe.model, base=values["base"], adapter=str(run))
    elif labels:
        options = ModelOptions()
    else:
        raise UserError("Which classes?", "Give --run with a folder made by `lensmith train`, or --labels a,b,c.")
    files = [file for path in paths for file in list_images(Path(path))]
    if not files:
        raise UserError("There are no images to classify.")
    classifier = Classifier(models.load(options), question, labels)

    def read(file: Path) -> Callable[[], Any]:
        return lambda: decode_image(file, name=str(file), max_pixels=recipe.data.max_pixels)

    items = ((str(file), None, read(file)) for file in files)
    progress = counter("predicting", len(files), tell)
    return list(loop(classifier, items, recipe.evaluate.batch_size, progress))


def score(
    model: Any, recipe: Recipe, dataset: ImageDataset, split: Split, name: str, tell: Tell
) -> tuple[Evaluation, list[Prediction]]:
    """Predict a part of the dataset and sum it up."""
    from lensmith.predict import Classifier, require_readable
    from lensmith.predict import predict as loop

    start = time.perf_counter()
    model.network.eval()
    classifier = Classifier(model, recipe.question, dataset.labels)
    progress = counter(f"scoring ({name})", len(split), tell)
    predictions = list(loop(classifier, split.items(recipe.data.max_pixels), recipe.evaluate.batch_size, progress))
    require_readable(predictions, recipe.data.unreadable)
    return summarize(name, predictions, dataset, split, time.perf_counter() - start), predictions


def start_run(folder: Path, recipe: Recipe, dataset: ImageDataset) -> None:
    """What a run folder holds from its first moment: the resolved recipe and where it comes from."""
    import yaml

    write(folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))
    parts = {s.name: {"n": len(s), "hash": s.hash} for s in (dataset.train, dataset.validation, dataset.test)}
    data = {"uri": dataset.uri, "labels": list(dataset.labels), "notes": list(dataset.notes)} | parts
    write_json(folder / "record.json", provenance() | {"data": data})


def read_run(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        UserError: it isn't one.
    """
    if not (folder / "recipe.yaml").exists():
        raise UserError(f"{folder} is not a run folder: it has no recipe.yaml.")
    return load_recipe(folder / "recipe.yaml")


def finish(
    folder: Path,
    recipe: Recipe,
    dataset: ImageDataset,
    evaluations: list[Evaluation],
    predictions: list[Prediction],
    unreadable: Sequence[str] = (),
    verdict: str = "",
) -> Path:
    """Write evaluation.json, predictions.parquet and report.html for the last of the evaluations.

    Returns:
        The report's path.
    """
    from lensmith.question import messages
    from lensmith.report import ReportData, write_report

    last = evaluations[-1]
    write_json(folder / "evaluation.json", last.to_dict())
    write_predictions(folder / "predictions.parquet", predictions, dataset.labels)
    log = folder / "metrics.jsonl"
    where = provenance()
    facts = [
        ("Data", f"{dataset.uri}, {last.data['n']:,} {last.data['split']} images, hash {last.data['hash']}"),
        ("Training images", f"{len(dataset.train):,}"),
        ("Validation images", f"{len(dataset.validation):,}"),
        ("Base model", recipe.model.base),
        ("Seed", str(recipe.seed)),
        ("Commit", f"{where['commit'] or 'unknown'}{' (changed since)' if where['dirty'] else ''}"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in where["packages"].items())),
        ("Machine", f"{where['machine']['processor']}, {where['machine']['cores']} cores"),
        ("Made", where["created"]),
    ]
    notes = list(last.notes) + [f"Not used in training: {sentence}" for sentence in unreadable]
    asked = "\n\n".join(
        m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] + "\n[the image]"
        for m in messages(recipe.question, dataset.labels)
    )
    data = ReportData(
        title=f"{last.name.capitalize()} {recipe.model.base} on {dataset.uri}",
        question=asked,
        evaluations=evaluations,
        steps=list(read_lines(log)) if log.exists() else [],
        mistakes=worst(dataset.test, predictions),
        facts=facts,
        verdict=verdict or f"{percent(last.accuracy)} of {last.accuracy.n:,} images right.",
        notes=notes,
    )
    write_report(folder / "report.html", data)
    return folder / "report.html"


def worst(split: Split, predictions: Sequence[Prediction], most: int = 40) -> list[Any]:
    """The wrong answers that were surest, as pictures."""
    from lensmith.report import Mistake

    wrong = [(p.share or 0.0, i) for i, p in enumerate(predictions) if p.predicted and p.predicted != p.label]
    out = []
    for share, i in sorted(wrong, reverse=True)[:most]:
        p = predictions[i]
        out.append(Mistake(split.image(i), str(p.label), str(p.predicted), share))
    return out


def default_folder(recipe: Recipe, verb: str) -> Path:
    """runs/NAME-VERB-TIME."""
    return Path("runs") / f"{recipe.name}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}"


def describe(dataset: ImageDataset) -> str:
    """One sentence on the dataset, and its notes."""
    parts = (f"{len(s):,} {s.name}" for s in (dataset.train, dataset.validation, dataset.test))
    return "\n".join([f"{dataset.uri}: {len(dataset.labels)} classes; {', '.join(parts)} images.", *dataset.notes])


def percent(rate: Any) -> str:
    """`81.4 % (79.6 to 83.1)`"""
    return f"{rate.accuracy:.1%} ({rate.low * 100:.1f} to {rate.high * 100:.1f})".replace("%", " %", 1)


def counter(task: str, total: int, tell: Tell) -> Callable[[int], None]:
    """A progress callback that turns a count into an `Advance`."""
    start = time.perf_counter()

    def progress(done: int) -> None:
        rate = done / max(1e-9, time.perf_counter() - start)
        tell(Advance(task, done, total, rate, (total - done) / rate))

    return progress


def training_progress(tell: Tell) -> Callable[[Progress], None]:
    """A training's callback that turns its progress into an `Advance`, and its validations into notes."""

    def progress(p: Progress) -> None:
        if p.validation:
            tell(Note(f"Step {p.step}: {percent(p.validation)} of the validation images right."))
        tell(Advance("training", p.step, p.steps, p.samples_per_s, p.seconds_left, f"loss {p.loss:.3f}"))

    return progress


def recipe_for(source: str | None, overrides: Sequence[str]) -> Recipe:
    """A recipe from a file, the name of a shipped one, or a run folder (then with the run's adapter)."""
    if source and Path(source).is_dir():
        recipe = read_run(Path(source))
        recipe.model.adapter = source if (Path(source) / "adapter").is_dir() else None
        return load_recipe(None, overrides, base=recipe)
    return load_recipe(source, overrides)
