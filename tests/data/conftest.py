"""Folders of small images, all different."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.data.pictures import write

Tree = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make a folder `data` with the given number of images in each named subfolder; all images differ."""

    def make(numbers: Mapping[str, int]) -> Path:
        seed = 0
        for folder, number in numbers.items():
            for k in range(number):
                write(tmp_path / "data" / folder / f"{k}.png", seed)
                seed += 1
        return tmp_path / "data"

    return make
