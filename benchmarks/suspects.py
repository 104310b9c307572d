"""Claim: of n labels that were flipped on purpose, at least 60 % are among the first n suspects.

Flips 5 % of the labels of the demo's 3,000 training photographs, each to a random other class, and writes all
photographs to folders. `lensmith suspects` then searches for wrong labels. This is repeated with three random draws.
The other suspects may be wrong too: Fashion-MNIST's own labels contain errors.

Run: python benchmarks/suspects.py   (one or two minutes; the last line is JSON)
"""

from __future__ import annotations

import csv
import json
import random
import tempfile
from pathlib import Path
from statistics import fmean

import lensmith
from lensmith.config import load_recipe
from lensmith.data import open_data

FLIPPED, DRAWS = 0.05, 3


def one(folder: Path, seed: int) -> tuple[float, float, int, int]:
    """Flip labels, and search for suspects.

    Returns:
        The fraction of the n flipped labels that are among the first n suspects, and among all suspects; n; and the
        number of suspects.
    """
    dataset = open_data(load_recipe("demo-fashion", ["data.validation=0"]).data)
    split, rng = dataset.train, random.Random(seed)
    flipped = set(rng.sample(range(len(split)), round(FLIPPED * len(split))))
    for i, label in enumerate(split.labels):
        given = rng.choice([other for other in dataset.labels if other != label]) if i in flipped else label
        target = folder / "images" / given
        target.mkdir(parents=True, exist_ok=True)
        split.image(i).save(target / f"{i}.png")
    recipe = load_recipe(None, [f"data.uri={folder / 'images'}", "data.test=0"])
    record = lensmith.suspects(recipe, folder / "run")
    with Path(record["table"]).open(newline="") as file:
        suspects = [int(Path(row["file"]).stem) for row in csv.DictReader(file)]
    first = flipped & set(suspects[: len(flipped)])
    return len(first) / len(flipped), len(flipped & set(suspects)) / len(flipped), len(flipped), len(suspects)


def main() -> None:
    rows = []
    for seed in range(DRAWS):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(Path(folder), seed))
        first, among_all, flipped, suspects = rows[-1]
        print(
            f"{flipped} flipped: {first:.1%} among the first {flipped} suspects, {among_all:.1%} among all {suspects}",
            flush=True,
        )
    print(json.dumps({"found": round(fmean(r[0] for r in rows), 3), "least": round(min(r[0] for r in rows), 3)}))


if __name__ == "__main__":
    main()
