"""Folders as the datasets that people download have them: what is a split, what a class, and what is neither."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lensmith.data import ImageDataset, open_dataset
from lensmith.errors import UserError
from tests.data.conftest import Tree
from tests.data.elsewhere import assert_same_elsewhere
from tests.data.pictures import write


def opened(root: Path, **options: Any) -> ImageDataset:
    return open_dataset(str(root), **{"validation": 0, "test": 0} | options)


def sizes(dataset: ImageDataset) -> tuple[int, ...]:
    return tuple(len(split) for split in dataset.splits)


@pytest.mark.parametrize(
    "folders",
    [
        ["seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "seg_test/seg_test/b"],
        ["training_set/a", "training_set/b", "test_set/a", "test_set/b"],
        ["training_set/training_set/a", "training_set/training_set/b", "test_set/test_set/a", "test_set/test_set/b"],
        ["images/train/a", "images/train/b", "images/test/a", "images/test/b"],
        ["archive/Dataset/Train/a", "archive/Dataset/Train/b", "archive/Dataset/Test/a", "archive/Dataset/Test/b"],
        ["train2017/a", "train2017/b", "eval2017/a", "eval2017/b"],
        ["trainset/a/deep", "trainset/b", "testset/a", "testset/b"],
        ["a/train", "b/train", "a/test", "b/test"],
        ["my data/a/train", "my data/b/train", "my data/a/test", "my data/b/test"],
    ],
)
def test_what_looks_like_a_split_is_one(tree: Tree, tmp_path: Path, folders: list[str]) -> None:
    root = tree(dict(zip(folders, [4, 3, 2, 1], strict=True)))
    dataset = opened(root)
    assert dataset.labels == ("a", "b")
    assert sizes(dataset) == (7, 0, 3)
    assert_same_elsewhere(root, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "folders",
    [
        {"train": 3, "bus": 3},
        {"train horn": 3, "train bell": 3},
        {"test_tube": 3, "flask": 3},
        {"bullet_train/day": 3, "bus": 3},
        {"tests": 3, "trains": 3},
    ],
)
def test_classes_may_have_names_like_splits(tree: Tree, folders: dict[str, int]) -> None:
    dataset = opened(tree(folders))
    assert set(dataset.labels) == {name.partition("/")[0] for name in folders}
    assert sizes(dataset) == (6, 0, 0)


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (
            {"seg_train/a": 2, "seg_test/a": 2, "seg_pred": 2},
            r"splits \(seg_test, seg_train\) and other folders \('seg_pred'\)",
        ),
        ({"train": 2, "test": 2, "cats": 2}, r"splits \(test, train\) and other folders \('cats'\)"),
        ({"train_set": 2, "test_set": 2}, "aren't in class folders"),
        ({"a/train": 2, "a/test": 1, "b": 3}, "'a' contains splits .*but 'b' doesn't"),
    ],
)
def test_what_may_be_either_stops_and_says_how_to_say_it(tree: Tree, folders: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        opened(tree(folders))
    assert "data.splits=" in str(error.value)


def test_the_user_says_which_folders_are_which(tree: Tree) -> None:
    root = tree({"2023/a": 3, "2023/b": 3, "2024/a": 2, "2024/b": 1, "raw/c": 5})
    dataset = opened(root, splits={"train": ["2023"], "test": "2024"})
    assert dataset.labels == ("a", "b")
    assert sizes(dataset) == (6, 0, 3)
    assert any("ignored: 5 images" in note for note in dataset.notes), "what isn't used is said"
    classes = opened(tree({"train/a": 2, "test/b": 2}), splits={})
    assert {"train", "test"} <= set(classes.labels)
    with pytest.raises(UserError, match=r"no split '2022', which data\.splits names.*Did you mean '202[34]'"):
        opened(root, splits={"train": "2022"})


def test_a_folder_around_the_class_folders_is_named(tree: Tree) -> None:
    with pytest.raises(
        UserError, match=r"in the folder 'PetImages', so there is only one class.*give .*data/PetImages\."
    ):
        opened(tree({"PetImages/Cat": 2, "PetImages/Dog": 2}))


def test_a_class_that_would_vanish_stops_the_run(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensmith.data.images.reads_heif", lambda: False)
    root = tree({"cat": 3, "dog": 3})
    for k in range(12):
        write(root / "bird" / f"IMG_{k}.HEIC", k)
    with pytest.raises(UserError, match=r"the class 'bird' can be read.*12 files that end in \.heic.*lensmith\[heic\]"):
        opened(root)
    write(root / "bird" / "one.png", 99)
    assert opened(root).labels == ("bird", "cat", "dog")


def test_a_class_folder_that_cannot_be_listed_stops_the_run(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"bird": 3, "cat": 3, "dog": 3})
    refuse_to_list(monkeypatch, root / "bird")
    with pytest.raises(UserError, match=r"class folder .*bird can't be listed: Permission denied"):
        opened(root)
    refuse_to_list(monkeypatch, root / "cat" / "2023")
    monkeypatch.undo()
    write(root / "cat" / "2023" / "x.png", 77)
    refuse_to_list(monkeypatch, root / "cat" / "2023")
    assert any("Can't be listed, ignored: 1 folder" in note for note in opened(root).notes)


def refuse_to_list(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As for a user who may not read the folder; root may read everything."""
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if path == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_empty_folders_and_those_of_systems_are_said(tree: Tree) -> None:
    root = tree({"cat": 3, "dog": 3})
    (root / "bird").mkdir()
    for name in ("cat/@eaDir/0.png/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old/x.png", "__MACOSX/cat/y.png"):
        write(root / name, 50)
    dataset = opened(root)
    assert dataset.labels == ("cat", "dog")
    assert sizes(dataset) == (6, 0, 0)
    assert "Empty, ignored: 1 folder (bird)." in dataset.notes
    assert "Hidden, ignored: 3 files." in dataset.notes
