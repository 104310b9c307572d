"""`lensmith demo`: baseline, training and comparison, with data and a base model that are shipped with Lensmith."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensmith.config import SHIPPED, load_recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError, nearest
from lensmith.measure.paired import compare, power_hint
from lensmith.progress import Note, Tell, silent
from lensmith.records import percent
from lensmith.runs.files import write_json
from lensmith.runs.folder import begin_run, default_folder, keep_calibration
from lensmith.verbs import terminal

ABOUT = "run the whole workflow in a few minutes: baseline, training, comparison, report"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("--data", default="fashion", help="fashion (photographs; the default) or digits")
    parser.add_argument("--run", type=Path, help="run folder to create (default: runs/NAME-demo-TIME)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    record = demo(args.data, args.run, screen)
    lines = [f"{'':<12}{'accuracy':>9}   {'95 % interval':<16}{'images':>7}{'seconds':>9}"]
    for row in record["rows"]:
        rate = record[row["name"].replace("-", "_")]
        lines.append(f"{row['name']:<12}{terminal.rate_line(rate)}{row['seconds']:>9.1f}")
    lines += ["", record["verdict"], f"{record['seconds']:.0f} s in total. Report: {record['report']}"]
    return terminal.Output(record, "\n".join(lines))


def demos() -> list[str]:
    """The values of `--data`: NAME of each shipped recipe demo-NAME."""
    return sorted(path.stem.removeprefix("demo-") for path in SHIPPED.glob("demo-*.yaml"))


def demo(data: str = "fashion", folder: Path | None = None, tell: Tell = silent) -> dict[str, Any]:
    """Score the base model zero-shot, a simple classifier on raw pixels, and the base model after training.

    All three are scored on the same test images, which are not used in training or to choose settings.

    Returns:
        `zero_shot`, `pixels` and `tuned` accuracies, `verdict`, `seconds`, `run`, `report`.

    Raises:
        UserError: there is no such demo, or the run folder exists.
    """
    from lensmith.learn.frozen import SharedFrozenModel
    from lensmith.learn.learner import prepare
    from lensmith.learn.loop import train
    from lensmith.learn.methods import methods
    from lensmith.measure.evaluation import score_split
    from lensmith.models.tuning import coverage_table
    from lensmith.pages.run import write_run
    from lensmith.verbs.teach.probe import fit_and_score

    if data not in demos():
        raise UserError(f"There is no demo {data!r}.", nearest(data, demos()) or f"Known demos: {', '.join(demos())}.")
    recipe = load_recipe(f"demo-{data}")
    started = time.perf_counter()
    dataset = open_data(recipe.data)
    # After a stop, the demo's training can be resumed by itself, and so can the first baseline.
    run = begin_run(folder or default_folder(recipe, "demo"), recipe, dataset, "train", tell)
    # The two baselines have their own run folders inside this one, for `lensmith compare`.
    zero_shot_run, pixels_run = run.inner("zero-shot", recipe), run.inner("pixels", recipe)
    for inner, verb in ((zero_shot_run, "evaluate"), (pixels_run, "")):
        inner.folder.mkdir()
        inner.start(verb=verb)
    tell(Note(dataset.describe()))
    tell(Note(power_hint(len(dataset.test))))

    shared = SharedFrozenModel(recipe, dataset, tell)
    frozen = shared.load()
    zero_shot = score_split(zero_shot_run, frozen.asked, dataset.test, "zero-shot")
    tell(Note(f"The accuracy of the base model before training is {percent(zero_shot.evaluation.accuracy)}."))

    clock = time.perf_counter()
    try:
        pixels = fit_and_score(methods()["pixels"], pixels_run, shared)
    except Stopped:
        raise KeyboardInterrupt from None
    pixels.evaluation.seconds = time.perf_counter() - clock
    shared.release()

    learner = prepare(recipe, dataset)
    tell(Note(coverage_table(learner.coverage)))
    clock = time.perf_counter()
    training = train(learner, run)
    tuned = score_split(run, learner.classifier(recipe.evaluate), dataset.test, "tuned")
    keep_calibration(run.folder)
    tuned.evaluation.seconds = time.perf_counter() - clock

    against_pixels = compare("pixels", pixels.predictions, "tuned", tuned.predictions)
    against_zero_shot = compare("zero-shot", zero_shot.predictions, "tuned", tuned.predictions)
    sentence = against_pixels.sentence[:1].upper() + against_pixels.sentence[1:]
    evaluations = [scored.evaluation for scored in (zero_shot, pixels, tuned)]
    report = write_run(run.folder, dataset.test, evaluations, tuned.predictions, training.unreadable, sentence)
    record = {
        "zero_shot": asdict(zero_shot.evaluation.accuracy),
        "pixels": asdict(pixels.evaluation.accuracy),
        "tuned": asdict(tuned.evaluation.accuracy),
        "p_tuned_against_pixels": against_pixels.p,
        "p_tuned_against_zero_shot": against_zero_shot.p,
        "verdict": sentence,
        "rows": [{"name": e.name, "seconds": e.seconds, "macro_f1": e.macro_f1.value} for e in evaluations],
        "seconds": time.perf_counter() - started,
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / "result.json", record)
    return record
