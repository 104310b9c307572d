"""Claim: a frozen vision tower in eight bits (`model.quantize=int8`) is faster on a CPU without bfloat16, and its
answers differ no more than the test images can show.

Speed: the tower of LFM2-VL-450M at its published shape (random weights), 256 and 512 pixels, against the number
format that `model.dtype=auto` takes here, in turns. Answers: `lensmith probe` of nano on the demo's photographs with
both, each with a cache of its own, and the paired comparison of the 2,000 test photographs.

Run: python benchmarks/int8.py [--folder 450M's checkpoint]   (five minutes; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from limit import forward
from true_size import photographs, write_apart

import lensmith
from lensmith import models
from lensmith.config import ModelOptions, load_recipe
from lensmith.models.views import stack
from lensmith.runs.provenance import provenance

WAYS = ("none", "int8")
BATCHES = {256: 8, 512: 2}
ROUNDS = 5


def speeds(folder: str) -> dict[str, Any]:
    """Images per second of the tower, by side and way."""
    loaded = {way: models.load_base(ModelOptions(base=folder, device="cpu", quantize=way)) for way in WAYS}  # type: ignore[arg-type]
    found: dict[str, Any] = {"dtype": str(loaded["none"].compute).removeprefix("torch.")}
    for side, batch in BATCHES.items():
        views = stack([loaded["none"].prepare(one) for one in photographs(batch, side)])
        work = {way: forward(model, views) for way, model in loaded.items()}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for i in range(ROUNDS + 1):
            for way, run in work.items():
                start = time.perf_counter()
                run()
                if i:  # the first one warms up
                    seconds[way].append(time.perf_counter() - start)
        row = {way: batch / statistics.median(taken) for way, taken in seconds.items()}
        found[f"{side}px"] = row | {"ratio": row["int8"] / row["none"]}
        print(f"{side} px: {found[f'{side}px']}", flush=True)
    return found


def answers(folder: Path) -> dict[str, Any]:
    """The accuracies of both probes, and their paired difference."""
    accuracies = {}
    for way in WAYS:
        os.environ["LENSMITH_CACHE"] = str(folder / f"cache-{way}")
        record = lensmith.probe(load_recipe(None, ["data.uri=demo:fashion", f"model.quantize={way}"]), folder / way)
        accuracies[way] = record["accuracy"]
    (pair,) = lensmith.compare([folder / "none", folder / "int8"])["comparisons"]
    return {"accuracy": accuracies, "difference": pair}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", help="where the checkpoint of LFM2-VL-450M is, or is kept for reuse")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or f"{name}/450m"
        write_apart("450m", Path(folder))
        found = {"machine": provenance()["machine"], "speed": speeds(folder)}
        found |= answers(Path(name))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
