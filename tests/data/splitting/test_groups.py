"""Images of a group stay together: in a split, in a fold, and in the notes."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith.data import open_dataset
from lensmith.data.splitting.groups import units
from lensmith.data.splitting.holdout import assign_splits
from lensmith.errors import UserError
from tests.conftest import Shapes

HOUSES = "(house[0-9]+)_"


def with_houses(shapes: Shapes, houses: int = 12, each: int = 5) -> Path:
    folder = shapes(circle=houses * each, square=houses * each)
    for place in ("circle", "square"):
        for i, file in enumerate(sorted((folder / place).iterdir())):
            file.rename(file.with_name(f"house{i // each}_{i % each}{file.suffix}"))
    return folder


def test_the_images_of_a_group_are_in_one_split(shapes: Shapes) -> None:
    dataset = open_dataset(str(with_houses(shapes)), group=HOUSES)
    found = defaultdict(set)
    for split in dataset.splits:
        assert len(split)
        for i, group in enumerate(split.groups):
            assert group
            assert f"/{group}_" in split.source(i)
            found[group].add(split.name)
    assert len(found) == 12
    assert all(len(splits) == 1 for splits in found.values())
    assert any("Groups that stay together: 12 (" in note for note in dataset.notes)


def test_a_column_of_a_table_names_the_groups(shapes: Shapes) -> None:
    folder = shapes(circle=40, square=40)
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "patient (id)"])
        for i, image in enumerate(sorted(folder.rglob("*.jpg"))):
            rows.writerow([image.relative_to(folder), image.parent.name, f"p{i % 9}" if i % 9 else ""])
    dataset = open_dataset(str(table), group="patient (id)")
    found = defaultdict(set)
    for split in dataset.splits:
        for group in split.groups:
            found[group].add(split.name)
    assert set(found) == {"", *(f"p{i}" for i in range(1, 9))}
    assert all(len(splits) == 1 for group, splits in found.items() if group)
    assert any("images without one" in note for note in dataset.notes)
    with pytest.raises(UserError, match="'patient', which isn't a column"):
        open_dataset(str(table), group="patient")


@pytest.mark.parametrize(
    ("group", "message"),
    [("patient", "names no group of any image"), ("(flat[0-9]+)_", "names no group"), ("(house", "isn't a pattern")],
)
def test_groups_that_cannot_be_found_stop(shapes: Shapes, group: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(str(with_houses(shapes, 4)), group=group)


def test_groups_that_the_source_splits_are_said(shapes: Shapes) -> None:
    folder = with_houses(shapes, 6)
    for split, houses in (("train", "0123"), ("test", "45")):
        for file in list(folder.glob("*/house*")):
            if file.stem[5] in houses:
                target = folder / split / file.parent.name
                target.mkdir(parents=True, exist_ok=True)
                file.rename(target / file.name)
    for place in ("circle", "square"):
        (folder / place).rmdir()
    (folder / "train/circle/house0_0.jpg").rename(folder / "test/circle/house0_0.jpg")
    dataset = open_dataset(str(folder), group=HOUSES, validation=0)
    assert any("Groups in several splits" in note and "house0" in note for note in dataset.notes)


def test_a_smaller_training_set_has_fewer_groups(shapes: Shapes) -> None:
    dataset = open_dataset(str(with_houses(shapes)), group=HOUSES)
    half = dataset.train.take(len(dataset.train) // 2)
    assert len(set(half.groups)) < 0.75 * len(set(dataset.train.groups))
    assert set(half.take(10).ids) <= set(half.ids)
    assert len(set(half.labels)) == 2


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.sampled_from("abc")), min_size=1, max_size=60),
    st.sampled_from([0.1, 0.3]),
)
def test_no_unit_is_torn(rows: Sequence[tuple[int, int, str]], fraction: float) -> None:
    contents, groups = [str(content) for content, _, _ in rows], ["" if g == 4 else f"g{g}" for _, g, _ in rows]
    found = units(contents, groups)
    splits = assign_splits(found, [label for *_, label in rows], [""] * len(rows), validation=fraction, test=fraction)
    for keys in (contents, [group or f"alone {content}" for content, group in zip(contents, groups, strict=True)]):
        of_key = defaultdict(set)
        for key, split in zip(keys, splits, strict=True):
            of_key[key].add(split)
        assert all(len(of) == 1 for of in of_key.values())
    if len(set(found)) >= 3 and any(groups):
        labels_of = defaultdict(set)
        for unit, (*_, label) in zip(found, rows, strict=True):
            labels_of[unit].add(label)
        if all(len(labels) > 1 for labels in labels_of.values()):
            assert len(set(splits)) == 3
    assert units(contents, [""] * len(rows)) == contents
