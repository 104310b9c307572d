"""Class folders as people keep them: stray files, odd names, nested folders, parts or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from lensmith.data import ImageDataset, open_dataset
from lensmith.errors import ImageError, UserError
from tests.data.conftest import Tree
from tests.data.pictures import write


def whole(path: Path) -> ImageDataset:
    return open_dataset(str(path), validation=0, test=0)


def test_class_folders_with_stray_files(tree: Tree) -> None:
    root = tree({"class 10": 2, "class 2": 3, "Größe/ääh": 1})
    write(root / "loose.png", 90)
    for name in ["class 2/notes.txt", "class 2/x.heic", "class 2/.DS_Store", ".cache/y.png", "readme"]:
        write(root / name, 91)
    dataset = whole(root)
    assert dataset.labels == ("Größe", "class 2", "class 10")
    assert len(dataset.train) == 6
    assert "Not images by their extension, left out: 3 files" in " ".join(dataset.notes)
    assert ".heic" in " ".join(dataset.notes)
    assert "Hidden, left out: 2 files." in dataset.notes
    assert "Outside any class folder, left out: 1 image." in dataset.notes


def test_images_below_a_class_folder_belong_to_it(tree: Tree) -> None:
    dataset = whole(tree({"cats/2023/may": 2, "cats": 1, "dogs": 2}))
    assert sorted(dataset.train.labels) == ["cats"] * 3 + ["dogs"] * 2


def test_parts_above_the_classes(tree: Tree) -> None:
    root = tree({"Train/a": 20, "Train/b/deep": 20, "val/a": 3, "dev/b": 1, "testing/b": 2})
    dataset = open_dataset(f"folder:{root}")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [40, 4, 2]
    assert dataset.labels == ("a", "b")


def test_only_a_test_folder(tree: Tree) -> None:
    dataset = open_dataset(str(tree({"test/a": 2, "test/b": 1})))
    assert (len(dataset.train), len(dataset.test)) == (0, 3)


def test_a_class_called_train_among_vehicles(tree: Tree) -> None:
    assert whole(tree({"train": 2, "bus": 2})).labels == ("bus", "train")


def test_parts_beside_other_folders_are_ambiguous(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"both parts \(test, train\) and other folders \('extra'\)"):
        whole(tree({"train/a": 2, "test/a": 2, "extra": 1}))


@pytest.mark.parametrize("numbers", [{"": 3}, {"train": 2, "test": 2}])
def test_images_without_class_folders(tree: Tree, numbers: dict[str, int]) -> None:
    with pytest.raises(UserError, match="aren't in class folders"):
        whole(tree(numbers))


def test_no_images_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="No images"):
        whole(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        open_dataset("folder:/nowhere/at all")


def test_a_file_that_is_no_image_fails_when_it_is_decoded(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2})
    (root / "a" / "text.jpg").write_text("not a picture")
    (root / "b" / "gone.jpg").symlink_to(root / "nothing")
    dataset = whole(root)
    bad = {Path(dataset.train.source(i)).name: i for i in range(len(dataset.train))}
    for name in ("text.jpg", "gone.jpg"):
        with pytest.raises(ImageError, match=name):
            dataset.train.image(bad[name])
    assert any("Can't be read: 1 file" in note for note in dataset.notes)


def test_reopening_sees_every_change(tree: Tree) -> None:
    root = tree({"a": 3, "b": 3})
    first = whole(root)
    write(root / "a" / "9.png", 99)
    assert len(whole(root).train) == len(first.train) + 1
    # Same name, same size, same time: only the content differs.
    path = root / "a" / "0.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert set(first.train.ids) - set(whole(root).train.ids) == {first.train.ids[0]}


def test_moving_or_renaming_changes_no_id(tree: Tree, tmp_path: Path) -> None:
    root = tree({"a": 9, "b": 9})
    before = open_dataset(str(root))
    moved = root.rename(tmp_path / "Mes photos à moi")
    (moved / "a" / "0.png").rename(moved / "a" / "été.png")
    after = open_dataset(str(moved))
    assert [split.hash for split in (before.train, before.validation, before.test)] == [
        split.hash for split in (after.train, after.validation, after.test)
    ]
    assert all(isinstance(after.train.image(i), Image.Image) for i in range(len(after.train)))


def test_file_name_that_is_not_utf8(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2})
    try:
        (root / "a" / "\udcff.png").write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(UserError, match="UTF-8"):
        whole(root)
