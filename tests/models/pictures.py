"""Pictures generated from a seed, to compare how Lensmith and transformers' original prepare them.

This module only uses numpy and Pillow, because the original runs in a separate environment (benchmarks/peers) and must
get the same pictures. From numpy it uses only the raw bits of a generator, which numpy guarantees to keep, and integer
arithmetic.
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

# Around the size above which LFM2-VL splits an image into tiles: each pair lies on both sides of it.
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
"""Name -> family, and the image settings that override those of `checkpoints.make`."""


def bits(seed: int, count: int) -> NDArray[np.uint8]:
    """(count,) pseudo-random bytes."""
    return np.random.PCG64(seed).random_raw(count // 8 + 1).view(np.uint8)[:count]


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture with structures of every size, hard edges and grain, like a photograph. At 12 megapixels it is about
    3 MB as a JPEG of quality 90."""
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
    """`SIZES`, and then pictures with sides from 8 to 2,047 and an aspect ratio below 200.

    More elongated ones are left out: Lensmith squeezes them into the budget, while LFM2-VL's original exceeds it and
    LFM3-VL's refuses them.
    """
    cases = [(width, height, seed) for seed, (width, height) in enumerate(SIZES)]
    numbers = np.random.PCG64(7).random_raw(8 * count).tolist()
    while len(cases) < count:
        sides = []
        for _ in range(2):
            lowest = 8 << numbers.pop() % 8
            sides.append(lowest + numbers.pop() % lowest)
        width, height = sides
        if max(width, height) < 200 * min(width, height):
            cases.append((width, height, len(cases)))
    return cases


def sample_indices(seed: int, count: int, below: int) -> list[int]:
    """`count` pseudo-random integers in 0..below - 1."""
    return [int(number % below) for number in np.random.PCG64(seed).random_raw(count).tolist()]


def runs(words: str) -> list[list[Any]]:
    """Runs of equal special tokens: [token, length] each."""
    return [[token, len(list(same))] for token, same in groupby(findall("<[^>]+>", words))]
