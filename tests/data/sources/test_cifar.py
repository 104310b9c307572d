"""CIFAR in its four published layouts, and pickles that would run code."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensmith.data import open_dataset
from lensmith.errors import UserError
from tests.data.elsewhere import assert_same_elsewhere, names

NAMES = [f"name {k}" for k in range(10)]


def batch(number: int, seed: int) -> tuple[Any, list[int]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (number, 3072), dtype=np.uint8)
    return pixels, [k % 10 for k in range(number)]


def as_published(content: dict[str, Any]) -> bytes:
    """Protocol 2 with byte-string keys, and arrays that refer to NumPy's old module, as Python 2 wrote them."""
    data = pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=2)
    assert b"numpy._core" in data
    return data.replace(b"numpy._core", b"numpy.core")


def python_ten(folder: Path) -> Path:
    folder.mkdir()
    for k, name in enumerate(["data_batch_1", "data_batch_2", "test_batch"]):
        pixels, labels = batch(20, k)
        (folder / name).write_bytes(as_published({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in NAMES]}, protocol=2))
    return folder


def python_hundred(folder: Path) -> Path:
    folder.mkdir()
    for k, name in enumerate(["train", "test"]):
        pixels, labels = batch(40 if k == 0 else 20, k)
        content = {"data": pixels, "fine_labels": labels, "coarse_labels": [1] * len(labels)}
        (folder / name).write_bytes(as_published(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["c"]}, protocol=2))
    return folder


def binary(folder: Path, names: list[str], meta: str, head: bytes) -> Path:
    folder.mkdir()
    for k, name in enumerate(names):
        pixels, labels = batch(20, k)
        (folder / name).write_bytes(
            b"".join(head + bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))
        )
    (folder / meta).write_text("\n".join(NAMES) + "\n\n")
    return folder


def binary_ten(folder: Path) -> Path:
    return binary(folder, ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"], "batches.meta.txt", b"")


def binary_hundred(folder: Path) -> Path:
    return binary(folder, ["train.bin", "test.bin"], "fine_label_names.txt", b"\7")


@pytest.mark.parametrize("make", [python_ten, python_hundred, binary_ten, binary_hundred])
@pytest.mark.parametrize("packed", [True, False])
def test_every_published_layout(tmp_path: Path, make: Any, packed: bool) -> None:
    path = make(tmp_path / "inner")
    if packed:
        with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
            tar.add(path, "cifar-batches")
        path = tmp_path / "cifar.tar.gz"
    dataset = open_dataset(str(path), validation=0)
    assert dataset.labels == tuple(NAMES)
    assert (len(dataset.train), len(dataset.test)) == (20 if make is binary_hundred else 40, 20)
    assert list(dataset.train.labels)[:12] == (NAMES * 2)[:12]
    planes = batch(20, 0)[0][0].reshape(3, 32, 32)
    assert (np.asarray(dataset.train.image(0)) == planes.transpose(1, 2, 0)).all()


def fair(folder: Path, ten: bool) -> Path:
    """ciFAIR's layout: CIFAR's, but the test split, written by Python 3, has no file names."""
    (python_ten if ten else python_hundred)(folder)
    return folder


def published(folder: Path, ten: bool) -> Path:
    """CIFAR's layout: each batch contains the names of the files that its images came from."""
    fair(folder, ten)
    for name in ["test_batch", "data_batch_1"] if ten else ["test", "train"]:
        batch = pickle.loads((folder / name).read_bytes())
        (folder / name).write_bytes(pickle.dumps(batch | {b"filenames": [b"a.png"] * len(batch[b"data"])}, protocol=2))
    return folder


def zipped(folder: Path, name: str) -> Path:
    path = folder.with_name(f"{name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/", "")
        for file in folder.iterdir():
            archive.write(file, f"{name}/{file.name}")
    return path


@pytest.mark.parametrize(("ten", "start"), [(True, "About 3.3 % of CIFAR-10's"), (False, "About 10 % of CIFAR-100's")])
def test_duplicates_are_noted_for_cifar_but_not_for_cifair(tmp_path: Path, ten: bool, start: str) -> None:
    (note,) = [n for n in open_dataset(str(published(tmp_path / "a", ten))).notes if "near-duplicate" in n]
    assert note.startswith(start)
    assert "1902.00423" in note
    assert f"ciFAIR-{10 if ten else 100}" in note
    folder = fair(tmp_path / "b", ten)
    archive = zipped(folder, "ciFAIR-10" if ten else "ciFAIR-100")
    for path in (folder, archive):
        dataset = open_dataset(str(path), validation=0)
        assert not any("near-duplicate" in n for n in dataset.notes)
        assert dataset.labels == tuple(NAMES)
        assert (len(dataset.train), len(dataset.test)) == (40, 20)
    assert dataset.test.hash == open_dataset(str(folder), validation=0).test.hash
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(UserError, match="damaged"):
        open_dataset(str(archive))


def test_duplicates_are_noted_for_the_binary_version_too(tmp_path: Path) -> None:
    assert any("CIFAR-100's" in n for n in open_dataset(str(binary_hundred(tmp_path / "x"))).notes)


def test_labels_may_be_an_array(tmp_path: Path) -> None:
    folder = python_hundred(tmp_path / "x")
    pixels, labels = batch(20, 1)
    (folder / "test").write_bytes(as_published({"data": pixels, "fine_labels": np.array(labels)}))
    assert len(open_dataset(str(folder), validation=0).test) == 20


def test_missing_batches_are_noted(tmp_path: Path) -> None:
    notes = open_dataset(f"cifar:{python_ten(tmp_path / 'x')}").notes
    assert "Missing batches: data_batch_3, data_batch_4, data_batch_5." in notes


class _Harmful:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["data_batch_1", "batches.meta"])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int, where: str) -> None:
    folder, trace = python_ten(tmp_path / "x"), tmp_path / "trace"
    (folder / where).write_bytes(pickle.dumps({"data": _Harmful(os.mkdir, str(trace))}, protocol))
    with pytest.raises(UserError, match="asks for"):
        open_dataset(str(folder))
    assert not trace.exists()


@pytest.mark.parametrize("call", [(eval, "1"), (getattr, "x", "upper"), (np.load, "x"), (np.frombuffer, b"x")])
def test_only_the_names_that_an_array_needs_are_allowed(tmp_path: Path, call: tuple[Any, ...]) -> None:
    folder = python_ten(tmp_path / "x")
    (folder / "data_batch_1").write_bytes(pickle.dumps(_Harmful(*call), 2))
    with pytest.raises(UserError, match="asks for"):
        open_dataset(str(folder))


def test_mismatched_and_truncated_batches_are_refused(tmp_path: Path) -> None:
    folder = python_ten(tmp_path / "x")
    good = (folder / "data_batch_1").read_bytes()
    (folder / "data_batch_1").write_bytes(as_published({"data": batch(20, 1)[0], "labels": [1] * 19}))
    with pytest.raises(UserError, match="data_batch_1 doesn't contain"):
        open_dataset(str(folder))
    (folder / "data_batch_1").write_bytes(good[:-100])
    with pytest.raises(UserError, match="data_batch_1 isn't a CIFAR batch, or is damaged"):
        open_dataset(str(folder))
    path = binary_ten(tmp_path / "y") / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin is truncated"):
        open_dataset(str(tmp_path / "y"))


def test_a_truncated_archive_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10.tar.gz", "w:gz") as tar:
        tar.add(python_ten(tmp_path / "x"), "x")
    path = tmp_path / "cifar-10.tar.gz"
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(UserError, match="damaged"):
        open_dataset(str(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No CIFAR batches"):
        open_dataset(f"cifar:{tmp_path / 'empty'}")


@pytest.mark.parametrize("make", [python_ten, python_hundred, binary_ten, binary_hundred])
def test_the_needed_files_are_batches_and_class_names(tmp_path: Path, make: Any) -> None:
    folder = make(tmp_path / "x")
    batches = {file.name for file in folder.iterdir()}
    for stray in ("readme.html", "test_results.csv", "metadata.json"):
        (folder / stray).write_text("x")
    assert names(f"cifar:{folder}") == batches
    assert names(f"cifar:{tmp_path}") == {f"x/{name}" for name in batches}, "also one folder further down"
    assert_same_elsewhere(folder, tmp_path / "elsewhere")


def test_an_archive_is_the_only_file_needed(tmp_path: Path) -> None:
    archive = zipped(fair(tmp_path / "inner", ten=True), "ciFAIR-10")
    assert names(archive) == {"ciFAIR-10.zip"}
    (tmp_path / "elsewhere").mkdir()
    assert_same_elsewhere(archive, tmp_path / "elsewhere")
