"""Claim: memory while scoring does not grow with the number of images.

Scores 500 and 50,000 photographs of Fashion-MNIST's training part with nano, each in a process of its own, by the same
path as `lensmith evaluate`, report aside: dataset, windows of predictions on disk, joined file, figures.

Run: python benchmarks/memory.py   (some minutes; the last line is JSON). Needs Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.progress import silent

SIZES = (500, 50_000)


def one(count: int) -> None:
    from lensmith import models, verbs
    from lensmith.measure.evaluation import classifier_for

    recipe = load_recipe("fashion-idx", [f"data.train_limit={count}", "data.validation=0"])
    dataset = open_data(recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        found, _ = verbs.score(
            classifier_for(models.load_base(recipe.model), recipe, dataset),
            recipe,
            dataset,
            dataset.train,
            "zero-shot",
            Path(folder),
            silent,
            "evaluate",
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images": found.accuracy.n, "peak_mb": round(peak, 1), "seconds": found.seconds}))


def main() -> None:
    if len(sys.argv) > 1:
        return one(int(sys.argv[1]))
    rows = []
    for count in SIZES:
        done = subprocess.run([sys.executable, __file__, str(count)], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{rows[-1]['images']:>7,} images   peak {rows[-1]['peak_mb']:>7.1f} MB   {rows[-1]['seconds']:.1f} s",
            flush=True,
        )
    few, many = rows
    print(
        json.dumps(
            {
                "ratio_memory": round(many["peak_mb"] / few["peak_mb"], 3),
                "peak_mb": many["peak_mb"],
                "images_per_s": round(many["images"] / many["seconds"], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
