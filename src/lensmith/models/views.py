"""An image as a model is shown it: one view, or two, a grid of tiles and, smaller, the whole of it.

A view is a map: (3, H, W) bytes before the vision tower, (rows, columns, size) after it. An image of several views is
a tuple of them, so that whatever is done to an image (augmenting, mixing, caching) is done to each view alike, and
images whose views have equal shapes go through the model together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Views = tuple[Tensor, ...]
Shape = tuple[tuple[int, ...], ...]

_MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which checkpoints are written in


def filter_of(number: int | None, usual: int) -> int:
    """The number of a filter that `resize` has. Raises ValueError for another."""
    number = usual if number is None else number
    if number not in _MODES:
        raise ValueError(f"filter {number} is none of {_MODES}")
    return number


def shape_of(views: Views) -> Shape:
    """The shapes of an image's views: images of equal ones can be stacked."""
    return tuple(tuple(view.shape) for view in views)


def stack(images: Sequence[Views]) -> Views:
    """Images of one shape -> their views with a leading dimension."""
    return tuple(torch.stack(views) for views in zip(*images, strict=True))


def unstack(views: Views) -> list[Views]:
    """What `stack` has put together, one by one."""
    return list(zip(*(view.unbind() for view in views), strict=True))


def to_pixels(image: Image.Image) -> Tensor:
    """An image -> (3, H, W) bytes."""
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)


def resize(pixels: Tensor, size: tuple[int, int], resample: int = 2) -> Tensor:
    """Scale with antialiasing, as torchvision's `resize` does: on a CPU bit for bit.

    Args:
        pixels: (..., 3, H, W) bytes, on any device.
        size: (height, width).
        resample: 2 bilinear, 3 bicubic.
    """
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    # One image as a batch of one: with channels innermost, as it was decoded, the kernel of bytes is a quarter faster
    # if the strides tell it so, which those of `pixels[None]` would not.
    one = pixels.ndim == 3
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2) if one else pixels.reshape(-1, *pixels.shape[-3:])
    scaled = (_interpolated if batch.device.type == "cpu" else in_floats)(batch, size, resample)
    return scaled.reshape(*pixels.shape[:-2], *size)


def in_floats(batch: Tensor, size: tuple[int, int], resample: int) -> Tensor:
    """The same without a kernel for bytes, as on a GPU: up to a level apart, or two where a bicubic filter overshoots.

    (n, 3, H, W) bytes -> (n, 3, height, width) bytes. The kernel too scales the width and rounds, and then the height:
    both at once would be up to five levels apart.
    """
    for to in ((batch.shape[-2], size[1]), size):
        batch = _interpolated(batch.float(), to, resample).round_().clamp_(0, 255)
    return batch.to(torch.uint8)


def _interpolated(batch: Tensor, size: tuple[int, int], resample: int) -> Tensor:
    return F.interpolate(batch, size=size, mode=_MODES[resample], antialias=True, align_corners=False)


def fitting(height: int, width: int, step: int, least: int, most: int, narrow: bool = True) -> tuple[int, int]:
    """The (height, width) nearest to an image's own that are multiples of `step` and have `least` to `most` pixels.

    The aspect ratio is kept as far as the step allows. As LFM2-VL's `smart_resize`, and Qwen2-VL's without `narrow`,
    but for an image so long that they would go beyond `most`: it is squeezed.

    Args:
        narrow: a side of less than half a step counts as one step, and not as none, which makes an image one that is
            too small, however long it is.
    """
    high, wide = (max(step if narrow else 0, round(side / step) * step) for side in (height, width))
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high = max(step, math.floor(height / shrink / step) * step)
        wide = max(step, math.floor(width / shrink / step) * step)
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high, wide = (math.ceil(side * grow / step) * step for side in (height, width))
        if high * wide > most:  # where the two are close, as in a small budget
            high, wide = (max(step, math.floor(side * grow / step) * step) for side in (height, width))
    limit = max(1, most // step**2) * step
    return min(high, limit), min(wide, limit)


def tiling(height: int, width: int, least: int, most: int, tile: int) -> tuple[int, int]:
    """(rows, columns) of the grid of `least` to `most` tiles whose aspect ratio is nearest to an image's.

    Of several equally near, the first, unless the image covers more than half of a larger one's area.
    """
    # A set made in this order, because of grids of equal area the original takes the set's own order.
    sides = range(least, most + 1)
    grids = {(w, h) for n in sides for w in range(1, n + 1) for h in range(1, n + 1) if least <= w * h <= most}
    best, nearest = (1, 1), math.inf
    for w, h in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        apart = abs(width / height - w / h)
        if apart < nearest or (apart == nearest and height * width > 0.5 * tile**2 * w * h):
            best, nearest = (w, h), apart
    return best[1], best[0]


def cut(grid: Tensor, tile: int) -> Tensor:
    """(n, channels, rows x tile, columns x tile) -> (n x rows x columns, channels, tile, tile), row by row."""
    n, channels, height, width = grid.shape
    tiles = grid.reshape(n, channels, height // tile, tile, width // tile, tile)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, tile, tile)


def join(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """(n x rows x columns, h, w, size) maps of tiles -> (n, rows x h, columns x w, size) maps of grids."""
    _, h, w, size = tiles.shape
    grid = tiles.reshape(-1, rows, columns, h, w, size).permute(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, rows * h, columns * w, size)


def tiles_of(grid: Tensor, side: int) -> list[list[Tensor]]:
    """The (n, side x side, size) tiles of (n, rows x side, columns x side, size) maps, by row and column."""
    return [[part.flatten(1, 2) for part in row.split(side, 2)] for row in grid.split(side, 1)]
