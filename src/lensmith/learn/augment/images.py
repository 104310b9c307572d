"""Random changes to training images that don't change their class: pure functions on batches, on the device.

All random numbers are drawn beforehand on the CPU, one row per image (`draw`). So the result of `augment` for an image
doesn't depend on its batch or on the device.
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
    """The changes to each of n images: random numbers on the CPU that don't depend on the image size.

    N is `options.randaugment`, the number of RandAugment operations per image.
    """

    affine: Tensor
    """(n, 2, 3) Crop, zoom, rotation, mirroring and shift in one matrix; see `resample`."""
    colour: Tensor
    """(n, 3) Factors for brightness, contrast and saturation; 1 changes nothing."""
    erased: Tensor
    """(n,) bool: whether to cover a rectangle with noise."""
    patch: Tensor
    """(n, 4) The rectangle: fraction of the area, height / width, position from the left and from the top (0..1)."""
    seed: Tensor
    """(n,) long: seed of the noise in the rectangle."""
    operations: Tensor
    """(n, N) long: RandAugment's operations in order, as indices into OPERATIONS."""
    strengths: Tensor
    """(n, N) The strength of each operation, from -1 to 1; operations without a direction ignore the sign."""

    def of(self, index: Tensor | Sequence[int]) -> Draws:
        """The rows of these images, in this order."""
        rows = torch.as_tensor(index, dtype=torch.long, device="cpu")
        return Draws(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def draw(n: int, options: AugmentOptions, generator: torch.Generator) -> Draws:
    """Random changes for n images.

    Args:
        generator: a CPU generator, so that runs with the same seed see the same images on every device.
    """

    # Everything is drawn, whether it is used or not, and what varies in number is drawn last. So switching an option on
    # doesn't change what is drawn for the others, and two runs differ only in that option.
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    shift = uniform(-options.shift, options.shift, 2)
    scale = (1 + uniform(-options.zoom, options.zoom)).clamp(min=0.1)  # an image can't be scaled to nothing
    turn = rotation(uniform(-options.rotate, options.rotate)) / scale[:, None, None]
    mirror = torch.where((uniform(0, 1) < 0.5) & options.flip, -1.0, 1.0)
    # Szegedy et al., arXiv 1409.4842, section 6. The aspect ratio is relative to that of the image, because the crop is
    # stretched to the image's shape and not to a square.
    area, ratio = 1 - uniform(0, options.crop), log_uniform(uniform(0, 1), 3 / 4, 4 / 3)
    window = sides(area, ratio)
    offset = uniform(-0.5, 0.5, 2) * (1 - window) + shift * window
    window[:, 0] *= mirror
    return Draws(
        affine=torch.cat([turn * window[:, :, None], offset[:, :, None]], 2),
        colour=uniform(1 - options.colour, 1 + options.colour, 3),
        erased=uniform(0, 1) < options.erase,
        # Zhong et al., arXiv 1708.04896, algorithm 1. They draw the aspect ratio uniformly. Here it is log-uniform, so
        # that tall and wide rectangles are equally frequent.
        patch=torch.stack([uniform(0.02, 0.33), log_uniform(uniform(0, 1), 0.3, 3.3), uniform(0, 1), uniform(0, 1)], 1),
        seed=torch.randint(2**32, (n,), generator=generator),
        operations=torch.randint(len(OPERATIONS), (n, options.randaugment), generator=generator),
        strengths=torch.where(uniform(0, 1, options.randaugment) < 0.5, -1.0, 1.0) * (options.magnitude / 10),
    )


def augment(pixels: Tensor, options: AugmentOptions, draws: Draws) -> Tensor:
    """Apply to each image what was drawn for it: geometric changes, colour changes, RandAugment, erasing.

    Args:
        pixels: (n, 3, H, W) bytes.
        options: the same options that the draws were made with.
        draws: n rows.

    Returns:
        `pixels` itself if every option is off, otherwise (n, 3, H, W) floats in 0..255. Edge pixels are repeated
        outwards.
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
        # Levels are rounded first: otherwise autocontrast would amplify rounding errors in a uniform image to noise.
        before, pixels = pixels.round(), torch.empty_like(pixels)
        for i, operation in enumerate(OPERATIONS.values()):
            rows = (chosen == i).nonzero()[:, 0]
            if len(rows):
                device_rows = rows.to(pixels.device)
                pixels[device_rows] = operation(before[device_rows], strengths[rows])
    if options.erase:
        pixels = erase(pixels, draws)
    return pixels


def resample(pixels: Tensor, affine: Tensor) -> Tensor:
    """Transform images geometrically, with bilinear interpolation. Edge pixels are repeated outwards.

    Args:
        pixels: (n, 3, H, W) floats in 0..255.
        affine: (n, 2, 3) a 2 x 2 matrix that maps a position in the result, as (x, y) in pixels from the centre, to the
            position in the input that its colour is taken from; and an offset that is added to the latter, as
            fractions of width and height.
    """
    height, width = pixels.shape[-2:]
    # grid_sample uses coordinates from -1 to 1 on both axes. The grid is computed here because affine_grid uses a
    # matrix product, which under autocast runs in bfloat16 and shifts pixels by up to a fifth of their size.
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
    """Maps uniform numbers in 0..1 to log-uniform numbers in low..high."""
    return low * torch.exp(uniform * math.log(high / low))


def sides(area: Tensor, ratio: Tensor) -> Tensor:
    """(n, 2) width and height of boxes with a given area and height / width, all as fractions of the image's.

    A box that would exceed the image is made less elongated; its area stays the same.
    """
    height = torch.clamp((area * ratio).sqrt(), area, torch.ones_like(area))
    return torch.stack([area / height, height], 1)


def each(values: Tensor, pixels: Tensor) -> Tensor:
    """(n,) values as (n, 1, 1, 1) on the pixels' device."""
    return values.to(pixels.device)[:, None, None, None]


def blend(pixels: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """`other` at factor 0, the pixels themselves at 1, extrapolated beyond; (n,) factors, one for each image."""
    return ((pixels - other) * each(factor, pixels)).add_(other).clamp_(0, 255)


def grey(pixels: Tensor) -> Tensor:
    """(n, 1, H, W) luma by ITU-R BT.601, as in Pillow."""
    red, green, blue = pixels.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def mean_grey(pixels: Tensor) -> Tensor:
    """(n, 1, 1, 1) mean luma, as in Pillow; of integer levels, so that it doesn't depend on the order of summation."""
    levels = grey(pixels).round().long()
    return (levels.sum((1, 2, 3), keepdim=True) / levels[0].numel()).round()


def autocontrast(pixels: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel with a single level is unchanged."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) * (255 / (high - low)), pixels).clamp_(0, 255)


def equalize(pixels: Tensor) -> Tensor:
    """Equalize each channel's histogram by Pillow's formula; pixels must be integer levels."""
    levels = pixels.long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = ((counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=pixels.device))
    return table.gather(2, levels).view_as(pixels).float()


def smooth(pixels: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: the eight neighbours have weight 1, the pixel itself 5; the border is unchanged."""
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    block = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smoothed = pixels.clone()
    smoothed[..., 1:-1, 1:-1] = (block + 4 * pixels[..., 1:-1, 1:-1]) / 13
    return smoothed


def solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Invert the brightest levels; at strength 1, all levels."""
    return torch.where(pixels < 256 * (1 - each(strength.abs(), pixels)), pixels, 255 - pixels)


def posterize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Keep only the highest bits: at strength 0 all eight, at 1 four."""
    lost = each((4 * strength.abs()).round().int(), pixels)
    return ((pixels.int() >> lost) << lost).float()


def slide(pixels: Tensor, row: int, column: int, amount: Tensor) -> Tensor:
    """Resample with the identity matrix in which one entry is set to (n,) amounts: a shear or a translation."""
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
"""RandAugment's operations (Cubuk et al., arXiv 1909.13719, section 3), with the ranges of AutoAugment (arXiv
1805.09501). Each takes (n, 3, H, W) floats with integer levels, and (n,) strengths from -1 to 1 on the CPU."""


def erase(pixels: Tensor, draws: Draws) -> Tensor:
    """Cover the drawn rectangle with uniform noise, in those images that were drawn to be erased."""
    rows = draws.erased.nonzero()[:, 0]
    if not len(rows):
        return pixels
    height, width = pixels.shape[-2:]
    (area, ratio, *position), size = draws.patch[rows].T, torch.tensor([width, height])
    box = (sides(area, ratio * width / height) * size).round()
    start = (torch.stack(position, 1) * (size - box + 1)).floor()
    left, top, right, bottom = torch.cat([start, start + box], 1).T[..., None].to(pixels.device)
    x, y = torch.arange(width, device=pixels.device), torch.arange(height, device=pixels.device)
    inside = ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None]
    device_rows = rows.to(pixels.device)
    covered = torch.where(inside, noise(draws.seed[rows].to(pixels.device), height, width), pixels[device_rows])
    return pixels.index_copy(0, device_rows, covered)


def noise(seed: Tensor, height: int, width: int) -> Tensor:
    """(n, 3, H, W) uniform random bytes as floats from (n,) seeds, the same on every device.

    The index of each pixel, plus the seed, is hashed (lowbias32, github.com/skeeto/hash-prospector); each channel gets
    one byte of the hash.
    """
    low = 2**32 - 1
    x = (seed[:, None] + torch.arange(height * width, device=seed.device)) & low
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & low
    x = ((x ^ (x >> 15)) * 0x846CA68B) & low
    x = x ^ (x >> 16)
    return torch.stack([x, x >> 8, x >> 16], 1).bitwise_and_(255).float().view(-1, 3, height, width)
