"""`lensmith ladder`: compare methods on one dataset, from zero-shot to LoRA, and choose the one worth its cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import LadderOptions, Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped
from lensmith.measure.choice import choose, confirm
from lensmith.measure.metrics import accuracy
from lensmith.progress import Note, Tell, silent
from lensmith.records import Prediction
from lensmith.runs.files import write_json
from lensmith.runs.folder import (
    PREDICTIONS,
    REPORT,
    Run,
    begin_run,
    keep_calibration,
    read_evaluation,
    require_one_process,
)
from lensmith.runs.predictions import read_predictions
from lensmith.runs.provenance import facts
from lensmith.runs.shapes import Cost, read_as
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening

if TYPE_CHECKING:
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.methods import Method
    from lensmith.pages.ladder import MethodRow

RECORD = "ladder.json"
EXAMPLES = ("lensmith ladder my-images", "lensmith ladder my-images 'ladder.methods=[zero-shot, probe, lora]'")
VALIDATION, MADE, CHOICE = "validation.parquet", "made.json", "choice.json"
"""Files in a method's folder: its predictions on the validation images, and the cost of making its classifier. File in
the ladder's folder: the choice, made before any test image was scored."""
OPTIMISTIC = (
    "The validation images were also used to choose each training's checkpoint, each probe's feature and C, and each "
    "calibration. This favours the methods that choose among most candidates; more validation images (data.validation) "
    "reduce the effect."
)
CACHED = "Features were cached, so the times of neighbours and probe exclude extraction."


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    costs = any(row["dollars"] is not None for row in record["methods"])
    head = ["", "validation", "test", *terminal.RATE_HEAD[1:], "seconds", *["dollars"] * costs]
    rows = [
        [row["name"], terminal.points(row["validation"]), *terminal.rate_cells(row["test"]), f"{row['seconds']:.1f}"]
        + ([f"{row['dollars']:.2f}"] if costs else [])
        for row in record["methods"]
    ]
    chosen = Path(record["run"]) / record["chosen"]
    then = ("predict", chosen, "new-images") if (chosen / "adapter").exists() else ("curve", record["run"])
    lines = [
        "",
        record["verdict"],
        *record["sentences"],
        terminal.path_line("Report", record["report"]),
        terminal.next_line(*then),
    ]
    return [terminal.Table(head, rows), *lines]


def ladder(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Make a classifier with each method, choose one on the validation images, and score each once on the test images.

    Each method has its own run folder inside the ladder's, which `evaluate` and `compare` accept, and also `predict` if
    the method trains or fits something.

    Args:
        folder: the run folder; runs/NAME-ladder-TIME if None.
        tell: called with progress.
        resume: resume the run in `folder`, keeping what is complete; see `lensmith.resume`.

    Returns:
        The record: `methods` (accuracies, seconds, dollars), `chosen`, `verdict`, `sentences`, `run`, `report`.

    Raises:
        UserError: see `open_data` and `Method`; also if a split has no images.
        Stopped: Ctrl-C; completed work is kept.
    """
    from lensmith.learn import methods
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.pages.ladder import LadderData, write_ladder

    require_one_process("ladder")
    started, options = time.perf_counter(), recipe.ladder
    compared = methods.chosen("ladder.methods", options.methods)
    names = [method.name for method in compared]
    dataset = open_data(recipe.data, tell)
    dataset.require("train", "validation", "test", hint="A ladder needs all three splits.")
    for method in () if resume else compared:
        method.require(method.recipe(recipe), dataset)
    run, shared = begin_run(folder, recipe, dataset, "ladder", tell, resume), SharedFrozenModel(recipe, dataset, tell)
    seconds, memory = (None, None) if resume else expected(compared, shared)
    opening(run, seconds, dataset.test, [dataset.how_split], memory)
    try:
        make(compared, run, shared)
        validated = {method.name: validation_predictions(method, run) for method in compared}
        choice = choose(names, validated, len(dataset.validation))
        write_json(run.folder / CHOICE, asdict(choice))
        tell(Note(choice.verdict))
        tested = {method.name: test_predictions(method, run) for method in compared}
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    rows = [row(method, validated[method.name], run, options) for method in compared]
    sentences = confirm(names, choice.chosen, validated, tested)
    cached = any(cost_of(run.folder / name)["features_cached"] for name in names)
    report = run.folder / REPORT
    write_ladder(
        report,
        LadderData(
            title=f"Which method for {dataset.uri}",
            verdict=choice.verdict,
            sentences=sentences,
            methods=rows,
            chosen=choice.chosen,
            facts=facts(run.folder),
            notes=[*dataset.notes, OPTIMISTIC, *([CACHED] if cached else [])],
        ),
    )
    record = {
        "methods": [asdict(row) for row in rows],
        "chosen": choice.chosen,
        "verdict": choice.verdict,
        "sentences": sentences,
        "seconds": time.perf_counter() - started,
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / RECORD, record)
    return record


def expected(compared: Sequence[Method], shared: SharedFrozenModel) -> tuple[float | None, int | None]:
    """About how many seconds and bytes of memory a ladder will take; None if that can't be told."""
    from lensmith.measure.pace import measure

    recipe, dataset = shared.recipe, shared.dataset
    pace = measure(shared.load().asked, dataset.train, recipe.data.max_pixels)
    if not pace:
        return None, None
    scored = len(compared) * pace.scoring(len(dataset.validation) + len(dataset.test))
    features = pace.features(len(dataset.train) + len(dataset.validation))
    making = [(own := method.recipe(recipe), method.seconds(pace, own, dataset)) for method in compared]
    # What takes time once features have been extracted is trained.
    memory = pace.peak(own for own, seconds in making if seconds)
    return features + scored + sum(seconds for _, seconds in making), memory


def make(compared: Sequence[Method], run: Run, shared: SharedFrozenModel) -> None:
    """Make each method's classifier in its run folder, unless it exists already; test images are not used."""
    for method in compared:
        inner = run.inner(method.name, method.recipe(run.recipe))
        if (inner.folder / MADE).exists():
            continue
        run.tell(Note(f"{method.name}: {method.about}."))
        made = method.make(inner, shared, resume=inner.ensure_started())
        cost = {"seconds": made.seconds, "note": made.note, "features_cached": made.cached}
        write_json(inner.folder / MADE, cost)


def cost_of(folder: Path) -> dict[str, Any]:
    """The cost of making a method's classifier, from its folder."""
    cost = read_as(folder / MADE, Cost)
    return {"features_cached": cost.get("looked_before", False)} | cost  # its name before version 0.2


def validation_predictions(method: Method, run: Run) -> Sequence[Prediction]:
    """A method's predictions on the validation images, read from its folder or computed now."""
    from lensmith.measure.evaluation import calibrate, predict_split

    inner, dataset = run.inner(method.name, method.recipe(run.recipe)), run.dataset
    path = inner.folder / VALIDATION
    if not path.exists():
        classifier = _classifier(inner)
        calibrate(inner, classifier, dataset.test, f"calibrating ({method.name})")
        predict_split(inner, classifier, dataset.validation, path, f"validating ({method.name})")
    return read_predictions(path)


def test_predictions(method: Method, run: Run) -> Sequence[Prediction]:
    """A method's predictions on the test images, read from its folder or computed now, with its report."""
    from lensmith.measure.evaluation import score_split
    from lensmith.pages.run import write_run

    inner, test = run.inner(method.name, method.recipe(run.recipe)), run.dataset.test
    if not (inner.folder / REPORT).exists():
        if not (inner.folder / "evaluation.json").exists():
            note = str(cost_of(inner.folder)["note"])
            score_split(inner, _classifier(inner), test, method.name, [note] if note else [])
        if (inner.folder / "adapter").is_dir():
            keep_calibration(inner.folder)
        predictions = read_predictions(inner.folder / PREDICTIONS)
        write_run(inner.folder, test, [read_evaluation(inner.folder)], predictions)
    return read_predictions(inner.folder / PREDICTIONS)


def _classifier(inner: Run) -> Any:
    from lensmith import models
    from lensmith.engine.question import make_question
    from lensmith.measure.evaluation import classifier_for

    adapter = str(inner.folder) if (inner.folder / "adapter").is_dir() else None
    tuned = models.load(replace(inner.recipe.model, adapter=adapter))
    question = make_question(tuned.model, inner.recipe.question, inner.dataset.labels)
    return classifier_for(tuned, question, inner.recipe.evaluate)


def row(method: Method, validated: Sequence[Prediction], run: Run, options: LadderOptions) -> MethodRow:
    """A method's row in the table."""
    from lensmith.pages.ladder import MethodRow

    folder, dataset = run.folder / method.name, run.dataset
    evaluation = read_evaluation(folder)
    seconds, labels = float(cost_of(folder)["seconds"]), method.labels(dataset)
    free = not options.hourly_cost and not options.label_cost
    return MethodRow(
        name=method.name,
        about=method.about,
        validation=accuracy(validated),
        test=evaluation.accuracy,
        labels=labels,
        seconds=seconds,
        per_thousand=1000 * evaluation.seconds / len(dataset.test),
        dollars=None if free else seconds / 3600 * options.hourly_cost + labels * options.label_cost,
    )


_command = terminal.RecipeCommand("ladder", ladder, text, anywhere=True)
arguments, run = _command.arguments, _command.run
