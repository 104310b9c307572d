"""`lensmith probe`: fit simple classifiers on the frozen model's features, in seconds where training takes hours."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped
from lensmith.progress import Note, Tell, silent, working
from lensmith.records import percent
from lensmith.runs.files import read_json, write_json
from lensmith.runs.folder import PREDICTIONS, Run, begin_run, keep_calibration, read_evaluation, require_one_process
from lensmith.runs.predictions import read_predictions
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening

if TYPE_CHECKING:
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.features.selection import Fitted
    from lensmith.learn.methods import Method
    from lensmith.measure.evaluation import Scored

RECORD = "result.json"
EXAMPLES = ("lensmith probe my-images --run runs/probe",)
FIT = "fit.json"
"""File in the run folder of a fitted classifier: the chosen feature and setting, and all that were tried."""


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    if record["accuracy"] is None:
        return terminal.untested_lines(record)
    both = {"neighbours": record["neighbours"]["accuracy"], "probe": record["accuracy"]}
    lines = terminal.unreadable_lines(record["evaluation"]["unreadable"], "counted as wrong")
    lines += [*terminal.run_lines(record), terminal.next_line("predict", record["run"], "new-images")]
    return [terminal.rate_table(both), *lines]


def probe(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Fit a probe and a nearest-neighbour classifier on frozen features, and score both once on the test images.

    `evaluate`, `compare` and `predict` accept the run folder, and also `neighbours` inside it.

    Args:
        folder: the run folder; runs/NAME-probe-TIME if None.
        tell: called with progress.
        resume: resume the run in `folder`; see `lensmith.resume`.

    Returns:
        The run's record: `run`, `accuracy` on the test images, `probe` and `neighbours` (the chosen setting and all
        that were tried), `report`. Without test images, `accuracy`, `evaluation` and `report` are None.

    Raises:
        UserError: see `open_data`, `FrozenModel` and `selection.fit`.
        Stopped: Ctrl-C; extracted features are kept.
    """
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.methods import methods
    from lensmith.measure.pace import measure, shorter
    from lensmith.models.cost import image_cost
    from lensmith.pages.run import write_run

    require_one_process("probe")
    started = time.perf_counter()
    dataset = open_data(recipe.data, tell)
    dataset.require("train", hint="A probe needs training images.")
    methods()["probe"].require(recipe, dataset)
    shared = SharedFrozenModel(recipe, dataset, tell)
    frozen = shared.load()
    run = begin_run(folder, recipe, dataset, "probe", tell, resume)
    neighbours_run = run.inner("neighbours", recipe)
    neighbours_run.ensure_started()
    pace = measure(frozen.asked, dataset.train, recipe.data.max_pixels)
    cost = image_cost(frozen.model, dataset.train, len(frozen.question.prompt.before), recipe.data.max_pixels)
    others = len(dataset.train) + len(dataset.validation)
    seconds = pace.features(others + len(dataset.test)) if pace and not resume else None
    memory = pace.peak() if pace else None
    faster = shorter(pace, cost, dataset.test, lambda pace, n: pace.features(others + n)) if seconds and pace else []
    details = [dataset.how_split, *(known.sentence for known in (cost, pace) if known)]
    opening(run, seconds, dataset.test, details, memory, faster)
    if recipe.model.adapter:
        tell(Note(f"The adapter {recipe.model.adapter} is ignored: a probe uses the base model."))
    both = ((methods()["neighbours"], neighbours_run), (methods()["probe"], run))
    scores, report = [], None
    try:
        if len(dataset.test):
            scores = [fit_and_score(method, inner, shared) for method, inner in both]
        else:
            for method, inner in both:
                fit(method, inner, shared)
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    if scores:
        evaluations = [scored.evaluation for scored in scores]
        with working("writing the report", tell):
            report = write_run(run.folder, dataset.test, evaluations, scores[-1].predictions)
    neighbours, accuracy = (asdict(s.evaluation.accuracy) for s in scores) if scores else (None, None)
    record = {
        "run": str(run.folder),
        "accuracy": accuracy,
        "probe": read_json(run.folder / FIT),
        "neighbours": read_json(neighbours_run.folder / FIT) | {"accuracy": neighbours},
        "evaluation": scores[-1].evaluation.to_dict() if scores else None,
        "report": str(report) if report else None,
        "seconds": time.perf_counter() - started,
    }
    write_json(run.folder / RECORD, record)
    return record


def fit(method: Method, run: Run, shared: SharedFrozenModel) -> Fitted:
    """Fit one classifier into its run folder."""
    from lensmith.learn.methods.fitted import FittedMethod
    from lensmith.models.tuned_files import keep_tuned

    assert isinstance(method, FittedMethod)
    frozen, name, clock = shared.load(), method.name.capitalize(), time.perf_counter()
    fitted = method.fit(frozen)
    keep_tuned(run, frozen.tuned(fitted.head), method.name)
    write_json(run.folder / FIT, fitted.record() | {"seconds": time.perf_counter() - clock})
    sentence = fitted.sentence()
    run.tell(Note(f"{name}: {sentence[0].lower()}{sentence[1:]}", detail=True))
    return fitted


def fit_and_score(method: Method, run: Run, shared: SharedFrozenModel) -> Scored:
    """Fit one classifier in its run folder, and score it on the test images.

    Args:
        method: a method that is fitted on frozen features.
        run: a run that has been started; results from before a stop are kept.
    """
    from lensmith.measure.evaluation import Scored, score_split

    if (run.folder / "evaluation.json").exists():
        return Scored(read_evaluation(run.folder), read_predictions(run.folder / PREDICTIONS))
    fitted = fit(method, run, shared)
    classifier = shared.load().classifier(fitted.head)
    scored = score_split(run, classifier, run.dataset.test, method.name, [fitted.sentence()])
    keep_calibration(run.folder)
    run.tell(Note(f"{method.name.capitalize()}: {percent(scored.evaluation.accuracy)} of the test images correct."))
    return scored


_command = terminal.RecipeCommand("probe", probe, text, anywhere=True)
arguments, run = _command.arguments, _command.run
