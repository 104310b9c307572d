"""Copies are found however they were changed, and pictures that are no copies aren't taken for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensmith.checks.align import agreement
from lensmith.checks.copies import find_copies
from lensmith.checks.neighbours import EXACT, nearest
from lensmith.progress import silent
from tests.checks.scenes import KINDS, copy, folder_of, save, scene, surveyed


@pytest.mark.long
def test_copies_of_all_kinds_are_found_and_nothing_else(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 160)
    for k, kind in enumerate(KINDS):
        for i in range(6 * k, 6 * k + 6):
            save(copy(scene(i), kind), folder / "test" / "barn" / f"{kind}_{i}.png")
    survey = surveyed(folder)
    copies = find_copies(survey, None, silent)
    names = [Path(source).stem for source in survey.sources]
    pairs = {frozenset((names[p.first], names[p.second])) for p in copies.pairs}
    planted = {frozenset((name, name.partition("_")[2])) for name in names if "_" in name}
    assert pairs <= planted
    assert len(pairs) >= 0.9 * len(planted)
    assert all(p.mirrored == any("mirrored" in names[i] for i in (p.first, p.second)) for p in copies.pairs)
    assert copies.usual < copies.limit <= min(p.agreement for p in copies.pairs) + 1e-6
    assert all(0 <= p.chance <= 0.1 for p in copies.pairs)


@pytest.mark.long
def test_different_pictures_are_no_copies(tmp_path: Path) -> None:
    assert find_copies(surveyed(folder_of(tmp_path / "pictures", 160)), None, silent).pairs == []


@pytest.mark.long
def test_where_every_image_has_a_copy_they_are_found(tmp_path: Path) -> None:
    for i in range(60):
        save(scene(i), tmp_path / "pictures" / "train" / "ab"[i % 2] / f"{i}.png")
        save(copy(scene(i), "reencoded"), tmp_path / "pictures" / "test" / "ab"[i % 2] / f"{i}.png")
    assert len(find_copies(surveyed(tmp_path / "pictures"), None, silent).pairs) == 60


def test_images_without_detail_are_not_compared(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 12)
    for shade in range(0, 250, 50):
        save(Image.new("RGB", (60, 40), (shade, shade, shade)), folder / "train" / "lake" / f"plain {shade}.png")
    fly = Image.new("RGB", (200, 200), "white")
    fly.paste((0, 0, 0), (90, 100, 97, 106))
    save(fly, folder / "train" / "lake" / "fly.png")
    survey = surveyed(folder)
    copies = find_copies(survey, None, silent)
    plain = {f"plain {shade}" for shade in range(0, 250, 50)}
    assert {Path(survey.sources[i]).stem for i in copies.plain} == plain | {"fly"}
    assert copies.pairs == []


def test_recoloured_drawings_are_no_copies(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 40)
    for i in range(4):
        levels = np.asarray(scene(i).convert("L"), np.float32)
        for name, colour in (("red", (1.0, 0.3, 0.3)), ("blue", (0.3, 0.3, 1.0))):
            tinted = Image.fromarray((levels[..., None] * np.array(colour)).astype(np.uint8))
            save(tinted, folder / "train" / "lake" / f"{name} {i}.png")
    survey = surveyed(folder)
    names = [Path(source).stem for source in survey.sources]
    for pair in find_copies(survey, None, silent).pairs:
        assert {re.sub(r" \d+", "", names[i]) for i in (pair.first, pair.second)} != {"red", "blue"}


@pytest.mark.parametrize("images", [1, 2])
def test_one_or_two_images_have_nothing_to_compare(tmp_path: Path, images: int) -> None:
    for i in range(images):
        save(scene(i), tmp_path / "few" / "test" / "lake" / f"{i}.png")
    assert find_copies(surveyed(tmp_path / "few"), None, silent).pairs == []


def thumbnail(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("L").resize((32, 32)), np.float32).copy())


def test_aligned_copies_agree_and_others_do_not() -> None:
    originals = torch.stack([thumbnail(scene(i)) for i in range(12)])
    assert (agreement(originals, originals) > 0.999).all()
    assert (agreement(originals, originals.roll(1, 0)) < 0.7).all()
    for kind in ("reencoded", "brighter", "shifted", "cropped", "rotated"):
        changed = torch.stack([thumbnail(copy(scene(i), kind)) for i in range(12)])
        both = torch.maximum(agreement(originals, changed), agreement(changed, originals))
        assert (both > 0.9).float().mean() > 0.9, kind


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 10))
def test_the_nearest_are_those_that_comparing_all_finds(n: int, k: int, seed: int) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), dim=1)
    found = nearest(vectors, vectors, k)
    similarities = vectors @ vectors.T
    similarities.fill_diagonal_(-torch.inf)
    expected = similarities.topk(min(k, n - 1), 1).values
    assert torch.allclose(found.similarity[:, : min(k, n - 1)], expected, atol=1e-6)
    assert (found.index != torch.arange(n)[:, None]).all()
    assert (found.index[:, n - 1 :] == -1).all()


def test_a_long_row_is_searched_in_chunks() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3_000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    found, similarities = nearest(vectors, vectors, 3), vectors @ vectors.T
    similarities.fill_diagonal_(-torch.inf)
    assert torch.allclose(found.similarity, similarities.topk(3, 1).values, atol=1e-6)


@pytest.mark.long
def test_among_many_copies_are_found_in_their_cells() -> None:
    random, n = torch.Generator().manual_seed(0), EXACT + 5_000
    vectors = torch.randn(n, 12, generator=random)
    vectors[-500:] = vectors[:500] + 0.02 * torch.randn(500, 12, generator=random)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    found = nearest(vectors, vectors, 2)
    assert (found.index[:500, 0] == torch.arange(n - 500, n)).float().mean() > 0.98
