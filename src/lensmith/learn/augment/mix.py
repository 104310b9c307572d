"""MixUp and CutMix: two images mixed into one, and their labels in the same proportion. Pure functions on batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensmith.config import AugmentOptions


@dataclass(frozen=True)
class Mixing:
    """How to mix each of n images with its partner: random numbers on the CPU that don't depend on the image size."""

    image_weight: Tensor
    """(n,) The weight of the image itself in the mixed image; 1 leaves the image unchanged."""
    cut: Tensor
    """(n,) bool: whether a box of the partner replaces a part of the image (CutMix); otherwise both are blended
    (MixUp)."""
    centre: Tensor
    """(n, 2) The centre of the box, as fractions of width and height."""

    def of(self, index: Tensor | Sequence[int]) -> Mixing:
        """The rows of these images, in this order."""
        rows = torch.as_tensor(index, dtype=torch.long, device="cpu")
        return Mixing(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class Mixed(NamedTuple):
    """Mixed images."""

    pixels: Tensor
    """(n, 3, H, W) floats in 0..255; the input itself if no image is mixed."""
    image_weight: Tensor
    """(n,) The weight of each image in its mixture. For CutMix, the fraction of its pixels that are kept."""


def draw(n: int, options: AugmentOptions, generator: torch.Generator) -> Mixing:
    """Random weights and boxes for n images; weights follow Beta(mix_alpha, mix_alpha).

    Args:
        generator: a CPU generator, so that runs with the same seed see the same images on every device.
    """
    # PyTorch's beta distribution draws from the global generator only.
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    image_weight = rng.beta(options.mix_alpha, options.mix_alpha, n)
    unmixed = (rng.random(n) >= options.mix_share) | (options.mix == "none")
    coin = rng.random(n) < 0.5
    return Mixing(
        image_weight=torch.tensor(np.where(unmixed, 1.0, image_weight), dtype=torch.float32),
        cut=torch.tensor((coin & (options.mix == "both")) | (options.mix == "cutmix")),
        centre=torch.tensor(rng.random((n, 2)), dtype=torch.float32),
    )


def mix(pixels: Tensor, partner: Tensor, mixing: Mixing) -> Mixed:
    """Mix each image with the original of its partner.

    MixUp is the weighted mean of the two images (Zhang et al., arXiv 1710.09412). CutMix copies a box of the partner to
    the same position in the image. The box has the image's shape, with sides of sqrt(1 - weight) of the image's, and is
    clipped at the edges (Yun et al., arXiv 1905.04899, equations 1 and 2 and algorithm A1).

    Args:
        pixels: (n, 3, H, W) bytes, or floats in 0..255.
        partner: (n,) long: index of each image's partner. An image that is its own partner is unchanged.
        mixing: n rows.
    """
    n, _, height, width = pixels.shape
    device = pixels.device
    size = torch.tensor([width, height])
    half = (1 - mixing.image_weight).sqrt()[:, None] / 2
    # Both edges are rounded, so that boxes with odd sides occur as well as boxes with even sides.
    start, end = (((mixing.centre + side) * size).round().clamp(0 * size, size) for side in (-half, half))
    area = height * width
    kept = torch.where(mixing.cut, (area - (end - start).long().prod(1)) / area, mixing.image_weight)
    image_weight = torch.where(partner.cpu() == torch.arange(n), 1.0, kept)
    if bool((image_weight == 1).all()):
        return Mixed(pixels, image_weight.to(device))
    left, top, right, bottom = torch.cat([start, end], 1).T[..., None].to(device)
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)
    outside_box = ((y < top) | (y >= bottom))[:, None, :, None] | ((x < left) | (x >= right))[:, None, None]
    blend = image_weight.to(device)[:, None, None, None]
    pixel_weight = torch.where(mixing.cut.to(device)[:, None, None, None], outside_box, blend)
    mixed = pixel_weight * pixels + (1 - pixel_weight) * pixels[partner.to(device)]
    return Mixed(mixed.clamp_(0, 255), image_weight.to(device))


def partners(shapes: Sequence[Hashable]) -> list[int]:
    """Pairs images of the same shape in order: the first with the second, the third with the fourth, and so on.

    Args:
        shapes: the shape of each image in the batch.

    Returns:
        The index of each image's partner. An image without a partner is its own.
    """
    partner = list(range(len(shapes)))
    unpaired: dict[Hashable, int] = {}
    for i, shape in enumerate(shapes):
        if shape in unpaired:
            j = unpaired.pop(shape)
            partner[i], partner[j] = j, i
        else:
            unpaired[shape] = i
    return partner
