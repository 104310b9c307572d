"""Claim: a learning curve from 300 to 6,000 images says within 3 points, and within its own 90 % interval, how often a
probe is right that has learnt from nearly ten times as many.

Runs `lensmith curve` on Fashion-MNIST with sizes up to 6,000 and all that are not kept for validation (some 58,900),
whose forecast from the others is what the verb calls its check.

Run: python benchmarks/curve.py   (some minutes; the last line is JSON). Needs Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import lensmith
from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.progress import Advance, Note

SIZES = (300, 600, 1200, 2400, 6000)


def tell(event: Note | Advance) -> None:
    """Print notes, and nothing else."""
    if isinstance(event, Note):
        print(event.text, flush=True)


def main() -> None:
    rungs = sys.argv[1] if len(sys.argv) > 1 else "probe, neighbours"
    recipe = load_recipe("fashion-idx", ["data.validation=0.02", f"curve.methods=[{rungs}]"])
    largest = len(open_data(recipe.data).train)
    recipe.curve.sizes = [*SIZES, largest]
    with tempfile.TemporaryDirectory() as folder:
        record = lensmith.curve(recipe, Path(folder) / "run", tell)
    out = {"largest": largest, "seconds": record["seconds"]}
    for rung, found in record["curves"].items():
        forecast, measured = found["check"]["forecast"], found["check"]["measured"]
        print(f"{rung}: {found['check']['sentence']}")
        out[rung] = {
            "forecast": round(forecast["accuracy"], 4),
            "low": round(forecast["low"], 4),
            "high": round(forecast["high"], 4),
            "measured": round(measured, 4),
            "points_off": round(100 * abs(forecast["accuracy"] - measured), 2),
            "within": forecast["low"] <= measured <= forecast["high"],
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
