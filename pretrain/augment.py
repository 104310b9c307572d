"""Turns flat drawings into something a photograph may resemble: batched, on tensors, one `strength` from 0 to 1.

A drawing has a body and lines (see pictures.py). Here it is moved, bent and resized, its body is filled with a colour
and a texture, it is laid on a background, and the whole is blurred, made coarse, greyed, inverted and made noisy.
What is drawn how often is in plain view below; `strength` scales both how often and how far.

Run: python pretrain/augment.py WORK_DIR SHEET.png   (a contact sheet, to see what the model sees)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def rand(n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(n, 1, 1, 1) uniform numbers."""
    return torch.empty(n, 1, 1, 1).uniform_(low, high)


def chance(n: int, p: float) -> Tensor:
    """(n, 1, 1, 1): 1.0 with probability `p`, else 0.0."""
    return (torch.rand(n, 1, 1, 1) < p).float()


def field(n: int, channels: int, coarse: int, size: int) -> Tensor:
    """(n, channels, size, size) smooth random field, about N(0, 1) at its nodes."""
    return F.interpolate(torch.randn(n, channels, coarse, coarse), size=(size, size), mode="bicubic")


def move(planes: Tensor, character: Tensor, strength: float) -> Tensor:
    """Scale, stretch, shear, turn, mirror (drawings only), shift and bend: (n, 5, S, S) -> the same."""
    n, _, size, _ = planes.shape
    s = strength
    is_char = character.view(n)
    scale = torch.empty(n).uniform_(1 - 0.45 * s, 1 + 0.25 * s)
    aspect = torch.exp(torch.randn(n) * 0.16 * s).clamp(0.65, 1.5)
    angle = torch.randn(n) * 0.16 * s
    angle = angle + (torch.rand(n) < 0.1 * s) * (1 - is_char) * torch.empty(n).uniform_(-0.8, 0.8)
    mirror = torch.where((torch.rand(n) < 0.5) & (is_char == 0), -1.0, 1.0)
    shear = torch.randn(n) * 0.15 * s
    sx, sy = mirror / (scale * aspect), aspect / scale
    cos, sin = angle.cos(), angle.sin()
    room = (1.15 - scale).clamp(min=0.05)
    shift = torch.empty(n, 2).uniform_(-1, 1) * (0.6 * room * s).view(n, 1)
    theta = torch.stack(
        [
            torch.stack([sx * cos, sx * (shear - sin), shift[:, 0]], 1),
            torch.stack([sy * sin, sy * cos, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    bend = field(n, 2, 5, size).permute(0, 2, 3, 1)
    grid = grid + bend * (torch.rand(n, 1, 1, 1) ** 2) * 0.09 * s
    return F.grid_sample(planes, grid, align_corners=False, padding_mode="zeros")


def thicken(planes: Tensor, strength: float) -> Tensor:
    """Lines made thicker or thinner on some."""
    n = len(planes)
    alpha = planes[:, 3:4]
    wide = F.max_pool2d(alpha, 3, 1, 1)
    narrow = -F.max_pool2d(-alpha, 3, 1, 1)
    a, b = chance(n, 0.3 * strength) * rand(n), chance(n, 0.15 * strength) * rand(n) * 0.7
    alpha = alpha + a * (wide - alpha) + b * (narrow - alpha)
    body = torch.maximum(planes[:, 4:5], a * wide)
    return torch.cat([planes[:, :3], alpha, body], 1)


def paint(n: int, size: int, strength: float) -> Tensor:
    """(n, 3, S, S) fillings: a colour with a slope, soft blotches and sometimes stripes or a fine weave."""
    colour = torch.rand(n, 3, 1, 1)
    grey = chance(n, 0.4)
    colour = grey * colour.mean(1, keepdim=True) + (1 - grey) * colour
    slope = F.interpolate(torch.randn(n, 1, 2, 2), size=(size, size), mode="bilinear", align_corners=True)
    blotch = field(n, 1, 8, size)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle, pitch = rand(n, 0, 3.14), rand(n, 0.2, 1.6)
    stripes = torch.sin((x * angle.cos() + y * angle.sin()) * pitch)
    weave = F.interpolate(torch.randn(n, 1, size // 2, size // 2), size=(size, size))
    k = strength
    out = colour + k * (
        0.22 * rand(n) * slope
        + 0.18 * rand(n) * blotch
        + 0.3 * rand(n) * chance(n, 0.25) * stripes
        + 0.15 * rand(n) * chance(n, 0.4) * weave
    )
    return out


def coarse(image: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Down and up again, each image by one of `sizes` (its size unchanged if that is S)."""
    n, _, size, _ = image.shape
    pick = torch.randint(len(sizes), (n,))
    out = image.clone()
    for i, small in enumerate(sizes):
        chosen = (pick == i).nonzero().view(-1)
        if small < size and len(chosen):
            down = F.interpolate(image[chosen], size=(small, small), mode="bilinear", antialias=True)
            out[chosen] = F.interpolate(down, size=(size, size), mode="bilinear", align_corners=False)
    return out


def augment(planes: Tensor, character: Tensor, strength: float) -> Tensor:
    """Drawings to pictures.

    Args:
        planes: (n, 5, S, S) bytes: red, green, blue, alpha, body.
        character: (n,) bool: a letter or digit, which must not be mirrored or filled.
        strength: 0 (the drawing on black or white) to 1.

    Returns:
        (n, 3, S, S) floats in 0..1.
    """
    n, _, size, _ = planes.shape
    s = strength
    is_char = character.float().view(n, 1, 1, 1)
    planes = thicken(move(planes.float() / 255, is_char, 0.3 + 0.7 * s), s)
    rgb, alpha, body = planes[:, :3], planes[:, 3:4], planes[:, 4:5]

    # The ground: black, white, a colour, or a filling. Photographs of things on a plain ground are the commonest case.
    kind = torch.rand(n, 1, 1, 1)
    filling = paint(n, size, s)
    ground = torch.where(kind < 0.42, torch.zeros(1), torch.where(kind < 0.6, torch.ones(1), filling))
    light_ground = (ground.mean((1, 2, 3), keepdim=True) > 0.5).float()

    # The thing: its own colours, or one paint; the body filled or left open; lines darker or lighter than the body.
    skin = paint(n, size, s)
    contrast = skin.mean((1, 2, 3), keepdim=True) - ground.mean((1, 2, 3), keepdim=True)
    skin = skin + torch.where(contrast >= 0, 1.0, -1.0) * (0.45 - contrast.abs()).clamp(min=0)
    own = ((rgb * alpha).amax((1, 2, 3), keepdim=True) > 0.08).float() * chance(n, 0.55)  # has colours of its own
    filled = chance(n, 0.7 * min(1.0, 0.4 + s)) * (1 - is_char) * (1 - own)
    line_shift = torch.where(torch.rand(n, 1, 1, 1) < 0.75, -1.0, 1.0) * rand(n, 0.0, 0.45)
    plain = 1.0 - light_ground.expand(n, 3, 1, 1)  # without a paint: white on dark, black on light
    ink = torch.where(chance(n, 0.35 + 0.4 * s) > 0, skin, plain.expand(n, 3, size, size))
    lines = own * rgb + (1 - own) * (filled * (skin + line_shift) + (1 - filled) * ink)
    image = ground + filled * body * (skin - ground)
    opacity = filled * rand(n, 0.3, 1.0) + (1 - filled)
    image = image + alpha * opacity * (lines - image)

    # The camera: soft light, grey, inversion, coarse sensor, blur, gain, noise.
    shade = 1 + 0.25 * s * chance(n, 0.4) * F.interpolate(torch.randn(n, 1, 2, 2), (size, size), mode="bilinear")
    image = (image * shade).clamp(0, 1)
    grey = chance(n, 0.5)
    image = grey * image.mean(1, keepdim=True) + (1 - grey) * image
    invert = chance(n, 0.12)
    image = invert * (1 - image) + (1 - invert) * image
    if s > 0.2:
        few = character.nonzero().view(-1)
        many = (~character).nonzero().view(-1)
        image = image.clone()
        image[few] = coarse(image[few], (64, 40, 28, 20, 14, 10, 8, 8))
        image[many] = coarse(image[many], (64, 48, 40, 28, 28, 20))
    image = 0.5 + (image - 0.5) * rand(n, 1 - 0.45 * s, 1 + 0.25 * s) + torch.randn(n, 1, 1, 1) * 0.06 * s
    image = image + torch.randn_like(image[:, :1]) * rand(n) * chance(n, 0.4) * 0.12 * s
    return image.clamp(0, 1)


def main() -> None:
    from PIL import Image

    torch.manual_seed(0)
    data = np.load(Path(sys.argv[1]) / "pictures.npz")
    concepts = data["concepts"]
    pick = np.random.default_rng(0).choice(len(data["label"]), 256, replace=False)
    planes = torch.from_numpy(data["planes"][pick])
    character = torch.from_numpy(np.char.str_len(concepts[data["label"][pick]]) == 1)
    rows = torch.cat([augment(planes[i * 64 : i * 64 + 64], character[i * 64 : i * 64 + 64], i / 3) for i in range(4)])
    sheet = rows.view(16, 16, 3, 64, 64).permute(0, 3, 1, 4, 2).reshape(1024, 1024, 3)
    Image.fromarray((sheet * 255).byte().numpy()).save(sys.argv[2])


if __name__ == "__main__":
    main()
