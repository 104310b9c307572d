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
from lensmith.measure.paired import compare
from lensmith.progress import Note, Tell, silent, working
from lensmith.records import percent
from lensmith.runs.files import write_json
from lensmith.runs.folder import begin_run, default_folder, keep_calibration
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening

EXAMPLES = ("lensmith demo", "lensmith demo --data digits")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("--data", default="fashion", help="fashion (photographs; the default) or digits")
    parser.add_argument("--run", type=Path, help="run folder to create (default: runs/NAME-demo-TIME)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    record = demo(args.data, args.run, screen)
    rows = [
        [row["name"], *terminal.rate_cells(record[row["name"].replace("-", "_")]), f"{row['seconds']:.1f}"]
        for row in record["rows"]
    ]
    lines = ["", record["blended"], record["verdict"], record["against_probe"], f"{record['seconds']:.0f} s in total."]
    lines += [*terminal.run_lines(record), terminal.next_line("evaluate", "my-images")]
    return terminal.Output(record, [terminal.Table(["", *terminal.RATE_HEAD, "seconds"], rows), *lines])


def demos() -> list[str]:
    """The values of `--data`: NAME of each shipped recipe demo-NAME."""
    return sorted(path.stem.removeprefix("demo-") for path in SHIPPED.glob("demo-*.yaml"))


def demo(data: str = "fashion", folder: Path | None = None, tell: Tell = silent) -> dict[str, Any]:
    """Score the base model zero-shot, simple classifiers on features and on pixels, the model after training, and the
    blend of them.

    All of them are scored on the same test images, which are not used in training or to choose settings.

    Returns:
        `zero_shot`, `probe`, `pixels`, `tuned` and `blend` accuracies, `verdict`, `against_probe` and `blended`
        (sentences), `seconds`, `run` (of the trained model; the others are inside), `report` (about the blend).

    Raises:
        UserError: there is no such demo, or the run folder exists.
    """
    from lensmith.learn.blending import make_blend
    from lensmith.learn.features.few import looks_of
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.learner import prepare
    from lensmith.learn.loop import train
    from lensmith.learn.made import classifier_of
    from lensmith.learn.methods import methods
    from lensmith.measure.evaluation import score_split
    from lensmith.measure.pace import measure
    from lensmith.models.tuning import coverage_table
    from lensmith.pages.run import write_run
    from lensmith.verbs.teach.probe import fit_and_score

    if data not in demos():
        raise UserError(f"There is no demo {data!r}.", nearest(data, demos()) or f"Known demos: {', '.join(demos())}.")
    recipe = load_recipe(f"demo-{data}")
    recipe.probe.features = ["tower mean", "tower grid"]  # the decoder's take most of the time, and don't win here
    started = time.perf_counter()
    dataset = open_data(recipe.data, tell)
    # After a stop, the demo's training can be resumed by itself, and so can the first baseline.
    run = begin_run(folder or default_folder(recipe, "demo"), recipe, dataset, "train", tell)
    # The baselines have their own run folders inside this one, for `lensmith compare`.
    runs = {name: run.inner(name, recipe) for name in ("zero-shot", "probe", "pixels", "blend")}
    for name, inner in runs.items():
        inner.folder.mkdir()
        inner.start(verb="evaluate" if name == "zero-shot" else "")
    shared = SharedFrozenModel(recipe, dataset, tell)
    frozen = shared.load()
    expected = memory = None
    if pace := measure(frozen.asked, dataset.train, recipe.data.max_pixels):
        images = sum(map(len, dataset.splits))
        baselines = pace.features(images) + 4 * pace.scoring(len(dataset.test))
        baselines += pace.tower * images * len(looks_of(recipe.augment))  # of the blend
        expected = baselines + pace.training(recipe, dataset) + pace.evaluation(dataset, len(dataset.test))
        memory = pace.peak([recipe])
    opening(run, expected, dataset.test, [dataset.how_split], memory)

    zero_shot = score_split(runs["zero-shot"], frozen.asked, dataset.test, "zero-shot")
    tell(Note(f"Zero-shot: {percent(zero_shot.evaluation.accuracy)} of the test images correct."))
    baselines_scored = {}
    for name in ("probe", "pixels"):
        clock = time.perf_counter()
        try:
            baselines_scored[name] = fit_and_score(methods()[name], runs[name], shared)
        except Stopped:
            raise KeyboardInterrupt from None
        baselines_scored[name].evaluation.seconds = time.perf_counter() - clock
    probe, pixels = baselines_scored["probe"], baselines_scored["pixels"]
    shared.release()

    learner = prepare(recipe, dataset)
    run.detail(coverage_table(learner.coverage))
    clock = time.perf_counter()
    training = train(learner, run)
    tuned = score_split(run, learner.classifier(recipe.evaluate), dataset.test, "tuned")
    keep_calibration(run.folder)
    tuned.evaluation.seconds = time.perf_counter() - clock

    clock = time.perf_counter()
    note = make_blend(runs["blend"], shared.load(), {"tuned": run})
    shared.release()
    blend = score_split(runs["blend"], classifier_of(runs["blend"]), dataset.test, "blend", [note])
    keep_calibration(runs["blend"].folder)
    # It is made of the others, so their time is its time too.
    made_before = probe.evaluation.seconds + tuned.evaluation.seconds
    blend.evaluation.seconds = made_before + time.perf_counter() - clock

    against_pixels = compare("pixels", pixels.predictions, "tuned", tuned.predictions)
    against_zero_shot = compare("zero-shot", zero_shot.predictions, "tuned", tuned.predictions)
    against_probe = compare("probe", probe.predictions, "tuned", tuned.predictions)
    better = max((probe, tuned), key=lambda scored: scored.evaluation.accuracy.accuracy)
    blended = compare(better.evaluation.name, better.predictions, "blend", blend.predictions)
    sentence = against_pixels.sentence[:1].upper() + against_pixels.sentence[1:]
    evaluations = [scored.evaluation for scored in (zero_shot, pixels, probe, tuned, blend)]
    blended_sentence = blended.sentence[:1].upper() + blended.sentence[1:]
    # A page is about the last of its classifiers, whose folder it is in.
    with working("writing the report", tell):
        write_run(run.folder, dataset.test, evaluations[:-1], tuned.predictions, training.unreadable, sentence)
        report = write_run(
            runs["blend"].folder,
            dataset.test,
            evaluations,
            blend.predictions,
            training.unreadable,
            blended_sentence,
        )
    record = {
        "zero_shot": asdict(zero_shot.evaluation.accuracy),
        "pixels": asdict(pixels.evaluation.accuracy),
        "probe": asdict(probe.evaluation.accuracy),
        "tuned": asdict(tuned.evaluation.accuracy),
        "blend": asdict(blend.evaluation.accuracy),
        "p_tuned_against_pixels": against_pixels.p,
        "p_tuned_against_zero_shot": against_zero_shot.p,
        "verdict": sentence,
        "against_probe": against_probe.sentence[:1].upper() + against_probe.sentence[1:],
        "blended": blended_sentence,
        "rows": [{"name": e.name, "seconds": e.seconds, "macro_f1": e.macro_f1.value} for e in evaluations],
        "seconds": time.perf_counter() - started,
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / "result.json", record)
    return record
