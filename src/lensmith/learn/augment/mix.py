"""Two images in one, each with its share of the target: MixUp and CutMix, as pure functions on batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensmith.config import AugmentOptions


@dataclass(frozen=True)
class Mixing:
    """How each of n images is to be mixed with its partner, on the CPU and of no particular image size."""

    share: Tensor
    """(n,) What the image keeps of itself; 1 leaves it alone."""
    cut: Tensor
    """(n,) bool: a box is cut into it (CutMix), else the partner is laid over it (MixUp)."""
    place: Tensor
    """(n, 2) The middle of the box: shares of width and height."""

    def of(self, index: Tensor | Sequence[int]) -> Mixing:
        """The rows of these images, in this order."""
        rows = torch.as_tensor(index, dtype=torch.long, device="cpu")
        return Mixing(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def draw(n: int, options: AugmentOptions, generator: torch.Generator) -> Mixing:
    """Random shares and boxes for n images; shares are from Beta(mix_alpha, mix_alpha).

    Args:
        generator: of the CPU, so that a run with one seed sees the same images on every device.
    """
    # PyTorch's beta distribution draws from the global generator only.
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    share = rng.beta(options.mix_alpha, options.mix_alpha, n)
    left_alone = (rng.random(n) >= options.mix_share) | (options.mix == "none")
    coin = rng.random(n) < 0.5
    return Mixing(
        share=torch.tensor(np.where(left_alone, 1.0, share), dtype=torch.float32),
        cut=torch.tensor((coin & (options.mix == "both")) | (options.mix == "cutmix")),
        place=torch.tensor(rng.random((n, 2)), dtype=torch.float32),
    )


def mix(pixels: Tensor, partner: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mix each image with its partner, both as they were given.

    MixUp is the mean of the two, weighted by the share (Zhang et al., arXiv 1710.09412). CutMix puts a box
    of the partner into the image, at the same place, of its shape and with sides of sqrt(1 - share) of its own, cut off
    at the edges (Yun et al., arXiv 1905.04899, equations 1 and 2 and algorithm A1).

    Args:
        pixels: (n, 3, H, W) bytes, or floats in 0..255.
        partner: (n,) long: each image's partner; its own partner stays as it is.
        mixing: n rows.

    Returns:
        (n, 3, H, W) floats in 0..255, and the (n,) share that each image itself has in its result: of CutMix, its share
        of the pixels. If no image is mixed, the pixels as they were given.
    """
    n, _, height, width = pixels.shape
    device = pixels.device
    size = torch.tensor([width, height])
    half = (1 - mixing.share).sqrt()[:, None] / 2
    # Both edges are rounded, so that boxes of odd sides occur as well as of even.
    start, end = (((mixing.place + side) * size).round().clamp(0 * size, size) for side in (-half, half))
    whole = height * width
    kept = torch.where(mixing.cut, (whole - (end - start).long().prod(1)) / whole, mixing.share)
    share = torch.where(partner.cpu() == torch.arange(n), 1.0, kept)
    if bool((share == 1).all()):
        return pixels, share.to(device)
    left, top, right, bottom = torch.cat([start, end], 1).T[..., None].to(device)
    across, down = torch.arange(width, device=device), torch.arange(height, device=device)
    outside = ((down < top) | (down >= bottom))[:, None, :, None] | ((across < left) | (across >= right))[:, None, None]
    own = share.to(device)[:, None, None, None]
    weight = torch.where(mixing.cut.to(device)[:, None, None, None], outside, own)
    mixed = weight * pixels + (1 - weight) * pixels[partner.to(device)]
    return mixed.clamp_(0, 255), share.to(device)


def partners(shapes: Sequence[Hashable]) -> list[int]:
    """For each image, the one to mix it with, of the same shape: the first with the second, the third with the fourth.

    Args:
        shapes: of all images of a batch.

    Returns:
        Places in the batch; the odd one out of a shape is its own partner.
    """
    found = list(range(len(shapes)))
    alone: dict[Hashable, int] = {}
    for i, shape in enumerate(shapes):
        if shape in alone:
            j = alone.pop(shape)
            found[i], found[j] = j, i
        else:
            alone[shape] = i
    return found
