"""Class folders as people have them: stray files, odd names, nested folders, with and without splits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from lensmith.data import ImageDataset, open_dataset
from lensmith.data.source import Columns
from lensmith.data.sources import needed_files
from lensmith.errors import ImageError, UserError
from tests.data.conftest import Tree
from tests.data.elsewhere import assert_same_elsewhere, names
from tests.data.pictures import write


def unsplit(path: Path) -> ImageDataset:
    return open_dataset(str(path), validation=0, test=0)


def test_stray_files_beside_class_folders_are_noted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensmith.data.images.reads_heif", lambda: False)
    root = tree({"class 10": 2, "class 2": 3, "Größe/ääh": 1})
    write(root / "loose.png", 90)
    for name in ["class 2/notes.txt", "class 2/x.heic", "class 2/.DS_Store", ".cache/y.png", "readme"]:
        write(root / name, 91)
    dataset = unsplit(root)
    assert dataset.labels == ("Größe", "class 2", "class 10")
    assert len(dataset.train) == 6
    assert "Not images by their extension, ignored: 3 files" in " ".join(dataset.notes)
    assert ".heic" in " ".join(dataset.notes)
    assert "Hidden, ignored: 2 files." in dataset.notes
    assert "Outside any class folder, ignored: 1 image." in dataset.notes


def test_images_below_a_class_folder_belong_to_it(tree: Tree) -> None:
    dataset = unsplit(tree({"cats/2023/may": 2, "cats": 1, "dogs": 2}))
    assert sorted(dataset.train.labels) == ["cats"] * 3 + ["dogs"] * 2


def test_split_folders_above_the_class_folders(tree: Tree) -> None:
    root = tree({"Train/a": 20, "Train/b/deep": 20, "val/a": 3, "dev/b": 1, "testing/b": 2})
    dataset = open_dataset(f"folder:{root}")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [40, 4, 2]
    assert dataset.labels == ("a", "b")


def test_a_folder_with_only_a_test_split(tree: Tree) -> None:
    dataset = open_dataset(str(tree({"test/a": 2, "test/b": 1})))
    assert (len(dataset.train), len(dataset.test)) == (0, 3)


def test_train_is_a_class_if_it_contains_images(tree: Tree) -> None:
    assert unsplit(tree({"train": 2, "bus": 2})).labels == ("bus", "train")


def test_split_folders_beside_other_folders_are_refused(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"both splits \(test, train\) and other folders \('extra'\)"):
        unsplit(tree({"train/a": 2, "test/a": 2, "extra": 1}))


@pytest.mark.parametrize("numbers", [{"": 3}, {"train": 2, "test": 2}])
def test_images_without_class_folders_are_refused(tree: Tree, numbers: dict[str, int]) -> None:
    with pytest.raises(UserError, match="aren't in class folders"):
        unsplit(tree(numbers))


def test_a_folder_without_images_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="No images"):
        unsplit(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        open_dataset("folder:/nowhere/at all")


def test_a_file_that_is_not_an_image_fails_when_it_is_decoded(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2})
    (root / "a" / "text.jpg").write_text("not a picture")
    (root / "b" / "gone.jpg").symlink_to(root / "nothing")
    dataset = unsplit(root)
    bad = {Path(dataset.train.source(i)).name: i for i in range(len(dataset.train))}
    for name in ("text.jpg", "gone.jpg"):
        with pytest.raises(ImageError, match=name):
            dataset.train.image(bad[name])
    assert any("Can't be read: 1 file" in note for note in dataset.notes)


def test_reopening_notices_every_change(tree: Tree) -> None:
    root = tree({"a": 3, "b": 3})
    first = unsplit(root)
    write(root / "a" / "9.png", 99)
    assert len(unsplit(root).train) == len(first.train) + 1
    # Same name, same size, same time: only the content differs.
    path = root / "a" / "0.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert set(first.train.ids) - set(unsplit(root).train.ids) == {first.train.ids[0]}


def test_moving_or_renaming_does_not_change_ids(tree: Tree, tmp_path: Path) -> None:
    root = tree({"a": 9, "b": 9})
    before = open_dataset(str(root))
    moved = root.rename(tmp_path / "Mes photos à moi")
    (moved / "a" / "0.png").rename(moved / "a" / "été.png")
    after = open_dataset(str(moved))
    assert [split.hash for split in (before.train, before.validation, before.test)] == [
        split.hash for split in (after.train, after.validation, after.test)
    ]
    assert all(isinstance(after.train.image(i), Image.Image) for i in range(len(after.train)))


def test_a_file_name_that_is_not_utf8_is_refused(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2})
    try:
        (root / "a" / "\udcff.png").write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only accepts UTF-8")
    with pytest.raises(UserError, match="UTF-8"):
        unsplit(root)


def test_the_needed_files_are_the_images(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"train/a": 2, "train/b/deep": 2, "test/a": 1})
    for name in ("train/a/notes.txt", "train/a/.hidden.png", ".git/x.png", "secrets.env"):
        write(root / name, 90)
    (root / "train" / "a" / "gone.png").symlink_to(root / "nothing")
    images = {"train/a/0.png", "train/a/1.png", "train/b/deep/0.png", "train/b/deep/1.png", "test/a/0.png"}
    assert names(root) == images
    (root / "train" / "a" / "gone.png").unlink()
    assert_same_elsewhere(root, tmp_path / "elsewhere")

    monkeypatch.chdir(tmp_path)
    files = needed_files("folder:data", Columns())
    assert files
    assert files.folder == "data", "the folder is named as in the recipe"
    assert files.paths["test/a/0.png"] == Path("data/test/a/0.png")
    with pytest.raises(UserError, match="is a file, not a folder"):
        needed_files("folder:data/secrets.env", Columns())
