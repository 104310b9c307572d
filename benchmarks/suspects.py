"""Claim: of labels that were flipped on purpose, at least 60 % are among as many suspects.

Flips 5 % of the labels of the demo's 3,000 training photographs, each to another class at random, writes all of them
to folders, and looks for suspects with `lensmith suspects`; three draws. The rest of the suspects may be wrong too:
Fashion-MNIST's own labels are not without error.

Run: python benchmarks/suspects.py   (a minute or two; the last line is JSON)
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

SHARE, DRAWS = 0.05, 3


def one(folder: Path, seed: int) -> tuple[float, float, int, int]:
    """The share of the flipped among as many suspects, and among all; how many were flipped, and how many suspects."""
    dataset = open_data(load_recipe("demo-fashion", ["data.validation=0"]).data)
    split, chance = dataset.train, random.Random(seed)
    flipped = set(chance.sample(range(len(split)), round(SHARE * len(split))))
    for i, label in enumerate(split.labels):
        given = chance.choice([other for other in dataset.labels if other != label]) if i in flipped else label
        place = folder / "images" / given
        place.mkdir(parents=True, exist_ok=True)
        split.image(i).save(place / f"{i}.png")
    recipe = load_recipe(None, [f"data.uri={folder / 'images'}", "data.test=0"])
    record = lensmith.suspects(recipe, folder / "run")
    with Path(record["table"]).open(newline="") as file:
        found = [int(Path(row["file"]).stem) for row in csv.DictReader(file)]
    first = flipped & set(found[: len(flipped)])
    return len(first) / len(flipped), len(flipped & set(found)) / len(flipped), len(flipped), len(found)


def main() -> None:
    rows = []
    for seed in range(DRAWS):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(Path(folder), seed))
        first, whole, flipped, found = rows[-1]
        print(
            f"{flipped} flipped: {first:.1%} among the first {flipped} suspects, {whole:.1%} among all {found}",
            flush=True,
        )
    print(json.dumps({"found": round(fmean(r[0] for r in rows), 3), "least": round(min(r[0] for r in rows), 3)}))


if __name__ == "__main__":
    main()
