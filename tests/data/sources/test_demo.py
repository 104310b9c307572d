"""The demos need nothing but the package, and are small enough for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lensmith.data
from lensmith.data import open_dataset
from lensmith.data.source import Columns
from lensmith.data.sources import needed_files

FILES = Path(lensmith.data.__file__).with_name("files")


def test_fashion_has_ten_classes_and_its_own_test_split() -> None:
    dataset = open_dataset("demo:fashion")
    assert dataset.labels[:2] == ("t-shirt", "trousers")
    assert dataset.labels[-1] == "ankle boot"
    assert Counter(dataset.test.labels) == dict.fromkeys(dataset.labels, 200)
    assert Counter([*dataset.train.labels, *dataset.validation.labels]) == dict.fromkeys(dataset.labels, 300)
    assert dataset.train.image(0).size == (28, 28)
    assert not any("cop" in note for note in dataset.notes)


def test_fashion_is_small_and_comes_with_its_licence() -> None:
    assert sum(file.stat().st_size for file in FILES.glob("fashion_*.parquet")) < 4_000_000
    assert "Copyright (c) 2017 Zalando SE" in (FILES / "NOTICE-fashion-mnist.md").read_text()


def test_digits_has_ten_classes_and_a_held_out_test_split() -> None:
    dataset = open_dataset("demo:digits")
    assert dataset.labels == tuple("0123456789")
    total = len(dataset.train) + len(dataset.validation) + len(dataset.test)
    assert total == 1797
    assert 0.27 < len(dataset.test) / total < 0.33
    images = [dataset.train.image(i) for i in range(20)]
    assert {image.size for image in images} == {(8, 8)}
    assert max(max(image.convert("L").tobytes()) for image in images) == 255, "the values span the full range"


def test_demos_need_no_files_from_this_machine() -> None:
    assert needed_files("demo:fashion", Columns()) is None
    assert needed_files("demo:digits", Columns()) is None
