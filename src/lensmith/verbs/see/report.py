"""`lensmith report`: make the page of a finished run anew, from what its folder holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.progress import Note, Tell, silent, working
from lensmith.records import Training
from lensmith.runs.files import read_json, write
from lensmith.runs.folder import PREDICTIONS, REPORT, is_finished, read_evaluation, read_run, same_data, verb_of
from lensmith.runs.lock import locked
from lensmith.runs.shapes import Record, made, read_as
from lensmith.verbs import module, terminal

EXAMPLES = ("lensmith report runs/mine",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    record = report(args.run, screen)
    return terminal.Output(record, [terminal.path_line("Report", record["report"])])


def report(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Make the page of a finished run anew, for example with a newer version or after it was lost.

    Nothing is scored or taught again, and all other files stay as they are.

    Returns:
        `run` and `report`.

    Raises:
        UserError: the folder holds no finished run, or its images have changed.
    """
    _lock = locked(folder) if folder.is_dir() else None
    read_run(folder)
    if (folder / "evaluation.json").exists():
        _of_evaluation(folder, tell)
    else:
        _of_comparison(folder, tell)
    return {"run": str(folder), "report": str(folder / REPORT)}


def _of_evaluation(folder: Path, tell: Tell) -> None:
    """The page of one scored model, beside its baselines if it has any."""
    from lensmith.pages.run import write_run
    from lensmith.runs.predictions import read_predictions
    from lensmith.verbs.see.evaluate import asked_images

    last, recipe = read_evaluation(folder), read_run(folder)
    _, dataset = asked_images(recipe, tell)
    same_data(folder, dataset)
    baselines = [path.parent for path in folder.glob("*/evaluation.json")]
    baselines.sort(key=lambda path: (path.name != "zero-shot", path.name))
    evaluations = [*map(read_evaluation, baselines), last]
    training, result = folder / "training.json", folder / "result.json"
    unreadable = made(training, read_json(training), Training).unreadable if training.exists() else []
    verdict = read_json(result).get("verdict", "") if result.exists() else ""
    split = dataset.split(read_as(folder / "record.json", Record)["split"])
    predictions = read_predictions(folder / PREDICTIONS)
    with working("writing the report", tell):
        write_run(folder, split, evaluations, predictions, unreadable, str(verdict))


def _of_comparison(folder: Path, tell: Tell) -> None:
    """The page of a ladder, curve or sweep, which its verb makes when it finds that all work is done."""
    verb = module(name := verb_of(folder))
    record = folder / verb.RECORD
    if name in ("train", "probe") and is_finished(folder, verb.RECORD):
        raise UserError(
            f"The run {folder} has no page, since there were no test images.",
            f"Score it on others: lensmith evaluate {folder} other-labelled-images",
        )
    if name == "label":
        raise UserError(
            f"The run {folder} has no page: it labelled images.", f"Its labels are in {folder}/labels.jsonl."
        )
    if name not in ("ladder", "curve", "sweep") or not record.exists():
        raise UserError(f"The run {folder} isn't finished.", f"Resume it with: lensmith resume {folder}")
    content = record.read_bytes()
    getattr(verb, name)(read_run(folder), folder, lambda event: None if isinstance(event, Note) else tell(event), True)
    write(record, content)  # it took the time that it took then
