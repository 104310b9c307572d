"""Claim: what is hot runs close to what the machine's matrix products allow, in nano and in LFM2-VL-450M at its true
size (random weights at the published shape, as `true_size.py` writes them).

For each model and side of the images: the vision tower alone, all features of a probe, scoring after the demo's
question, and a training step with LoRA. Each is counted as it runs (`floor.Count`) and timed in turns with a large
product in the same number format, so `share` is operations per second over the machine's own matrix rate of that
minute. PyTorch's profiler says where the rest goes: attention's kernels, copies and casts, softmax, norms and other
small operations, and what is no operation at all (Python, and the waiting between operations).

The number format is the one that `model.dtype=auto` takes on this machine. `plain` is the tower with attention by plain
products, which is what every release did up to commit bbb3563; `tower_512_ratio` is the tower's images/s over those, or
over the commit's that is named.

Run: python benchmarks/limit.py [--models nano,450m] [--device cpu|cuda] [--against COMMIT]
`--against` also measures the source of an earlier commit, in turns with this one, for a table of before and after.
(15 minutes for both models, twice that with --against; the last line is JSON.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from floor import Count, matrix_rate
from torch.profiler import ProfilerActivity, profile
from true_size import Training, photographs, rounded, synchronize, write_apart

from lensmith import models
from lensmith.config import ModelOptions, load_recipe
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import feature_names
from lensmith.engine.question import make_question
from lensmith.models.base import Model
from lensmith.models.tuning import attach
from lensmith.models.views import Views, stack
from lensmith.runs.provenance import provenance

SIDES = {"nano": (28,), "450m": (256, 512)}
BATCHES = {("nano", 28): (256, 256, 64), ("450m", 256): (8, 4, 4), ("450m", 512): (2, 2, 2)}
"""Images of the tower and the features, of scoring, and of a training step."""
ROUNDS = 3
LABELS = ["Ankle boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser"]
KINDS = {
    "products": ("addmm", "::mm", "bmm", "linear", "baddbmm", "matmul"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "copies": ("copy_", "_to_copy", "::cat", "clone", "contiguous", "index", "gather", "fill_", "zero_", "stack"),
    "softmax": ("softmax", "logsumexp", "sigmoid", "::exp", "masked_fill"),
}
"""What an operation of PyTorch counts as, by a part of its name; all others are `pointwise`."""


@dataclass(frozen=True)
class Case:
    """One hot thing."""

    name: str
    images: int
    run: Callable[[], Any]
    model: Model


def cases(size: str, folder: str, device: str) -> Iterator[Case]:
    """The hot things of one model, in turn; the training is the last one, since it changes the model."""
    options = ModelOptions(base=folder, device=device)
    for learning in (False, True):
        model = models.load_base(options)
        recipe = load_recipe("demo-fashion" if size == "nano" else None, [])
        if learning:
            attach(model, recipe.tune, LABELS)
        for side in SIDES[size]:
            first, scored, batch = BATCHES[size, side]
            if learning:
                training = Training(model, side, batch, recipe=recipe, names=LABELS)
                yield Case(f"training_{side}", batch, training.step, model)
                continue
            views = stack([model.prepare(one) for one in photographs(first, side)])
            classifier = Classifier(model, make_question(model, recipe.question, LABELS), top=1, batch_size=scored)
            yield Case(f"tower_{side}", first, forward(model, views), model)
            if size != "nano":
                yield Case(f"plain_{side}", first, plainly(model, views), model)
            every = partial(classifier.features, views, feature_names(model))
            yield Case(f"features_{side}", first, every, model)
            yield Case(f"scoring_{side}", scored, partial(classifier.score, tuple(v[:scored] for v in views)), model)


def forward(model: Model, views: Views) -> Callable[[], None]:
    """The tower, as it is."""

    def run() -> None:
        with torch.inference_mode(), model.autocast():
            model.encode_images(views)

    return run


def plainly(model: Model, views: Views) -> Callable[[], None]:
    """The tower with attention by plain products, whatever it is set to."""
    tower = model.network.get_submodule(model.components["vision_tower"])
    run = forward(model, views)

    def work() -> None:
        before = tower.config._attn_implementation
        tower.set_attn_implementation("eager")
        run()
        tower.set_attn_implementation(before)

    return work


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Images per second, operations per image, share of the matrix rate, and the profile."""
    with Count(case.model) as count:
        case.run()
    rates, seconds = [], []
    for _ in range(rounds):
        rates.append(matrix_rate(case.model.device, case.model.compute)[1])
        start = time.perf_counter()
        case.run()
        synchronize(case.model.device)
        seconds.append(time.perf_counter() - start)
    middle, speed = statistics.median(seconds), statistics.median(rates)
    row: dict[str, Any] = {"images_per_s": case.images / middle, "share": count.total / middle / speed}
    row |= {"giga_operations": count.total / case.images / 1e9, "matrix_gflops": speed / 1e9}
    row["parts"] = {part: n / count.total for part, n in count.operations.items()}
    return row | {"time": profiled(case)}


def profiled(case: Case) -> dict[str, float]:
    """Fractions of the time by kind of operation; `between` is what no operation takes."""
    gpu = case.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with profile(activities=activities) as found:
        start = time.perf_counter()
        case.run()
        synchronize(case.model.device)
        taken = time.perf_counter() - start
    totals = dict.fromkeys([*KINDS, "pointwise"], 0.0)
    for event in found.key_averages():
        kind = next((k for k, parts in KINDS.items() if any(part in event.key for part in parts)), "pointwise")
        totals[kind] += (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6
    return {kind: total / taken for kind, total in totals.items()} | {"between": 1 - sum(totals.values()) / taken}


def one(size: str, folder: str, device: str, rounds: int) -> dict[str, Any]:
    """All cases of one model in this process."""
    found: dict[str, Any] = {}
    for case in cases(size, folder, device):
        found[case.name] = measured(case, rounds)
        found["dtype"] = str(case.model.compute).removeprefix("torch.")
        print(f"{size} {case.name}: {json.dumps(rounded(found[case.name], 3))}", file=sys.stderr, flush=True)
    return found


def apart(args: argparse.Namespace, size: str, folder: str, source: Path | None) -> dict[str, Any]:
    """`one` in a process of its own, with the source of another commit if that is given."""
    command = [sys.executable, __file__, "--one", size, "--folder", folder]
    command += ["--device", args.device, "--rounds", str(args.rounds)]
    environment = dict(os.environ) | ({"PYTHONPATH": str(source)} if source else {})
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(sides: dict[str, dict[str, Any]]) -> list[str]:
    """The rows of a Markdown table: each model's cases, for each commit."""
    kinds = [*KINDS, "pointwise", "between"]
    lines = [f"| | source | images/s | share | {' | '.join(kinds)} |", "|---|---|---" + "|---" * (len(kinds) + 1) + "|"]
    for size in next(iter(sides.values())):
        for name in (name for name in next(iter(sides.values()))[size] if name != "dtype"):
            for source, found in sides.items():
                row = found[size][name]
                shares = " | ".join(f"{row['time'][kind]:.0%}" for kind in kinds)
                speed = f"{row['images_per_s']:.3g} | {row['share']:.0%}"
                lines.append(f"| {size} {name} | {source} | {speed} | {shares} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="nano,450m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--against", metavar="COMMIT", help="also measure the source of this commit")
    parser.add_argument("--folder", help="where the checkpoint of 450m is, or is kept for reuse")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.folder, args.device, args.rounds)))
        return
    sources: dict[str, Path | None] = {"now": None}
    with tempfile.TemporaryDirectory() as name:
        if args.against:
            tree = Path(name) / "before"
            subprocess.run(["git", "worktree", "add", "--detach", "--quiet", tree, args.against], check=True)
            sources = {args.against: tree / "src", "now": None}
        sides: dict[str, dict[str, Any]] = {source: {} for source in sources}
        try:
            for size in args.models.split(","):
                folder = "nano" if size == "nano" else args.folder or f"{name}/{size}"
                if size != "nano":
                    write_apart(size, Path(folder))
                for source, path in sources.items():
                    sides[source][size] = apart(args, size, folder, path)
        finally:
            if args.against:
                subprocess.run(["git", "worktree", "remove", "--force", tree], check=True)
    print("\n".join(table(sides)))
    now = sides["now"]
    claims = {"tower_256": ("450m", "tower_256"), "tower_512": ("450m", "tower_512")}
    claims |= {"training_450m": ("450m", "training_256"), "training_nano": ("nano", "training_28")}
    claims |= {"scoring_nano": ("nano", "scoring_28")}
    figures = {claim: now[size][case]["share"] for claim, (size, case) in claims.items() if size in now}
    if "450m" in now:
        earlier = sides[args.against]["450m"]["tower_512"] if args.against else now["450m"]["plain_512"]
        figures["tower_512_ratio"] = now["450m"]["tower_512"]["images_per_s"] / earlier["images_per_s"]
    record = {"machine": provenance()["machine"], "torch": torch.__version__}
    print(json.dumps(record | {"models": rounded(sides, 3)} | rounded(figures, 3)))


if __name__ == "__main__":
    main()
