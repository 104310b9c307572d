"""`lensmith curve`: measure accuracy against the number of labels, and extrapolate it with a power law."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import append_line, write_json
from lensmith.runs.folder import REPORT, Run, begin_run, require_one_process
from lensmith.runs.provenance import facts
from lensmith.runs.shapes import PointRow, rows_as
from lensmith.verbs import terminal
from lensmith.verbs.opening import opening

if TYPE_CHECKING:
    from lensmith.data import ImageDataset
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.learn.methods import Method
    from lensmith.pages.learning_curve import Curve

RECORD = "curve.json"
EXAMPLES = ("lensmith curve my-images", "lensmith curve my-images 'curve.methods=[probe, lora]'")
POINTS = "points.jsonl"
"""File in the run folder with a row for each model."""
SIZES, LEAST = 6, 4
"""Number of sizes if the recipe names none, and the minimum number for a curve."""
SPAN = 32
"""Maximum ratio of the largest of these sizes to the smallest."""


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    parts: list[terminal.Part] = []
    for name, curve_record in record["curves"].items():
        rows = [[f"{p['size']:,}", f"{p['mean'] * 100:.1f} %"] for p in curve_record["points"]]
        check = [curve_record["check"]["sentence"]] if curve_record["check"] else []
        table = terminal.Table([f"images ({name})", "accuracy"], rows, left=frozenset())
        parts += [table, "", curve_record["sentence"], *check, ""]
    return [*parts, terminal.path_line("Report", record["report"]), terminal.next_line("suspects", record["run"])]


def curve(recipe: Recipe, folder: Path | None = None, tell: Tell = silent, resume: bool = False) -> dict[str, Any]:
    """Train or fit classifiers with increasing numbers of labels, and fit a power law to their accuracies.

    Each classifier is scored once on the test images, which influence no choice. A method makes its choices on the
    validation images, which are the same for all sizes.

    Args:
        folder: the run folder; runs/NAME-curve-TIME if None.
        tell: called with progress.
        resume: resume the run in `folder`, keeping the models measured so far; see `lensmith.resume`.

    Returns:
        The record: `curves` by method (`points`, `forecast`, `sentence`, `check`, `law`), `run`, `report`.

    Raises:
        UserError: see `open_data` and `Method`; also if there are too few images.
        Stopped: Ctrl-C; results measured so far are kept.
    """
    from lensmith.learn import methods
    from lensmith.learn.features.frozen import SharedFrozenModel
    from lensmith.pages.learning_curve import LearningCurveData, write_learning_curve

    require_one_process("curve")
    started, options = time.perf_counter(), recipe.curve
    drawn = methods.chosen("curve.methods", options.methods, learning=True)
    dataset = open_data(recipe.data, tell)
    dataset.require("test", hint="A learning curve is measured on test images.")
    sizes = sizes_of(recipe, dataset)
    for method in () if resume else drawn:
        method.require(method.recipe(recipe), dataset)
    run = begin_run(folder, recipe, dataset, "curve", tell, resume)
    shared = SharedFrozenModel(recipe, dataset, tell)
    seconds, memory = (None, None) if resume else expected(drawn, shared, sizes)
    opening(run, seconds, dataset.test, [dataset.how_split], memory)
    tell(Note(f"Sizes: {', '.join(f'{size:,}' for size in sizes)}; {options.seeds} subsets of each."))
    try:
        rows = measure(drawn, run, shared, sizes)
    except KeyboardInterrupt:
        raise Stopped(run.folder) from None
    points = {m.name: [(int(r["size"]), r["right"] / r["n"]) for r in rows if r["method"] == m.name] for m in drawn}
    fits = [fit(name, points[name], options.ahead) for name in points]
    for fitted in fits:
        tell(Note(f"{fitted.line.name}: {fitted.line.sentence}"))
    report = run.folder / REPORT
    # The test images must not choose the best method, so the verdict names none.
    ahead = ", ".join(f"{f.line.name} {f.record['forecast']['accuracy'] * 100:.1f} %" for f in fits)
    verdict = fits[0].line.sentence if len(fits) == 1 else f"At {sizes[-1] * options.ahead:,.0f} images: {ahead}."
    data = LearningCurveData(
        title=f"Accuracy against the number of labels, on {dataset.uri}",
        verdict=verdict,
        curves=[f.line for f in fits],
        measured=len(dataset.test),
        facts=facts(run.folder),
        notes=list(dataset.notes),
    )
    write_learning_curve(report, data)
    record = {
        "curves": {f.line.name: f.record for f in fits},
        "seconds": time.perf_counter() - started,
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / RECORD, record)
    return record


def sizes_of(recipe: Recipe, dataset: ImageDataset) -> list[int]:
    """The numbers of training images, in ascending order.

    Raises:
        UserError: there are too few images for four sizes that include every class, or for the sizes in the recipe.
    """
    n, classes = len(dataset.train), len(dataset.labels)
    if recipe.curve.sizes:
        sizes = sorted(set(recipe.curve.sizes))
        if sizes[-1] > n:
            raise UserError(
                f"curve.sizes has {sizes[-1]:,}, but there are only {n:,} training images.", "Use smaller sizes."
            )
        if sizes[0] < classes:
            raise UserError(
                f"curve.sizes has {sizes[0]:,}, but there are {classes:,} classes, and each needs an image.",
                "Use larger sizes.",
            )
    else:
        first = max(2 * classes, n / SPAN)
        ratio = max(1.0, n / first) ** (1 / (SIZES - 1))
        sizes = sorted({round(first * ratio**k) for k in range(SIZES)} if n > first else {n})
    if len(sizes) < LEAST or sizes[-1] < 2 * sizes[0]:
        need = f"A learning curve needs {LEAST} sizes, the largest at least twice the smallest"
        if recipe.curve.sizes:
            raise UserError(f"{need}: curve.sizes has {', '.join(map(str, sizes))}.", "Use others.")
        raise UserError(
            f"{need}, which is {2 * classes:,} images, but there are only {n:,} training images.",
            f"Add images, up to at least {4 * classes:,}.",
        )
    return sizes


def expected(
    drawn: Sequence[Method], shared: SharedFrozenModel, sizes: Sequence[int]
) -> tuple[float | None, int | None]:
    """About how many seconds and bytes of memory a learning curve will take; None if that can't be told."""
    from lensmith.measure import pace

    recipe, dataset, n = shared.recipe, shared.dataset, len(shared.dataset.train)
    measured = pace.measure(shared.load().asked, dataset.train, recipe.data.max_pixels)
    if not measured:
        return None, None
    seconds, trained = measured.features(sum(map(len, dataset.splits))), {}
    for method, size, _ in plan(drawn, sizes, recipe.curve.seeds, n):
        own = method.recipe(recipe)
        if making := method.seconds(measured, own, dataset):  # trained, and scored as it answers, not by features
            seconds += making * size / n + measured.scoring(len(dataset.test))
            trained[method.name] = own
    return seconds, measured.peak(trained.values())


def measure(drawn: Sequence[Method], run: Run, shared: SharedFrozenModel, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each model, from the folder or measured now: method, size, seed, the number of correct test images
    (`right`) out of `n`, and the seconds it took."""
    path = run.folder / POINTS
    rows = [row | {"method": row.get("method", row.get("rung"))} for row in rows_as(path, PointRow)]
    done = {(row["method"], row["size"], row["seed"]) for row in rows}
    for method, size, seed in plan(drawn, sizes, run.recipe.curve.seeds, len(run.dataset.train)):
        name = method.name
        if (name, size, seed) in done:
            continue
        clock, n = time.perf_counter(), len(run.dataset.test)
        inner = run.inner(f"{name}-{size}-{seed}", method.recipe(run.recipe))
        correct = method.correct(inner, shared, size, seed)
        seconds = time.perf_counter() - clock
        row = {"method": name, "size": size, "seed": seed, "right": correct, "n": n, "seconds": seconds}
        append_line(path, row)
        shutil.rmtree(inner.folder, ignore_errors=True)
        rows.append(row)
        run.tell(Note(f"{name}, {size:,} images, subset {seed + 1}: {correct / n * 100:.1f} % correct."))
    return rows


def plan(drawn: Sequence[Method], sizes: Sequence[int], seeds: int, n: int) -> Iterator[tuple[Method, int, int]]:
    """Method, size and seed of each model. A deterministic method is fitted only once on all n images."""
    for method in drawn:
        for size in sizes:
            for seed in range(1 if size == n and method.deterministic else seeds):
                yield method, size, seed


@dataclass(frozen=True)
class Fit:
    """The power law fitted to one method's points, as plain values and for the page."""

    record: dict[str, Any]
    line: Curve


def fit(method: str, points: Sequence[tuple[int, float]], ahead: float) -> Fit:
    """Fit a power law to one method's points: (training images, accuracy) of each model."""
    from lensmith.measure import power_law
    from lensmith.pages.learning_curve import Curve

    law = power_law.PowerLaw.fit(points)
    first, last = min(n for n, _ in points), max(n for n, _ in points)
    steps = 60
    at = [law.at(first * (ahead * last / first) ** (k / steps)) for k in range(steps + 1)]
    tested = power_law.check(points)
    line = Curve(
        name=method,
        points=list(points),
        band=[(f.images, f.low, f.accuracy, f.high) for f in at],
        sentence=power_law.sentence(law, last, ahead),
        check=tested.sentence if tested else "",
        law=law.describe(),
    )
    by_size = defaultdict(list)
    for size, accuracy in points:
        by_size[size].append(accuracy)
    record = {
        "points": [{"size": size, "accuracies": values, "mean": fmean(values)} for size, values in by_size.items()],
        "forecast": asdict(at[-1]),
        "sentence": line.sentence,
        "check": asdict(tested) if tested else None,
        "law": {"floor": law.floor, "scale": law.scale, "rate": law.rate},
    }
    return Fit(record, line)


_command = terminal.RecipeCommand("curve", curve, text)
arguments, run = _command.arguments, _command.run
