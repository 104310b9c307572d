"""The same images are the same dataset, however they are brought: same content, labels and splits from every source."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lensmith.data import open_dataset
from tests.data.elsewhere import assert_same_elsewhere
from tests.data.pictures import png


class Picture(NamedTuple):
    name: str
    data: bytes
    label: str
    split: str


PICTURES = [
    Picture(f"{label}-{k}.png", png(10 * i + k), label, split)
    for i, label in enumerate(["cat", "dog", "tree frog"])
    for k, split in enumerate(["train", "train", "train", "validation", "test", "test"])
]
LABELS = sorted({picture.label for picture in PICTURES})


def save(folder: Path, pictures: Iterable[Picture] = PICTURES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / picture.name).write_bytes(picture.data)


def table(path: Path, rows: Iterable[Iterable[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


def lines(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def class_folders(root: Path) -> Path:
    for picture in PICTURES:
        save(root / picture.split / picture.label, [picture])
    return root


def wrapped_folders(root: Path) -> Path:
    for picture in PICTURES:
        save(root / f"seg_{picture.split}" / f"seg_{picture.split}" / picture.label, [picture])
    return root


def csv_table(root: Path) -> Path:
    save(root / "images")
    return table(
        root / "all.csv", [["path", "label", "set"], *([f"images/{p.name}", p.label, p.split] for p in PICTURES)]
    )


def tsv_of_ids(root: Path) -> Path:
    save(root / "images")
    return table(root / "all.tsv", [["id", "class", "split"], *([p.name[:-4], p.label, p.split] for p in PICTURES)])


def json_table(root: Path) -> Path:
    save(root)
    (root / "all.json").write_text(
        json.dumps([{"file_name": p.name, "label": [p.label], "split": p.split} for p in PICTURES], indent=1)
    )
    return root / "all.json"


def json_lines(root: Path) -> Path:
    save(root / "a" / "b")
    return lines(root / "all.jsonl", [{"image": f"b/{p.name}", "label": p.label, "split": p.split} for p in PICTURES])


def parquet_table(root: Path) -> Path:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    columns = {"image": [p.data for p in PICTURES], "label": [p.label for p in PICTURES]}
    pq.write_table(pa.table(columns | {"split": [p.split for p in PICTURES]}), root / "all.parquet")
    return root / "all.parquet"


def metadata_at_the_root(root: Path) -> Path:
    save(root)
    table(root / "metadata.csv", [["file_name", "label", "split"], *([p.name, p.label, p.split] for p in PICTURES)])
    return root


def metadata_in_splits(root: Path) -> Path:
    for split in ("train", "validation", "test"):
        pictures = [p for p in PICTURES if p.split == split]
        save(root / split / "images", pictures)
        records = [{"file_name": f"images/{p.name}", "label": p.label} for p in pictures]
        lines(root / split / "metadata.jsonl", records)
    return root


def roboflow(root: Path) -> Path:
    for split, folder in (("train", "train"), ("validation", "valid"), ("test", "test")):
        pictures = [p for p in PICTURES if p.split == split]
        save(root / folder, pictures)
        rows = [[p.name, *(f" {int(p.label == label)}" for label in LABELS)] for p in pictures]
        table(root / folder / "_classes.csv", [["filename", *(f" {label}" for label in LABELS)], *rows])
    return root


def coco_document(pictures: list[Picture], folder: str = "") -> str:
    return json.dumps(
        {
            "info": {},
            "images": [{"id": i, "file_name": f"{folder}{p.name}"} for i, p in enumerate(pictures)],
            "categories": [{"id": 7 + i, "name": label} for i, label in enumerate(LABELS)] + [{"id": 1, "name": "all"}],
            "annotations": [  # two boxes each
                {"id": 2 * i + k, "image_id": i, "category_id": 7 + LABELS.index(p.label), "bbox": [0, 0, k, 1]}
                for i, p in enumerate(pictures)
                for k in (0, 1)
            ],
        }
    )


def coco_in_splits(root: Path) -> Path:
    for split in ("train", "validation", "test"):
        pictures = [p for p in PICTURES if p.split == split]
        save(root / split, pictures)
        (root / split / "_annotations.coco.json").write_text(coco_document(pictures))
    return root


def coco_with_splits_in_paths(root: Path) -> Path:
    for picture in PICTURES:
        save(root / picture.split, [picture])
    document = json.loads(coco_document(PICTURES))
    for image, picture in zip(document["images"], PICTURES, strict=True):
        image["file_name"] = f"{picture.split}/{picture.name}"
    (root / "labels.json").write_text(json.dumps(document))
    return root / "labels.json"


def vertex_csv(root: Path) -> Path:
    save(root / "images")
    uses = {"train": "TRAINING", "validation": "VALIDATION", "test": "TEST"}
    return table(root / "import.csv", ([uses[p.split], f"gs://bucket/images/{p.name}", p.label] for p in PICTURES))


def vertex_jsonl(root: Path) -> Path:
    save(root / "images")
    uses = {"train": "training", "validation": "validation", "test": "test"}
    return lines(
        root / "import.jsonl",
        [
            {
                "imageGcsUri": f"gs://bucket/images/{p.name}",
                "classificationAnnotation": {"displayName": p.label},
                "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": uses[p.split]},
            }
            for p in PICTURES
        ],
    )


def zipped(root: Path) -> Path:
    class_folders(root / "inner" / "photos")
    return Path(shutil.make_archive(str(root / "photos"), "zip", root / "inner"))


def zipped_table(root: Path) -> Path:
    csv_table(root / "inner")
    return Path(shutil.make_archive(str(root / "photos"), "zip", root / "inner"))


def tarred_roboflow(root: Path) -> Path:
    roboflow(root / "inner")
    with tarfile.open(root / "photos.tar.gz", "w:gz") as file:
        file.add(root / "inner", "export")
    return root / "photos.tar.gz"


def saved_to_disk(root: Path) -> Path:
    from datasets import Dataset, DatasetDict  # type: ignore[import-untyped, unused-ignore]

    def of(split: str) -> Any:
        pictures = [p for p in PICTURES if p.split == split]
        return Dataset.from_dict({"image": [p.data for p in pictures], "label": [[p.label] for p in pictures]})

    DatasetDict({split: of(split) for split in ("train", "validation", "test")}).save_to_disk(str(root / "saved"))
    return root / "saved"


def label_studio(root: Path) -> Path:
    save(root)
    tasks = [
        {
            "id": i,
            "data": {"image": f"/data/upload/3/{i:08x}-{p.name}"},
            "annotations": [
                {"was_cancelled": True, "result": [choice("dog")]},
                {"was_cancelled": False, "result": [choice(p.label)]},
            ],
            "predictions": [{"result": [choice("cat")]}],
        }
        for i, p in enumerate(PICTURES)
    ]
    (root / "export.json").write_text(json.dumps(tasks))
    return root / "export.json"


def choice(label: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": [label]}}


def label_studio_min(root: Path) -> Path:
    save(root / "images")
    tasks = [
        {"image": f"/data/local-files/?d=shop/images/{p.name}", "id": i, "choice": p.label}
        | {"annotator": k, "annotation_id": 2 * i + k, "created_at": "2026-01-01T00:00:00Z", "lead_time": 1.5}
        for i, p in enumerate(PICTURES)
        for k in (0, 1)  # two people who agree
    ]
    (root / "images" / "export.json").write_text(json.dumps(tasks))
    return root / "images" / "export.json"


def rekognition(root: Path) -> Path:
    save(root)
    records = []
    for picture in PICTURES:
        about = {"class-name": picture.label, "type": "groundtruth/image-classification", "confidence": 0.9}
        records.append(
            {"source-ref": f"s3://bucket/{picture.name}", "kind": LABELS.index(picture.label), "kind-metadata": about}
        )
    return lines(root / "output.manifest", records)


WITH_SPLITS: list[Callable[[Path], Path]] = [
    *(class_folders, wrapped_folders, csv_table, tsv_of_ids, json_table, json_lines, parquet_table, saved_to_disk),
    *(metadata_at_the_root, metadata_in_splits, roboflow, coco_in_splits, coco_with_splits_in_paths, vertex_csv),
    *(vertex_jsonl, zipped, zipped_table, tarred_roboflow),
]
WITHOUT: list[Callable[[Path], Path]] = [label_studio, label_studio_min, rekognition]


def found(uri: Path, **options: Any) -> list[tuple[str, str, str]]:
    dataset = open_dataset(str(uri), **options)
    return sorted((split.ids[i], split.labels[i], split.name) for split in dataset.splits for i in range(len(split)))


@pytest.mark.parametrize("make", WITH_SPLITS)
def test_sources_with_splits_agree(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    expected = found(class_folders(tmp_path / "expected"))
    assert {split for *_, split in expected} == {"train", "validation", "test"}
    (tmp_path / "made").mkdir()
    assert found(make(tmp_path / "made")) == expected


@pytest.mark.parametrize("make", WITHOUT)
def test_sources_without_splits_agree(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    for picture in PICTURES:
        save(tmp_path / "expected" / picture.label, [picture])
    (tmp_path / "made").mkdir()
    assert found(make(tmp_path / "made")) == found(tmp_path / "expected")


@pytest.mark.parametrize("make", [*WITH_SPLITS, *WITHOUT])
def test_the_files_a_source_needs_are_enough(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "made").mkdir()
    assert_same_elsewhere(make(tmp_path / "made"), tmp_path / "elsewhere")
