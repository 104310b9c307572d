"""Hub datasets from local copies; no test uses the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from lensmith.data import ImageDataset, open_dataset
from lensmith.data.source import Columns
from lensmith.data.sources import needed_files
from lensmith.errors import UserError
from tests.data.elsewhere import assert_same_elsewhere, names
from tests.data.pictures import png

FEATURES = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])})


def rows(number: int, start: int = 0, label: int | None = None) -> datasets.Dataset:
    numbers = range(start, start + number)
    content = {
        "img": [{"bytes": png(k), "path": None} for k in numbers],
        "label": [k % 2 if label is None else label for k in numbers],
    }
    return datasets.Dataset.from_dict(content, features=FEATURES)


def all_splits() -> datasets.DatasetDict:
    return datasets.DatasetDict(
        {"train": rows(8), "valid": rows(2, 10), "test": rows(4, 20, -1), "unsupervised": rows(2, 30)}
    )


def test_a_dataset_dict_that_was_saved_to_disk(tmp_path: Path) -> None:
    all_splits().save_to_disk(str(tmp_path / "saved"))
    dataset = open_dataset(str(tmp_path / "saved"), test=0)
    assert dataset.labels == ("zebra", "ant")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [8, 2, 0]
    assert dataset.train.image(3).size == (4, 4)
    assert any("aren't used: unsupervised" in note for note in dataset.notes)
    assert any("Without a label" in note and "4 images" in note for note in dataset.notes)


def test_a_single_saved_dataset_in_another_format(tmp_path: Path) -> None:
    rows(8).with_format("numpy").save_to_disk(str(tmp_path / "saved"))
    dataset = open_dataset(f"hub:{tmp_path / 'saved'}", validation=0, test=0)
    assert list(dataset.train.labels) == ["zebra", "ant"] * 4


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "name" / "data").mkdir(parents=True)
    for name, table in {
        "train-00000-of-00002": rows(4),
        "train-00001-of-00002": rows(4, 4),
        "test-0": rows(4, 20),
    }.items():
        table.to_parquet(str(tmp_path / "name" / "data" / f"{name}.parquet"))
    dataset = open_dataset(str(tmp_path / "name"), validation=0)
    assert dataset.labels == ("zebra", "ant")
    assert (len(dataset.train), len(dataset.test)) == (8, 4)
    assert dataset.train.source(5) == "train-00001-of-00002.parquet row 2"


def test_a_dataset_is_loaded_by_name_without_remote_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(*args: Any, **options: Any) -> datasets.DatasetDict:
        calls.append((args, options))
        return all_splits()

    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = open_dataset("hub:org/name", test=0)
    assert calls == [(("org/name",), {})]
    assert dataset.train.source(0) == "org/name train row 1"


def test_each_error_of_the_hub_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets.exceptions import DatasetNotFoundError

    for error, message in (
        (ConnectionError("no route\nand much more"), r"can't be reached.*fetch hub:org/name --to.*hub:FOLDER/name"),
        (DatasetNotFoundError("Dataset 'org/name' is a gated dataset on the Hub."), r"accepted its licence.*HF_TOKEN"),
        (DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub"), "has no dataset org/name, or it is"),
        (
            RuntimeError("Dataset scripts are no longer supported"),
            "org/name can't be loaded from the hub: Dataset scripts",
        ),
    ):

        def load(name: str, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(UserError, match=message):
            open_dataset("hub:org/name")


def test_datasets_without_usable_split_or_column_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"extra": rows(2)})
    with pytest.raises(UserError, match="no train, validation or test split"):
        open_dataset("hub:x")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": rows(2).rename_column("img", "jpg")})
    with pytest.raises(UserError, match=r"image_column.*jpg, label"):
        open_dataset("hub:x")
    assert len(open_dataset("hub:x", image_column="jpg", validation=0, test=0).train) == 2
    with pytest.raises(UserError, match="isn't a local copy"):
        open_dataset(f"hub:{tmp_path}")


def test_a_name_on_the_hub_needs_no_files_from_this_machine() -> None:
    assert needed_files("hub:org/name", Columns()) is None


def test_the_needed_files_of_a_saved_dataset(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    all_splits().save_to_disk(str(saved))
    (saved / "train" / "notes.txt").write_text("x")
    (saved / "old.parquet").write_text("x")
    data = "data-00000-of-00001.arrow"
    assert names(saved) == {"dataset_dict.json"} | {
        f"{split}/{name}" for split in all_splits() for name in (data, "dataset_info.json", "state.json")
    }
    assert_same_elsewhere(saved, tmp_path / "elsewhere")


def test_the_needed_files_of_a_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = tmp_path / "name"
    (folder / "data").mkdir(parents=True)
    rows(8).to_parquet(str(folder / "data" / "train-0.parquet"))
    rows(4, 20).to_parquet(str(folder / "data" / "test-0.parquet"))
    (folder / "README.md").write_text("x")
    assert names(folder) == {"data/train-0.parquet", "data/test-0.parquet"}
    assert_same_elsewhere(folder, tmp_path / "elsewhere")


def described(dataset: ImageDataset) -> list[list[tuple[str, str]]]:
    return [sorted(zip(split.ids, split.labels, strict=True)) for split in dataset.splits]


def published(folder: Path, tables: datasets.DatasetDict, layout: str) -> Path:
    """A Parquet copy as the hub has it."""
    for name, table in tables.items():
        path = folder / layout.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(path))
    return folder


@pytest.mark.parametrize(
    "layout", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet", "data/{}-00000-of-00001-0a1b.parquet"]
)
def test_all_copies_of_a_dataset_give_the_same_splits(tmp_path: Path, layout: str) -> None:
    tables = all_splits() | {"extra": rows(3, 40), "train_2": rows(3, 50)}
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "saved"))
    copies = [tmp_path / "saved", published(tmp_path / "parquet", tables, layout)]
    saved, parquet = (open_dataset(f"hub:{copy}", test=0) for copy in copies)
    assert described(saved) == described(parquet)
    assert [len(split) for split in parquet.splits] == [8, 2, 0]
    for dataset in (saved, parquet):
        assert "Splits of the dataset that aren't used: extra, train_2, unsupervised." in dataset.notes
    splits: Any = {"train": ["train", "extra"], "test": "valid"}
    saved, parquet = (open_dataset(f"hub:{copy}", validation=0, splits=splits) for copy in copies)
    assert described(saved) == described(parquet)
    assert [len(split) for split in parquet.splits] == [11, 0, 2]


def test_a_split_column_within_a_dataset_is_used_in_all_copies(tmp_path: Path) -> None:
    table = rows(8).add_column("fold", ["train"] * 6 + ["test"] * 2)
    table.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    table.to_parquet(str(tmp_path / "parquet" / "all.parquet"))
    saved, parquet = (open_dataset(f"hub:{tmp_path / name}", validation=0) for name in ("saved", "parquet"))
    assert described(saved) == described(parquet)
    assert [len(split) for split in saved.splits] == [6, 0, 2]


def test_files_of_which_only_some_name_a_split_are_refused(tmp_path: Path) -> None:
    tables = datasets.DatasetDict({"train": rows(4), "birds": rows(4, 10)})
    with pytest.raises(UserError, match=r"say by their names which split they are \(train\), and others don't"):
        open_dataset(f"hub:{published(tmp_path, tables, '{}.parquet')}")
