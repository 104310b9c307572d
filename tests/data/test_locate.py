"""A reference finds the image it means, wherever it was written, and never another image of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmith.data.locate import Images
from lensmith.errors import UserError
from tests.data.pictures import write

FILES = ["a.png", "b/a.png", "train/x1.jpg", "test/x1.jpg", "deep/er/z.png", ".hidden/h.png", "v1.2.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(FILES):
        write(tmp_path / name, seed)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("a.png", "a.png"),
        ("b/a.png", "b/a.png"),
        ("b\\a.png", "b/a.png"),
        ("z.png", "deep/er/z.png"),
        ("er/z.png", "deep/er/z.png"),
        ("z", "deep/er/z.png"),
        ("v1.2", "v1.2.png"),
        ("x1", "train/x1.jpg"),  # the folder of the table's name
        ("test/x1", "test/x1.jpg"),
        ("s3://bucket/er/z.png", "deep/er/z.png"),
        ("s3://bucket/some/where/b/a.png", "b/a.png"),
        ("https://host/er/z.png?signature=1#x", "deep/er/z.png"),
        ("https://host/er/%7A.png", "deep/er/z.png"),
        ("/home/other/photos/deep/er/z.png", "deep/er/z.png"),
        ("C:\\photos\\deep\\er\\z.png", "deep/er/z.png"),
        ("/data/upload/12/0a1b2c3d-z.png", "deep/er/z.png"),
        ("/data/local-files/?d=x/deep/er/z.png", "deep/er/z.png"),
    ],
)
def test_a_reference_finds_its_file(root: Path, reference: str, file: str) -> None:
    assert Path(Images(root, "train").find(reference, "row 1")) == root / file


@pytest.mark.parametrize(
    "reference",
    [
        "c/a.png",  # another folder's image of the same name
        "c/z.png",
        "z.jpg",
        "../z.png",
        "h.png",
        "0a1b2c3d-z.png",  # only an upload has a prefix
        "/home/other/c/z.png",
        "deep/er/z.png.png",
    ],
)
def test_another_image_of_the_same_name_is_never_taken(root: Path, reference: str) -> None:
    found = Images(root, "train").find(reference, "row 1")
    assert not Path(found).exists()
    assert reference in found


def test_a_url_without_a_file_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"row 1 has a URL.*c/a\.jpg.*data\.images="):
        Images(root).find("https://host/c/a.jpg", "row 1")


@pytest.mark.parametrize("reference", ["x1", "x1.jpg", "s3://bucket/x1.jpg"])
def test_two_files_of_one_name_are_refused(root: Path, reference: str) -> None:
    with pytest.raises(UserError, match=r"could be (train/x1\.jpg or test/x1\.jpg|test/x1\.jpg or train/x1\.jpg)"):
        Images(root).find(reference, "row 1")


def test_two_references_to_one_file_are_refused(root: Path) -> None:
    images = Images(root)
    images.find("/data/upload/1/0a1b2c3d-z.png", "row 1")
    images.find("/data/upload/1/0a1b2c3d-z.png", "row 2")
    with pytest.raises(UserError, match=r"row 3 has the image .*ffffffff-z\.png, but .*0a1b2c3d-z\.png"):
        images.find("/data/upload/1/ffffffff-z.png", "row 3")
