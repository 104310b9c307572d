"""The views of an image that a model is shown: one view, or a grid of tiles and a thumbnail of the full image.

A view is a map: (3, H, W) bytes before the vision tower, (rows, columns, size) states after it. An image is a tuple of
its views, so every operation on an image (augmenting, mixing, caching) is applied to each view in the same way. Images
whose views have equal shapes run through the model together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Views = tuple[Tensor, ...]
Shape = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Look:
    """A small change under which an image keeps its class."""

    mirrored: bool = False
    right: float = 0.0
    """Shift to the right, as a fraction of the width."""
    down: float = 0.0
    """Shift downwards, as a fraction of the height."""


AS_IT_IS = Look()


def changed(views: Views, look: Look) -> Views:
    """Views of n images, (n, 3, H, W) each, under a look. What a shift leaves empty repeats the edge."""
    if look == AS_IT_IS:
        return views
    return tuple(_shifted(view.flip(-1) if look.mirrored else view, look) for view in views)


def _shifted(view: Tensor, look: Look) -> Tensor:
    height, width = view.shape[-2:]
    rows = (torch.arange(height, device=view.device) - _pixels(look.down, height)).clamp(0, height - 1)
    columns = (torch.arange(width, device=view.device) - _pixels(look.right, width)).clamp(0, width - 1)
    return view[..., rows, :][..., columns]


def _pixels(fraction: float, side: int) -> int:
    """A fraction of a side, rounded; in whole numbers, which an exported graph computes for sides of any length."""
    above, below = Fraction(fraction).limit_denominator(1000).as_integer_ratio()
    return (2 * abs(above) * side + below) // (2 * below) * (1 if above > 0 else -1)


_MODES = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers, which checkpoints use


def resample_filter(number: int | None, default: int) -> int:
    """A checkpoint's filter number, or the default. Raises ValueError if `resize` doesn't have the filter."""
    number = default if number is None else number
    if number not in _MODES:
        raise ValueError(f"filter {number} is not one of {_MODES}")
    return number


def shape_of(views: Views) -> Shape:
    """The shapes of an image's views. Images with equal shapes can be stacked."""
    return tuple(tuple(view.shape) for view in views)


def stack(images: Sequence[Views]) -> Views:
    """Images of one shape -> their views with a leading dimension of n images."""
    return tuple(torch.stack(views) for views in zip(*images, strict=True))


def unstack(views: Views) -> list[Views]:
    """The inverse of `stack`."""
    return list(zip(*(view.unbind() for view in views), strict=True))


def to_pixels(image: Image.Image) -> Tensor:
    """An image -> (3, H, W) bytes."""
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)


def resize(pixels: Tensor, size: tuple[int, int], resample: int = 2) -> Tensor:
    """Scale with antialiasing, like torchvision's `resize`; on a CPU bit-identical to it.

    Args:
        pixels: (..., 3, H, W) bytes, on any device.
        size: (height, width).
        resample: 2 bilinear, 3 bicubic.
    """
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    # A decoded image has its channels innermost. The byte kernel is a quarter faster if the strides of the batch show
    # this, which those of `pixels[None]` don't.
    single = pixels.ndim == 3
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2) if single else pixels.reshape(-1, *pixels.shape[-3:])
    scaled = (_interpolated if batch.device.type == "cpu" else resize_as_floats)(batch, size, resample)
    return scaled.reshape(*pixels.shape[:-2], *size)


def resize_as_floats(batch: Tensor, size: tuple[int, int], resample: int) -> Tensor:
    """`resize` for devices without a kernel for bytes, such as GPUs.

    (n, 3, H, W) bytes -> (n, 3, height, width) bytes. The values differ by up to one level, or by two where a bicubic
    filter overshoots. Like the byte kernel, it scales the width, rounds, and then scales the height; scaling both at
    once would differ by up to five levels.
    """
    height, width = size
    for step_size in ((batch.shape[-2], width), (height, width)):
        batch = _interpolated(batch.float(), step_size, resample).round_().clamp_(0, 255)
    return batch.to(torch.uint8)


def _interpolated(batch: Tensor, size: tuple[int, int], resample: int) -> Tensor:
    return F.interpolate(batch, size=size, mode=_MODES[resample], antialias=True, align_corners=False)


def fit_size(
    height: int, width: int, step: int, min_pixels: int, max_pixels: int, narrow: bool = True
) -> tuple[int, int]:
    """The (height, width) nearest to an image's size that are multiples of `step` and within the pixel limits.

    The aspect ratio is kept as far as the step allows. This is LFM2-VL's `smart_resize`, and without `narrow`
    Qwen2-VL's. The exception is an image so elongated that they would exceed `max_pixels`: here it is squeezed.

    Args:
        narrow: round a side shorter than half a step up to one step. Otherwise it rounds to zero, so the image counts
            as too small, however long its other side is.
    """
    high, wide = (max(step if narrow else 0, round(side / step) * step) for side in (height, width))
    if high * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        high = max(step, math.floor(height / shrink / step) * step)
        wide = max(step, math.floor(width / shrink / step) * step)
    elif high * wide < min_pixels:
        stretch = math.sqrt(min_pixels / (height * width))
        high, wide = (math.ceil(side * stretch / step) * step for side in (height, width))
        if high * wide > max_pixels:  # possible if the two limits are close, as in a small budget
            high, wide = (max(step, math.floor(side * stretch / step) * step) for side in (height, width))
    limit = max(1, max_pixels // step**2) * step
    return min(high, limit), min(wide, limit)


@dataclass(frozen=True)
class Fit:
    """How the size of an image's one view is chosen; the arguments of `fit_size`."""

    step: int
    min_pixels: int
    max_pixels: int
    narrow: bool = True

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the view of an image of this size, in pixels."""
        return fit_size(height, width, self.step, self.min_pixels, self.max_pixels, self.narrow)


def choose_grid(height: int, width: int, min_tiles: int, max_tiles: int, tile_side: int) -> tuple[int, int]:
    """(rows, columns) of the grid of `min_tiles` to `max_tiles` tiles whose aspect ratio is nearest to an image's.

    If several are equally near, the first is chosen, unless the image covers more than half of a larger one's area.
    """
    # The original sorts a set built in this order; grids of equal area keep the set's order.
    sides = range(min_tiles, max_tiles + 1)
    grids = {(w, h) for n in sides for w in range(1, n + 1) for h in range(1, n + 1) if min_tiles <= w * h <= max_tiles}
    best_rows, best_columns, smallest = 1, 1, math.inf
    for columns, rows in sorted(grids, key=math.prod):
        difference = abs(width / height - columns / rows)
        covered = height * width > 0.5 * tile_side**2 * columns * rows
        if difference < smallest or (difference == smallest and covered):
            best_rows, best_columns, smallest = rows, columns, difference
    return best_rows, best_columns


def cut_tiles(grid: Tensor, tile: int) -> Tensor:
    """(n, channels, rows x tile, columns x tile) -> (n x rows x columns, channels, tile, tile), row by row."""
    n, channels, height, width = grid.shape
    tiles = grid.reshape(n, channels, height // tile, tile, width // tile, tile)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, tile, tile)


def join_tiles(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """(n x rows x columns, h, w, size) maps of tiles -> (n, rows x h, columns x w, size) maps of grids."""
    _, h, w, size = tiles.shape
    grid = tiles.reshape(-1, rows, columns, h, w, size).permute(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, rows * h, columns * w, size)


def tiles_of(grid: Tensor, side: int) -> list[list[Tensor]]:
    """The (n, side x side, size) tiles of (n, rows x side, columns x side, size) maps, by row and column."""
    return [[tile.flatten(1, 2) for tile in row.split(side, 2)] for row in grid.split(side, 1)]
