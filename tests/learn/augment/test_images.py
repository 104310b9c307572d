"""Random changes to images: each follows its option, and the result depends only on the seed, not on the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from lensmith.config import AugmentOptions
from lensmith.learn.augment.images import OPERATIONS, Draws, augment, draw

EVERYTHING = AugmentOptions(
    shift=0.1, zoom=0.2, rotate=20, flip=True, crop=0.5, colour=0.5, randaugment=2, magnitude=7, erase=0.7
)


def draws_of(n: int, options: AugmentOptions, seed: int = 0) -> Draws:
    return draw(n, options, torch.Generator().manual_seed(seed))


def changed(pixels: Tensor, options: AugmentOptions, seed: int = 0) -> Tensor:
    return augment(pixels, options, draws_of(len(pixels), options, seed))


def photos(n: int, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    """Random images, some dark and some bright."""
    pixels = torch.randint(0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return (pixels * torch.linspace(0.3, 1, n)[:, None, None, None]).to(torch.uint8)


def spot(x: int, y: int, n: int = 1, height: int = 64, width: int = 64, side: int = 6) -> Tensor:
    """A white square on black, its centre at (x, y) from the image's centre."""
    pixels = torch.zeros(n, 3, height, width, dtype=torch.uint8)
    top, left = height // 2 + y - side // 2, width // 2 + x - side // 2
    pixels[:, :, top : top + side, left : left + side] = 255
    return pixels


def middles(pixels: Tensor) -> Tensor:
    """(n, 2) centres of mass as (x, y) from the centre of the image, in pixels."""
    height, width = pixels.shape[-2:]
    mass = pixels[:, 0].double()
    x, y = torch.arange(width) - (width - 1) / 2, torch.arange(height) - (height - 1) / 2
    weight = mass.sum((1, 2))
    return torch.stack([(mass.sum(1) * x).sum(1) / weight, (mass.sum(2) * y).sum(1) / weight], 1)


def apply(pixels: Tensor, *operations: str, strength: float = 1.0) -> Tensor:
    """RandAugment as if these operations had been drawn."""
    options = AugmentOptions(randaugment=len(operations))
    rows = torch.tensor([[list(OPERATIONS).index(name) for name in operations]] * len(pixels))
    drawn = replace(draws_of(len(pixels), options), operations=rows, strengths=torch.full(rows.shape, strength))
    return augment(pixels, options, drawn)


def test_with_all_options_off_the_input_itself_is_returned() -> None:
    pixels = photos(3)
    assert changed(pixels, AugmentOptions()) is pixels


@given(
    st.builds(
        AugmentOptions,
        shift=st.sampled_from([0.0, 0.3]),
        zoom=st.sampled_from([0.0, 1.0]),
        rotate=st.sampled_from([0.0, 30.0]),
        flip=st.booleans(),
        crop=st.sampled_from([0.0, 0.9]),
        colour=st.sampled_from([0.0, 1.0]),
        randaugment=st.integers(0, 3),
        magnitude=st.floats(0, 10),
        erase=st.sampled_from([0.0, 0.5, 1.0]),
    ),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_the_result_for_an_image_does_not_depend_on_its_batch_and_stays_in_range(
    options: AugmentOptions, size: tuple[int, int], index: list[int], seed: int
) -> None:
    pixels = photos(7, *size)
    draws = draws_of(7, options, seed)
    whole = augment(pixels, options, draws)
    assert whole.shape == pixels.shape
    assert bool((whole >= 0).all() and (whole <= 255).all())  # also False for NaN
    assert torch.equal(augment(pixels[index], options, draws.of(index)), whole[index])
    assert torch.equal(augment(pixels[6:], options, draws.of(torch.tensor([6]))), whole[6:])


def test_the_result_depends_only_on_the_seed() -> None:
    pixels = photos(8)
    torch.manual_seed(1)
    first = changed(pixels, EVERYTHING)
    torch.manual_seed(2)
    assert torch.equal(changed(pixels, EVERYTHING), first)
    other = changed(pixels, EVERYTHING, seed=1)
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    # The generator advances, so the next batch is changed differently.
    generator = torch.Generator().manual_seed(0)
    one, two = draw(8, EVERYTHING, generator), draw(8, EVERYTHING, generator)
    assert all(not torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(Draws))


def test_an_option_does_not_change_what_is_drawn_for_the_others() -> None:
    with_all = draws_of(8, EVERYTHING)
    without = draws_of(8, replace(EVERYTHING, randaugment=0))
    for name in ("affine", "colour", "erased", "patch", "seed"):
        assert torch.equal(getattr(with_all, name), getattr(without, name))
    assert torch.equal(draws_of(8, AugmentOptions(randaugment=2)).operations, with_all.operations)


def test_autocast_does_not_change_the_result() -> None:
    # Pixel positions in bfloat16 would be off by a fifth of a pixel.
    pixels = photos(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = changed(pixels, EVERYTHING)
    assert torch.equal(inside, changed(pixels, EVERYTHING))


def test_flip_mirrors_half_of_the_images() -> None:
    pixels = photos(1).expand(64, -1, -1, -1)
    results = changed(pixels, AugmentOptions(flip=True))
    same = ((results - pixels).abs() < 0.01).all(3).all(2).all(1)
    mirrored = ((results - pixels.flip(3)).abs() < 0.01).all(3).all(2).all(1)
    assert torch.equal(same, ~mirrored)
    assert 16 < int(same.sum()) < 48


def test_shift_moves_content_without_changing_it() -> None:
    pixels = spot(0, 0, 64, height=48, width=96)
    results = changed(pixels, AugmentOptions(shift=0.25))
    torch.testing.assert_close(results.sum((1, 2, 3)), pixels.float().sum((1, 2, 3)))
    moved = (middles(results) - middles(pixels)) / torch.tensor([96, 48])
    assert 0.2 < moved.abs().amax(0).min() <= moved.abs().max() <= 0.25
    assert bool((moved.amin(0) < -0.15).all() and (moved.amax(0) > 0.15).all())


def test_edges_are_repeated_outwards() -> None:
    white = torch.full((64, 3, 20, 20), 255, dtype=torch.uint8)
    results = changed(white, AugmentOptions(shift=1.0, zoom=0.5, rotate=180))
    torch.testing.assert_close(results, white.float())
    assert results.max() <= 255  # without clamping, rounding would exceed the range


def test_zoom_scales() -> None:
    results = changed(spot(0, 0, 64, side=16), AugmentOptions(zoom=0.5))
    side = (results.sum((1, 2, 3)) / 3 / 255).sqrt() / 16
    assert 0.45 < side.min() < 0.6 < 1.4 < side.max() < 1.55
    assert middles(results).abs().max() < 0.01
    # Even the largest zoom does not scale an image to nothing.
    assert draws_of(1000, AugmentOptions(zoom=1.0)).affine.abs().max() <= 10


def test_rotation_is_about_the_centre_and_keeps_lengths_on_wide_images() -> None:
    results = changed(spot(16, 0, 64, height=48, width=96), AugmentOptions(rotate=90))
    x, y = middles(results).T
    assert bool(((x**2 + y**2).sqrt() - 16).abs().max() < 0.6)
    angles = torch.rad2deg(torch.atan2(y, x))
    assert -92 < angles.min() < -60 < 60 < angles.max() < 92


def test_crop_takes_a_window_within_the_image() -> None:
    # Red and green encode the column and the row that a pixel came from.
    height, width = 40, 80
    pixels = torch.zeros(256, 3, height, width, dtype=torch.uint8)
    pixels[:, 0], pixels[:, 1] = torch.arange(width) * 3, torch.arange(height)[:, None] * 6
    results = changed(pixels, AugmentOptions(crop=0.75))
    column, row = results[:, 0, 20] / 3, results[:, 1, :, 20] / 6
    # The outermost half pixel may be a repeated edge, so sides are measured further inside.
    wide = (column[:, 60] - column[:, 20]) / 40
    tall = (row[:, 30] - row[:, 10]) / 20
    middle_x, middle_y = (column[:, 39] + column[:, 40]) / 2 + 0.5, (row[:, 19] + row[:, 20]) / 2 + 0.5
    for middle, fraction, size in ((middle_x, wide, width), (middle_y, tall, height)):
        assert bool((middle - fraction * size / 2 > -0.01).all() and (middle + fraction * size / 2 < size + 0.01).all())
    area, ratio = wide * tall, tall / wide
    assert 0.25 < area.min() < 0.28 < 0.97 < area.max() < 1.001
    assert abs(area.mean() - 0.625) < 0.05
    assert 0.749 < ratio.min() < 0.78 < 1.28 < ratio.max() < 1.334
    assert abs(ratio.log().mean()) < 0.05
    assert middle_x.std() > 5
    assert middle_y.std() > 2.5


def test_colour_changes_brightness_contrast_and_saturation() -> None:
    options = AugmentOptions(colour=0.4)
    drawn = draws_of(256, options).colour
    assert 0.6 <= drawn.min() < 0.61 < 1.39 < drawn.max() <= 1.4
    pixels = (photos(1).expand(3, -1, -1, -1) // 3) + 60
    factors = torch.tensor([[1.2, 1.0, 1.0], [1.0, 0.6, 1.0], [1.0, 1.0, 0.6]])
    results = augment(pixels, options, replace(draws_of(3, options), colour=factors))
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for result, enhancer, factor in zip(results, enhancers, (1.2, 0.6, 0.6), strict=True):
        expected = torch.from_numpy(np.array(enhancer(picture).enhance(factor))).permute(2, 0, 1)
        assert (result - expected).abs().max() <= 1.5


def test_erasing_covers_a_rectangle_with_noise() -> None:
    pixels = torch.full((256, 3, 40, 60), 128, dtype=torch.uint8)
    options = AugmentOptions(erase=0.5)
    results = changed(pixels, options)
    covered = (results != 128).any(1)
    some = covered.any(2).any(1)
    assert 96 < int(some.sum()) < 160
    rows, columns = covered[some].any(2), covered[some].any(1)
    tall, wide = rows.sum(1), columns.sum(1)
    # A full rectangle, except for the few pixels whose noise is grey by chance.
    assert bool((covered[some].sum((1, 2)) >= tall * wide - 2).all())
    fraction, ratio = tall * wide / 2400, tall / wide
    assert 0.015 < fraction.min() < 0.05 < 0.3 < fraction.max() < 0.34
    assert 0.25 < ratio.min() < 0.5 < 2 < ratio.max() < 3.7
    assert bool(rows.any(0).all() and columns.any(0).all())  # rectangles occur everywhere
    noise = results.permute(0, 2, 3, 1)[covered]
    assert noise.mean(0).sub(127.5).abs().max() < 1
    counts = noise.flatten().long().bincount(minlength=256)
    assert counts.max() < 1.2 * counts.median()
    assert np.corrcoef(noise.T.numpy())[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.01)


def test_no_two_images_are_erased_with_the_same_noise() -> None:
    pixels, options = torch.zeros(2, 3, 40, 60, dtype=torch.uint8), AugmentOptions(erase=1.0)
    draws = draws_of(2, options)
    one, other = augment(pixels, options, replace(draws, patch=draws.patch[[0, 0]]))
    assert torch.equal(one.any(0), other.any(0))
    assert (one == other)[:, one.any(0)].float().mean() < 0.05


PILLOW: dict[str, Callable[[Image.Image], Image.Image]] = {
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "solarize": lambda image: ImageOps.solarize(image, 128),
    "posterize": lambda image: ImageOps.posterize(image, 6),
    "colour": lambda image: ImageEnhance.Color(image).enhance(1.45),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.45),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.45),
    "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(1.45),
}


@pytest.mark.parametrize("name", PILLOW)
@given(st.integers(3, 90), st.integers(3, 90), st.sampled_from([1, 3, 255]), st.integers(0, 2**32))
@example(66, 66, 255, 4)
def test_colour_operations_equal_those_of_pillow(name: str, height: int, width: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.choice(rng.integers(0, 256, levels), (height, width, 3)).astype(np.uint8)
    expected = np.array(PILLOW[name](Image.fromarray(picture)))
    result = apply(torch.from_numpy(picture).permute(2, 0, 1)[None], name, strength=0.5)
    # Pillow truncates fractions and rounds intermediate results.
    tolerance = 0 if name in ("equalize", "solarize", "posterize") else 2
    assert np.abs(result[0].permute(1, 2, 0).numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("autocontrast", "equalize")])
def test_the_effect_of_operations_grows_with_their_magnitude_from_zero(name: str) -> None:
    pixels = photos(2)[1:]
    none, little, much = (
        (apply(pixels, name, strength=strength) - pixels).abs().mean().item() for strength in (0.0, 0.3, 1.0)
    )
    assert none < 0.01
    assert little == much == 0 if name == "identity" else 0.4 < little < much


@pytest.mark.parametrize("strength", [0.5, -1.0])
def test_geometric_operations_move_content(strength: float) -> None:
    x, y = (24, -12) if strength > 0 else (-24, -12)  # such that the spot stays within the image
    pixels = spot(x, y, height=64, width=128)
    turn = math.radians(30 * strength)
    expected = {
        # Content at the position p in the image moves to q in the result, where matrix @ q + offset = p.
        "rotate": (x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)),
        "shear x": (x - 0.3 * strength * y, y),
        "shear y": (x, y - 0.3 * strength * x),
        "translate x": (x - strength * 150 / 331 * 128, y),
        "translate y": (x, y - strength * 150 / 331 * 64),
    }
    for name, position in expected.items():
        moved = apply(pixels, name, strength=strength)
        assert middles(moved)[0].tolist() == pytest.approx(position, abs=0.7), name


def test_operations_are_applied_in_the_drawn_order() -> None:
    pixels = photos(2)
    both = apply(pixels, "posterize", "brightness", strength=0.5)
    assert torch.equal(
        both, apply(apply(pixels, "posterize", strength=0.5).to(torch.uint8), "brightness", strength=0.5)
    )
    assert not torch.equal(both, apply(pixels, "brightness", "posterize", strength=0.5))


def test_autocontrast_does_not_change_a_uniform_image_after_a_rotation() -> None:
    even = torch.full((1, 3, 30, 30), 77, dtype=torch.uint8)
    assert torch.equal(apply(even, "rotate", "autocontrast"), even.float())


def test_every_operation_is_drawn_equally_often_and_in_both_directions() -> None:
    drawn = draws_of(1400, AugmentOptions(randaugment=2, magnitude=4))
    counts = drawn.operations.flatten().bincount(minlength=14)
    assert len(counts) == 14
    assert 150 < counts.min() <= counts.max() < 250
    assert drawn.strengths.unique().tolist() == pytest.approx([-0.4, 0.4])
    assert abs(drawn.strengths.mean()) < 0.05
