"""Unlabelled images beside a dataset: each once, none that is labelled, and never one of the test."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lensmith.config import DataOptions
from lensmith.data import open_dataset
from lensmith.data.more import unlabelled_files
from lensmith.errors import UserError
from tests.conftest import Shapes


def test_known_images_are_left_out_and_test_images_refused(shapes: Shapes, tmp_path: Path) -> None:
    dataset = open_dataset(str(shapes(circle=20, square=20)))
    others = tmp_path / "others"
    others.mkdir()
    shutil.copyfile(dataset.train.source(0), others / "known.png")
    for name in ("new.png", "again.png"):
        (others / name).write_bytes(Path(dataset.train.source(1)).read_bytes() + b"x")
    options = replace(DataOptions(), unlabelled=str(others))
    found = unlabelled_files(options, dataset)
    assert [path.name for path in found] in (["again.png"], ["new.png"])
    assert unlabelled_files(DataOptions(), dataset) == []
    shutil.copyfile(dataset.test.source(0), others / "tested.png")
    with pytest.raises(UserError, match=r"1 test image among the unlabelled images, such as .*tested\.png"):
        unlabelled_files(options, dataset)
