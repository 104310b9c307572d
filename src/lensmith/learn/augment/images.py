"""Random changes to training images that don't change their class: pure functions on batches, on the device.

Everything random is drawn beforehand, on the CPU, a row per image (`draw`). So `augment` gives an image the same
result in whatever batch and on whatever device it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lensmith.config import AugmentOptions


@dataclass(frozen=True)
class Draws:
    """What is to happen to each of n images, on the CPU and of no particular image size. N: options.randaugment."""

    affine: Tensor
    """(n, 2, 3) Crop, zoom, rotation, mirroring and shift, as `resample` takes them."""
    colour: Tensor
    """(n, 3) Factors of brightness, contrast and saturation; 1 leaves them alone."""
    erased: Tensor
    """(n,) bool: whether a rectangle is covered."""
    patch: Tensor
    """(n, 4) The rectangle: share of the area, height over width, place from the left and from the top (0..1)."""
    seed: Tensor
    """(n,) long: the noise in it follows from this."""
    operations: Tensor
    """(n, N) long: RandAugment's operations in their order, by their places in OPERATIONS."""
    strengths: Tensor
    """(n, N) How strong they are, from -1 to 1; operations without a direction ignore the sign."""

    def of(self, index: Tensor | Sequence[int]) -> Draws:
        """The rows of these images, in this order."""
        rows = torch.as_tensor(index, dtype=torch.long, device="cpu")
        return Draws(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def draw(n: int, options: AugmentOptions, generator: torch.Generator) -> Draws:
    """Random changes for n images.

    Args:
        generator: of the CPU, so that a run with one seed sees the same images on every device.
    """

    # Everything is drawn, used or not, and what varies in number comes last: so an option that is switched on leaves
    # alone what the others draw, and two runs differ in nothing else.
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    shift = uniform(-options.shift, options.shift, 2)
    scale = (1 + uniform(-options.zoom, options.zoom)).clamp(min=0.1)  # scaled to nothing, it would be no image
    turn = rotation(uniform(-options.rotate, options.rotate)) / scale[:, None, None]
    mirror = torch.where((uniform(0, 1) < 0.5) & options.flip, -1.0, 1.0)
    # Szegedy et al., arXiv 1409.4842, section 6. The aspect ratio is relative to the image's own, because the crop is
    # stretched to the image's shape and not to a square.
    area, ratio = 1 - uniform(0, options.crop), log_uniform(uniform(0, 1), 3 / 4, 4 / 3)
    window = sides(area, ratio)
    offset = uniform(-0.5, 0.5, 2) * (1 - window) + shift * window
    window[:, 0] *= mirror
    return Draws(
        affine=torch.cat([turn * window[:, :, None], offset[:, :, None]], 2),
        colour=uniform(1 - options.colour, 1 + options.colour, 3),
        erased=uniform(0, 1) < options.erase,
        # Zhong et al., arXiv 1708.04896, algorithm 1. There the aspect ratio is uniform; log-uniform, tall and wide
        # rectangles are equally frequent.
        patch=torch.stack([uniform(0.02, 0.33), log_uniform(uniform(0, 1), 0.3, 3.3), uniform(0, 1), uniform(0, 1)], 1),
        seed=torch.randint(2**32, (n,), generator=generator),
        operations=torch.randint(len(OPERATIONS), (n, options.randaugment), generator=generator),
        strengths=torch.where(uniform(0, 1, options.randaugment) < 0.5, -1.0, 1.0) * (options.magnitude / 10),
    )


def augment(pixels: Tensor, options: AugmentOptions, draws: Draws) -> Tensor:
    """Do to each image what was drawn for it: move it, change its colours, RandAugment, erase.

    Args:
        pixels: (n, 3, H, W) bytes.
        options: those that the draws were made with.
        draws: n rows.

    Returns:
        The same bytes if every option is off, else (n, 3, H, W) floats in 0..255; edges are repeated outwards.
    """
    moved = options.shift or options.zoom or options.rotate or options.flip or options.crop
    if not (moved or options.colour or options.randaugment or options.erase):
        return pixels
    pixels = pixels.float()
    if moved:
        pixels = resample(pixels, draws.affine)
    if options.colour:
        brightness, contrast, saturation = draws.colour.T
        pixels = blend(pixels, 0.0, brightness)
        pixels = blend(pixels, mean_grey(pixels), contrast)
        pixels = blend(pixels, grey(pixels), saturation)
    for chosen, strengths in zip(draws.operations.T, draws.strengths.T, strict=True):
        # On whole levels: on others, autocontrast would blow up the last digits of an even picture to noise.
        before, pixels = pixels.round(), torch.empty_like(pixels)
        for i, operation in enumerate(OPERATIONS.values()):
            rows = (chosen == i).nonzero()[:, 0]
            if len(rows):
                there = rows.to(pixels.device)
                pixels[there] = operation(before[there], strengths[rows])
    if options.erase:
        pixels = erase(pixels, draws)
    return pixels


def resample(pixels: Tensor, affine: Tensor) -> Tensor:
    """Fetch each pixel from elsewhere, interpolating; edges are repeated outwards.

    Args:
        pixels: (n, 3, H, W) floats in 0..255.
        affine: (n, 2, 3) a matrix that leads from a result's pixel, as (x, y) from the middle, to the place where its
            colour is taken from; beside it what is added to that place, in shares of width and height.
    """
    height, width = pixels.shape[-2:]
    # grid_sample counts from -1 to 1 on both axes. Its grid is made here because affine_grid makes it by a matrix
    # product: under autocast that is in bfloat16, which moves pixels by up to a fifth of their size.
    unit = torch.tensor([[2 / width, 2 / width, 2], [2 / height, 2 / height, 2]])
    (xx, xy, x0), (yx, yy, y0) = (affine * unit).permute(1, 2, 0)[..., None, None].to(pixels.device)
    x = torch.arange(width, device=pixels.device) - (width - 1) / 2
    y = torch.arange(height, device=pixels.device)[:, None] - (height - 1) / 2
    grid = torch.stack([xx * x + (xy * y + x0), yx * x + (yy * y + y0)], -1)
    return F.grid_sample(pixels, grid, align_corners=False, padding_mode="border").clamp_(0, 255)


def rotation(degrees: Tensor) -> Tensor:
    """(n,) angles to (n, 2, 2) matrices."""
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def log_uniform(uniform: Tensor, low: float, high: float) -> Tensor:
    """Numbers in 0..1 to numbers in low..high, so that equal ratios are equally frequent."""
    return low * torch.exp(uniform * math.log(high / low))


def sides(area: Tensor, ratio: Tensor) -> Tensor:
    """(n, 2) width and height of boxes of a given area and height over width, all as shares of the image's.

    A box that would stick out of the image is made less narrow, and so keeps its area.
    """
    height = torch.clamp((area * ratio).sqrt(), area, torch.ones_like(area))
    return torch.stack([area / height, height], 1)


def each(values: Tensor, pixels: Tensor) -> Tensor:
    """(n,) values to (n, 1, 1, 1) beside the pixels."""
    return values.to(pixels.device)[:, None, None, None]


def blend(pixels: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """`other` at factor 0, the pixels themselves at 1, and on beyond; (n,) factors, one for each image."""
    return ((pixels - other) * each(factor, pixels)).add_(other).clamp_(0, 255)


def grey(pixels: Tensor) -> Tensor:
    """(n, 1, H, W) luma by ITU-R BT.601, as Pillow's."""
    red, green, blue = pixels.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def mean_grey(pixels: Tensor) -> Tensor:
    """(n, 1, 1, 1) mean luma, as Pillow's; of whole levels, so that it doesn't depend on the order of summation."""
    levels = grey(pixels).round().long()
    return (levels.sum((1, 2, 3), keepdim=True) / levels[0].numel()).round()


def autocontrast(pixels: Tensor) -> Tensor:
    """Stretch each channel to 0..255; one of a single level stays."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) * (255 / (high - low)), pixels).clamp_(0, 255)


def equalize(pixels: Tensor) -> Tensor:
    """Make each channel's levels equally frequent by Pillow's formula; pixels are whole levels."""
    levels = pixels.long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = ((counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=pixels.device))
    return table.gather(2, levels).view_as(pixels).float()


def smooth(pixels: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: eight neighbours count once each, the pixel itself five times; the border stays."""
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    block = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smoothed = pixels.clone()
    smoothed[..., 1:-1, 1:-1] = (block + 4 * pixels[..., 1:-1, 1:-1]) / 13
    return smoothed


def solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Turn the brightest levels into their negatives; at strength 1 all."""
    return torch.where(pixels < 256 * (1 - each(strength.abs(), pixels)), pixels, 255 - pixels)


def posterize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Keep only the highest bits: at strength 0 all eight, at 1 four."""
    lost = each((4 * strength.abs()).round().int(), pixels)
    return ((pixels.int() >> lost) << lost).float()


def slide(pixels: Tensor, row: int, column: int, amount: Tensor) -> Tensor:
    """Resample with one entry of the affine matrix changed by (n,) amounts."""
    affine = torch.eye(2, 3).repeat(len(pixels), 1, 1)
    affine[:, row, column] = amount
    return resample(pixels, affine)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda pixels, strength: pixels,
    "autocontrast": lambda pixels, strength: autocontrast(pixels),
    "equalize": lambda pixels, strength: equalize(pixels),
    "rotate": lambda pixels, strength: resample(pixels, F.pad(rotation(30 * strength), (0, 1))),
    "solarize": solarize,
    "colour": lambda pixels, strength: blend(pixels, grey(pixels), 1 + 0.9 * strength),
    "posterize": posterize,
    "contrast": lambda pixels, strength: blend(pixels, mean_grey(pixels), 1 + 0.9 * strength),
    "brightness": lambda pixels, strength: blend(pixels, 0.0, 1 + 0.9 * strength),
    "sharpness": lambda pixels, strength: blend(pixels, smooth(pixels), 1 + 0.9 * strength),
    "shear x": lambda pixels, strength: slide(pixels, 0, 1, 0.3 * strength),
    "shear y": lambda pixels, strength: slide(pixels, 1, 0, 0.3 * strength),
    "translate x": lambda pixels, strength: slide(pixels, 0, 2, 150 / 331 * strength),
    "translate y": lambda pixels, strength: slide(pixels, 1, 2, 150 / 331 * strength),
}
"""RandAugment's (Cubuk et al., arXiv 1909.13719, section 3), with the ranges of AutoAugment (arXiv 1805.09501). Each
takes (n, 3, H, W) floats of whole levels and (n,) strengths from -1 to 1, these on the CPU."""


def erase(pixels: Tensor, draws: Draws) -> Tensor:
    """Cover the drawn rectangle of those images that are to have one with uniform noise."""
    rows = draws.erased.nonzero()[:, 0]
    if not len(rows):
        return pixels
    height, width = pixels.shape[-2:]
    (area, ratio, *place), size = draws.patch[rows].T, torch.tensor([width, height])
    box = (sides(area, ratio * width / height) * size).round()
    start = (torch.stack(place, 1) * (size - box + 1)).floor()
    left, top, right, bottom = torch.cat([start, start + box], 1).T[..., None].to(pixels.device)
    x, y = torch.arange(width, device=pixels.device), torch.arange(height, device=pixels.device)
    inside = ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None]
    there = rows.to(pixels.device)
    covered = torch.where(inside, noise(draws.seed[rows].to(pixels.device), height, width), pixels[there])
    return pixels.index_copy(0, there, covered)


def noise(seed: Tensor, height: int, width: int) -> Tensor:
    """(n,) seeds to (n, 3, H, W) uniform random bytes as floats, the same on every device.

    Each pixel's number is hashed (lowbias32, github.com/skeeto/hash-prospector) and gives a byte to each channel.
    """
    low = 2**32 - 1
    x = (seed[:, None] + torch.arange(height * width, device=seed.device)) & low
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & low
    x = ((x ^ (x >> 15)) * 0x846CA68B) & low
    x = x ^ (x >> 16)
    return torch.stack([x, x >> 8, x >> 16], 1).bitwise_and_(255).float().view(-1, 3, height, width)
