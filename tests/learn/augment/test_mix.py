"""Mixing two images: weights match the pixels, and only pairs that were drawn are mixed."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensmith.config import AugmentOptions
from lensmith.learn.augment.mix import Mixing, draw, mix, partners

UNIT = st.floats(0, 1, width=32)


def drawn(n: int, seed: int = 0, **options: float | str) -> Mixing:
    return draw(n, AugmentOptions(**options), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def mixing(weight: list[float], cut: bool, centre: tuple[float, float] = (0.5, 0.5)) -> Mixing:
    return Mixing(torch.tensor(weight), torch.full((len(weight),), cut), torch.tensor([centre] * len(weight)))


def even(*levels: int, height: int = 20, width: int = 30) -> Tensor:
    """Images with a single level each."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, height, width)


@given(st.integers(1, 70), st.integers(1, 70), UNIT, UNIT, UNIT)
def test_the_cutmix_weight_is_the_fraction_of_pixels_kept(
    height: int, width: int, weight: float, x: float, y: float
) -> None:
    pixels = even(10, 200, height=height, width=width)
    results, weights = mix(pixels, torch.tensor([1, 0]), mixing([weight, 1.0], True, (x, y)))
    kept = results[0] == 10
    assert bool((kept | (results[0] == 200)).all())
    assert torch.equal(weights[0], torch.tensor(int(kept[0].sum()) / (height * width)))
    box = ~kept[0]
    assert box.sum() == box.any(0).sum() * box.any(1).sum()  # one rectangle
    # Never larger than drawn, except for half a pixel at each edge.
    assert box.any(0).sum() <= (1 - weight) ** 0.5 * width + 1
    assert box.any(1).sum() <= (1 - weight) ** 0.5 * height + 1
    assert weights[1] == 1
    assert bool((results[1] == 200).all())


def test_the_cutmix_box_is_at_the_drawn_position_and_shows_the_partner() -> None:
    pixels = torch.randint(0, 256, (2, 3, 40, 80), dtype=torch.uint8)
    results, weights = mix(pixels, torch.tensor([1, 0]), mixing([0.75, 0.75], True, (0.25, 0.5)))
    box = torch.zeros(40, 80, dtype=torch.bool)
    box[10:30, 0:40] = True  # half of each side, around (20, 20)
    assert torch.equal(results, torch.where(box, pixels.flip(0), pixels).float())
    assert weights.tolist() == [0.75, 0.75]
    # At weight 0 only the partner is visible; at a corner, a quarter of the box is inside the image.
    results, weights = mix(pixels, torch.tensor([1, 0]), mixing([0.0, 0.0], True))
    assert torch.equal(results, pixels.flip(0).float())
    assert weights.tolist() == [0, 0]
    _, weights = mix(pixels, torch.tensor([1, 0]), mixing([0.75, 0.75], True, (0.0, 0.0)))
    assert weights.tolist() == [1 - 0.25 / 4] * 2


@given(st.lists(UNIT, min_size=3, max_size=3))
def test_mixup_is_the_convex_combination_of_the_originals(weights: list[float]) -> None:
    pixels = torch.randint(0, 256, (3, 3, 6, 5), dtype=torch.uint8)
    pixels[..., 0] = 255  # rounding could take a mean of two of these out of range
    partner = torch.tensor([1, 2, 0])  # each is mixed with the original of the next, not with a mixture
    results, reported = mix(pixels, partner, mixing(weights, False))
    drawn_weights = torch.tensor(weights)
    assert torch.equal(reported, drawn_weights)
    blend = drawn_weights.double()[:, None, None, None]
    expected = blend * pixels + (1 - blend) * pixels[partner]
    torch.testing.assert_close(results.double(), expected, atol=1e-3, rtol=0)
    assert bool((results >= 0).all() and (results <= 255).all())


def test_both_methods_in_one_batch() -> None:
    pixels = even(0, 200)
    both = Mixing(torch.tensor([0.75, 0.75]), torch.tensor([False, True]), torch.full((2, 2), 0.5))
    results, weights = mix(pixels, torch.tensor([1, 0]), both)
    assert results[0].unique().tolist() == [50]
    assert results[1].unique().tolist() == [0, 200]
    assert weights.tolist() == pytest.approx([0.75, 0.75], abs=0.02)


@pytest.mark.parametrize("cut", [False, True])
def test_an_image_that_is_its_own_partner_is_unchanged(cut: bool) -> None:
    pixels = torch.rand(3, 3, 20, 30) * 255
    results, weights = mix(pixels, torch.tensor([1, 0, 2]), mixing([0.3, 0.3, 0.3], cut))
    assert torch.equal(results[2], pixels[2])
    assert weights[2] == 1
    assert bool((weights[:2] < 0.5).all())
    assert not torch.equal(results[:2], pixels[:2])


def test_if_nothing_is_mixed_the_input_itself_is_returned() -> None:
    pixels = even(1, 2)
    for partner, draws in (([1, 0], drawn(2)), ([1, 0], mixing([1.0, 1.0], True)), ([0, 1], mixing([0.5, 0.5], False))):
        results, weights = mix(pixels, torch.tensor(partner), draws)
        assert results is pixels
        assert weights.tolist() == [1, 1]


@pytest.mark.parametrize("method", ["mixup", "cutmix", "both"])
def test_the_result_of_a_pair_does_not_depend_on_its_batch(method: str) -> None:
    pixels = torch.randint(0, 256, (8, 3, 20, 30), dtype=torch.uint8)
    draws = drawn(8, mix=method)
    results, weights = mix(pixels, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), draws)
    pair, pair_weights = mix(pixels[[5, 4]], torch.tensor([1, 0]), draws.of([5, 4]))
    assert torch.equal(pair, results[[5, 4]])
    assert torch.equal(pair_weights, weights[[5, 4]])


@given(st.lists(st.sampled_from([(3, 28, 28), (3, 28, 32), (3, 64, 64)]), max_size=12))
def test_partners_are_mutual_and_of_one_shape(shapes: list[tuple[int, ...]]) -> None:
    found = partners(shapes)
    assert [found[j] for j in found] == list(range(len(shapes)))
    assert all(shapes[i] == shapes[j] for i, j in enumerate(found))
    alone = Counter(shapes[i] for i, j in enumerate(found) if i == j)
    assert alone == Counter(shape for shape, count in Counter(shapes).items() if count % 2)


def test_partners_are_neighbours() -> None:
    a, b = (3, 28, 28), (3, 64, 64)
    assert partners([a, a, b, a, b, a, a]) == [1, 0, 4, 5, 2, 3, 6]


@pytest.mark.parametrize(("method", "cut"), [("mixup", 0.0), ("cutmix", 1.0), ("both", 0.5)])
def test_draws_follow_the_options(method: Literal["mixup", "cutmix", "both"], cut: float) -> None:
    draws = drawn(4000, mix=method)
    assert draws.cut.float().mean() == (cut if cut in (0, 1) else pytest.approx(cut, abs=0.03))
    # Beta(1, 1) is uniform.
    deciles = torch.histc(draws.image_weight, 10, 0, 1)
    assert bool(((deciles > 320) & (deciles < 480)).all())
    assert draws.centre.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert draws.centre.min() < 0.01 < 0.99 < draws.centre.max() <= 1


def test_alpha_controls_how_evenly_two_images_are_mixed() -> None:
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    for alpha in (0.1, 1.0, 8.0):
        weight = drawn(20_000, mix="mixup", mix_alpha=alpha).image_weight
        assert weight.mean().item() == pytest.approx(0.5, abs=0.015)
        assert weight.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_only_the_given_fraction_of_images_is_mixed() -> None:
    assert bool((drawn(50, mix="none", mix_share=1.0).image_weight == 1).all())
    assert bool((drawn(50, mix="mixup", mix_share=0.0).image_weight == 1).all())
    weight = drawn(4000, mix="both", mix_share=0.25).image_weight
    assert (weight < 1).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_result_depends_only_on_the_seed() -> None:
    torch.manual_seed(1)
    first = drawn(8, mix="both")
    torch.manual_seed(2)
    again, other = drawn(8, mix="both"), drawn(8, seed=1, mix="both")
    assert all(torch.equal(getattr(first, f.name), getattr(again, f.name)) for f in fields(Mixing))
    assert not any(torch.equal(getattr(first, f.name), getattr(other, f.name)) for f in fields(Mixing))
    # The generator advances, so the next batch is mixed differently.
    generator = torch.Generator().manual_seed(0)
    one, two = (draw(8, AugmentOptions(mix="both"), generator) for _ in range(2))
    assert not torch.equal(one.image_weight, two.image_weight)
