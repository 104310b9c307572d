"""Pictures that differ from each other as photographs do, copies of them, and folders of both."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from lensmith.checks.survey import Survey, survey
from lensmith.data import open_dataset
from lensmith.progress import silent


def scene(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Shades and patches of colour, different for each seed."""
    random = np.random.default_rng(seed)
    levels = np.zeros((size[1], size[0], 3), np.float32)
    for side in (4, 9, 18):
        patches = random.integers(0, 256, (side, side, 3)).astype(np.uint8)
        levels += np.asarray(Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((levels / 3).astype(np.uint8))


def copy(image: Image.Image, kind: str) -> Image.Image:
    """A copy of a picture, changed as its kind says."""
    width, height = image.size
    if kind == "reencoded":
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=50)
        return Image.open(stream).convert("RGB")
    if kind == "brighter":
        return ImageEnhance.Brightness(image).enhance(1.15)
    if kind == "shifted":
        moved = Image.new("RGB", image.size, image.getpixel((0, 0)))
        moved.paste(image, (3, -2))
        return moved
    if kind == "cropped":
        return image.crop((width // 20, height // 10, width - width // 20, height))
    if kind == "mirrored":
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert kind == "rotated"
    return image.rotate(5, Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))


KINDS = ("reencoded", "brighter", "shifted", "cropped", "mirrored", "rotated")


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def folder_of(where: Path, number: int = 80) -> Path:
    """Different pictures of two classes, a quarter of them for the test."""
    for i in range(number):
        split = "test" if i % 8 in (3, 6) else "train"
        save(scene(i), where / split / ("barn" if i % 2 else "lake") / f"{i}.png")
    return where


def surveyed(where: Path | str, **options: float) -> Survey:
    return survey(open_dataset(str(where), **{"validation": 0.0} | options), 10**8, silent)  # type: ignore[arg-type]
