"""The golden run: the exact results of `nano`, computed with public functions only.

    python -m tests.golden.make

rewrites golden.json. A refactoring leaves it unchanged. A change of numbers needs its own commit, which says why.
Everything runs in float32 on one thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

import lensmith

GOLDEN = Path(__file__).with_name("golden.json")

# 160 photographs in batches of 8 are 20 steps; 64 are scored.
BASE = ["model.dtype=float32", "model.device=cpu", "data.train_limit=160", "data.test_limit=64", "data.validation=0.02"]
BASE += ["train.batch_size=8", "train.epochs=1", "train.learning_rate=0.001", "tune.rank=8", "tune.alpha=16"]
FROZEN = ["tune.vision_tower=false", "augment.shift=0", "augment.zoom=0", "augment.flip=false"]
TRAININGS = {
    "tokens": [],
    "tokens mixed": ["augment.mix=both"],
    "tokens frozen": FROZEN,
    "labels": ["train.objective=labels"],
    "labels mixed": ["train.objective=labels", "augment.mix=both", "train.negatives=3"],
    "head": ["tune.head=true", *FROZEN],
    "head mixed": ["tune.head=true", "augment.mix=both"],
}


def machine() -> str:
    """What determines the last digits: the processor, its instructions and the build of torch."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().partition("\n\n")[0].splitlines() if about.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    processor = " ".join(fields.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))
    flags = hashlib.sha256(fields.get("flags", platform.machine()).encode()).hexdigest()[:8]
    return f"{processor}, instructions {flags}, torch {torch.__version__}"


def scores(run: Path) -> list[list[float]]:
    """(images, labels) scores of a run, from its predictions file."""
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    return [[value for key, value in row.items() if key.startswith("score: ")] for row in rows]


def steps(run: Path) -> list[list[float]]:
    """(steps, 2) loss and gradient norm."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[row["loss"], row["grad_norm"]] for row in rows if "loss" in row]


def training(name: str, folder: Path) -> dict[str, Any]:
    """One of `TRAININGS`: all steps, and then the scores of the first four photographs."""
    lensmith.train(lensmith.load_recipe("demo-fashion", [*BASE, *TRAININGS[name]]), folder)
    return {"steps": steps(folder), "scores": scores(folder)[:4]}


def zero_shot(folder: Path) -> list[list[float]]:
    """The label scores of 64 photographs."""
    lensmith.evaluate(lensmith.load_recipe("demo-fashion", BASE), folder)
    return scores(folder)


def probe(folder: Path) -> dict[str, Any]:
    """The settings tried, and the scores of the first four photographs, for a probe and nearest neighbours."""
    lensmith.probe(lensmith.load_recipe("demo-fashion", BASE), folder)
    results: dict[str, Any] = {}
    for name, run in (("probe", folder), ("neighbours", folder / "neighbours")):
        fit = json.loads((run / "fit.json").read_text())
        tried = [[row["setting"], row["log_loss"], row["accuracy"]] for row in fit["tried"]]
        results[name] = {"chosen": [fit["feature"], fit["setting"]], "tried": tried, "scores": scores(run)[:4]}
    return results


def main() -> None:
    """Write golden.json."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        os.environ["LENSMITH_CACHE"] = str(folder / "cache")
        results: dict[str, Any] = {"machine": machine(), "zero-shot": zero_shot(folder / "zero-shot")}
        results |= {"probe": probe(folder / "probe")}
        results |= {"trainings": {name: training(name, folder / name) for name in TRAININGS}}
    GOLDEN.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
