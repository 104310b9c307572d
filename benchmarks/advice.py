"""Claim: a ladder's advice takes the cheapest of those methods that 10,000 test photographs can't tell from the best.

Of what few_labels.py has made of 3,000 labels (run it first), in two parts:

- `rule`: the rule alone, on 1,000 sets of 50 to 600 test photographs of each draw, with all methods and without the
  blend; beside it the rule that it replaced, the cheapest within a standard error of the highest accuracy.
- `ladder`: the ladder's own advice for each draw and each of four sets of 300 other photographs as validation images,
  four fifths of which choose settings and weights, and the other fifth judges them, until each has judged.

`right` is how often the advice is the cheapest of the methods that McNemar's test at 5 % can't tell from the most
accurate one, `loses` by how many points of accuracy it is below the latter.

Run: python benchmarks/advice.py [--work FOLDER]   (about 20 minutes; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import few_labels as few
import torch
from torch import Tensor

from lensmith.learn import made
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.learn.methods import methods
from lensmith.measure.calibration import temperature
from lensmith.measure.choice import Judged, choose
from lensmith.measure.metrics import mcnemar, wilson
from lensmith.runs.folder import begin_run
from lensmith.runs.provenance import provenance

NAMES = ["zero-shot", "neighbours", "probe", "lora", "lora+head", "blend"]
LADDERS = {"with blend": NAMES, "without": NAMES[:-1]}
SIZES, TIMES, SETS, VALIDATION = (50, 100, 150, 300, 600), 1000, 4, 300


class Draw:
    """What each method says of the test photographs in one draw."""

    def __init__(self, scores: dict[str, Tensor], y: Tensor) -> None:
        self.y = y
        self.right = {name: s.argmax(1) == y for name, s in scores.items()}
        logs = {name: (s / temperature(s[::5], y[::5])).log_softmax(1) for name, s in scores.items()}
        self.losses = {name: -log[torch.arange(len(y)), y] for name, log in logs.items()}

    def accuracy(self, name: str) -> float:
        """In percent."""
        return 100 * float(self.right[name].float().mean())

    def best(self, names: Sequence[str]) -> str:
        """The most accurate method."""
        return max(names, key=self.accuracy)

    def cheapest(self, names: Sequence[str]) -> str:
        """The cheapest method that can't be told from the most accurate one."""
        first = self.right[self.best(names)].tolist()
        return next(name for name in names if mcnemar(first, self.right[name].tolist()) > 0.05)


def made_before(cell: few.Cell, name: str) -> Tensor:
    """The test scores of a method, which few_labels.py has made."""

    def missing() -> Tensor:
        raise SystemExit(f"{cell.work} has no scores of {name}: run few_labels.py first")

    if name == "zero-shot":
        return cell.tested.answers
    return cell.adapter(name) if name in few.TRAINED else cell.piece(name, missing)


def by_loss(draw: Draw, names: Sequence[str], rows: Tensor) -> str:
    """The ladder's rule."""
    judged = {
        n: Judged(draw.losses[n][rows].tolist(), wilson(int(draw.right[n][rows].sum()), len(rows))) for n in names
    }
    return choose(names, judged).chosen


def by_accuracy(draw: Draw, names: Sequence[str], rows: Tensor) -> str:
    """The rule before: the cheapest within a standard error of the highest accuracy."""
    right = {name: draw.right[name][rows].float() for name in names}
    best = max(names, key=lambda name: float(right[name].mean()))
    gaps = {name: (right[best] - right[name]).tolist() for name in names}
    return next(name for name in names if fmean(gaps[name]) <= pstdev(gaps[name]) / len(rows) ** 0.5)


class Tally:
    """How often advice was right, and what it lost."""

    def __init__(self) -> None:
        self.right, self.lost, self.taken = list[bool](), list[float](), Counter[str]()

    def add(self, chosen: str, cheapest: str, lost: float) -> None:
        """Count one piece of advice."""
        self.right.append(chosen == cheapest)
        self.lost.append(lost)
        self.taken[chosen] += 1

    def record(self) -> dict[str, Any]:
        """The figures."""
        return {"right": fmean(self.right), "loses": fmean(self.lost), "n": len(self.right), "taken": dict(self.taken)}


def simulated(draws: Sequence[Draw], names: Sequence[str], size: int, rule: Callable[..., str]) -> dict[str, Any]:
    """A rule on random sets of test photographs."""
    generator, tally = torch.Generator().manual_seed(0), Tally()
    for draw in draws:
        cheapest, best = draw.cheapest(names), draw.accuracy(draw.best(names))
        for _ in range(TIMES):
            chosen = rule(draw, names, torch.randperm(len(draw.y), generator=generator)[:size])
            tally.add(chosen, cheapest, best - draw.accuracy(chosen))
    return tally.record()


def advised(cell: few.Cell, work: Path, number: int) -> dict[str, Judged]:
    """What other photographs as validation images say of a cell's methods, as a ladder asks them."""
    own = set(cell.pool.ids)
    others = cell.tested.whole.train.take(2 * few.FULL * len(cell.dataset.labels), 1000 + number)
    pairs = zip(others.ids, others.labels, strict=True)
    others = others.relabelled([None if name in own else label for name, label in pairs]).take(VALIDATION, number)
    dataset = replace(cell.dataset, validation=others.named("validation"))
    folder = work / "advice" / f"{cell.draw}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    run = begin_run(folder, cell.recipe, dataset, "ladder")
    inner = {name: run.inner(name, methods()[name].recipe(cell.recipe)) for name in NAMES}
    for made_here in inner.values():
        made_here.ensure_started()
    for name in few.TRAINED:
        before, here = cell.run.folder / name, inner[name].folder
        shutil.copytree(before / "adapter", here / "adapter")
        shutil.copyfile(before / made.MADE, here / made.MADE)
        made.validation_predictions(inner[name], name)
    shared = SharedFrozenModel(cell.recipe, dataset, lambda event: None)
    return made.judge(run, [methods()[name] for name in NAMES], inner, shared)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "few-labels")
    work = parser.parse_args().work
    whole, recipe = few.opened()
    tested = few.Tested(work, whole, recipe)
    cells = [few.Cell(work, whole, recipe, few.FULL, number, tested) for number in range(few.DRAWS)]
    draws = [Draw({name: made_before(cell, name) for name in NAMES}, tested.labels) for cell in cells]
    rule: dict[str, Any] = {}
    for ladder, names in LADDERS.items():
        for size in SIZES:
            for how in (by_loss, by_accuracy):
                found = rule.setdefault(ladder, {}).setdefault(how.__name__, {})
                found[str(size)] = simulated(draws, names, size, how)
                print("rule", ladder, size, how.__name__, found[str(size)], flush=True)
    tallies = {ladder: Tally() for ladder in LADDERS}
    for cell, draw in zip(cells, draws, strict=True):
        for number in range(SETS):
            judged = advised(cell, work, number)
            for ladder, names in LADDERS.items():
                chosen, best = choose(names, judged).chosen, draw.accuracy(draw.best(names))
                tallies[ladder].add(chosen, draw.cheapest(names), best - draw.accuracy(chosen))
            print("ladder", cell.draw, number, {k: tally.record() for k, tally in tallies.items()}, file=sys.stderr)
    ladders = {ladder: tally.record() for ladder, tally in tallies.items()}
    print(json.dumps({"ladder": ladders, "rule": rule, **provenance()}))


if __name__ == "__main__":
    main()
