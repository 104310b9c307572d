"""The demo: baseline -> train -> compare, on data and a base model that come with Lensmith."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lensmith import verbs
from lensmith.config import SHIPPED, load_recipe
from lensmith.data import open_data
from lensmith.errors import UserError, nearest
from lensmith.measure.paired import compare, power_hint
from lensmith.probing import fitted
from lensmith.progress import Note, Tell, silent
from lensmith.records import percent
from lensmith.runs.files import write_json
from lensmith.runs.folder import default_folder, new_run_folder, start_run


def demos() -> list[str]:
    """The names `--data` takes: the shipped recipes called demo-NAME."""
    return sorted(path.stem.removeprefix("demo-") for path in SHIPPED.glob("demo-*.yaml"))


def demo(data: str = "fashion", folder: Path | None = None, tell: Tell = silent) -> dict[str, Any]:
    """Score the base as it is, a simple classifier on raw pixels, and the base after training on the labels.

    All three are scored on the same test images, which neither training nor the choice of settings sees.

    Returns:
        `zero_shot`, `pixels` and `tuned` accuracies, `verdict`, `seconds`, `run`, `report`.

    Raises:
        UserError: there is no such demo, or the run folder exists.
    """
    from lensmith import models
    from lensmith.engine.features import PIXELS
    from lensmith.learn.loop import train
    from lensmith.learn.methods import Frozen
    from lensmith.measure.evaluation import classifier_for
    from lensmith.models.tuning import attach, coverage_table

    if data not in demos():
        raise UserError(f"There is no demo {data!r}.", nearest(data, demos()) or f"There are: {', '.join(demos())}.")
    recipe = load_recipe(f"demo-{data}")
    started = time.perf_counter()
    dataset = open_data(recipe.data)
    folder = new_run_folder(folder or default_folder(recipe, "demo"))
    # Baseline and probe have run folders of their own within, so that `lensmith compare` takes them.
    for place in (folder, folder / "zero-shot", folder / "pixels"):
        start_run(new_run_folder(place) if place != folder else place, recipe, dataset)
    tell(Note(dataset.describe()))
    tell(Note(power_hint(len(dataset.test))))

    frozen, inner = Frozen(recipe, dataset, tell), folder / "zero-shot"
    bare = frozen.asked
    zero_shot, before = verbs.score(bare, recipe, dataset, dataset.test, "zero-shot", inner, tell, "evaluate")
    tell(Note(f"As it is, the base model gets {percent(zero_shot.accuracy)} right."))

    # What can be told from the pixels alone, by the simplest classifier and no model.
    clock = time.perf_counter()
    pixels, simple = fitted(frozen, PIXELS, folder / PIXELS, tell, "evaluate")
    pixels = replace(pixels, seconds=time.perf_counter() - clock)

    model = models.load(recipe.model)
    tell(Note(coverage_table(attach(model, recipe.tune, dataset.labels, recipe.seed))))

    clock = time.perf_counter()
    training = train(model, dataset, recipe, folder, tell)
    taught = classifier_for(model, recipe, dataset)
    tuned, after = verbs.score(taught, recipe, dataset, dataset.test, "tuned", folder, tell, "train")
    verbs.keep_calibration(folder)
    tuned = replace(tuned, seconds=time.perf_counter() - clock)

    against_pixels = compare("pixels", simple, "tuned", after)
    sentence = against_pixels.sentence[:1].upper() + against_pixels.sentence[1:]
    evaluations = [zero_shot, pixels, tuned]
    report = verbs.finish(folder, dataset.test, evaluations, after, training.unreadable, sentence)
    record = {
        "zero_shot": asdict(zero_shot.accuracy),
        "pixels": asdict(pixels.accuracy),
        "tuned": asdict(tuned.accuracy),
        "p_tuned_against_pixels": against_pixels.p,
        "p_tuned_against_zero_shot": compare("zero-shot", before, "tuned", after).p,
        "verdict": sentence,
        "rows": [{"name": e.name, "seconds": e.seconds, "macro_f1": e.macro_f1.value} for e in evaluations],
        "seconds": time.perf_counter() - started,
        "run": str(folder),
        "report": str(report),
    }
    write_json(folder / "result.json", record)
    return record
