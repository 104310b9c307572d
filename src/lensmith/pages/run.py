"""The page of a finished run, from what its folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lensmith.data import Split
from lensmith.pages.evaluation import EvaluationData, Mistake, write_evaluation
from lensmith.records import Evaluation, Prediction, percent
from lensmith.runs.folder import REPORT, read_run
from lensmith.runs.provenance import facts
from lensmith.runs.shapes import LogRow, QuestionFile, read_as, rows_as

MISTAKES = 40
"""Pictures on the page."""


def write_run(
    folder: Path,
    split: Split,
    evaluations: Sequence[Evaluation],
    predictions: Sequence[Prediction],
    unreadable: Sequence[str] = (),
    verdict: str = "",
) -> Path:
    """Write report.html of evaluations, the last of which is that of the predictions.

    Args:
        split: the images that were scored.
        unreadable: one sentence for each training image that could not be read.
        verdict: one sentence; the last accuracy if empty.

    Returns:
        The report's path.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    last, log, recipe = evaluations[-1], folder / "metrics.jsonl", read_run(folder)
    base = recipe.model.base
    name = base if last.name in base else f"{last.name.capitalize()} {base}"  # an outside model has but one name
    data = EvaluationData(
        title=f"{name} on {last.data['uri']}",
        question=read_as(folder / "question.json", QuestionFile)["text"],
        evaluations=list(evaluations),
        steps=rows_as(log, LogRow),
        mistakes=mistakes(split, predictions),
        facts=facts(folder),
        verdict=verdict or f"{percent(last.accuracy)} of {last.accuracy.n:,} images correct.",
        notes=list(last.notes) + [f"Not used in training: {sentence}" for sentence in unreadable],
    )
    write_evaluation(folder / REPORT, data)
    return folder / REPORT


def mistakes(split: Split, predictions: Sequence[Prediction]) -> list[Mistake]:
    """The most confident wrong answers, as pictures."""
    wrong = [(p.probability or 0.0, i) for i, p in enumerate(predictions) if p.predicted and p.predicted != p.label]
    return [
        Mistake(split.image(i), str(predictions[i].label), str(predictions[i].predicted), probability)
        for probability, i in sorted(wrong, reverse=True)[:MISTAKES]
    ]
