"""Claim: a learning curve from 300 to 6,000 images forecasts the accuracy of a probe trained on nearly ten times as
many, within 3 percentage points and within its own 90 % interval.

Runs `lensmith curve` on Fashion-MNIST with sizes up to 6,000, and with all images that are not held out for validation
(about 58,900). The accuracy at the largest size is forecast from the smaller sizes; this is the `check` of the curve's
record.

Run: python benchmarks/curve.py [METHODS]   (several minutes; the last line is JSON)
Needs Debian's `dataset-fashion-mnist`. METHODS is a list such as "probe, neighbours", the default.
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
    methods = sys.argv[1] if len(sys.argv) > 1 else "probe, neighbours"
    recipe = load_recipe("fashion-idx", ["data.validation=0.02", f"curve.methods=[{methods}]"])
    largest = len(open_data(recipe.data).train)
    recipe.curve.sizes = [*SIZES, largest]
    with tempfile.TemporaryDirectory() as folder:
        record = lensmith.curve(recipe, Path(folder) / "run", tell)
    out = {"largest": largest, "seconds": record["seconds"]}
    for method, drawn in record["curves"].items():
        check = drawn["check"]
        forecast, measured = check["forecast"], check["measured"]
        print(f"{method}: {check['sentence']}")
        out[method] = {
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
