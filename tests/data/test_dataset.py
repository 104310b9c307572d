"""A split of a dataset: its samples, a hash that identifies it, and nested subsets."""

from __future__ import annotations

import gc
import pickle
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmith.data import Split, open_dataset
from lensmith.data.build import build_dataset
from lensmith.data.source import Row, Source
from lensmith.errors import UserError
from tests.data.conftest import Tree
from tests.data.pictures import png

slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def train(sizes: dict[str, int], shuffle: int | None = None) -> Split:
    rows = [Row(label, f"{label} {k}", f"{label} {k}".encode()) for label, n in sizes.items() for k in range(n)]
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    return build_dataset("x", Source(rows), class_names=None, validation=0, test=0).train


sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=2)


@slow
@given(sizes, st.data())
def test_subsets_are_nested_and_contain_every_class(sizes: dict[str, int], data: st.DataObject) -> None:
    split = train(sizes)
    total = len(split)
    n, more = sorted(data.draw(st.tuples(st.integers(1, total + 5), st.integers(1, total + 5))))
    small, large = split.take(n), split.take(more)
    assert (len(small), len(large)) == (min(n, total), min(more, total))
    assert set(small.ids) <= set(large.ids) <= set(split.ids)
    if n >= len(sizes):
        assert set(small.labels) == set(sizes)


@slow
@given(sizes, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_fraction_is_the_same_in_every_class(sizes: dict[str, int], one: float, other: float) -> None:
    split = train(sizes)
    small, large = (split.take(fraction) for fraction in sorted((one, other)))
    assert set(small.ids) <= set(large.ids)
    for label, number in Counter(small.labels).items():
        assert number - 1 < min(one, other) * sizes[label] <= number


@slow
@given(sizes, st.integers(1, 50), st.integers())
def test_neither_order_nor_other_classes_matter(sizes: dict[str, int], n: int, seed: int) -> None:
    split, shuffled = train(sizes), train(sizes, seed)
    assert shuffled.hash == split.hash
    assert set(shuffled.take(n).ids) == set(split.take(n).ids)
    with_other = train(sizes | {"zz": 7}).take(0.5)
    assert {i for i, label in zip(with_other.ids, with_other.labels, strict=True) if label != "zz"} == set(
        split.take(0.5).ids
    )


def test_a_subset_keeps_the_proportions_of_the_classes() -> None:
    taken = Counter(train({"a": 300, "b": 100}).take(40).labels)
    assert taken["a"] == pytest.approx(30, abs=1)


def test_everything_or_an_invalid_number_is_taken() -> None:
    split = train({"a": 3, "b": 3})
    assert split.take(None) is split
    assert list(split.take(1.0).ids) == list(split.ids)
    for wrong in (0, -1, 0.0, 1.5):
        with pytest.raises(UserError, match="Can't take"):
            split.take(wrong)


def test_the_hash_depends_on_ids_and_labels() -> None:
    rows = [Row("ab"[k % 2], str(k), str(k).encode()) for k in range(6)]
    swapped = [Row(row.label if k else "b", row.source, row.data) for k, row in enumerate(rows)]
    one, other = (build_dataset("x", Source(r), class_names=None, validation=0, test=0).train for r in (rows, swapped))
    assert one.ids == other.ids
    assert one.hash != other.hash != one.take(5).hash


def test_a_subset_keeps_id_label_source_and_image_together(tree: Tree) -> None:
    root = tree({"a": 6, "b": 6})
    split = open_dataset(str(root), validation=0, test=0).train
    expected = {split.ids[i]: (split.labels[i], split.source(i), split.image(i).tobytes()) for i in range(len(split))}
    taken = split.take(5)
    for i in range(len(taken)):
        sample = taken[i]
        assert (sample.label, taken.source(i), sample.image.tobytes()) == expected[sample.id]


def test_a_pickled_split_reads_the_same_images() -> None:
    rows = [Row("ab"[k % 2], str(k), png(k)) for k in range(6)]
    split = build_dataset("x", Source(rows), class_names=None, validation=0, test=0).train.take(4)
    copy = pickle.loads(pickle.dumps(split))
    assert copy.ids == split.ids
    assert copy.image(3).tobytes() == split.image(3).tobytes()


def test_the_temporary_folder_is_removed_with_the_last_split() -> None:
    split = train({"a": 3, "b": 3})
    folder = split._scratch.path
    taken = split.take(2)
    del split
    gc.collect()
    assert folder.exists()
    assert len(taken.ids) == 2
    del taken
    gc.collect()
    assert not folder.exists()
