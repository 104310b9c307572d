"""Splits are stable, copies stay together, and problems that would spoil a training are reported before it starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmith.data.build import build_dataset, content_id
from lensmith.data.dataset import ImageDataset
from lensmith.data.source import Row, Source
from lensmith.data.splitting.holdout import assign_split, assign_splits
from lensmith.errors import UserError
from tests.data.pictures import png

# Each example writes and maps a file, which is too slow for the default limits on a busy machine.
slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build(rows: list[Row], names: tuple[str, ...] | None = None, **options: Any) -> ImageDataset:
    options = {"class_names": None, "validation": 0.1, "test": 0.2} | options
    return build_dataset("somewhere", Source(rows, names), **options)


def many(label: str | int, numbers: range, split: str = "") -> list[Row]:
    return [Row(label, f"{label}/{k}", f"{label} {k}".encode(), split) for k in numbers]


def splits_by_id(dataset: ImageDataset) -> dict[str, str]:
    return {id: split.name for split in dataset.splits for id in split.ids}


@slow
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.6), st.floats(0, 0.39))
def test_adding_images_moves_none_but_stand_ins(before: int, more: int, test: float, validation: float) -> None:
    rows = many("a", range(60, 80)) + many("b", range(200, 220))
    old, added = many("a", range(before)), many("a", range(100, 100 + more)) + many("c", range(more + 20))
    options: dict[str, Any] = {"test": test * 0.5, "validation": validation * 0.5}
    first, second = (splits_by_id(build(extra + rows + old, **options)) for extra in ([], added))
    moved = {id for id in first if second[id] != first[id]}
    # Only a class that has a split without images of its own may change: `a`, which has few.
    own = {assign_split(content_id(row), "", (), **options) for row in [*rows[:20], *old]}
    wanted = {"train"} | {name for name, fraction in options.items() if fraction > 0}
    assert not moved or (own < wanted and moved <= {content_id(row) for row in [*rows[:20], *old]})


@given(
    st.dictionaries(st.integers(0, 999), st.sampled_from("abc"), min_size=1, max_size=40),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
)
def test_every_class_has_a_training_image_then_validation_then_test(
    drawn: dict[int, str], validation: float, test: float
) -> None:
    contents, labels = [content_id(Row("", "", f"{k}".encode())) for k in drawn], list(drawn.values())
    splits = assign_splits(contents, labels, [""] * len(labels), validation=validation, test=test)
    wanted = ["train", *(["validation"] if validation else []), *(["test"] if test else [])]
    for label in set(labels):
        of_class = [split for split, other in zip(splits, labels, strict=True) if other == label]
        assert set(of_class) >= set(wanted[: len(of_class)])
        assert set(of_class) <= set(wanted)
    # The order of the images and the other classes do not matter.
    for label in set(labels):
        alone = [k for k, other in enumerate(labels) if other == label][::-1]
        again = assign_splits(
            [contents[k] for k in alone], [label] * len(alone), [""] * len(alone), validation=validation, test=test
        )
        assert again == [splits[k] for k in alone]


@slow
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=80))
def test_every_image_is_in_one_split_and_copies_share_it(drawn: list[tuple[str, int]]) -> None:
    # Both classes draw from the same contents, so there are copies with equal and with different labels.
    rows = [Row(label, f"{label} {i}", f"content {k}".encode()) for i, (label, k) in enumerate(drawn)]
    rows += many("a", range(30)) + many("b", range(30))
    dataset = build(rows)
    splits = [dataset.train, dataset.validation, dataset.test]
    ids = [id for split in splits for id in split.ids]
    assert len(ids) == len(set(ids)) == len(rows)
    contents = [{id.split("-")[0] for id in split.ids} for split in splits]
    assert sum(map(len, contents)) == len(set.union(*contents))
    labels = Counter(label for split in splits for label in split.labels)
    assert labels == Counter(row.label for row in rows)


def test_every_class_is_held_out_by_the_same_fraction_of_all_images() -> None:
    dataset = build(many("a", range(3000)) + many("b", range(1000)), test=0.3, validation=0.2)
    for label, number in (("a", 3000), ("b", 1000)):
        fractions = [list(split.labels).count(label) / number for split in (dataset.validation, dataset.test)]
        assert fractions == pytest.approx([0.2, 0.3], abs=0.05)


@pytest.mark.parametrize("given", ["validation", "test"])
def test_splits_of_the_source_are_kept_and_missing_ones_are_held_out_from_train(given: str) -> None:
    rows = [row for label in "ab" for row in many(label, range(200), "train") + many(label, range(200, 220), given)]
    dataset = build(rows)
    other = "test" if given == "validation" else "validation"
    assert len(dataset.split(given)) == 40
    assert 0 < len(dataset.split(other)) < 120
    assert len(build(rows, validation=0, test=0).train) == 400


def test_a_dataset_with_only_a_test_split_can_be_evaluated() -> None:
    dataset = build(many("a", range(5), "test"))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (0, 0, 5)
    assert any("not trained on" in note for note in dataset.notes)


def test_copies_are_numbered_and_noted() -> None:
    rows = many("a", range(9)) + many("b", range(9))
    rows += [Row("a", "copy 1", b"a 0"), Row("a", "copy 2", b"a 0"), Row("b", "doubtful", b"a 1")]
    dataset = build(rows, test=0, validation=0)
    id = content_id(rows[0])
    assert [id, f"{id}-2", f"{id}-3"] == [dataset.train.ids[i] for i in (0, 18, 19)]
    assert "Exact copies: 3 images repeat another image byte for byte." in dataset.notes
    assert "Copies under different labels: 1 image, for example a/1 and doubtful." in dataset.notes


def test_copy_of_a_test_image_in_train_is_noted() -> None:
    rows = many("a", range(5), "train") + many("b", range(5), "train") + many("a", range(2), "test")
    assert any("test images in the training split: 2" in note for note in build(rows, validation=0).notes)
    assert not any("training split" in note for note in build(rows[2:], validation=0).notes)


def test_classes_are_in_natural_order_or_in_the_order_of_the_source() -> None:
    rows = [row for label in ("10", "2", "1") for row in many(label, range(3))]
    assert build(rows, test=0, validation=0).labels == ("1", "2", "10")
    dataset = build(rows, ("10", "1", "unused", "2"), test=0, validation=0)
    assert dataset.labels == ("10", "1", "2")
    assert any("unused" in note for note in dataset.notes)


def test_class_names_replace_numbers() -> None:
    rows = many(0, range(3)) + many("1", range(3))
    dataset = build(rows, class_names=["zebra", "ant"], test=0, validation=0)
    assert dataset.labels == ("zebra", "ant")
    assert list(dataset.train.labels) == ["zebra"] * 3 + ["ant"] * 3
    renamed = build(many("x", range(3)) + many("y", range(3)), ("x", "y"), class_names=["p", "q"], test=0, validation=0)
    assert renamed.labels == ("p", "q")


@pytest.mark.parametrize(
    ("names", "source_names", "says"),
    [
        (["a"], None, "only names for 0 to 0"),
        (["a", "b", "c"], None, "class_names has 3 names"),
        (["a"], ("x", "y"), "class_names has 1 name, but the dataset has 2 classes"),
    ],
)
def test_a_wrong_number_of_class_names_is_refused(
    names: list[str], source_names: tuple[str, ...] | None, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        build(many(0, range(5)) + many(1, range(5)), source_names, class_names=names, test=0, validation=0)


def test_class_names_for_text_labels_are_refused() -> None:
    with pytest.raises(UserError, match="numbered classes"):
        build(many("cat", range(3)), class_names=["a", "b"])


@pytest.mark.parametrize("other", ["Cat", "cat ", " CAT", "c at"])
def test_labels_that_differ_only_by_case_or_spaces_are_refused(other: str) -> None:
    with pytest.raises(UserError) as caught:
        build(many("cat", range(3)) + many(other, range(3)))
    assert repr(other) in caught.value.what
    assert repr("cat") in caught.value.what


def test_labels_that_differ_only_by_unicode_form_are_refused() -> None:
    with pytest.raises(UserError, match="differ only"):
        build(many("caf\u00e9", range(3)) + many("cafe\u0301", range(3)))


def test_a_single_class_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="only one class, 'cat'"):
        build(many("cat", range(9)))


def test_the_error_for_an_empty_label_names_the_row() -> None:
    with pytest.raises(UserError, match="labels row 7 has an empty label"):
        build([Row(" ", "labels row 7", b"x")])


def test_a_class_without_training_images_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"training split has no image.*'rare'"):
        build(
            many("a", range(3), "train")
            + many("b", range(3), "train")
            + many("rare", range(3), "test")
            + many("b", range(4, 5), "validation")
        )


def test_a_class_whose_files_are_all_missing_stops_the_run(tmp_path: Path) -> None:
    rows = many("a", range(5)) + many("b", range(5)) + [Row("c", str(tmp_path / f"{k}.png")) for k in (1, 1, 2)]
    with pytest.raises(
        UserError, match=r"None of the 3 image files of the class 'c' can be read, for example .*1\.png"
    ):
        build(rows)
    (tmp_path / "2.png").write_bytes(png(2))
    assert build(rows).labels == ("a", "b", "c")


def test_single_image_is_noted() -> None:
    dataset = build(many("a", range(5)) + many("b", range(1)), test=0, validation=0)
    assert "Only one image, for training: 1 class (b). They can't be tested." in dataset.notes


def test_large_images_are_written_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensmith.data.build._BATCH_BYTES", 300)
    monkeypatch.setattr("lensmith.data.build._BATCH_ROWS", 7)
    rows = [Row("ab"[k % 2], str(k), png(k)) for k in range(20)]
    dataset = build(rows, test=0, validation=0)
    assert [dataset.train.source(i) for i in range(20)] == [str(k) for k in range(20)]
    assert len({dataset.train.image(i).tobytes() for i in range(20)}) == 20


@pytest.mark.parametrize(("first", "second"), [("test", "validation"), ("validation", "train")])
def test_copies_across_all_pairs_of_splits_are_noted(first: str, second: str) -> None:
    rows = [
        row for name in ("train", "validation", "test") for row in many("a", range(5), name) + many("b", range(5), name)
    ]
    rows = [
        Row(row.label, f"{row.split} {row.source}", f"{row.split} {row.source}".encode(), row.split) for row in rows
    ]
    assert not any("Copies of" in note for note in build(rows).notes)
    copied = next(row for row in rows if row.split == first)
    notes = build([*rows, Row(copied.label, "again", copied.data, second)]).notes
    assert any(note.startswith(f"Copies of {first} images in the {second}") and "split: 1." in note for note in notes)
