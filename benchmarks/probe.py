"""Claim: a probe on 3,000 photographs takes less than 30 s, feature extraction included, and beats logistic regression
on pixels; its solver finds the same solution as scikit-learn's, in less time.

Runs `lensmith probe demo-fashion` with an empty cache, and a probe on pixels on the same images. Then both solvers fit
the chosen feature, in turns.

Run: python benchmarks/probe.py   (one or two minutes; the last line is JSON)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from sklearn.linear_model import LogisticRegression

from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.engine.features import PIXELS
from lensmith.learn.features.frozen import FrozenModel
from lensmith.learn.features.probes import logistic, probes, scale
from lensmith.learn.methods.fitted import correct
from lensmith.progress import silent

ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LENSMITH_CACHE"] = str(Path(folder) / "cache")
        clock = time.perf_counter()
        command = [sys.executable, "-m", "lensmith", "probe", "demo-fashion", "--run", f"{folder}/run", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        whole = time.perf_counter() - clock
        record = json.loads(done.stdout)
        recipe = load_recipe("demo-fashion")
        dataset = open_data(recipe.data)
        frozen = FrozenModel(recipe, dataset, silent)
        pixels = correct(frozen.fit(probes, [PIXELS]), frozen.table("test", pixels=True)) / len(dataset.test)
        table, feature, c = frozen.table("train"), record["probe"]["feature"], record["probe"]["setting"]
    accuracy = record["accuracy"]["accuracy"]
    print(f"{len(dataset.train):,} + {len(dataset.validation):,} images, {len(dataset.test):,} scored: {whole:.1f} s")
    print(f"probe {accuracy:.4f} ({feature}), neighbours {record['neighbours']['accuracy']['accuracy']:.4f}")
    print(f"pixels {pixels:.4f}")

    x, y = table.feature(feature), table.labels
    mean, spread = scale(x)
    x = (x - mean) / spread
    times: dict[str, list[float]] = {"lensmith": [], "scikit-learn": []}
    for _ in range(ROUNDS):
        clock = time.perf_counter()
        weight, bias = torch.zeros(10, x.shape[1]), torch.zeros(10)
        weight, bias = logistic(x, y, c, torch.ones(10), weight, bias)
        times["lensmith"].append(time.perf_counter() - clock)
        clock = time.perf_counter()
        theirs = LogisticRegression(C=c, max_iter=1000).fit(x.numpy(), y.numpy())
        times["scikit-learn"].append(time.perf_counter() - clock)
    apart = ((x @ weight.T + bias).softmax(1) - torch.tensor(theirs.predict_proba(x.numpy()))).abs().max().item()
    ratio = median(times["scikit-learn"]) / median(times["lensmith"])
    print(f"one fit of {tuple(x.shape)}: {median(times['lensmith']):.2f} s, scikit-learn {ratio:.1f} times that")
    print(f"shares at most {apart:.4f} apart")
    print(
        json.dumps(
            {
                "seconds": round(whole, 1),
                "accuracy": accuracy,
                "accuracy_pixels": pixels,
                "ratio_scikit_learn": round(ratio, 2),
                "shares_apart": round(apart, 5),
            }
        )
    )


if __name__ == "__main__":
    main()
