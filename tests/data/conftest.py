"""Folders of small images, no two alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.data.pictures import write

Tree = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make a folder `data` with so many images in each of the folders named; no two images are alike."""

    def make(numbers: Mapping[str, int]) -> Path:
        seed = 0
        for folder, number in numbers.items():
            for k in range(number):
                write(tmp_path / "data" / folder / f"{k}.png", seed)
                seed += 1
        return tmp_path / "data"

    return make
