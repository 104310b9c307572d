"""Images are split, scaled and written into the prompt as by transformers' own processors.

Those need torchvision, so their results were recorded (`benchmarks/parity.py --record`, which also compares every
value) and are checked here without it.
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
from lensmith.models.views import (
    choose_grid,
    cut_tiles,
    fit_size,
    join_tiles,
    resize,
    resize_as_floats,
    stack,
    tiles_of,
    to_pixels,
    unstack,
)
from tests.models import checkpoints, fed, pictures

pytestmark = pytest.mark.long

VECTORS = Path(__file__).parent / "vectors"
STEP, MIN_PIXELS, MAX_PIXELS, TILE = 32, 64 * 32**2, 256 * 32**2, 512

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
    """A picture, generated once for all settings."""
    return pictures.picture(*case)


def recorded(setting: str) -> list[dict[str, Any]]:
    family, _ = pictures.SETTINGS[setting]
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{family}.json").read_text())[setting]
    return cases


def test_pictures_are_those_that_were_recorded() -> None:
    digest = hashlib.sha256()
    for case in ((1, 1, 0), (33, 47, 4), (700, 90, 5), (640, 480, 9)):
        digest.update(pictures.picture(*case).tobytes())
    assert digest.hexdigest()[:16] == "36f6dc448df99fda"


def test_model_inputs_equal_those_of_the_original(model: Model, setting: str) -> None:
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
            sampled = levels[pictures.sample_indices(k, len(values), len(levels))]
            # Within a level, because on other processors PyTorch's kernels round differently (in torchvision too).
            assert (sampled - torch.tensor(values)).abs().max() <= 1.01, case["case"]
            assert float(levels.double().mean()) == pytest.approx(mean, abs=0.2), case["case"]


def test_a_wrong_order_of_tiles_or_patches_would_be_noticed(model: Model, setting: str) -> None:
    """The recorded values are enough to detect the errors that the test above looks for."""
    case = max(recorded(setting), key=lambda case: case["case"][0] * case["case"][1])
    tile = fed.patches(model, model.prepare(drawn(tuple(case["case"]))))[0]
    _, values = case["tiles"][0]
    for wrong in (tile.flip(0), tile.flip(1), tile.roll(1, 0)):
        levels = fed.levels(model, wrong)
        sampled = levels[pictures.sample_indices(0, len(values), len(levels))]
        assert (sampled - torch.tensor(values)).abs().max() > 8


@given(SIDES, SIDES, st.sampled_from([16, 28, 32]), st.integers(1, 64), st.integers(0, 4096), st.booleans())
def test_sizes_are_multiples_of_the_step_within_the_budget(
    h: int, w: int, step: int, least: int, more: int, narrow: bool
) -> None:
    max_pixels = (least + more) * step**2
    high, wide = fit_size(h, w, step, least * step**2, max_pixels, narrow)
    assert high % step == wide % step == 0
    assert min(high, wide) >= step
    assert high * wide <= max_pixels
    # In a small budget, no multiple of the step may be large enough.
    if max_pixels >= 4 * least * step**2 and max(h, w) <= 20 * min(h, w):
        assert high * wide >= least * step**2 / 4


@given(SIDES, SIDES)
def test_sizes_keep_the_aspect_ratio_within_a_step(h: int, w: int) -> None:
    high, wide = fit_size(h, w, STEP, MIN_PIXELS, MAX_PIXELS)
    if max(h, w) <= 8 * min(h, w):
        assert high * wide >= MIN_PIXELS
        # There is one scale factor that brings both sides to within a step.
        assert max((high - STEP) / h, (wide - STEP) / w) <= min((high + STEP) / h, (wide + STEP) / w)


@given(SIDES, SIDES, st.integers(1, 6), st.integers(0, 10))
def test_grids_have_an_allowed_number_of_tiles_and_the_nearest_aspect_ratio(
    h: int, w: int, least: int, more: int
) -> None:
    most = least + more
    rows, columns = choose_grid(h, w, least, most, TILE)
    assert least <= rows * columns <= most
    others = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if least <= r * c <= most]
    assert abs(w / h - columns / rows) == min(abs(w / h - c / r) for r, c in others)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_joining_tiles_is_the_inverse_of_cutting_them(n: int, rows: int, columns: int, side: int) -> None:
    grid = torch.arange(n * 3 * rows * columns * side**2).view(n, 3, rows * side, columns * side)
    tiles = cut_tiles(grid, side)
    assert torch.equal(tiles[columns * (rows - 1)], grid[0, :, -side:, :side]), "row by row"
    maps = join_tiles(tiles.permute(0, 2, 3, 1), rows, columns)
    assert torch.equal(maps, grid.permute(0, 2, 3, 1))
    by_row = tiles_of(maps, side)
    assert [len(row) for row in by_row] == [columns] * rows
    flat = torch.stack([tile for row in by_row for tile in row], 1).flatten(0, 1)
    assert torch.equal(flat, tiles.permute(0, 2, 3, 1).flatten(1, 2))


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
def test_unstack_is_the_inverse_of_stack(n: int, sizes: list[tuple[int, int]]) -> None:
    images = [tuple(torch.rand(3, *size) for size in sizes) for _ in range(n)]
    stacked = stack(images)
    assert [tuple(view.shape) for view in stacked] == [(n, 3, *size) for size in sizes]
    for views, original in zip(unstack(stacked), images, strict=True):
        assert all(map(torch.equal, views, original))


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [(64, 96), (20, 11), (300, 512)], ids=str)
def test_all_implementations_of_resize_agree(size: tuple[int, int], resample: int) -> None:
    image = pictures.picture(90, 60, 3)
    pixels = to_pixels(image)
    assert resize(pixels, (60, 90), resample) is pixels, "nothing to do"
    scaled = resize(pixels, size, resample)
    assert scaled.dtype == torch.uint8
    assert tuple(scaled.shape) == (3, *size)
    assert torch.equal(scaled, resize(pixels.contiguous(), size, resample)), "whatever the memory layout"
    assert torch.equal(scaled, resize(torch.stack([pixels, pixels])[None], size, resample)[0, 1]), "alone or in a batch"
    difference = (resize_as_floats(pixels[None], size, resample)[0].int() - scaled.int()).abs()
    assert difference.max() <= {2: 1, 3: 2}[resample], "as on a GPU"
    assert difference.double().mean() < 0.05
    kernel = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}[resample]
    height, width = size
    pillow = np.asarray(image.resize((width, height), kernel)).astype(int)
    assert np.abs(pillow - scaled.permute(1, 2, 0).numpy()).max() <= 2, "close to Pillow's filter of that number"
