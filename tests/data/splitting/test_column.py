"""A split column is used by whatever name people give it, and never ignored without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lensmith.data import ImageDataset, open_dataset
from lensmith.errors import UserError
from tests.data.pictures import write

HALF = ["TRAIN"] * 8 + ["TEST"] * 4


def table(folder: Path, column: str, cells: list[Any], suffix: str = "csv", paths: str = "{k}.png") -> Path:
    rows = []
    for k, cell in enumerate(cells):
        write(folder / (name := paths.format(k=k)), k)
        rows.append({"image": name, "label": "ab"[k % 2]} | ({column: cell} if cell is not None else {}))
    path = folder / f"t.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [["image", "label", column], *([row["image"], row["label"], row.get(column, "")] for row in rows)]
        path.write_text("\n".join(",".join(map(str, line)) for line in lines))
    return path


def sizes(dataset: ImageDataset) -> tuple[int, ...]:
    return tuple(len(split) for split in dataset.splits)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["split", "Set", "data set", "Usage", "subset", "partition", "ML_USE", "anything"])
def test_a_column_of_splits_is_used_whatever_its_name(tmp_path: Path, name: str, suffix: str) -> None:
    dataset = open_dataset(str(table(tmp_path, name, HALF, suffix)), validation=0)
    assert sizes(dataset) == (8, 0, 4)


def test_the_public_and_private_test_of_a_challenge_are_tests(tmp_path: Path) -> None:
    cells = ["Training"] * 8 + ["PublicTest", "PrivateTest"] * 2
    dataset = open_dataset(str(table(tmp_path, "Usage", cells)), validation=0)
    assert sizes(dataset) == (8, 0, 4)
    assert "Splits by the column 'Usage': train is Training; test is PublicTest, PrivateTest." in dataset.notes


def test_a_column_that_only_later_rows_have_is_used(tmp_path: Path) -> None:
    path = table(tmp_path, "split", [None] * 8 + ["test"] * 4, "jsonl")
    assert sizes(open_dataset(str(path), validation=0)) == (8, 0, 4)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_numbers_must_be_explained(tmp_path: Path, suffix: str) -> None:
    cells = [0] * 6 + [1] * 2 + [2] * 4
    path = table(tmp_path, "partition", cells, suffix)
    with pytest.raises(
        UserError, match=r"'partition' of t\.\w+ looks like the split.*data\.splits=.*data\.split_column="
    ):
        open_dataset(str(path))
    splits: Any = {"train": "0", "validation": ["1"], "test": ["2"]}
    assert sizes(open_dataset(str(path), splits=splits)) == (6, 2, 4)
    assert sizes(open_dataset(str(path), split_column="", validation=0, test=0)) == (12, 0, 0)


def test_rows_of_other_splits_are_left_out_only_when_the_user_says_so(tmp_path: Path) -> None:
    path = table(tmp_path, "split", ["train"] * 6 + ["test"] * 2 + ["extra"] * 4)
    with pytest.raises(UserError, match="'extra'"):
        open_dataset(str(path))
    dataset = open_dataset(str(path), splits={"train": "train", "test": "test"}, validation=0)
    assert sizes(dataset) == (6, 0, 2)
    assert any("not used: extra" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("set", ["Base", "Jungle"] * 6),
        ("phase", ["new moon", "full moon"] * 6),
        ("vehicle", ["train"] * 12),
        ("notes", [f"test {k}" for k in range(24)]),
    ],
)
def test_other_columns_are_not_taken_for_splits(tmp_path: Path, column: str, cells: list[str]) -> None:
    assert sizes(open_dataset(str(table(tmp_path, column, cells)), validation=0, test=0)) == (len(cells), 0, 0)


def test_a_column_can_be_named(tmp_path: Path) -> None:
    path = table(tmp_path, "part", ["training data"] * 8 + ["test data"] * 4)
    assert sizes(open_dataset(str(path), split_column="part", validation=0)) == (8, 0, 4)
    with pytest.raises(UserError, match=r"no column 'parts'.*Did you mean 'part'"):
        open_dataset(str(path), split_column="parts")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_splits_in_the_paths_are_used(tmp_path: Path, suffix: str) -> None:
    for name, number in (("train", 8), ("valid", 2), ("test", 2)):
        for k in range(number):
            write(tmp_path / name / f"{k}.png", k + 10 * len(name))
    rows = [
        (f"{n}/{k}.png", "ab"[k % 2]) for n, number in (("train", 8), ("valid", 2), ("test", 2)) for k in range(number)
    ]
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        path.write_text("image,label\n" + "".join(f"{image},{label}\n" for image, label in rows))
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"image": image, "label": label}) for image, label in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": [r[0] for r in rows], "label": [r[1] for r in rows]}), path)
    dataset = open_dataset(str(path))
    assert sizes(dataset) == (8, 2, 2)
    assert "Splits by the folders in the paths: train, valid, test." in dataset.notes
