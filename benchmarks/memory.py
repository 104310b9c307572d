"""Claim: memory use while scoring does not grow with the number of images.

Scores 500 and 50,000 photographs of Fashion-MNIST's training split with nano, each in a separate process. The code path
is that of `lensmith evaluate`, without the report: dataset, windows of predictions on disk, joined file, evaluation.

Run: python benchmarks/memory.py   (several minutes; the last line is JSON). Needs Debian's `dataset-fashion-mnist`.
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

SIZES = (500, 50_000)


def one(count: int) -> None:
    """Score `count` images, and print the peak memory of this process as JSON."""
    from lensmith import models
    from lensmith.engine.question import make_question
    from lensmith.measure.evaluation import classifier_for, score_split
    from lensmith.runs.folder import Run

    recipe = load_recipe("fashion-idx", [f"data.train_limit={count}", "data.validation=0"])
    dataset = open_data(recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        tuned = models.load(recipe.model)
        question = make_question(tuned.model, recipe.question, dataset.labels)
        classifier = classifier_for(tuned, question, recipe.evaluate)
        run = Run(Path(folder), recipe, dataset)
        evaluation = score_split(run, classifier, dataset.train, "zero-shot").evaluation
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images": evaluation.accuracy.n, "peak_mb": round(peak, 1), "seconds": evaluation.seconds}))


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
