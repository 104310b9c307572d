"""Pictures drawn from a number, for comparing how they are prepared with how transformers' original prepares them.

numpy and Pillow alone, because the original runs in an environment of its own (benchmarks/peers) and must be shown the
same pictures; of numpy only the raw bits of a generator, which numpy promises to keep, and whole numbers from there on.
"""

from __future__ import annotations

from itertools import groupby
from re import findall
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Case = tuple[int, int, int]
"""Width, height and seed of a picture."""

# Around the size from which on LFM2-VL cuts an image into tiles, each pair on both sides of it.
THRESHOLD = [(720, 720), (721, 721), (721, 720), (725, 724), (512, 1008), (512, 1041), (1600, 336), (1600, 337)]
SIZES = [
    *((1, 1), (16, 16), (28, 28), (32, 32), (33, 47), (224, 224), (256, 256), (511, 513), (512, 512), (640, 480)),
    *THRESHOLD,
    *((10, 500), (15, 2900), (800, 800), (1024, 1024), (1000, 400), (400, 1000), (2000, 100), (100, 2000)),
    *((1920, 1080), (3000, 2000), (4000, 3000)),
]

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("lfm2_vl", {}),
    "no thumbnail": ("lfm2_vl", {"use_thumbnail": False}),
    "no splitting": ("lfm2_vl", {"do_image_splitting": False}),
    "lfm3": ("lfm3_vl", {}),
}
"""Name -> family, and in what its images' settings differ from those of `checkpoints.make`."""


def bits(seed: int, count: int) -> NDArray[np.uint8]:
    """(count,) bytes that follow from a number."""
    return np.random.PCG64(seed).random_raw(count // 8 + 1).view(np.uint8)[:count]


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture with structures of every size, hard edges and grain, as a photograph has: about 3 MB as a JPEG of
    12 megapixels and quality 90."""
    total = np.full((height, width, 3), 128 * 16, np.int16)
    for cells, weight in ((3, 12), (12, 6), (60, 4), (300, 3), (1500, 2)):
        rows, columns = max(1, cells * height // max(width, height)), max(1, cells * width // max(width, height))
        if cells > 2 * max(width, height):
            break
        layer = bits(seed * 1000 + cells, rows * columns * 3).reshape(rows, columns, 3)
        scaled = Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(scaled, dtype=np.int16) - 128) * np.int16(weight)
    edges = bits(seed * 1000 + 1, 40).astype(int).reshape(8, 5)
    for x, y, w, h, shade in edges:
        left, top = x * width // 256, y * height // 256
        total[top : top + h * height // 700 + 1, left : left + w * width // 700 + 1] += shade * 12 - 1536
    grain = bits(seed * 1000 + 2, height * width).reshape(height, width, 1)
    total += (grain >> 4).astype(np.int16) * 10 - 75
    return Image.fromarray((total >> 4).clip(0, 255).astype(np.uint8))


def cases(count: int) -> list[Case]:
    """`SIZES`, and then pictures of sides from 8 to 2,047, with no side 200 times as long as the other.

    Longer ones are left out: Lensmith squeezes them into the budget, where LFM2-VL's original goes beyond it and
    LFM3-VL's refuses them.
    """
    found = [(width, height, seed) for seed, (width, height) in enumerate(SIZES)]
    numbers = np.random.PCG64(7).random_raw(8 * count).tolist()
    while len(found) < count:
        sides = []
        for _ in range(2):
            least = 8 << numbers.pop() % 8
            sides.append(least + numbers.pop() % least)
        width, height = sides
        if max(width, height) < 200 * min(width, height):
            found.append((width, height, len(found)))
    return found


def places(seed: int, count: int, below: int) -> list[int]:
    """`count` pseudo-random numbers below another."""
    return [int(number % below) for number in np.random.PCG64(seed).random_raw(count).tolist()]


def runs(words: str) -> list[list[Any]]:
    """Special tokens and how often each stands in a row."""
    return [[token, len(list(same))] for token, same in groupby(findall("<[^>]+>", words))]
