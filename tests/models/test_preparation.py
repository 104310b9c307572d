"""Images are cut, scaled and written into the prompt as transformers' own processors do it.

Those need torchvision, so what they make of pictures was recorded (`benchmarks/parity.py --record`, which also compares
every value) and is checked here without it.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.models.base import Model
from lensmith.models.views import cut, fitting, in_floats, join, resize, stack, tiles_of, tiling, to_pixels, unstack
from tests.models import checkpoints, fed, pictures

VECTORS = Path(__file__).parent / "vectors"
STEP, LEAST, MOST, TILE = 32, 64 * 32**2, 256 * 32**2, 512

SIDES = st.integers(1, 20_000)


@pytest.fixture(scope="module", params=pictures.SETTINGS)
def setting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(setting: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, changes = pictures.SETTINGS[setting]
    folder = checkpoints.make(family, tmp_path_factory.mktemp("prepared") / family, **changes)
    return models.load_base(ModelOptions(base=str(folder), dtype="float32", device="cpu"))


@lru_cache(None)
def drawn(case: pictures.Case) -> Image.Image:
    """Once for all settings."""
    return pictures.picture(*case)


def recorded(setting: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / f"{pictures.SETTINGS[setting][0]}.json").read_text())[setting]
    return found


def test_pictures_are_those_that_were_recorded() -> None:
    digest = hashlib.sha256()
    for case in ((1, 1, 0), (33, 47, 4), (700, 90, 5), (640, 480, 9)):
        digest.update(pictures.picture(*case).tobytes())
    assert digest.hexdigest()[:16] == "36f6dc448df99fda"


def test_images_are_fed_as_the_original_feeds_them(model: Model, setting: str) -> None:
    cases = recorded(setting)
    assert len(cases) >= 50
    assert max(len(case["tiles"]) for case in cases) >= (1 if setting in ("no splitting", "lfm3") else 9)
    for case in cases:
        views = model.prepare(drawn(tuple(case["case"])))
        assert fed.shapes(model, views) == case["shapes"], case["case"]
        assert pictures.runs(fed.words(model, views)) == case["words"], case["case"]
        assert model.tokens(tuple(tuple(view.shape) for view in views)) == sum(
            n for token, n in case["words"] if token not in model.image_frame
        )
        tiles = fed.patches(model, views)
        assert [len(tile) for tile in tiles] == [rows * columns for rows, columns in case["shapes"]]
        for k, (tile, (mean, values)) in enumerate(zip(tiles, case["tiles"], strict=True)):
            levels = fed.levels(model, tile)
            some = levels[pictures.places(k, len(values), len(levels))]
            # By a level, because on other processors PyTorch's kernels round otherwise (in torchvision too).
            assert (some - torch.tensor(values)).abs().max() <= 1.01, case["case"]
            assert float(levels.double().mean()) == pytest.approx(mean, abs=0.2), case["case"]


def test_a_wrong_order_of_tiles_or_patches_would_be_seen(model: Model, setting: str) -> None:
    """The recorded values are enough to tell apart what the test above compares."""
    case = max(recorded(setting), key=lambda case: case["case"][0] * case["case"][1])
    tile = fed.patches(model, model.prepare(drawn(tuple(case["case"]))))[0]
    _, values = case["tiles"][0]
    for wrong in (tile.flip(0), tile.flip(1), tile.roll(1, 0)):
        levels = fed.levels(model, wrong)
        some = levels[pictures.places(0, len(values), len(levels))]
        assert (some - torch.tensor(values)).abs().max() > 8


@given(SIDES, SIDES, st.sampled_from([16, 28, 32]), st.integers(1, 64), st.integers(0, 4096), st.booleans())
def test_fitting_keeps_step_and_budget(h: int, w: int, step: int, least: int, more: int, narrow: bool) -> None:
    most = (least + more) * step**2
    high, wide = fitting(h, w, step, least * step**2, most, narrow)
    assert high % step == wide % step == 0
    assert min(high, wide) >= step
    assert high * wide <= most
    # A small budget may have no rectangle of these steps that is large enough; twice the least always has.
    if most >= 4 * least * step**2 and max(h, w) <= 20 * min(h, w):
        assert high * wide >= least * step**2 / 4


@given(SIDES, SIDES)
def test_fitting_is_near_the_images_shape(h: int, w: int) -> None:
    high, wide = fitting(h, w, STEP, LEAST, MOST)
    if max(h, w) <= 8 * min(h, w):
        assert high * wide >= LEAST
        # There is a scale that puts each side within a step.
        assert max((high - STEP) / h, (wide - STEP) / w) <= min((high + STEP) / h, (wide + STEP) / w)


@given(SIDES, SIDES, st.integers(1, 6), st.integers(0, 10))
def test_tiling_has_as_many_tiles_as_allowed_and_the_nearest_shape(h: int, w: int, least: int, more: int) -> None:
    most = least + more
    rows, columns = tiling(h, w, least, most, TILE)
    assert least <= rows * columns <= most
    others = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if least <= r * c <= most]
    assert abs(w / h - columns / rows) == min(abs(w / h - c / r) for r, c in others)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_what_is_cut_and_joined_is_as_before(n: int, rows: int, columns: int, side: int) -> None:
    grid = torch.arange(n * 3 * rows * columns * side**2).view(n, 3, rows * side, columns * side)
    tiles = cut(grid, side)
    assert torch.equal(tiles[columns * (rows - 1)], grid[0, :, -side:, :side]), "row by row"
    maps = join(tiles.permute(0, 2, 3, 1), rows, columns)
    assert torch.equal(maps, grid.permute(0, 2, 3, 1))
    by_row = tiles_of(maps, side)
    assert [len(row) for row in by_row] == [columns] * rows
    flat = torch.stack([tile for row in by_row for tile in row], 1).flatten(0, 1)
    assert torch.equal(flat, tiles.permute(0, 2, 3, 1).flatten(1, 2))


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
def test_what_is_stacked_and_unstacked_is_as_before(n: int, sizes: list[tuple[int, int]]) -> None:
    images = [tuple(torch.rand(3, *size) for size in sizes) for _ in range(n)]
    stacked = stack(images)
    assert [tuple(view.shape) for view in stacked] == [(n, 3, *size) for size in sizes]
    for mine, theirs in zip(unstack(stacked), images, strict=True):
        assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("to", [(64, 96), (20, 11), (300, 512)], ids=str)
def test_all_ways_to_scale_agree(to: tuple[int, int], resample: int) -> None:
    image = pictures.picture(90, 60, 3)
    pixels = to_pixels(image)
    assert resize(pixels, (60, 90), resample) is pixels, "nothing to do"
    scaled = resize(pixels, to, resample)
    assert scaled.dtype == torch.uint8
    assert tuple(scaled.shape) == (3, *to)
    assert torch.equal(scaled, resize(pixels.contiguous(), to, resample)), "however it lies in memory"
    assert torch.equal(scaled, resize(torch.stack([pixels, pixels])[None], to, resample)[0, 1]), "alone or in a batch"
    apart = (in_floats(pixels[None], to, resample)[0].int() - scaled.int()).abs()
    assert apart.max() <= {2: 1, 3: 2}[resample], "as on a GPU"
    assert apart.double().mean() < 0.05
    kernel = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}[resample]
    theirs = np.asarray(image.resize((to[1], to[0]), kernel)).astype(int)
    assert np.abs(theirs - scaled.permute(1, 2, 0).numpy()).max() <= 2, "Pillow's filter of that number"
