"""The demo: baseline -> train -> compare, on data and a base model that come with Lensmith."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lensmith import verbs
from lensmith.config import SHIPPED, load_recipe
from lensmith.errors import UserError, nearest
from lensmith.evaluate import evaluate as summarize
from lensmith.metrics import mcnemar
from lensmith.records import Evaluation, Prediction, new_run_folder, write_json
from lensmith.verbs import Note, Tell, silent


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
    from lensmith.models.lora import attach, coverage_table
    from lensmith.probe import pixel_probe
    from lensmith.train import train

    if data not in demos():
        raise UserError(f"There is no demo {data!r}.", nearest(data, demos()) or f"There are: {', '.join(demos())}.")
    recipe = load_recipe(f"demo-{data}")
    started = time.perf_counter()
    dataset = verbs.open_data(recipe)
    folder = new_run_folder(folder or verbs.default_folder(recipe, "demo"))
    verbs.start_run(folder, recipe, dataset)
    tell(Note(verbs.describe(dataset)))

    model = models.load(recipe.model)
    zero_shot, before = verbs.score(model, recipe, dataset, dataset.test, "zero-shot", tell)
    tell(Note(f"As it is, the base model gets {verbs.percent(zero_shot.accuracy)} right."))

    clock = time.perf_counter()
    simple = pixel_probe(dataset, recipe.data.max_pixels)
    pixels = summarize("pixels", simple, dataset, dataset.test, time.perf_counter() - clock)
    tell(Note(f"Logistic regression on raw pixels: {verbs.percent(pixels.accuracy)}."))

    tell(Note(coverage_table(attach(model, recipe.tune, recipe.seed))))

    clock = time.perf_counter()
    training = train(model, dataset, recipe, folder, verbs.training_progress(tell))
    tuned, after = verbs.score(model, recipe, dataset, dataset.test, "tuned", tell)
    tuned = replace(tuned, seconds=round(time.perf_counter() - clock, 2))

    sentence = verdict(pixels, simple, tuned, after)
    evaluations = [zero_shot, pixels, tuned]
    report = verbs.finish(folder, recipe, dataset, evaluations, after, training.unreadable, sentence)
    record = {
        "zero_shot": asdict(zero_shot.accuracy),
        "pixels": asdict(pixels.accuracy),
        "tuned": asdict(tuned.accuracy),
        "p_tuned_against_pixels": paired(simple, after),
        "p_tuned_against_zero_shot": paired(before, after),
        "verdict": sentence,
        "rows": [{"name": e.name, "seconds": e.seconds, "macro_f1": e.macro_f1} for e in evaluations],
        "seconds": round(time.perf_counter() - started, 1),
        "run": str(folder),
        "report": str(report),
    }
    write_json(folder / "result.json", record)
    return record


def paired(first: list[Prediction], second: list[Prediction]) -> float:
    """McNemar's p-value of two classifiers on the same samples."""
    return mcnemar([p.predicted == p.label for p in first], [p.predicted == p.label for p in second])


def verdict(first: Evaluation, before: list[Prediction], second: Evaluation, after: list[Prediction]) -> str:
    """One plain sentence on whether `second` beats `first`."""
    p = paired(before, after)
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    figures = f"{second.accuracy.accuracy:.1%} against {first.accuracy.accuracy:.1%}".replace("%", " %")
    if p >= 0.05:
        return f"These {second.accuracy.n:,} images can't tell {second.name} from {first.name}: {figures}, {chance}."
    word = "better" if second.accuracy.accuracy > first.accuracy.accuracy else "worse"
    return f"{second.name.capitalize()} is {word} than {first.name}: {figures} ({chance}, paired)."
