"""The verb that tells which method is worth its time: from the model as it is to LoRA, on one dataset."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, pvariance
from typing import TYPE_CHECKING, Any

from lensmith import verbs
from lensmith.config import LadderOptions, Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError
from lensmith.measure.paired import compare, power_hint
from lensmith.progress import LOOKING, Advance, Note, Tell, counter, silent
from lensmith.records import Prediction, Rate, percent
from lensmith.runs.files import read_json, write_json
from lensmith.runs.folder import PREDICTIONS, begin_run, facts, read_evaluation, require_one_process, resumed, start_run

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.pages.ladder import MethodRow

VALIDATION, MADE, CHOICE = "validation.parquet", "made.json", "choice.json"
"""In a rung's folder: its answers to the validation images, and what making it took; in the ladder's: what was chosen
before any test image was looked at."""


FLATTERED = (
    "A training's checkpoint, a probe's vector and strength, a calibration were chosen on the validation images too: "
    "that flatters most what had most to choose from, and the less the more images there are (data.validation)."
)
LOOKED = "Images had been looked at before, so what neighbours and probe took is without that."


def ladder(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Make a classifier by each method, choose one on the validation images, and score all once on the test images.

    Each rung has a run folder of its own within, for `evaluate` and `compare`, and for `predict` where it has learnt.

    Returns:
        The record: `rungs` (accuracies, seconds, dollars), `chosen`, `verdict`, `sentences`, `run`, `report`.

    Raises:
        UserError: see `config`, `data`, `models`, `probes.fit` and `training.train`; or there is a part without images.
        Stopped: Ctrl-C; what was done is kept.
    """
    from lensmith.learn.batches import class_weights
    from lensmith.learn.methods import ABOUT, recipe_of, require_trainable
    from lensmith.pages.ladder import LadderData, write_ladder

    require_one_process("ladder")
    started, options = time.perf_counter(), recipe.ladder
    dataset = open_data(recipe.data)
    for part in (dataset.train, dataset.validation, dataset.test):
        if not len(part):
            raise UserError(f"{recipe.data.uri} has no {part.name} images.", "A ladder needs all three parts.")
    names: list[str] = [name for name in ABOUT if name in options.rungs]
    if set(names) - {"zero-shot", "calibrated"}:
        class_weights(dataset.train, dataset.labels, recipe.train.class_weights)  # each class has an image
    for name in names:
        if name.startswith("lora") and not resume:
            require_trainable(recipe_of(name, recipe), dataset)
    folder = begin_run(folder, recipe, dataset, "ladder", resume)
    tell(Note(dataset.describe()))
    tell(Note(power_hint(len(dataset.test))))
    try:
        make(names, recipe, dataset, folder, tell)
        checked = {name: answers(name, recipe, dataset, "validation", folder, tell) for name in names}
        chosen, verdict = choose(names, checked, len(dataset.validation))
        write_json(folder / CHOICE, {"chosen": chosen, "verdict": verdict})
        tell(Note(verdict))
        tested = {name: answers(name, recipe, dataset, "test", folder, tell) for name in names}
    except KeyboardInterrupt:
        raise Stopped(folder, "ladder") from None
    rows = [row(name, checked[name], dataset, folder, options) for name in names]
    spent = [read_json(folder / name / MADE) for name in names]
    sentences = confirm(names, chosen, checked, tested)
    report = folder / "report.html"
    write_ladder(
        report,
        LadderData(
            title=f"Which method for {dataset.uri}",
            verdict=verdict,
            sentences=sentences,
            methods=rows,
            chosen=chosen,
            facts=facts(folder),
            notes=[*dataset.notes, FLATTERED, *([LOOKED] if any(made["looked_before"] for made in spent) else [])],
        ),
    )
    record = {
        "rungs": [asdict(r) for r in rows],
        "chosen": chosen,
        "verdict": verdict,
        "sentences": sentences,
        "seconds": time.perf_counter() - started,
        "run": str(folder),
        "report": str(report),
    }
    write_json(folder / "ladder.json", record)
    return record


def resume_ladder(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Go on with a ladder that was stopped; no rung is made twice.

    Raises:
        UserError: the folder holds no run, or the run is finished.
    """
    return ladder(resumed(folder, "ladder", "ladder.json"), folder, tell, resume=True)


class Counting:
    """Passes on what is told, and counts the images that are looked at."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.images = tell, 0

    def __call__(self, event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == LOOKING and event.done == event.total:
            self.images += event.total
        self.tell(event)


def make(names: Sequence[str], recipe: Recipe, dataset: ImageDataset, folder: Path, tell: Tell) -> None:
    """Make each rung into its run folder, as far as it isn't there; test images are not touched."""
    from lensmith.learn.methods import ABOUT, FITTED, Frozen, recipe_of, taught

    frozen, looked, before = None, 0.0, False
    for name in names:
        place = folder / name
        if (place / MADE).exists():
            continue
        tell(Note(f"{name}: {ABOUT[name]}."))
        own, begun, note, seconds = recipe_of(name, recipe), (place / "record.json").exists(), "", 0.0
        place.mkdir(exist_ok=True)
        if not begun:
            start_run(place, own, dataset)
        if name in FITTED:
            clock = time.perf_counter()
            if frozen is None:
                counting = Counting(tell)
                frozen = Frozen(recipe, dataset, counting)
                frozen.table("train"), frozen.table("validation")
                looked, before = time.perf_counter() - clock, counting.images < len(dataset.train)
                clock = time.perf_counter()
            found = frozen.fit(name)
            frozen.keep(found, name, place)
            # Looking is part of each of them, though it is done once.
            note, seconds = found.sentence(), looked + time.perf_counter() - clock
        elif name.startswith("lora"):
            frozen, clock = None, time.perf_counter()  # the other model's memory is free
            training = taught(own, dataset, place, tell, resume=begun)[1]
            seconds = max(training.seconds, time.perf_counter() - clock)  # the former counts what was before a stop
        write_json(place / MADE, {"seconds": seconds, "note": note, "looked_before": before})


def answers(
    name: str, recipe: Recipe, dataset: ImageDataset, part: str, folder: Path, tell: Tell
) -> Sequence[Prediction]:
    """A rung's answers to `validation` or `test`, from its folder or made now."""
    from lensmith import models
    from lensmith.learn.methods import recipe_of
    from lensmith.measure import evaluation
    from lensmith.runs.predictions import read_predictions

    place, split = folder / name, getattr(dataset, part)
    path = place / (VALIDATION if part == "validation" else PREDICTIONS)
    done = (place / "report.html").exists() if part == "test" else path.exists()
    if not done:
        own = recipe_of(name, recipe)
        adapter = str(place) if (place / "adapter").is_dir() else None
        classifier = evaluation.classifier_for(models.load(replace(own.model, adapter=adapter)), own, dataset)
        if part == "test":
            if not (place / "evaluation.json").exists():
                note = str(read_json(place / MADE)["note"])
                verbs.score(classifier, own, dataset, split, name, place, tell, "ladder", [note] if note else [])
            if adapter:
                verbs.keep_calibration(place)
            answered = read_predictions(path)
            verbs.finish(place, split, [read_evaluation(place)], answered)
            return answered
        checked = counter(f"calibrating ({name})", len(split), tell)
        evaluation.calibrated(classifier, dataset, own, dataset.test, place / verbs.CALIBRATION, checked)
        progress = counter(f"validating ({name})", len(split), tell)
        evaluation.score(classifier, split, path, own, "ladder", progress)
    return read_predictions(path)


def choose(names: Sequence[str], checked: Mapping[str, Sequence[Prediction]], images: int) -> tuple[str, str]:
    """The cheapest rung within a standard error of the best one on so many validation images, and why, in a sentence.

    The rule is that of Breiman et al. (1984) for pruning trees; the error is that of the difference on the same images.
    To take the cheapest that a test can't tell from the best would be worse the fewer images there are.
    """
    from lensmith.measure.metrics import accuracy, is_right

    rates = {name: accuracy(checked[name]) for name in names}
    right = {name: [is_right(p) for p in checked[name]] for name in names}
    best = max(names, key=lambda name: rates[name].accuracy)

    def behind(name: str) -> tuple[float, float]:
        """By how much less it is right than the best one, and the standard error of that."""
        differences = [int(b) - int(a) for a, b in zip(right[name], right[best], strict=True)]
        mean = fmean(differences)
        return mean, (pvariance(differences, mean) / len(differences)) ** 0.5

    chosen = next(name for name in names if behind(name)[0] <= behind(name)[1])
    said = f"Take {chosen}: {percent(rates[chosen])} of the {images:,} validation images right"
    if chosen != best:
        least, error = behind(chosen)
        return chosen, (
            f"{said}. The best, {best}, has {percent(rates[best])}: {least * 100:.1f} points more, which is within a "
            f"standard error ({error * 100:.1f}) of none."
        )
    why = "above all that is cheaper by more than a standard error" if chosen != names[0] else "and it is the cheapest"
    return chosen, f"{said}, {why}."


def confirm(
    names: Sequence[str],
    chosen: str,
    checked: Mapping[str, Sequence[Prediction]],
    tested: Mapping[str, Sequence[Prediction]],
) -> list[str]:
    """What the test images say of the choice: against the cheapest and the best on validation, and what is as good."""
    from lensmith.measure.metrics import accuracy

    best = max(names, key=lambda name: accuracy(checked[name]).accuracy)
    against = {name: compare(name, tested[name], chosen, tested[chosen]) for name in names if name != chosen}
    said = [
        f"On the test images: {against[name].sentence}" for name in dict.fromkeys([names[0], best]) if name != chosen
    ]
    alike = [f"{name} with {percent(c.accuracy_first)}" for name, c in against.items() if c.verdict == "can't tell"]
    if alike:
        said.append(f"On the test images {chosen} can't be told from {' nor from '.join(alike)}.")
    return said


def row(
    name: str, checked: Sequence[Prediction], dataset: ImageDataset, folder: Path, options: LadderOptions
) -> MethodRow:
    """A rung's line in the table."""
    from lensmith.learn.methods import ABOUT, labels_of
    from lensmith.measure.metrics import accuracy
    from lensmith.pages.ladder import MethodRow

    found = read_json(folder / name / "evaluation.json")
    seconds, labels = float(read_json(folder / name / MADE)["seconds"]), labels_of(name, dataset)
    free = not options.hour and not options.label
    return MethodRow(
        name=name,
        about=ABOUT[name],
        validation=accuracy(checked),
        test=Rate(**found["accuracy"]),
        labels=labels,
        seconds=seconds,
        per_thousand=1000 * float(found["seconds"]) / len(dataset.test),
        dollars=None if free else seconds / 3600 * options.hour + labels * options.label,
    )
