"""Cut the demo of Fashion-MNIST that ships with Lensmith: 300 training and 200 test photographs of each class.

Of each class, the photographs with the smallest content hashes are kept, so a second run makes the same files.

    python dev/make_demo_data.py [/usr/share/datasets/fashion-mnist]
"""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lensmith.data.build import content_id
from lensmith.data.source import Columns, Row
from lensmith.data.sources import idx
from lensmith.data.sources.demo import FASHION

FILES = Path(__file__).parents[1] / "src/lensmith/data/files"
PER_CLASS = {"train": 300, "test": 200}
LIMIT = 4_000_000  # bytes, of both files together


def main(folder: str = "/usr/share/datasets/fashion-mnist") -> None:
    found: dict[tuple[str, int], list[tuple[str, Row]]] = defaultdict(list)
    for row in idx.read(folder, Columns()).rows:
        found[row.split, int(row.label)].append((content_id(row), row))
    total = 0
    for split, number in PER_CLASS.items():
        rows = [
            entry for label in range(10) for entry in sorted(found[split, label], key=lambda entry: entry[0])[:number]
        ]
        rows.sort(key=lambda entry: entry[0])  # mixed classes, so that the first rows of the file show all
        images = [png(row.data or b"") for _, row in rows]
        table = pa.table({"image": images, "label": [FASHION[int(row.label)] for _, row in rows]})
        path = FILES / f"fashion_{split}.parquet"
        pq.write_table(table, path, compression="zstd", use_dictionary=["label"], row_group_size=500)
        total += path.stat().st_size
        print(path, table.num_rows, "images", path.stat().st_size, "bytes")
    if total > LIMIT:
        sys.exit(f"{total} bytes together: more than {LIMIT}.")


def png(data: bytes) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(data)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
