"""Random changes to training images that don't change their class: pure functions on batches, on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lensmith.config import TrainOptions


def augment(pixels: Tensor, options: TrainOptions) -> Tensor:
    """Shift, zoom, turn and mirror each image by its own random amounts, as far as the options allow.

    Args:
        pixels: (n, 3, H, W) bytes.

    Returns:
        The same bytes if every option is zero, else (n, 3, H, W) floats in 0..255; edges are repeated outwards.
    """
    if not (options.shift or options.zoom or options.rotate or options.flip):
        return pixels
    n, _, height, width = pixels.shape

    def uniform(reach: float) -> Tensor:
        # Drawn on the CPU, so that a run with one seed sees the same images on every device.
        return torch.empty(n).uniform_(-1, 1) * reach

    angle = uniform(math.radians(options.rotate))
    scale = 1 + uniform(options.zoom)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0) if options.flip else torch.ones(n)
    # The grid runs from -1 to 1 on both axes; the aspect ratio keeps a turned square a square.
    cos, sin, aspect = angle.cos() / scale, angle.sin() / scale, height / width
    theta = torch.stack(
        [
            torch.stack([mirror * cos, -mirror * sin * aspect, uniform(2 * options.shift)], 1),
            torch.stack([sin / aspect, cos, uniform(2 * options.shift)], 1),
        ],
        1,
    ).to(pixels.device)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels.float(), grid, align_corners=False, padding_mode="border")
