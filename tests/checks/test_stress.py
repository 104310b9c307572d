"""Changes are what their names and strengths say, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lensmith.checks.stress import CHANGES, CUES, SMALL, Change
from tests.checks.scenes import scene


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("change", [*CHANGES, *CUES], ids=lambda change: change.name)
@pytest.mark.parametrize("size", [(28, 28), (96, 72), (1, 1), (300, 5)])
def test_every_change_gives_a_picture_for_every_size(change: Change, size: tuple[int, int]) -> None:
    for strength in change.strengths(scene(0, size)):
        first, again = (change.apply(scene(0, size), strength, 3) for _ in range(2))
        assert first.mode == "RGB"
        assert min(first.size) >= 1
        assert np.array_equal(levels(first), levels(again))


@pytest.mark.parametrize("change", CHANGES[:6], ids=lambda change: change.name)
@pytest.mark.parametrize("size", [(48, 40), (160, 120)])
def test_a_greater_severity_changes_more(change: Change, size: tuple[int, int]) -> None:
    image = scene(1, size)
    distances = [np.abs(levels(change.apply(image, s, 0)) - levels(image)).mean() for s in change.strengths(image)]
    assert distances[-1] > 0
    assert distances == sorted(distances)


def test_strengths_are_those_of_the_size() -> None:
    jpeg = next(change for change in CHANGES if change.name == "jpeg_compression")
    assert jpeg.strengths(scene(0, (SMALL, SMALL))) == (25, 18, 15)
    assert jpeg.strengths(scene(0, (SMALL - 1, 200))) == (80, 65, 58)


def test_what_changes_do() -> None:
    by_name = {change.name: change for change in (*CHANGES, *CUES)}
    image = scene(2, (100, 80))
    grey = levels(by_name["grey"].apply(image, 0.0, 0))
    assert np.abs(grey[..., 0] - grey[..., 2]).max() == 0
    assert by_name["borders"].apply(image, 0.1, 0).size == (90, 72)
    assert by_name["crop"].apply(image, 0.2, 5).size == (80, 64)
    brighter = levels(by_name["brightness"].apply(Image.new("RGB", (8, 8), (100, 50, 0)), 0.2, 0))
    assert abs(brighter[0, 0, 0] - 151) <= 2
    noise = levels(by_name["gaussian_noise"].apply(Image.new("RGB", (200, 200), (128, 128, 128)), 0.08, 0))
    assert abs(noise.std() / 255 - 0.08) < 0.003
    left, right = (by_name["rotate"].apply(image, 10, seed) for seed in (0, 1))
    assert not np.array_equal(levels(left), levels(right))
