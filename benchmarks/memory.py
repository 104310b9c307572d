"""Claim: memory use while scoring does not grow with the number of images, and a verb states its peak before it starts.

Scores 500 and 50,000 photographs of Fashion-MNIST's training split with nano, each in a separate process. The code path
is that of `lensmith evaluate`, without the report: dataset, windows of predictions on disk, joined file, evaluation.

With `--stated SIZE`, it instead runs `evaluate`, `probe` and `train` on 24 photographs of 512 pixels with a model of
LFM2-VL's true size (random weights), each in a process of its own, and compares its peak with what it said at the
start.

Run: python benchmarks/memory.py [--stated 450m|1.6b] [--folder ITS_CHECKPOINT]
(several minutes; the last line is JSON). Without options it needs Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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


VERBS = {"evaluate": ["evaluate"], "probe": ["probe"], "train": ["train", "train.epochs=1"]}
RUN_AND_TELL = (
    "import resource, sys; from lensmith.cli.main import main; code = main(sys.argv[1:]);"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024); sys.exit(code)"
)


def stated(size: str, checkpoint: str | None, verbs: str) -> None:
    """Print what each verb states and what it takes, and both as JSON."""
    from true_size import photographs, write_apart

    rows: dict[str, dict[str, float | str]] = {}
    with tempfile.TemporaryDirectory() as name:
        model = Path(checkpoint or f"{name}/model")
        write_apart(size, model)
        for i, image in enumerate(photographs(24, 512)):
            target = Path(name) / "images" / ("round" if i % 2 else "square") / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)
        for verb, words in ((verb, VERBS[verb]) for verb in verbs.split(",")):
            command = [sys.executable, "-c", RUN_AND_TELL, *words, f"{name}/images", f"model.base={model}"]
            command += ["model.device=cpu", "--run", f"{name}/{verb}"]
            environment = os.environ | {"LENSMITH_CACHE": f"{name}/cache-{verb}"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            said = re.search(r"It will take .*", done.stderr)
            if done.returncode or not said:
                raise SystemExit(done.stderr[-2000:])
            limit = re.search(r"([\d.]+) GB of memory", said[0])
            rows[verb] = {"said": said[0], "stated_gb": float(limit[1]) if limit else 0.0}
            rows[verb]["peak_gb"] = round(int(done.stdout.splitlines()[-1]) / 1e9, 2)
            print(f"{verb}: {rows[verb]}", flush=True)
    print(json.dumps({"size": size, "verbs": rows}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", nargs="?", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stated", metavar="SIZE", help="450m or 1.6b")
    parser.add_argument("--folder", help="where its checkpoint is, or is kept for reuse")
    parser.add_argument("--verbs", default=",".join(VERBS), help="those that are run with --stated")
    args = parser.parse_args()
    if args.stated:
        return stated(args.stated, args.folder, args.verbs)
    if args.count:
        return one(args.count)
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
