"""Claim: odd files don't crash Lensmith, no image vanishes, and every way of reading one dataset agrees.

10,000 odd image files are made from a seed: valid ones of many kinds, and damaged, truncated, mislabelled and hostile
ones. Each must be decoded, or refused with one sentence. 1,000 datasets are made as odd folders, tables, annotations
and archives, each in two forms. Each form must be opened, or refused with one sentence. An opened one must have every
image, and both forms must give the same content ids, labels and splits. Then tables, annotations and archives are
damaged and opened once more.

Run: python benchmarks/odd_files.py   (some three minutes; the last line is JSON)
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from lensmith.data import ImageDataset, decode_image, open_dataset
from lensmith.errors import ImageError, UserError

FORMATS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["L", "P", "RGB"],
    "BMP": ["1", "L", "P", "RGB"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"],
    "WEBP": ["RGB", "RGBA"],
    "PPM": ["L", "RGB"],
}
SPLIT_NAMES = [("train", "test"), ("TRAIN", "TEST"), ("Training", "Testing"), ("training_set", "test_set")]
COLUMNS = ["split", "Split", "set", "data set", "Usage", "subset", "partition", "ML_USE"]
CLASSES = ["cat", "猫", "a b", "Größe", "x.y", "-v", "<b>&", "1", "no", "=1+1", "t'est", "class\u00a0x"]
Rows = list[tuple[str, bytes, str, str]]
"""File name, content, class, and split ("" for none) of each image."""


def odd_image(dice: random.Random) -> bytes:
    """The bytes of a file that claims to be an image."""
    kind = dice.choice(list(FORMATS))
    mode = dice.choice(FORMATS[kind])
    size = dice.choice([(1, 1), (3, 200), (16, 16), (40, 30)])
    pixels = np.random.default_rng(dice.randrange(1 << 30)).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("I;16", "F"):
        image = Image.fromarray(pixels[..., 0].astype(np.uint16 if mode == "I;16" else np.float32))
    elif mode == "LAB":
        image = Image.merge("LAB", image.split()[:3])
    else:
        image = image.convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = dice.choice([0, 1, 3, 6, 8, 9, 77])
    stream = io.BytesIO()
    image.save(stream, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") and dice.random() < 0.3 else {}))
    data = stream.getvalue()
    if dice.random() < 0.6:
        data = damaged(data, dice)
    return dice.choice([data] * 20 + [b"", dice.randbytes(300), b"<html>404</html>", b"\xff\xd8\xff" * 9])


def damaged(content: bytes, dice: random.Random) -> bytes:
    """The bytes with some flipped, cut out, doubled or replaced, and perhaps the end missing."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 3, 20])):
        at, length = dice.randrange(len(data)), dice.randrange(1, 9)
        match dice.randrange(4):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case _:
                data[at : at + length] = dice.randbytes(length)
        data = data or bytearray(b"\0")
    if dice.random() < 0.3:
        del data[dice.randrange(len(data)) :]
    return bytes(data)


def images(number: int, counts: Counter[str]) -> None:
    """Decode odd images."""
    for seed in range(number):
        try:
            image = decode_image(odd_image(random.Random(seed)), name=f"image {seed}")
            counts["decoded" if image.mode == "RGB" and min(image.size) > 0 else "crashed"] += 1
        except ImageError as error:
            counts["refused" if str(error).endswith(".") else "crashed"] += 1
        except Exception:
            counts["crashed"] += 1
            print(f"image {seed}:", file=sys.stderr)
            traceback.print_exc()
    counts["vanished"] += number - counts["decoded"] - counts["refused"] - counts["crashed"]


def odd_rows(dice: random.Random) -> Rows:
    """Images of a dataset, with copies and files that are no images."""
    classes = dice.sample(CLASSES, dice.randrange(2, 5))
    splits = dice.choice([("",), ("",), *SPLIT_NAMES])
    rows: Rows = []
    for label in classes:
        for split in splits:
            for _ in range(dice.choice([1, 2, 3, 5, 12])):
                data = odd_image(dice) or b"\0"
                if rows and dice.random() < 0.05:
                    data = dice.choice(rows)[1]
                rows.append((f"{len(rows)}{dice.choice(['', ' ü', ';x', ',y'])}.png", data, label, split))
    return rows


def as_folder(rows: Rows, folder: Path, dice: random.Random) -> Path:
    """Class folders within split folders, or the reverse, with files that don't belong there."""
    below, wrapper = dice.random() < 0.3, dice.choice(["", "", "archive", "my data"])
    exact = {split for *_, split in rows} <= {"", "train", "test", "TRAIN", "TEST", "Training", "Testing"}
    for name, data, label, split in rows:
        parts = [label, split] if below and exact else [split, label]
        path = folder.joinpath(wrapper if split else "", *filter(None, parts), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name in dice.sample(["notes.txt", ".DS_Store", "Thumbs.db", "@eaDir/0.png"], 2):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def as_text(rows: Rows, folder: Path, dice: random.Random) -> Path:
    """A table of text with the images beside it or within it."""
    column, within = dice.choice(COLUMNS), dice.random() < 0.3
    records = []
    for name, data, label, split in rows:
        (folder / name).write_bytes(data)
        image = f"data:image/png;base64,{base64.b64encode(data).decode()}" if within else name
        records.append({"image": image, "label": label} | ({column: split} if split else {}))
    if dice.random() < 0.4:
        path = folder / "table.jsonl"
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        return path
    out = io.StringIO()
    table = csv.DictWriter(
        out, list(records[0]), delimiter=dice.choice(",;\t|"), lineterminator=dice.choice(["\n", "\r\n"])
    )
    table.writeheader()
    table.writerows(records)
    path = folder / "table.csv"
    path.write_bytes(out.getvalue().encode(dice.choice(["utf-8", "utf-8-sig", "utf-16"])))
    return path


def as_parquet(rows: Rows, folder: Path, dice: random.Random) -> Path:
    """A Parquet table with the images in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"image": {"bytes": data, "path": name}, "label": label} for name, data, label, _ in rows]
    if rows[0][3]:
        column = dice.choice(COLUMNS)
        records = [record | {column: row[3]} for record, row in zip(records, rows, strict=True)]
    path = folder / "table.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def as_annotations(rows: Rows, folder: Path, dice: random.Random) -> Path:
    """COCO beside the images of each split; or, if there are none, perhaps a Label Studio export."""
    if not rows[0][3] and dice.random() < 0.5:
        tasks = []
        for name, data, label, _ in rows:
            (folder / name).write_bytes(data)
            result = {"type": "choices", "from_name": "kind", "value": {"choices": [label]}}
            tasks.append({"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [result]}]})
        (path := folder / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
        return path
    names = sorted({label for _, _, label, _ in rows})
    for split in sorted({split for *_, split in rows}):
        (place := folder / split).mkdir(exist_ok=True)
        inside = [row for row in rows if row[3] == split]
        document: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
        document["categories"] = [{"id": k, "name": label} for k, label in enumerate(names)]
        for k, (name, data, label, _) in enumerate(inside):
            (place / name).write_bytes(data)
            document["images"].append({"id": k, "file_name": name})
            document["annotations"].append({"id": k, "image_id": k, "category_id": names.index(label)})
        (place / "_annotations.coco.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def as_archive(rows: Rows, folder: Path, dice: random.Random) -> Path:
    """Any of the other forms of files, in an archive."""
    (inner := folder / "inner").mkdir()
    dice.choice([as_folder, as_text, as_annotations])(rows, inner, dice)
    kind = dice.choice(["zip", "gztar", "tar"])
    return Path(shutil.make_archive(str(folder / "images"), kind, inner))


def opened(path: Path, seed: int, counts: Counter[str]) -> ImageDataset | str | None:
    """The dataset, the first sentence of a refusal, or None after a crash."""
    try:
        return open_dataset(str(path))
    except UserError as error:
        return str(error).partition(":")[0]
    except Exception:
        counts["crashed"] += 1
        print(f"dataset {seed}, {path.name}:", file=sys.stderr)
        traceback.print_exc()
        return None


def described(dataset: ImageDataset) -> list[list[tuple[str, str]]]:
    """The content ids and labels of each split, in any order. Copies are numbered in the order of the rows."""
    return [sorted(zip(split.contents, split.labels, strict=True)) for split in dataset.splits]


def datasets(number: int, counts: Counter[str]) -> None:
    """Open odd datasets, each in two forms."""
    forms: list[Callable[[Rows, Path, random.Random], Path]] = [
        as_folder,
        as_text,
        as_parquet,
        as_annotations,
        as_archive,
    ]
    for seed in range(number):
        dice = random.Random(f"dataset {seed}")
        rows = odd_rows(dice)
        with tempfile.TemporaryDirectory() as folder:
            results = []
            for k, form in enumerate(dice.sample(forms, 2)):
                (place := Path(folder, f"form {k}")).mkdir()
                results.append(opened(path := form(rows, place, dice), seed, counts))
                if path.is_file():
                    path.write_bytes(damaged(path.read_bytes(), dice))
                    counts["damaged tables opened"] += isinstance(opened(path, seed, counts), ImageDataset)
            read = [result for result in results if isinstance(result, ImageDataset)]
            for dataset in read:
                counts["vanished"] += len(rows) - sum(map(len, dataset.splits))
            counts["datasets opened"] += len(read)
            counts["datasets refused"] += sum(isinstance(result, str) for result in results)
            if len(read) == 1 or (len(read) == 2 and described(read[0]) != described(read[1])):
                counts["differ"] += 1
                said = [r.describe() if isinstance(r, ImageDataset) else r for r in results]
                print(f"dataset {seed} differs: {said}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--datasets", type=int, default=1_000)
    args = parser.parse_args()
    counts = Counter[str](crashed=0, vanished=0, differ=0)
    images(args.images, counts)
    datasets(args.datasets, counts)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
