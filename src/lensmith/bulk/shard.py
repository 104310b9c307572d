"""One shard of a bulk prediction: read its images, score them, and write its part. A part that has its name is done.

What the summary says of a part is kept in the part itself, so a resumed job doesn't have to read its rows.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lensmith.bulk.plan import PART
from lensmith.bulk.sources import Piece, module
from lensmith.bulk.storage import Storage, patiently
from lensmith.data.images import decode_image
from lensmith.records import Prediction

if TYPE_CHECKING:
    from PIL import Image

    from lensmith.engine.classifier import Classifier, Item

BINS = 20
"""Bars of the histogram of probabilities."""
_KEY = b"lensmith"


@dataclass(frozen=True)
class Part:
    """What one part has in it, as kept in its footer."""

    shard: int
    images: int
    classes: dict[str, int]
    """Number of images by class."""
    errors: dict[str, int]
    """Number of unreadable images by kind."""
    confidence: list[int]
    """Number of images by probability, in `BINS` equal bins from 0 to 1."""
    seconds: float
    node: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True)
class Task:
    """What all shards of a job have in common, as plain values that can be sent to any worker."""

    kind: str
    out: str
    scores: bool
    max_pixels: int
    wait: float


def predict_shard(classifier: Classifier, task: Task, shard: int, pieces: Sequence[Piece]) -> Part:
    """Score a shard's images and write its part.

    Raises:
        UserError: a storage refuses or doesn't respond.
        OSError, pyarrow.ArrowException: a piece is damaged.
    """
    began = time.perf_counter()
    where = pieces[0].address
    predictions = patiently(lambda: _predict(classifier, task, pieces), where, task.wait)
    part = _part(shard, predictions, time.perf_counter() - began)
    Storage(task.out, task.wait).write(PART.format(shard), _written(part, predictions, classifier, task.scores))
    return part


def read_part(out: Storage, shard: int) -> Part | None:
    """What a part's footer says; None if the part is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with out.open(PART.format(shard)) as file:
            about = pq.read_metadata(file)
        part = Part(**json.loads(about.metadata[_KEY]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    return part if part.images == about.num_rows and part.shard == shard else None


def _predict(classifier: Classifier, task: Task, pieces: Sequence[Piece]) -> list[Prediction]:
    from lensmith.engine.classifier import predict

    return list(predict(classifier, _items(classifier, task, pieces)))


def _items(classifier: Classifier, task: Task, pieces: Sequence[Piece]) -> Iterator[Item]:
    """The images of all pieces, which are read when they are needed."""
    enough, source = classifier.model.sufficient_size, module(task.kind)

    def read(load: Any, name: str) -> Image.Image:
        return decode_image(load(), name=name, max_pixels=task.max_pixels, enough=enough)

    for piece in pieces:
        for name, load in source.items(piece):
            yield name, None, partial(read, load, name)


def _part(shard: int, predictions: Sequence[Prediction], seconds: float) -> Part:
    answered = [p for p in predictions if p.probability is not None]
    bins = Counter(min(BINS - 1, int(float(p.probability or 0) * BINS)) for p in answered)
    return Part(
        shard=shard,
        images=len(predictions),
        classes=dict(Counter(str(p.predicted) for p in answered)),
        errors=dict(Counter(error_kind(p) for p in predictions if p.probability is None)),
        confidence=[bins[k] for k in range(BINS)],
        seconds=round(seconds, 3),
    )


def error_kind(prediction: Prediction) -> str:
    """The sentence of an unreadable image without what only concerns this image: its name, numbers and details."""
    first = str(prediction.error).replace(prediction.id, "IMAGE")
    first = re.split(r": |\. ", first)[0].rstrip(".")
    return re.sub(r"\d[\d,]*", "N", first)


def _written(part: Part, predictions: Sequence[Prediction], classifier: Classifier, scores: bool) -> bytes:
    """The bytes of a part: `image`, `label`, `probability`, `error`, and with `scores` each class's probability."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [p.id.encode(errors="backslashreplace").decode() for p in predictions]
    errors = [p.error and p.error.encode(errors="backslashreplace").decode() for p in predictions]
    columns = {
        "image": pa.array(names, pa.string()),
        "label": pa.array([p.predicted for p in predictions], pa.string()),
        "probability": pa.array([p.probability for p in predictions], pa.float32()),
        "error": pa.array(errors, pa.string()),
    }
    if scores:
        table = [classifier.probabilities(p) if p.scores else None for p in predictions]
        for k, label in enumerate(classifier.labels):
            columns[f"probability: {label}"] = pa.array([row and row[k] for row in table], pa.float32())
    about = {_KEY: json.dumps(asdict(part), ensure_ascii=False)}
    buffer = pa.BufferOutputStream()
    pq.write_table(
        pa.table(columns).replace_schema_metadata(about), buffer, compression="zstd", write_page_checksum=True
    )
    return bytes(buffer.getvalue())
