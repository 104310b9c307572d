"""Claim: opening a folder of 100,000 small images takes at most 3 times as long as reading their bytes.

Opening lists the folder, hashes every file's content, splits the images and checks them. The other side opens each file
and reads it. The sides take turns, with the files in the operating system's cache, where the difference is largest.

Run: python benchmarks/starting.py   (a minute; the last line is JSON)
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median

import datasets  # noqa: F401 (imported before the clock starts, as in a command that has begun)

from lensmith.data import open_dataset

CLASSES, IMAGES, ROUNDS = 100, 1000, 5


def make(folder: Path) -> None:
    """100,000 files of about 2 KB, with different content."""
    dice = random.Random(0)
    for c in range(CLASSES):
        (folder / f"class {c}").mkdir()
        for k in range(IMAGES):
            (folder / f"class {c}" / f"{k}.jpg").write_bytes(b"\xff\xd8" + dice.randbytes(dice.randrange(800, 3000)))


def read(folder: Path) -> float:
    """Seconds that reading all files takes."""
    clock = time.perf_counter()
    for place, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(place, name), "rb") as file:
                file.read()
    return time.perf_counter() - clock


def opened(folder: Path) -> float:
    """Seconds that opening the dataset takes."""
    clock = time.perf_counter()
    dataset = open_dataset(str(folder))
    seconds = time.perf_counter() - clock
    assert sum(map(len, dataset.splits)) == CLASSES * IMAGES
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        rows = [(read(Path(folder)), opened(Path(folder))) for _ in range(ROUNDS)]
    for reading, opening in rows:
        print(f"read in {reading:.2f} s, opened in {opening:.2f} s")
    ratio = median(opening / reading for reading, opening in rows)
    print(
        json.dumps(
            {"files": CLASSES * IMAGES, "opened_s": round(median(b for _, b in rows), 2), "ratio": round(ratio, 2)}
        )
    )


if __name__ == "__main__":
    main()
