"""Claim: beside one busy process on each core, Lensmith keeps at least a third of its speed, and what makes that
possible costs at most 5 % on a quiet machine.

PyTorch's threads wait for each other by spinning, and a spinning thread keeps the one it waits for from running. So
Lensmith limits the spinning (`GOMP_SPINCOUNT` in `lensmith/threads.py`). Each measurement is a process of its own, with
that setting or with the default of PyTorch's OpenMP library; the two settings take turns. It scores the demo's
photographs, trains by the demo's recipe, and extracts features and fits a probe, for some seconds each. The busy
processes are endless loops, one pinned to each core.

Run: python benchmarks/load.py   (a quarter of an hour on a quiet machine; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import lensmith

ROUNDS, SECONDS = 5, 6.0
PARTS = ("scoring", "training", "probing")
DEFAULT, OURS = "default", "lensmith"


def measure(setting: str) -> dict[str, float]:
    """Images per second of each part, in this process."""
    if setting == DEFAULT:
        os.environ.pop("GOMP_SPINCOUNT", None)
    elif setting != OURS:
        os.environ["GOMP_SPINCOUNT"] = setting  # another value, to find the best
    # Only now: the setting is read when torch is loaded.
    from lensmith.data import open_data
    from lensmith.engine.classifier import predict
    from lensmith.errors import Stopped
    from lensmith.learn.features import probes
    from lensmith.learn.features.frozen import FrozenModel
    from lensmith.learn.learner import prepare
    from lensmith.learn.loop import train
    from lensmith.progress import Advance, Note, silent
    from lensmith.runs.folder import Run

    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LENSMITH_CACHE"] = f"{folder}/cache"
        recipe = lensmith.load_recipe("demo-fashion", ["data.train_limit=600"])
        dataset = open_data(recipe.data)
        frozen = FrozenModel(recipe, dataset, silent)
        images = dataset.test.take(256)

        def score() -> None:
            list(predict(frozen.asked, images.items(recipe.data.max_pixels, frozen.model.sufficient_size)))

        score()
        done, clock = 0, time.perf_counter()
        while (seconds := time.perf_counter() - clock) < SECONDS:
            score()
            done += len(images)
        rates["scoring"] = done / seconds

        clock = time.perf_counter()
        frozen.fit(probes.probes)
        rates["probing"] = (len(dataset.train) + len(dataset.validation)) / (time.perf_counter() - clock)

        first: list[float] = []

        def tell(event: Note | Advance) -> None:
            if not isinstance(event, Advance) or event.task != "training":
                return
            first.append(time.perf_counter())
            warm = first[5:]
            if len(warm) > 5 and warm[-1] - warm[0] > SECONDS:
                rates["training"] = (len(warm) - 1) * recipe.train.batch_size / (warm[-1] - warm[0])
                raise KeyboardInterrupt

        recipe.train.epochs, recipe.train.validate_every = 1000, 1000
        run = Path(folder) / "run"
        run.mkdir()
        with suppress(Stopped):
            train(prepare(recipe, dataset), Run(run, recipe, dataset, tell))
    return rates


@contextmanager
def busy() -> Iterator[None]:
    """A busy process on each core."""
    loops = []
    for core in sorted(os.sched_getaffinity(0)):
        # It ends with this process, however that ends.
        code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile os.getppid() == {os.getpid()}: sum(range(10**6))"
        loops.append(subprocess.Popen([sys.executable, "-c", code]))
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measured(setting: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", setting]
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--settings", nargs="+", default=[DEFAULT, OURS], help=f"{DEFAULT}, {OURS}, or a spin count")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    quiet: dict[str, list[dict[str, float]]] = {setting: [] for setting in args.settings}
    loaded: dict[str, list[dict[str, float]]] = {setting: [] for setting in args.settings}
    for number in range(args.rounds):
        for setting in args.settings if number % 2 else args.settings[::-1]:
            quiet[setting].append(measured(setting))
            print(f"quiet, {setting}: {quiet[setting][-1]}", flush=True)
    for _ in range(max(1, args.rounds // 2)):
        for setting in args.settings:
            with busy():
                loaded[setting].append(measured(setting))
            print(f"busy, {setting}: {loaded[setting][-1]}", flush=True)

    def rate(rows: list[dict[str, float]], part: str) -> float:
        return median(row[part] for row in rows)

    print(f"\n{'images/s':<20}" + "".join(f"{part + (' busy' if b else ''):>15}" for part in PARTS for b in (0, 1)))
    for setting in args.settings:
        rates = [rate(rows[setting], part) for part in PARTS for rows in (quiet, loaded)]
        print(f"{setting:<20}" + "".join(f"{value:>15.0f}" for value in rates))
    if {DEFAULT, OURS} <= set(args.settings):
        summary = {f"{p}_kept": round(rate(loaded[OURS], p) / rate(quiet[OURS], p), 3) for p in PARTS}
        # Neighbours in time are compared, since a machine's speed drifts.
        ratios = {p: [b[p] / a[p] for a, b in zip(quiet[DEFAULT], quiet[OURS], strict=True)] for p in PARTS}
        summary |= {f"quiet_ratio_{p}": round(median(values), 3) for p, values in ratios.items()}
        summary["quiet_ratio"] = min(summary[f"quiet_ratio_{p}"] for p in PARTS)
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
