"""IDX files: the header must match the data that follows."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lensmith.data import open_dataset
from lensmith.errors import UserError
from tests.data.elsewhere import assert_same_elsewhere, names

REAL = Path("/usr/share/datasets/fashion-mnist")


def images(number: int, start: int = 0) -> bytes:
    pixels = np.arange(start, start + number * 6).astype(np.uint8)
    return struct.pack(">4I", 0x0803, number, 2, 3) + pixels.tobytes()


def labels(values: list[int]) -> bytes:
    return struct.pack(">2I", 0x0801, len(values)) + bytes(values)


def write(folder: Path, gz: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "train-images-idx3-ubyte": images(20),
        "train-labels-idx1-ubyte": labels([0, 3] * 10),
        "t10k-images-idx3-ubyte": images(4, 130),
        "t10k-labels-idx1-ubyte": labels([0, 3, 3, 0]),
    }
    for name, data in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data)) if gz else (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("gz", [True, False])
def test_images_labels_and_splits_are_read(tmp_path: Path, gz: bool) -> None:
    dataset = open_dataset(str(write(tmp_path / "digits", gz)), validation=0)
    assert dataset.labels == ("0", "3")
    assert (len(dataset.train), len(dataset.test)) == (20, 4)
    image = dataset.train.image(1)
    assert image.size == (3, 2)
    assert np.asarray(image)[:, :, 0].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert dataset.train.source(1).endswith(" row 2")


def test_a_file_and_its_gzipped_copy_count_once(tmp_path: Path) -> None:
    write(tmp_path, gz=True)
    assert len(open_dataset(f"idx:{write(tmp_path)}", validation=0).train) == 20


def test_fashion_mnist_and_class_names_name_the_classes(tmp_path: Path) -> None:
    folder = write(tmp_path / "Fashion-MNIST")
    assert open_dataset(str(folder), validation=0).labels == ("T-shirt/top", "Dress")
    names = ["w", "x", "y", "z"]
    assert open_dataset(str(write(tmp_path / "other")), validation=0, class_names=names).labels == ("w", "z")
    with pytest.raises(UserError, match="class_names has 5 names, but the highest label is 3"):
        open_dataset(str(tmp_path / "other"), class_names=[*names, "v"])


@pytest.mark.parametrize(
    ("file", "data", "says"),
    [
        ("train-images-idx3-ubyte", images(20)[:-1], "truncated: image 20 of 20"),
        ("train-images-idx3-ubyte", images(20)[:9], "header is incomplete"),
        ("train-images-idx3-ubyte", images(20) + b"x", "longer than its header"),
        ("train-images-idx3-ubyte", images(19), "19 images, but there are 20 labels"),
        ("train-images-idx3-ubyte", images(20)[::-1], "isn't an IDX file"),
        ("train-images-idx3-ubyte", struct.pack("<4I", 0x0803, 20, 2, 3), "isn't an IDX file"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x0803, 20, 0, 3), "3 x 0 pixels"),
        ("train-labels-idx1-ubyte", labels([0, 3] * 10)[:-2], "18 labels, but 20 according to its header"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, file: str, data: bytes, says: str) -> None:
    (write(tmp_path) / file).write_bytes(data)
    with pytest.raises(UserError, match=says) as caught:
        open_dataset(str(tmp_path))
    assert file in caught.value.what


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_damaged_gzip_files_are_refused(tmp_path: Path, file: str) -> None:
    path = write(tmp_path, gz=True) / file
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="damaged"):
        open_dataset(str(tmp_path))
    path.write_bytes(b"not gzip")
    with pytest.raises(UserError, match="damaged"):
        open_dataset(str(tmp_path))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    (write(tmp_path) / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="train-labels-idx1-ubyte"):
        open_dataset(str(tmp_path))
    with pytest.raises(UserError, match="No IDX images"):
        open_dataset(f"idx:{tmp_path.parent}")


@pytest.mark.skipif(not REAL.is_dir(), reason="Fashion-MNIST isn't on this machine")
def test_the_published_fashion_mnist() -> None:
    dataset = open_dataset(str(REAL))
    assert len(dataset.train) + len(dataset.validation) == 60_000
    assert len(dataset.test) == 10_000
    assert len(dataset.labels) == 10
    assert dataset.test.labels[0] == "Ankle boot"
    assert dataset.test.image(0).size == (28, 28)


def test_the_needed_files_are_the_idx_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "Fashion-MNIST")
    plain = names(folder)
    assert plain == {f"{k}-{f}-ubyte" for k in ("train", "t10k") for f in ("images-idx3", "labels-idx1")}
    (folder / "notes.txt").write_text("x")
    assert names(write(folder, gz=True)) == plain, "a gzipped copy isn't read"
    assert_same_elsewhere(folder, tmp_path / "elsewhere" / "Fashion-MNIST")
    assert names(write(tmp_path / "gzipped", gz=True)) == {f"{name}.gz" for name in plain}
    assert names(f"idx:{tmp_path}") == set()
