"""Tables as written by spreadsheets, scripts and `datasets`."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensmith.data import ImageDataset, open_dataset
from lensmith.data.source import Columns
from lensmith.data.sources import needed_files
from lensmith.errors import ImageError, UserError
from tests.data.elsewhere import assert_same_elsewhere, names
from tests.data.pictures import png, write


def unsplit(path: Path, **options: Any) -> ImageDataset:
    return open_dataset(str(path), validation=0, test=0, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(4):
        write(tmp_path / "my photos" / f"{k}.png", k)
    return tmp_path


ROWS = [(f"my photos/{k}.png", "cat" if k % 2 else "dog, big") for k in range(4)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "File,Label\n" + "".join(f'{path},"{label}"\n' for path, label in ROWS)),
        ("t.csv", "\ufeffimage;class\r\n" + "".join(f"{path};{label}\r\n" for path, label in ROWS)),
        ("t.tsv", "path\tcategory\n" + "".join(f"{path}\t{label}\n" for path, label in ROWS)),
        ("t.jsonl", "\n".join(json.dumps({"img": path, "target": label}) for path, label in ROWS) + "\n\n"),
    ],
    ids=["csv", "semicolons and a byte order mark", "tsv", "jsonl"],
)
def test_paths_are_relative_to_the_table(photos: Path, name: str, text: str) -> None:
    (photos / name).write_bytes(text.encode())
    dataset = unsplit(photos / name)
    assert list(dataset.train.labels) == [label for _, label in ROWS]
    assert dataset.train.source(2) == str(photos / "my photos/2.png")
    assert dataset.train.image(2).size == (4, 4)


def parquet(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_files_may_contain_the_images(tmp_path: Path, struct: bool) -> None:
    images = [png(k) for k in range(200)]
    cells = [{"bytes": data, "path": "/home/other/x.png"} for data in images] if struct else images
    dataset = unsplit(parquet(tmp_path / "birds.parquet", image=cells, label=[k % 2 for k in range(200)]))
    assert dataset.labels == ("0", "1")
    assert dataset.train.source(16) == "birds.parquet row 17"
    assert dataset.train.source(150) == "birds.parquet row 151"
    assert dataset.train.image(150).tobytes() != dataset.train.image(16).tobytes()


def test_the_error_for_damaged_image_bytes_names_the_row(tmp_path: Path) -> None:
    dataset = unsplit(parquet(tmp_path / "x.parquet", image=[png(1), b"junk"], label=["a", "b"]))
    with pytest.raises(ImageError, match=r"x\.parquet row 2"):
        dataset.train.image(1)


def test_class_names_are_read_from_the_metadata_of_datasets(tmp_path: Path) -> None:
    info = {"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [png(1), png(2)], "label": [0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "x.parquet")
    assert unsplit(tmp_path / "x.parquet").labels == ("zebra", "ant")


def test_a_split_column_defines_the_splits(photos: Path) -> None:
    rows = [f"my photos/{k}.png,{'ab'[k % 2]},{split}" for k, split in enumerate(["train", "", "Val", "test"])]
    (photos / "t.csv").write_text("\n".join(["file_name,label,Split", *rows]))
    dataset = open_dataset(str(photos / "t.csv"))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [2, 1, 1]
    (photos / "t.csv").write_text("\n".join(["file_name,label,split", *rows]).replace("Val", "extra"))
    with pytest.raises(UserError, match=r"t\.csv looks like the split, but has the cell 'extra'.*data\.splits="):
        open_dataset(str(photos / "t.csv"))


def test_columns_can_be_named(photos: Path) -> None:
    (photos / "t.csv").write_text("where,what,label\nmy photos/0.png,a,x\nmy photos/1.png,b,x\n")
    assert unsplit(photos / "t.csv", image_column="where", label_column="what").labels == ("a", "b")
    with pytest.raises(UserError, match=r"image_column.*where, what, label"):
        unsplit(photos / "t.csv")
    with pytest.raises(UserError, match=r"no column 'wat'.*Did you mean 'what'"):
        unsplit(photos / "t.csv", image_column="where", label_column="wat")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\nhttps://example.org/a.png,cat\n", "row 1 has a URL"),
        ("path,label\n0.png,a\n\0.png,b\n", "contains null bytes"),
        ("path,label\n0.png,a\n ,b\n", "row 2 has no image"),
        ("path,label\n~me.png,a\n~you.png,b\n", "None of the 2 image files"),
        ("path,label\n0.png,\n", "row 1 has an empty label"),
        ("path,label\n0.png,a\n,b\n", "row 2 has no image"),
        ("path,label\n0.png\n", "row 1 has an empty label"),
        ("path,label\n0.png,a,b\n", "line 2 has more cells"),
        ("path,label\n0.png,a\n1.png,b\n", "None of the 2 image files"),
        ("path,label\n", "No images"),
        ("", "No images"),
    ],
)
def test_invalid_rows_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        unsplit(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{oops", "line 2 isn't JSON"),
        ('{"path": "0.png", "label": "\\ud800"}', "row 2 has text with"),
        ("[1]", "line 2 isn't a JSON object"),
    ],
)
def test_invalid_json_is_refused(photos: Path, line: str, says: str) -> None:
    (photos / "t.jsonl").write_text(f'{{"path": "my photos/0.png", "label": "a"}}\n{line}\n')
    with pytest.raises(UserError, match=says):
        unsplit(photos / "t.jsonl")


def test_files_that_are_not_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="isn't a Parquet file, or is damaged"):
        unsplit(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="isn't a table"):
        open_dataset(f"table:{tmp_path}")


def test_an_empty_label_in_parquet_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", image=[png(1), png(2)], label=[1.0, None])
    with pytest.raises(UserError, match=r"x\.parquet row 2 has an empty label"):
        unsplit(path)


def test_the_needed_files_are_the_table_and_its_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"my photos/{k}.png,{'ab'[k % 2]},train\n" for k in range(3)]
    (photos / "t.csv").write_text("path,label,split\n" + "".join(rows) + "missing.png,a,train\n")
    expected = {"t.csv", "my photos/0.png", "my photos/1.png", "my photos/2.png"}
    assert names(photos / "t.csv") == expected, "neither the unused image nor the missing one"
    (photos / "t.csv").write_text("path,label,split\n" + "".join(rows))
    assert_same_elsewhere(photos / "t.csv", photos / "elsewhere")

    monkeypatch.chdir(photos)
    for uri, folder in {"table:t.csv": ".", "./t.csv": ".", "my photos/../t.csv": "my photos/.."}.items():
        files = needed_files(uri, Columns())
        assert files
        assert files.folder == folder
    (photos / "t.csv").write_text("where,label\nmy photos/0.png,a\n")
    files = needed_files("t.csv", Columns(image="where"))
    assert files
    assert set(files.paths) == {"t.csv", "my photos/0.png"}


def test_a_parquet_file_with_bytes_is_all_that_is_needed(tmp_path: Path) -> None:
    assert names(parquet(tmp_path / "x.parquet", image=[png(1), png(2)], label=["a", "b"])) == {"x.parquet"}


@pytest.mark.parametrize("image", ["../elsewhere.png", "/elsewhere.png"])
def test_images_outside_the_folder_of_the_table_are_refused(tmp_path: Path, image: str) -> None:
    (tmp_path / "t.csv").write_text(f"path,label\n{image},a\n")
    with pytest.raises(UserError, match=r"t\.csv names an image outside its folder: .*elsewhere\.png"):
        needed_files(str(tmp_path / "t.csv"), Columns())


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_image_may_be_written_in_many_ways(photos: Path, suffix: str) -> None:
    files = [photos / "my photos" / f"{k}.png" for k in range(4)]
    forms = [
        base64.b64encode(files[0].read_bytes()).decode(),
        f"data:image/png;base64,{base64.b64encode(files[1].read_bytes()).decode()}",
        files[2].as_uri(),
        "my photos\\3.png",
    ]
    path = photos / f"t.{suffix}"
    if suffix == "csv":
        path.write_text("image,label\n" + "".join(f'"{form}",{"ab"[k % 2]}\n' for k, form in enumerate(forms)))
    else:
        path.write_text("\n".join(json.dumps({"image": form, "label": "ab"[k % 2]}) for k, form in enumerate(forms)))
    dataset = unsplit(path)
    assert dataset.train.contents == [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]
    assert all(dataset.train.image(k).size == (4, 4) for k in range(4))


def test_bytes_may_be_written_as_numbers(photos: Path) -> None:
    rows = [{"image": list(png(k)), "label": "ab"[k % 2]} for k in range(4)]
    (photos / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert unsplit(photos / "t.jsonl").train.image(3).size == (4, 4)
    table = pa.table({"image": pa.array([r["image"] for r in rows], pa.list_(pa.uint8())), "label": ["a", "b"] * 2})
    pq.write_table(table, photos / "t.parquet")
    assert unsplit(photos / "t.parquet").train.image(3).size == (4, 4)


@pytest.mark.parametrize("image", ["data:image/png,abc", "data:image/png;base64,!!!", "data:image/png;base64,é"])
def test_a_data_url_that_holds_no_image_is_refused(tmp_path: Path, image: str) -> None:
    (tmp_path / "t.csv").write_text(f'image,label\n"{image}",a\n')
    with pytest.raises(UserError, match=r"row 1 has a data: URL"):
        unsplit(tmp_path / "t.csv")


def test_a_table_in_a_western_code_page_is_read(tmp_path: Path) -> None:
    for name in ("Größe.png", "café.png"):
        write(tmp_path / name, len(name))
    (tmp_path / "t.csv").write_bytes("path;label\nGröße.png;groß\ncafé.png;b\n".encode("cp1252"))
    dataset = unsplit(tmp_path / "t.csv")
    assert set(dataset.labels) == {"groß", "b"}
    assert dataset.train.image(0).size == (4, 4)


def test_damaged_text_in_a_parquet_file_is_reported(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", image=[png(1), png(2)], label=["cat-cat-cat", "dog"])
    path.write_bytes(path.read_bytes().replace(b"cat-cat-cat", b"cat-\xff\xfe\xff-cat"))
    with pytest.raises(UserError, match="isn't a Parquet file, or is damaged"):
        unsplit(path)
