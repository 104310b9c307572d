"""How a taught model's answers change when its images do: re-encoded, scaled, blurred, noisy, bright, cropped, turned.

Names and strengths are those of ImageNet-C (severities 1 to 3, the mildest three of five) for images of 64 pixels or
more, and of CIFAR-10-C for smaller ones. A blur is as strong as there, relative to images of 224 or 32 pixels. Crops
and turns aren't among theirs; their strengths are stated.

Source: D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to common corruptions and perturbations,
ICLR 2019, and its code.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from lensmith.data import Split
from lensmith.engine.classifier import Classifier, predict
from lensmith.errors import ImageError
from lensmith.measure.paired import compare
from lensmith.progress import Tell, counter
from lensmith.records import Comparison, Prediction

SMALL = 64
"""Images with a shorter side than this, in pixels, are changed by CIFAR-10-C's strengths."""
Changed = Callable[[Image.Image, float, int], Image.Image]
"""Takes an RGB image, a strength and a seed."""


@dataclass(frozen=True)
class Change:
    """One way to change an image, in three strengths."""

    name: str
    """ImageNet-C's name, if it has one."""
    about: str
    """What it does; `{}` stands for the strength."""
    large: tuple[float, ...]
    small: tuple[float, ...]
    """The strengths for small images."""
    apply: Changed

    def strengths(self, image: Image.Image) -> tuple[float, ...]:
        """The strengths for images of this size."""
        return self.small if min(image.size) < SMALL else self.large


@dataclass(frozen=True)
class Stressed:
    """A run's answers to images under one change, paired with its answers to the images as they are."""

    change: str
    about: str
    severity: int
    comparison: Comparison
    """The clean answers first."""
    changed: int
    """The number of images whose answer is another."""

    def sentence(self) -> str:
        """What the change makes of the answers."""
        c = self.comparison
        than = f"{c.accuracy_second.accuracy:.1%} instead of {c.accuracy_first.accuracy:.1%}".replace("%", " %")
        tells = f"which is {c.verdict}" if c.verdict != "can't tell" else f"which {c.n:,} images can't tell apart"
        what = f"{self.about[0].upper()}{self.about[1:]}"
        return f"{what}: {self.changed:,} of {c.n:,} answers change; {than} are correct, {tells}."


def jpeg_compression(image: Image.Image, quality: float, seed: int = 0) -> Image.Image:
    """The image after saving it as a JPEG of this quality."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(quality))
    return Image.open(stream).convert("RGB")


def gaussian_noise(image: Image.Image, spread: float, seed: int) -> Image.Image:
    """With normally distributed noise in each channel, of this standard deviation relative to white."""
    levels = np.asarray(image, np.float32) / 255
    noise = np.random.default_rng(seed).normal(0, spread, levels.shape)
    return Image.fromarray(np.uint8((levels + noise).clip(0, 1) * 255))


def gaussian_blur(image: Image.Image, radius: float, seed: int = 0) -> Image.Image:
    """Blurred by a radius that is stated for a shorter side of 224 pixels (32 for small images)."""
    side = min(image.size)
    return image.filter(ImageFilter.GaussianBlur(radius * side / (32 if side < SMALL else 224)))


def brightness(image: Image.Image, added: float, seed: int = 0) -> Image.Image:
    """With this added to the value of each pixel (the V of HSV)."""
    levels = np.asarray(image.convert("HSV")).copy()
    levels[..., 2] = (levels[..., 2].astype(np.float32) + 255 * added).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels, "HSV").convert("RGB")


def contrast(image: Image.Image, kept: float, seed: int = 0) -> Image.Image:
    """With this fraction of the contrast left."""
    levels = np.asarray(image, np.float32)
    mean = levels.mean((0, 1), keepdims=True)
    return Image.fromarray(np.uint8(((levels - mean) * kept + mean).clip(0, 255)))


def pixelate(image: Image.Image, kept: float, seed: int = 0) -> Image.Image:
    """Scaled down to this fraction of its sides, and up again without smoothing."""
    width, height = image.size
    small = image.resize((max(1, int(width * kept)), max(1, int(height * kept))), Image.Resampling.BOX)
    return small.resize((width, height), Image.Resampling.BOX)


def crop(image: Image.Image, removed: float, seed: int) -> Image.Image:
    """Without this fraction of its width and height, taken from the edges at random."""
    width, height = image.size
    across, down = round(width * removed), round(height * removed)
    random = np.random.default_rng(seed)
    left, top = int(random.integers(0, across + 1)), int(random.integers(0, down + 1))
    return image.crop((left, top, left + max(1, width - across), top + max(1, height - down)))


def rotate(image: Image.Image, degrees: float, seed: int) -> Image.Image:
    """Turned to one side by this angle; the corners are filled with the colour of the edge."""
    angle = degrees if seed % 2 else -degrees
    edge = image.resize((3, 3), Image.Resampling.BOX).getpixel((0, 0))
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=edge)


def borders(image: Image.Image, removed: float, seed: int = 0) -> Image.Image:
    """Without this fraction of its width and height, half of it on each side."""
    width, height = image.size
    across, down = math.ceil(width * removed / 2), math.ceil(height * removed / 2)
    return image.crop((across, down, max(across + 1, width - across), max(down + 1, height - down)))


def grey(image: Image.Image, kept: float, seed: int = 0) -> Image.Image:
    """With this fraction of its colour left."""
    return ImageEnhance.Color(image).enhance(kept)


CHANGES = (
    Change("jpeg_compression", "saved as JPEG, quality {:g}", (25, 18, 15), (80, 65, 58), jpeg_compression),
    Change("pixelate", "scaled to {:g} and back", (0.6, 0.5, 0.4), (0.95, 0.9, 0.85), pixelate),
    Change("gaussian_blur", "blurred, radius {:g}", (1, 2, 3), (0.4, 0.6, 0.7), gaussian_blur),
    Change("gaussian_noise", "noisy, by {:g}", (0.08, 0.12, 0.18), (0.04, 0.06, 0.08), gaussian_noise),
    Change("brightness", "brighter by {:g}", (0.1, 0.2, 0.3), (0.05, 0.1, 0.15), brightness),
    Change("contrast", "of {:g} of the contrast", (0.4, 0.3, 0.2), (0.75, 0.5, 0.4), contrast),
    Change("crop", "cropped by {:g} of the sides", (0.1, 0.2, 0.3), (0.1, 0.2, 0.3), crop),
    Change("rotate", "turned by {:g} degrees", (5, 10, 20), (5, 10, 20), rotate),
)
"""What `lensmith stress` does to images."""
CUES = (
    Change("re-encoded", "all saved as JPEG, quality {:g}", (75,), (75,), jpeg_compression),
    Change("borders", "without the outer {:g} of the sides", (0.1,), (0.1,), borders),
    Change("grey", "without colour", (0.0,), (0.0,), grey),
)
"""What takes away what a model should not need: the traces of a file, the edges, the colours."""


def stress(
    classifier: Classifier, split: Split, changes: Sequence[Change], max_pixels: int, seed: int, tell: Tell
) -> tuple[list[Prediction], list[Stressed]]:
    """A classifier's answers to the images as they are, and under each change and strength."""
    progress = counter("answering", len(split) * (1 + sum(len(change.large) for change in changes)), tell)
    done = 0

    def answers(change: Change | None, severity: int) -> list[Prediction]:
        nonlocal done
        items = (
            (name, label, partial(_changed, split, i, max_pixels, change, severity, seed))
            for i, (name, label) in enumerate(zip(split.ids, split.labels, strict=True))
        )
        found = list(predict(classifier, items, lambda n: progress(done + n)))
        done += len(split)
        groups = split.groups
        return [Prediction(p.id, p.label, p.predicted, group=groups[i]) for i, p in enumerate(found)]

    clean = answers(None, 0)
    results = []
    example = next((image for i in range(len(split)) if (image := _readable(split, i, max_pixels))), None)
    for change in changes:
        for severity in range(len(change.large)):
            after = answers(change, severity)
            differ = sum(a.predicted != b.predicted for a, b in zip(clean, after, strict=True))
            strength = change.strengths(example)[severity] if example else change.large[severity]
            about = change.about.format(strength)
            results.append(Stressed(change.name, about, severity + 1, compare("clean", clean, about, after), differ))
    return clean, results


def _changed(split: Split, i: int, max_pixels: int, change: Change | None, severity: int, seed: int) -> Image.Image:
    image = split.image(i, max_pixels)
    if change is None:
        return image
    # All randomness is a function of the seed, the image and the change.
    digest = hashlib.sha256(f"{seed} {split.ids[i]} {change.name} {severity}".encode()).digest()
    return change.apply(image, change.strengths(image)[severity], int.from_bytes(digest[:4], "big"))


def _readable(split: Split, i: int, max_pixels: int) -> Image.Image | None:
    try:
        return split.image(i, max_pixels)
    except ImageError:
        return None
