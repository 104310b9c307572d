"""The verb that says what more labels would bring: accuracy against their number, and a law through it."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import append_line, read_lines, write_json
from lensmith.runs.folder import begin_run, facts, require_one_process, resumed, start_run

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.learn.methods import Frozen
    from lensmith.pages.learning_curve import Curve

POINTS = "points.jsonl"
"""In the run folder: a row for each model."""
SIZES, LEAST = 6, 4
"""Sizes that are chosen where the recipe names none; and how many a curve needs."""
SPAN = 32
"""The largest of them over the smallest, at most."""


def curve(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Make classifiers with more and more labels, and fit a power law to how often they are right.

    Each is scored once on the test images, and nothing is chosen by that; what a rung chooses, it chooses on the
    validation images, which are the same for all sizes.

    Returns:
        The record: `curves` by rung (`points`, `forecast`, `sentence`, `check`, `law`), `run`, `report`.

    Raises:
        UserError: see `config`, `data`, `models`, `probes.fit`, `training.train`; or there are too few images.
        Stopped: Ctrl-C; what was measured is kept.
    """
    from lensmith.learn.methods import recipe_of, require_trainable
    from lensmith.pages.learning_curve import LearningCurveData, write_learning_curve

    require_one_process("curve")
    started = time.perf_counter()
    dataset = open_data(recipe.data)
    if not len(dataset.test):
        raise UserError(f"{recipe.data.uri} has no test images.", "A learning curve is measured on them.")
    sizes = sizes_of(recipe, dataset)
    for rung in recipe.curve.rungs:
        if rung.startswith("lora") and not resume:
            require_trainable(recipe_of(rung, recipe), dataset)
    folder = begin_run(folder, recipe, dataset, "curve", resume)
    tell(Note(dataset.describe()))
    tell(Note(f"Sizes: {', '.join(f'{size:,}' for size in sizes)}; {recipe.curve.seeds} subsets of each."))
    try:
        rows = measure(recipe, dataset, sizes, folder, tell)
    except KeyboardInterrupt:
        raise Stopped(folder, "curve") from None
    curves: dict[str, dict[str, Any]] = {}
    lines = []
    for rung in recipe.curve.rungs:
        points = [(int(r["size"]), r["right"] / r["n"]) for r in rows if r["rung"] == rung]
        found, line = fitted(rung, points, recipe.curve.ahead)
        curves[rung] = found
        lines.append(line)
        tell(Note(f"{rung}: {line.sentence}"))
    report = folder / "report.html"
    # Which method is best is not for the test images to say.
    ahead = ", ".join(f"{name} {found['forecast']['accuracy'] * 100:.1f} %" for name, found in curves.items())
    verdict = lines[0].sentence if len(lines) == 1 else f"At {sizes[-1] * recipe.curve.ahead:,.0f} images: {ahead}."
    data = LearningCurveData(
        title=f"What more labels bring, on {dataset.uri}",
        verdict=verdict,
        curves=lines,
        measured=len(dataset.test),
        facts=facts(folder),
        notes=list(dataset.notes),
    )
    write_learning_curve(report, data)
    record = {
        "curves": curves,
        "seconds": time.perf_counter() - started,
        "run": str(folder),
        "report": str(report),
    }
    write_json(folder / "curve.json", record)
    return record


def resume_curve(folder: Path, tell: Tell = silent) -> dict[str, Any]:
    """Go on with a curve that was stopped; no model is made twice.

    Raises:
        UserError: the folder holds no run, or the run is finished.
    """
    return curve(resumed(folder, "curve", "curve.json"), folder, tell, resume=True)


def sizes_of(recipe: Recipe, dataset: ImageDataset) -> list[int]:
    """The numbers of training images, smallest first.

    Raises:
        UserError: there are too few images for four sizes that hold every class, or for those that the recipe names.
    """
    n, classes = len(dataset.train), len(dataset.labels)
    if recipe.curve.sizes:
        sizes = sorted(set(recipe.curve.sizes))
        if sizes[-1] > n:
            raise UserError(
                f"curve.sizes has {sizes[-1]:,}, but there are only {n:,} training images.", "Name smaller sizes."
            )
        if sizes[0] < classes:
            raise UserError(
                f"curve.sizes has {sizes[0]:,}, but there are {classes:,} classes, and each needs an image.",
                "Name larger sizes.",
            )
    else:
        first = max(2 * classes, n / SPAN)
        ratio = max(1.0, n / first) ** (1 / (SIZES - 1))
        sizes = sorted({round(first * ratio**k) for k in range(SIZES)} if n > first else {n})
    if len(sizes) < LEAST or sizes[-1] < 2 * sizes[0]:
        need = f"A learning curve needs {LEAST} sizes, of which the largest is twice the smallest"
        if recipe.curve.sizes:
            raise UserError(f"{need}: curve.sizes has {', '.join(map(str, sizes))}.", "Name others.")
        raise UserError(
            f"{need}, which is {2 * classes:,} images, and there are {n:,} training images.",
            f"Add some, to {4 * classes:,} or more.",
        )
    return sizes


def measure(
    recipe: Recipe, dataset: ImageDataset, sizes: Sequence[int], folder: Path, tell: Tell
) -> list[dict[str, Any]]:
    """A row for each model, from the folder or made now: rung, size, seed, how many of n test images it has right, and
    the seconds it took."""
    from lensmith.learn.methods import FITTED, Frozen

    path = folder / POINTS
    rows = list(read_lines(path)) if path.exists() else []
    done = {(r["rung"], r["size"], r["seed"]) for r in rows}
    frozen: Frozen | None = None
    for rung, size, seed in plan(recipe, sizes, len(dataset.train)):
        if (rung, size, seed) in done:
            continue
        clock = time.perf_counter()
        if rung in FITTED:
            frozen = frozen or Frozen(recipe, dataset, tell)
            right = _fit(frozen, rung, size, recipe.seed + seed)
        else:
            frozen = None  # its model's memory
            right = _train(recipe, rung, dataset, size, seed, folder / f"{rung}-{size}-{seed}", tell)
        seconds, n = time.perf_counter() - clock, len(dataset.test)
        row = {"rung": rung, "size": size, "seed": seed, "right": right, "n": n, "seconds": seconds}
        append_line(path, row)
        shutil.rmtree(folder / f"{rung}-{size}-{seed}", ignore_errors=True)
        rows.append(row)
        tell(Note(f"{rung}, {size:,} images, subset {seed + 1}: {right / n * 100:.1f} % right."))
    return rows


def plan(recipe: Recipe, sizes: Sequence[int], n: int) -> Iterator[tuple[str, int, int]]:
    """Rung, size and seed of each model. All the images are one subset, of which a fit makes the same each time."""
    from lensmith.learn.methods import FITTED

    for rung in recipe.curve.rungs:
        for size in sizes:
            for seed in range(1 if size == n and rung in FITTED else recipe.curve.seeds):
                yield rung, size, seed


def fitted(rung: str, points: Sequence[tuple[int, float]], ahead: float) -> tuple[dict[str, Any], Curve]:
    """The law through one rung's points, as plain values and for the page."""
    from lensmith.measure import power_law
    from lensmith.pages.learning_curve import Curve

    law = power_law.PowerLaw.fit(points)
    first, last = min(n for n, _ in points), max(n for n, _ in points)
    steps = 60
    at = [law.at(first * (ahead * last / first) ** (k / steps)) for k in range(steps + 1)]
    tested = power_law.check(points)
    line = Curve(
        name=rung,
        points=list(points),
        band=[(f.images, f.low, f.accuracy, f.high) for f in at],
        sentence=power_law.sentence(law, last, ahead),
        check=tested[2] if tested else "",
        law=law.describe(),
    )
    by_size = defaultdict(list)
    for size, accuracy in points:
        by_size[size].append(accuracy)
    return {
        "points": [{"size": size, "accuracies": values, "mean": fmean(values)} for size, values in by_size.items()],
        "forecast": asdict(at[-1]),
        "sentence": line.sentence,
        "check": {"forecast": asdict(tested[0]), "measured": tested[1], "sentence": tested[2]} if tested else None,
        "law": {"floor": law.floor, "scale": law.scale, "rate": law.rate},
    }, line


def _fit(frozen: Frozen, rung: str, size: int, seed: int) -> int:
    from lensmith.learn.methods import right

    part, table = set(frozen.dataset.train.take(size, seed).ids), frozen.table("train")
    ids = frozen.dataset.train.ids
    found = frozen.fit(rung, table.some([k for k, i in enumerate(table.rows) if ids[i] in part]))
    return right(found, frozen.table("test"))


def _train(recipe: Recipe, rung: str, dataset: ImageDataset, size: int, seed: int, folder: Path, tell: Tell) -> int:
    from lensmith.learn.loop import validate
    from lensmith.learn.methods import recipe_of, taught
    from lensmith.learn.processes import Processes

    own = replace(recipe_of(rung, recipe), seed=recipe.seed + seed)
    part = replace(dataset, train=dataset.train.take(size, own.seed))
    begun = (folder / "record.json").exists()
    if not begun:
        folder.mkdir(exist_ok=True)
        start_run(folder, own, part)
    classifier, _ = taught(own, part, folder, tell, resume=begun)
    # Test images, scored by the loop that scores validation images: only the answers count here.
    found, _ = validate(classifier.model, replace(part, validation=dataset.test), own, Processes())
    return round(found.accuracy * found.n) if found else 0
