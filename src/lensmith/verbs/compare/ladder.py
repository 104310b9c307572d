"""`lensmith ladder`: compare methods on one dataset, from zero-shot to LoRA, and choose the one worth its cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import LadderOptions, Recipe
from lensmith.config.options import SplitName
from lensmith.data import open_data
from lensmith.errors import Stopped
from lensmith.measure.choice import Choice, Judged, choose, confirm, price
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
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening

if TYPE_CHECKING:
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.methods import Method
    from lensmith.pages.ladder import MethodRow

RECORD = "ladder.json"
EXAMPLES = ("lensmith ladder my-images", "lensmith ladder my-images 'ladder.methods=[zero-shot, probe, lora]'")
CHOICE = "choice.json"
"""File in the ladder's folder: the choice, made before any test image was scored."""
FAIR = (
    "The choice is made by validation images that chose nothing of what they judge: four fifths of them choose "
    "settings and weights, and the other fifth judges, until each fifth has judged. Only a training's checkpoint, "
    "calibrations, and the features that a blend looks at were chosen on all of them. What is kept and tested uses all "
    "of them."
)
OPTIMISTIC = (
    "There are so few validation images that they also chose the settings that they judge. This favours the methods "
    "that choose among most candidates; have more validation images (data.validation)."
)
BLEND = "blend"
UNCHOSEN = (
    "Take blend, which is made of the others: there are no validation images to choose by. With few labels, no other "
    "method was better in trials with nano."
)
CACHED = "Features were cached, so the times of neighbours and probe exclude extraction."


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    costs = any(row["dollars"] is not None for row in record["methods"])
    head = ["", "validation", "test", *terminal.RATE_HEAD[1:], "seconds", "images/s", *["dollars"] * costs]
    rows = [
        [
            row["name"],
            terminal.points(row["validation"]) if row["validation"] else "",
            *terminal.rate_cells(row["test"]),
            f"{row['seconds']:.1f}",
        ]
        + [f"{1000 / row['per_thousand']:,.0f}" if row["per_thousand"] else ""]
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
    from lensmith.learn.made import FEWEST, cost_of, judge, make
    from lensmith.pages.ladder import LadderData, write_ladder

    require_one_process("ladder")
    started, options = time.perf_counter(), recipe.ladder
    compared = methods.chosen("ladder.methods", options.methods)
    names = [method.name for method in compared]
    dataset = open_data(recipe.data, tell)
    needed: list[SplitName] = ["train", "test"] if BLEND in names else ["train", "validation", "test"]
    dataset.require(*needed, hint="A ladder chooses by validation images, unless it ends in a blend.")
    for method in () if resume else compared:
        method.require(method.recipe(recipe), dataset)
    run, shared = begin_run(folder, recipe, dataset, "ladder", tell, resume), SharedFrozenModel(recipe, dataset, tell)
    seconds, memory = (None, None) if resume else expected(compared, shared)
    opening(run, seconds, dataset.test, [dataset.how_split], memory)
    try:
        made = {method.name: make(method, run, shared) for method in compared}
        judged = judge(run, compared, made, shared) if len(dataset.validation) else {}
        choice = choose(names, judged) if judged else Choice(BLEND, UNCHOSEN, BLEND)
        write_json(run.folder / CHOICE, asdict(choice))
        tell(Note(choice.verdict))
        tested = {name: test_predictions(inner, name) for name, inner in made.items()}
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    rows = [row(method, judged.get(method.name), made[method.name], options) for method in compared]
    costs = price(choice.chosen, {row.name: row.per_thousand for row in rows if row.per_thousand})
    sentences = [*confirm(names, choice, tested), *([costs] if costs else [])]
    how = FAIR if len(dataset.validation) >= FEWEST else OPTIMISTIC
    cached = any(cost_of(inner)["features_cached"] for inner in made.values())
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
            notes=[*dataset.notes, *([how] if judged else []), *([CACHED] if cached else [])],
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


def test_predictions(inner: Run, name: str) -> Sequence[Prediction]:
    """A method's predictions on the test images, read from its folder or computed now, with its report."""
    from lensmith.learn.made import classifier_of, cost_of
    from lensmith.measure.evaluation import score_split
    from lensmith.pages.run import write_run

    test = inner.dataset.test
    if not (inner.folder / REPORT).exists():
        if not (inner.folder / "evaluation.json").exists():
            note = str(cost_of(inner)["note"])
            score_split(inner, classifier_of(inner), test, name, [note] if note else [])
        if (inner.folder / "adapter").is_dir():
            keep_calibration(inner.folder)
        predictions = read_predictions(inner.folder / PREDICTIONS)
        write_run(inner.folder, test, [read_evaluation(inner.folder)], predictions)
    return read_predictions(inner.folder / PREDICTIONS)


def row(method: Method, judged: Judged | None, inner: Run, options: LadderOptions) -> MethodRow:
    """A method's row in the table.

    Args:
        judged: how it did on the validation images; None if there are none.
        inner: the run of the method's folder.
    """
    from lensmith.learn.made import cost_of
    from lensmith.pages.ladder import MethodRow

    dataset, evaluation = inner.dataset, read_evaluation(inner.folder)
    seconds, labels = float(cost_of(inner)["seconds"]), method.labels(dataset)
    free = not options.hourly_cost and not options.label_cost
    return MethodRow(
        name=method.name,
        about=method.about,
        validation=judged.accuracy if judged else None,
        test=evaluation.accuracy,
        labels=labels,
        seconds=seconds,
        per_thousand=1000 * evaluation.seconds / len(dataset.test),
        dollars=None if free else seconds / 3600 * options.hourly_cost + labels * options.label_cost,
    )


_command = terminal.RecipeCommand("ladder", ladder, text, anywhere=True)
arguments, run = _command.arguments, _command.run
