"""`lensmith blend`: make one classifier of several finished runs, the weighted mean of their answers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError
from lensmith.progress import Note, Tell, silent, working
from lensmith.records import percent
from lensmith.runs.files import write_json
from lensmith.runs.folder import begin_run, keep_calibration, read_run, recipe_for, require_one_process
from lensmith.runs.shapes import Record, of_split, read_as
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening
from lensmith.verbs.words import divided

RECORD = "result.json"
EXAMPLES = ("lensmith blend runs/mine runs/probe --run runs/both",)
ALIKE = {
    "labels": "other labels",
    "question": "another question",
    "base": "another base model",
    "base_weights": "a base model with other weights",
    "image_tokens": "another number of tokens for an image",
}
"""What the runs of a blend have in common, and what is said of one that differs."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="RUN|OPTION",
        help="two or more finished runs on the same images; options change the first one's",
    )
    parser.add_argument("--run", type=Path, help="run folder to create (default: runs/NAME-blend-TIME)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    options, words = divided(args.recipe)
    recipe = recipe_for(None, options, read_run(Path(words[0]))) if words else Recipe()
    recipe.blend.of = words
    return terminal.output(blend(recipe, args.run, screen), text)


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    if record["accuracy"] is None:
        return [record["weights"], *terminal.untested_lines(record)]
    lines = terminal.unreadable_lines(record["evaluation"]["unreadable"], "counted as wrong")
    lines += [
        record["weights"],
        *terminal.run_lines(record),
        terminal.next_line("predict", record["run"], "new-images"),
    ]
    return [terminal.rate_table({"blend": record["accuracy"]}), *lines]


def blend(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Make a blend of finished runs, and score it once on the test images.

    Its answers are the weighted mean of the runs' log-probabilities. Weights are fitted on the validation images, as
    those of a ladder's blend. `evaluate`, `compare`, `predict`, `serve`, `export` and `push` accept the run folder.

    Args:
        recipe: that of one of the runs; `blend.of` names them all.
        folder: the run folder; runs/NAME-blend-TIME if None.
        tell: called with progress.
        resume: resume the run in `folder`; see `lensmith.resume`.

    Returns:
        The run's record: `run`, `weights` in words, `accuracy` on the test images, `evaluation` and `report`; None for
        the last three without test images.

    Raises:
        UserError: there is one run only; one has no taught model, is a blend itself, or has other labels, images,
            another question or another base than the first.
        Stopped: Ctrl-C; completed work is kept.
    """
    from lensmith.learn.blending import blend_runs
    from lensmith.learn.made import classifier_of
    from lensmith.measure.evaluation import score_split
    from lensmith.pages.run import write_run

    require_one_process("blend")
    started = time.perf_counter()
    parts = named([Path(name).resolve() for name in recipe.blend.of or []])
    require_alike(parts)
    dataset = open_data(recipe.data, tell)
    same_images(parts, {split.name: split.hash for split in dataset.splits})
    recipe.blend.of, recipe.model.adapter = list(map(str, parts.values())), None
    run = begin_run(folder, recipe, dataset, "blend", tell, resume)
    opening(run, None, dataset.test, [dataset.how_split])
    evaluation, report = None, None
    try:
        weights = blend_runs(run, parts)
        tell(Note(weights))
        if len(dataset.test):
            scored = score_split(run, classifier_of(run), dataset.test, "blend", [weights])
            keep_calibration(run.folder)
            evaluation = scored.evaluation
            tell(Note(f"Blend: {percent(evaluation.accuracy)} of the test images correct."))
            with working("writing the report", tell):
                report = write_run(run.folder, dataset.test, [evaluation], scored.predictions)
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    record = {
        "run": str(run.folder),
        "weights": weights,
        "accuracy": asdict(evaluation.accuracy) if evaluation else None,
        "evaluation": evaluation.to_dict() if evaluation else None,
        "report": str(report) if report else None,
        "seconds": time.perf_counter() - started,
    }
    write_json(run.folder / RECORD, record)
    return record


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """The runs by the names of their folders, and of the folders above where these are the same.

    Raises:
        UserError: there are fewer than two, or one is named twice.
    """
    if len(folders) < 2:
        raise UserError("A blend is made of two or more runs.", "Name them: lensmith blend runs/mine runs/probe.")
    if twice := [folder for k, folder in enumerate(folders) if folder in folders[:k]]:
        raise UserError(f"The run {twice[0]} is named twice.", "Name each run once.")
    names = [folder.name for folder in folders]
    return {
        folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}-{folder.name}-{k + 1}": folder
        for k, folder in enumerate(folders)
    }


def require_alike(parts: Mapping[str, Path]) -> None:
    """Raises UserError if a run has no taught model, is a blend, or was taught something else than the first."""
    from lensmith.models.blends import is_blend
    from lensmith.models.tuned_files import task_of

    first, tasks = next(iter(parts.values())), dict[Path, dict[str, Any]]()
    for folder in parts.values():
        read_run(folder)
        tasks[folder] = task_of(folder / "adapter")
        if not tasks[folder] or (not (folder / "evaluation.json").exists() and (folder / "checkpoint").exists()):
            raise UserError(
                f"The run {folder} has no taught model to blend.",
                "Name finished runs of `lensmith train` or `lensmith probe`, or a ladder's methods.",
            )
        if is_blend(folder):
            raise UserError(f"The run {folder} is a blend itself.", "Name the runs that it was made of.")
        for key, words in ALIKE.items():
            if tasks[folder].get(key) != tasks[first].get(key):
                raise UserError(
                    f"The run {folder} has {words} than {first}, so their answers can't be averaged.",
                    "Blend runs that were taught the same classes by the same question, on the same base model.",
                )


def same_images(parts: Mapping[str, Path], now: Mapping[str, str]) -> None:
    """Raises UserError if a run was taught on images with other validation or test images than there are now: it may
    have learned from these."""
    for folder in parts.values():
        then = read_as(folder / "record.json", Record)["data"]
        for split in ("validation", "test"):
            if of_split(then, split).get("hash") != now[split]:
                raise UserError(
                    f"The run {folder} was taught beside other {split} images, and may have learned from those here.",
                    "Blend runs on the same images with the same splits.",
                )
