"""Two images in one: shares are what the pixels say, and only pairs that were drawn are mixed."""

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


def mixing(share: list[float], cut: bool, place: tuple[float, float] = (0.5, 0.5)) -> Mixing:
    return Mixing(torch.tensor(share), torch.full((len(share),), cut), torch.tensor([place] * len(share)))


def even(*levels: int, height: int = 20, width: int = 30) -> Tensor:
    """Images of one level each."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, height, width)


@given(st.integers(1, 70), st.integers(1, 70), UNIT, UNIT, UNIT)
def test_cutmix_share_is_the_counted_pixels(height: int, width: int, share: float, x: float, y: float) -> None:
    pixels = even(10, 200, height=height, width=width)
    results, shares = mix(pixels, torch.tensor([1, 0]), mixing([share, 1.0], True, (x, y)))
    own = results[0] == 10
    assert bool((own | (results[0] == 200)).all())
    assert torch.equal(shares[0], torch.tensor(int(own[0].sum()) / (height * width)))
    box = ~own[0]
    assert box.sum() == box.any(0).sum() * box.any(1).sum()  # one rectangle
    # Never larger than drawn, but for half a pixel at each edge.
    assert box.any(0).sum() <= (1 - share) ** 0.5 * width + 1
    assert box.any(1).sum() <= (1 - share) ** 0.5 * height + 1
    assert shares[1] == 1
    assert bool((results[1] == 200).all())


def test_cutmix_box_lies_where_it_was_drawn_and_shows_what_the_partner_has_there() -> None:
    pixels = torch.randint(0, 256, (2, 3, 40, 80), dtype=torch.uint8)
    results, shares = mix(pixels, torch.tensor([1, 0]), mixing([0.75, 0.75], True, (0.25, 0.5)))
    box = torch.zeros(40, 80, dtype=torch.bool)
    box[10:30, 0:40] = True  # half of each side, around (20, 20)
    assert torch.equal(results, torch.where(box, pixels.flip(0), pixels).float())
    assert shares.tolist() == [0.75, 0.75]
    # A share of nothing is the partner; at a corner a quarter of a box is left.
    results, shares = mix(pixels, torch.tensor([1, 0]), mixing([0.0, 0.0], True))
    assert torch.equal(results, pixels.flip(0).float())
    assert shares.tolist() == [0, 0]
    _, shares = mix(pixels, torch.tensor([1, 0]), mixing([0.75, 0.75], True, (0.0, 0.0)))
    assert shares.tolist() == [1 - 0.25 / 4] * 2


@given(st.lists(UNIT, min_size=3, max_size=3))
def test_mixup_is_the_convex_combination_of_what_was_given(shares: list[float]) -> None:
    pixels = torch.randint(0, 256, (3, 3, 6, 5), dtype=torch.uint8)
    pixels[..., 0] = 255  # a mean of two of these would leave the range by a last digit
    partner = torch.tensor([1, 2, 0])  # each is mixed with the next as it was, not with a mixture
    results, said = mix(pixels, partner, mixing(shares, False))
    share = torch.tensor(shares)
    assert torch.equal(said, share)
    weight = share.double()[:, None, None, None]
    expected = weight * pixels + (1 - weight) * pixels[partner]
    torch.testing.assert_close(results.double(), expected, atol=1e-3, rtol=0)
    assert bool((results >= 0).all() and (results <= 255).all())


def test_both_kinds_in_one_batch() -> None:
    pixels = even(0, 200)
    both = Mixing(torch.tensor([0.75, 0.75]), torch.tensor([False, True]), torch.full((2, 2), 0.5))
    results, shares = mix(pixels, torch.tensor([1, 0]), both)
    assert results[0].unique().tolist() == [50]
    assert results[1].unique().tolist() == [0, 200]
    assert shares.tolist() == pytest.approx([0.75, 0.75], abs=0.02)


@pytest.mark.parametrize("cut", [False, True])
def test_an_image_that_is_its_own_partner_is_unchanged(cut: bool) -> None:
    pixels = torch.rand(3, 3, 20, 30) * 255
    results, shares = mix(pixels, torch.tensor([1, 0, 2]), mixing([0.3, 0.3, 0.3], cut))
    assert torch.equal(results[2], pixels[2])
    assert shares[2] == 1
    assert bool((shares[:2] < 0.5).all())
    assert not torch.equal(results[:2], pixels[:2])


def test_where_nothing_is_mixed_the_very_bytes_come_back() -> None:
    pixels = even(1, 2)
    for partner, how in (([1, 0], drawn(2)), ([1, 0], mixing([1.0, 1.0], True)), ([0, 1], mixing([0.5, 0.5], False))):
        results, shares = mix(pixels, torch.tensor(partner), how)
        assert results is pixels
        assert shares.tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
def test_a_pair_is_mixed_alike_in_every_batch(kind: str) -> None:
    pixels = torch.randint(0, 256, (8, 3, 20, 30), dtype=torch.uint8)
    how = drawn(8, mix=kind)
    results, shares = mix(pixels, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), how)
    pair, pair_shares = mix(pixels[[5, 4]], torch.tensor([1, 0]), how.of([5, 4]))
    assert torch.equal(pair, results[[5, 4]])
    assert torch.equal(pair_shares, shares[[5, 4]])


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


@pytest.mark.parametrize(("kind", "cut"), [("mixup", 0.0), ("cutmix", 1.0), ("both", 0.5)])
def test_how_is_drawn_as_the_options_say(kind: Literal["mixup", "cutmix", "both"], cut: float) -> None:
    how = drawn(4000, mix=kind)
    assert how.cut.float().mean() == (cut if cut in (0, 1) else pytest.approx(cut, abs=0.03))
    # Beta(1, 1) is uniform.
    deciles = torch.histc(how.share, 10, 0, 1)
    assert bool(((deciles > 320) & (deciles < 480)).all())
    assert how.place.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert how.place.min() < 0.01 < 0.99 < how.place.max() <= 1


def test_alpha_says_how_evenly_two_images_are_mixed() -> None:
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    for alpha in (0.1, 1.0, 8.0):
        share = drawn(20_000, mix="mixup", mix_alpha=alpha).share
        assert share.mean().item() == pytest.approx(0.5, abs=0.015)
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_only_the_share_of_images_that_was_asked_for_is_mixed() -> None:
    assert bool((drawn(50, mix="none", mix_share=1.0).share == 1).all())
    assert bool((drawn(50, mix="mixup", mix_share=0.0).share == 1).all())
    share = drawn(4000, mix="both", mix_share=0.25).share
    assert (share < 1).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_seed_decides_and_nothing_else() -> None:
    torch.manual_seed(1)
    first = drawn(8, mix="both")
    torch.manual_seed(2)
    again, other = drawn(8, mix="both"), drawn(8, seed=1, mix="both")
    assert all(torch.equal(getattr(first, f.name), getattr(again, f.name)) for f in fields(Mixing))
    assert not any(torch.equal(getattr(first, f.name), getattr(other, f.name)) for f in fields(Mixing))
    # The generator moves on, so that the next batch is mixed in other ways.
    generator = torch.Generator().manual_seed(0)
    one, two = (draw(8, AugmentOptions(mix="both"), generator) for _ in range(2))
    assert not torch.equal(one.share, two.share)
