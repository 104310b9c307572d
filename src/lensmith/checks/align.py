"""Lays one thumbnail onto another: shift, turn, zoom and shear, brightness and contrast. How much of the detail agrees?

Two photographs of trousers look alike in outline; only a copy has the same detail in the same places. So a pair is
aligned (Lucas and Kanade's method in its inverse compositional form), and the detail that is left after removing the
coarse shades is correlated. On Fashion-MNIST, whose images are hard to tell apart, this finds copies that were
re-encoded, shifted, cropped, turned or mirrored, where distances of hashes or features find a fraction (dev/LOG.md).

Source: S. Baker and I. Matthews, Lucas-Kanade 20 years on: a unifying framework, IJCV 56 (2004), section 3.2.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

from lensmith.checks.survey import SIDE

_PAIRS = 256
"""Pairs at once: more don't fit into the processor's caches."""
_COARSE = SIDE // 2
_FINE, _FINEST = 0.8, 2.0
"""The detail is what a blur of the first radius (pixels) leaves and one of the second removes: re-encoding changes what
is finer, and shades are coarser."""
_LEAST, _MOST = 0.78, 1.25
"""Limits of the zoom."""
_TURN, _SHIFT = 0.25, 0.35
"""Limits of turn and shear, and of the shift as a fraction of half the side."""


def detail(images: Tensor) -> Tensor:
    """(images, side, side) the detail of thumbnails in levels: what is neither noise nor shade."""
    return _blur(images, _FINE) - _blur(images, _FINEST)


def agreement(first: Tensor, second: Tensor, hopeless: float = -1.0) -> Tensor:
    """How much of the detail of each pair agrees after aligning the second image with the first.

    Args:
        first: (pairs, side, side) thumbnails in levels of 0..255.
        second: likewise.
        hopeless: pairs that agree less than this after a coarse alignment are not aligned further.

    Returns:
        (pairs,) correlation, -1..1.
    """
    parts = zip(first.split(_PAIRS), second.split(_PAIRS), strict=True)
    results = [_agreement(a, b, hopeless) for a, b in parts if len(a)]
    return torch.cat(results) if results else torch.zeros(0)


def _agreement(a: Tensor, b: Tensor, hopeless: float) -> Tensor:
    small_a, small_b = (_blur(avg_pool2d(x[:, None], 2)[:, 0], 1.0) for x in (a, b))
    found = _refined(small_a, small_b, torch.eye(3)[:2].repeat(len(a), 1, 1), 8)
    places = _places(found, _COARSE)
    result = _correlation(detail(small_a), detail(_warped(small_b, places)), _inside(places, _COARSE))
    going_on = (result >= hopeless).nonzero()[:, 0]
    if len(going_on):
        a, b, found = a[going_on], b[going_on], found[going_on]
        found = _refined(_blur(a, 1.0), _blur(b, 1.0), found, 6)
        found = _refined(_blur(a, 0.6), _blur(b, 0.6), found, 5)
        places = _places(found, SIDE)
        inside = _inside(places, SIDE)
        inner = -torch.nn.functional.max_pool2d(-inside[:, None], 3, 1, 1)[:, 0]
        result[going_on] = _correlation(detail(a), detail(_warped(b, places, "bicubic")), inner)
    return result


def _refined(a: Tensor, b: Tensor, found: Tensor, rounds: int) -> Tensor:
    """The affine maps (pairs, 2, 3), from coordinates of a to those of b, after some rounds of Gauss and Newton."""
    side = a.shape[-1]
    basis = _basis(side)
    across = pad((a[:, :, 2:] - a[:, :, :-2]) * (side / 4), (1, 1)).flatten(1)
    down = pad((a[:, 2:] - a[:, :-2]) * (side / 4), (0, 0, 1, 1)).flatten(1)
    # The normal equations of the six parameters, whose derivatives are the gradients times (x, y, 1).
    products = torch.stack([across * across, across * down, down * down], 1) @ _outer(side)
    xx, xy, yy = products.view(-1, 3, 3, 3).unbind(1)
    normal = torch.cat([torch.cat([xx, xy], 2), torch.cat([xy, yy], 2)], 1)
    damping = normal.diagonal(dim1=1, dim2=2).mean(1) * 3e-3 + 1e-3
    inverse = torch.linalg.inv(normal + torch.eye(6) * damping[:, None, None])
    for _ in range(rounds):
        places = _places(found, side)
        inside, moved = _inside(places, side), _warped(b, places)
        size = inside.sum((1, 2), keepdim=True)
        of_b = (moved - (moved * inside).sum((1, 2), keepdim=True) / size) * inside
        of_a = (a - (a * inside).sum((1, 2), keepdim=True) / size) * inside
        gain = (of_a * of_b).sum((1, 2)) / ((of_b * of_b).sum((1, 2)) + 1e-3)
        left = (gain.clamp(0.3, 3.0)[:, None, None] * of_b - of_a).flatten(1)
        towards = torch.cat([(across * left) @ basis, (down * left) @ basis], 1)
        step = (inverse @ towards[:, :, None])[:, :, 0].clamp(-0.15, 0.15)
        found = _composed(found, step.view(-1, 2, 3))
    return found


def _composed(found: Tensor, step: Tensor) -> Tensor:
    """The maps after the inverse of a step, within the limits."""
    last = torch.tensor([0.0, 0.0, 1.0]).expand(len(found), 1, 3)
    back = torch.linalg.inv(torch.cat([step, torch.zeros_like(last)], 1) + torch.eye(3))
    maps = (torch.cat([found, last], 1) @ back)[:, :2]
    low = torch.tensor([[_LEAST, -_TURN, -_SHIFT], [-_TURN, _LEAST, -_SHIFT]])
    high = torch.tensor([[_MOST, _TURN, _SHIFT], [_TURN, _MOST, _SHIFT]])
    limited: Tensor = maps.clamp(low, high)
    return limited


def _warped(images: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """The second images as the first ones see them; see `_places`."""
    side = images.shape[-1]
    grid = places.transpose(1, 2).reshape(-1, side, side, 2)
    return grid_sample(images[:, None], grid, mode=mode, padding_mode="border", align_corners=False)[:, 0]


def _places(found: Tensor, side: int) -> Tensor:
    """(pairs, 2, pixels) where each pixel of the first image is in the second, in -1..1 if it is there at all."""
    return (found.reshape(-1, 3) @ _basis(side).T).view(len(found), 2, -1)


def _inside(places: Tensor, side: int) -> Tensor:
    """(pairs, side, side) 1 where a pixel of the first image has one in the second, otherwise 0."""
    return (places.abs().amax(1) <= 1).view(-1, side, side).float()


def _correlation(a: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    size = inside.sum((1, 2), keepdim=True).clamp_min(1)
    a = (a - (a * inside).sum((1, 2), keepdim=True) / size) * inside
    b = (b - (b * inside).sum((1, 2), keepdim=True) / size) * inside
    return (a * b).sum((1, 2)) / (((a * a).sum((1, 2)) * (b * b).sum((1, 2))).sqrt() + 1e-3)


def _blur(images: Tensor, radius: float) -> Tensor:
    matrix = _gaussian(images.shape[-1], radius)
    return matrix @ images @ matrix.T


@cache
def _gaussian(side: int, radius: float) -> Tensor:
    """(side, side) the matrix that blurs a column by a Gaussian, its ends continued."""
    reach = max(1, round(2.5 * radius))
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * radius * radius))
    matrix = torch.zeros(side, side)
    for i in range(side):
        for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
            matrix[i, min(max(i + offset, 0), side - 1)] += weight
    return matrix


@cache
def _basis(side: int) -> Tensor:
    """(pixels, 3) the coordinates x and y of each pixel, from -1 to 1, and 1."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(side * side)], 1)


@cache
def _outer(side: int) -> Tensor:
    """(pixels, 9) the products of each pixel's (x, y, 1) with itself."""
    basis = _basis(side)
    return (basis[:, :, None] * basis[:, None]).flatten(1)
