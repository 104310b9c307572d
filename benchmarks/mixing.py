"""Question: do MixUp and CutMix help, with few photographs and with many?

nano is trained on clothes (Fashion-MNIST) by the demo's recipe, with 300 and with 3,000 photographs; the smaller set is
a subset of the larger. Each is trained without mixing, with MixUp, with CutMix, and with both alternating, three seeds
each. The objective is `tokens`, where a mixed image forks into its two answers. All models are scored on the 10,000
test photographs. Differences from no mixing are paired by image, over all seeds. Their interval is over images (Bonett
and Price), and the p-value is that of the exact McNemar test.

Trainings run in parallel with one thread each, so that the result does not depend on the number of cores.

Run: python benchmarks/mixing.py [--quick]   (half an hour on two cores; the last line is JSON)
Needs Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.engine.classifier import Classifier, predict
from lensmith.learn.learner import prepare
from lensmith.learn.loop import train
from lensmith.measure.metrics import accuracy
from lensmith.measure.paired import compare
from lensmith.records import Prediction
from lensmith.runs.folder import Run
from lensmith.runs.provenance import provenance

EPOCHS = {300: 20, 3000: 6}
MIXES = ("none", "mixup", "cutmix", "both")
SEEDS = (0, 1, 2)


def trained(images: int, mix: str, seed: int, epochs: float) -> list[Prediction]:
    """Predictions of the test photographs after training."""
    torch.set_num_threads(1)
    options = [f"data.train_limit={images}", f"train.epochs={epochs}", "train.batch_size=32", f"seed={seed}"]
    # The last weights are scored: choosing among checkpoints would be another source of differences.
    recipe = load_recipe("fashion-idx", [*options, f"augment.mix={mix}", "train.validate_every=1000000"])
    dataset = open_data(recipe.data)
    dataset = replace(dataset, validation=dataset.validation.take(1))
    learner = prepare(recipe, dataset)
    with tempfile.TemporaryDirectory() as folder:
        train(learner, Run(Path(folder), recipe, dataset))
    tuned = learner.tuned
    tuned.model.network.eval()
    classifier = Classifier(tuned.model, learner.question, tuned.head, top=1, tolerance=1)
    # Ids differ between seeds, so that all seeds together are one comparison.
    return [replace(p, id=f"{p.id} {seed}") for p in predict(classifier, dataset.test.items())]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed and part of an epoch, to see that it runs")
    quick = parser.parse_args().quick
    seeds = SEEDS[:1] if quick else SEEDS
    print(f"nano, clothes, {len(seeds)} seeds, 10,000 test photographs, {provenance()['machine']}")
    print(f"{'photographs':>11} {'mix':<8}{'accuracy':>9}   of each seed         points to none    p")
    table: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        runs = {
            (images, mix): [pool.submit(trained, images, mix, seed, 0.1 if quick else epochs) for seed in seeds]
            for images, epochs in EPOCHS.items()
            for mix in MIXES
        }
        for (images, mix), jobs in runs.items():
            each = [job.result() for job in jobs]
            rates = [accuracy(predictions).accuracy for predictions in each]
            line = f"{images:>11,} {mix:<8}{statistics.mean(rates):>9.2%}   {' '.join(f'{a:.2%}' for a in rates):<21}"
            pooled = [p for predictions in each for p in predictions]
            if mix == "none":
                plain = pooled
            else:
                against = compare("none", plain, mix, pooled)
                gap = against.difference
                line += f" {100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})  {against.p:.1g}"
            print(line, flush=True)
            table.setdefault(str(images), {})[mix] = round(statistics.mean(rates), 4)
    print(json.dumps(table))


if __name__ == "__main__":
    main()
