"""An edited table changes the labels that were edited, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmith.data import ImageDataset, open_dataset
from lensmith.data.corrections import corrected
from lensmith.errors import UserError
from tests.conftest import Shapes

HEAD = "id,was,label,file\n"


@pytest.fixture
def dataset(shapes: Shapes) -> ImageDataset:
    return open_dataset(str(shapes(circle=20, square=20)))


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "corrected.csv"
    path.write_text(HEAD + text, encoding="utf-8-sig")
    return path


def labels(dataset: ImageDataset) -> dict[str, str]:
    return {name: label for split in dataset.splits for name, label in zip(split.ids, split.labels, strict=True)}


def test_edited_rows_change_labels_and_emptied_ones_remove_images(dataset: ImageDataset, tmp_path: Path) -> None:
    first, second, third = dataset.train.ids[:3]
    was = labels(dataset)
    other = "square" if was[first] == "circle" else "circle"
    text = f"{first},{was[first]},{other},x\n{second},{was[second]},,x\n{third},{was[third]},{was[third]},x\n"
    now = corrected(dataset, table(tmp_path, text))
    assert labels(now) == {k: v for k, v in was.items() if k != second} | {first: other}
    assert now.train.hash != dataset.train.hash
    assert now.test.hash == dataset.test.hash
    assert "1 labels changed, 1 images left out" in now.notes[-1]
    assert now.train.image(0).tobytes() == dataset.train.image(0).tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0123456789abcdef,circle,square,x\n", "corrects the image 0123456789abcdef, which"),
        ("{id},circle,sqare,x\n", "Line 2 of .* has the label 'sqare'.*Did you mean 'square'"),
        ("{id},star,circle,x\n", "was labelled 'star', but it is labelled"),
    ],
)
def test_rows_that_do_not_match_the_dataset_are_reported_in_one_sentence(
    dataset: ImageDataset, tmp_path: Path, text: str, message: str
) -> None:
    square = next(k for k, v in labels(dataset).items() if v == "square")
    with pytest.raises(UserError, match=message):
        corrected(dataset, table(tmp_path, text.replace("{id}", square)))


def test_other_tables_and_unreadable_ones_are_refused(dataset: ImageDataset, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("name,label\na,circle\n")
    with pytest.raises(UserError, match="no column 'id'"):
        corrected(dataset, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="isn't a table of text"):
        corrected(dataset, path)
    with pytest.raises(UserError, match="can't be read"):
        corrected(dataset, tmp_path / "none.csv")


def test_copies_under_different_labels_are_corrected_together(shapes: Shapes, tmp_path: Path) -> None:
    folder = shapes(circle=10, square=10)
    (folder / "square" / "copy.jpg").write_bytes((folder / "circle" / "circle 0.jpg").read_bytes())
    dataset = open_dataset(str(folder))
    copy = next(name for name in labels(dataset) if name.endswith("-2")).partition("-")[0]
    copy_labels = {label for name, label in labels(dataset).items() if name.startswith(copy)}
    assert copy_labels == {"circle", "square"}
    after = labels(corrected(dataset, table(tmp_path, f"{copy},square,circle,x\n")))
    assert {label for name, label in after.items() if name.startswith(copy)} == {"circle"}
    after = labels(corrected(dataset, table(tmp_path, f"{copy}-2,square,,x\n")))
    assert not any(name.startswith(copy) for name in after)


def kept(folder: Path, rows: dict[str, tuple[bytes, str]]) -> Path:
    """A table as `lensmith serve` keeps it."""
    (folder / "images").mkdir(parents=True)
    for name, (data, _) in rows.items():
        (folder / "images" / name).write_bytes(data)
    path = folder / "labels.csv"
    lines = [f"images/{name},{label},circle,0.5000\n" for name, (_, label) in rows.items()]
    path.write_text("image,label,answer,probability\n" + "".join(lines), encoding="utf-8")
    return path


def test_kept_images_are_added_to_training_only_and_known_ones_are_labelled_anew(
    dataset: ImageDataset, tmp_path: Path
) -> None:
    known = Path(dataset.train.source(0)).read_bytes()
    other = "square" if dataset.train.labels[0] == "circle" else "circle"
    path = kept(tmp_path / "kept", {"a.png": (known, other), "b.png": (known + b"\0", "square")})
    now = corrected(dataset, path)
    assert len(now.train) == len(dataset.train) + 1
    assert now.test.hash == dataset.test.hash
    assert now.validation.hash == dataset.validation.hash
    assert now.train.labels[0] == other
    assert now.train.labels[-1] == "square"
    assert now.train.image(len(now.train) - 1).tobytes() == dataset.train.image(0).tobytes()
    assert "1 training images added, 1 images labelled" in now.notes[-1]


def test_kept_images_that_can_not_be_used_are_reported(dataset: ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Line 2 of .* has the label 'star'"):
        corrected(dataset, kept(tmp_path / "one", {"a.png": (b"x", "star")}))
    path = kept(tmp_path / "two", {"a.png": (b"x", "circle")})
    (tmp_path / "two" / "images" / "a.png").unlink()
    with pytest.raises(UserError, match=r"names 'images/a.png', which isn't a file"):
        corrected(dataset, path)
    with pytest.raises(UserError, match="two labels"):
        corrected(dataset, kept(tmp_path / "three", {"a.png": (b"x", "circle"), "b.png": (b"x", "square")}))


def test_a_chosen_image_may_be_for_the_test_and_may_have_no_label_yet(dataset: ImageDataset, tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (9, 9), (i, 200, 9)).save(tmp_path / f"{i}.png")
    path = tmp_path / "next.csv"
    path.write_text("image,label,split\n0.png,circle,train\n1.png,star,test\n2.png,,train\n")
    now = corrected(dataset, path)
    assert (len(now.train), len(now.test)) == (len(dataset.train) + 1, len(dataset.test) + 1)
    assert now.test.labels[-1] == "star"
    assert now.labels == (*dataset.labels, "star")
    assert "1 test images added. 1 rows have no label yet. New classes: star." in now.notes[-1]
    path.write_text("image,label,split\n0.png,circle,tests\n")
    with pytest.raises(UserError, match="has the split 'tests'"):
        corrected(dataset, path)
