"""The predictions file: reading it back, joining its chunks, and truncated files."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensmith.errors import UserError
from lensmith.records import Prediction
from lensmith.runs.predictions import Unfinished, read_predictions, write_predictions

LABELS = ["a", "b"]
PREDICTIONS = [
    Prediction("1", "a", "b", 0.75, 2, None, 0.5, 1.0, (-1.5, math.nan)),
    Prediction("2", None, error="truncated"),
    Prediction("3", "b", "b", 0.875, 1, None, 0.875, 0.875, (-3.5, -0.5)),
]


def bare(predictions: list[Prediction]) -> list[Prediction]:
    """Without scores, which are not read back."""
    return [
        Prediction(p.id, p.label, p.predicted, p.probability, p.rank, p.error, p.probability_low, p.probability_high)
        for p in predictions
    ]


def test_predictions_read_back(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", PREDICTIONS, LABELS)
    assert read_predictions(tmp_path / "p.parquet") == bare(PREDICTIONS)
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert rows[0]["score: a"] == -1.5
    assert math.isnan(rows[0]["score: b"])
    assert rows[1]["score: a"] is None


def test_a_truncated_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    with pytest.raises(UserError, match="no predictions"):
        read_predictions(path)
    write_predictions(path, PREDICTIONS * 500, LABELS)
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or truncated"):
            read_predictions(path)
    path.write_bytes(whole[:50] + b"?" * 5 + whole[55:])  # in the ids
    with pytest.raises(UserError, match="damaged or truncated"):
        read_predictions(path)


def test_chunks_become_the_same_file_with_and_without_a_stop(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = Unfinished(tmp_path / "a" / "p.parquet", LABELS, {"seed": 1})
    assert straight.window is None
    for _ in range(3):
        straight.add(PREDICTIONS, 1.0)
    straight.join()
    path = tmp_path / "b" / "p.parquet"
    Unfinished(path, LABELS, {"seed": 1}).add(PREDICTIONS, 1.0)
    second = Unfinished(path, LABELS, {"seed": 1})
    assert (second.done, second.window, second.seconds) == (3, 3, 1.0)
    second.add(PREDICTIONS, 1.0)
    # A kill in the middle of a write leaves a temporary file, or an incomplete chunk.
    (path.with_name("p.unfinished") / ".000000006.parquet.part").write_bytes(b"half")
    (path.with_name("p.unfinished") / "000000006.parquet").write_bytes(b"half")
    third = Unfinished(path, LABELS, {"seed": 1})
    assert third.done == 6
    third.add(PREDICTIONS, 1.0)
    third.join()
    assert path.read_bytes() == (tmp_path / "a" / "p.parquet").read_bytes()
    assert read_predictions(path) == bare(PREDICTIONS * 3)
    assert [p.name for p in path.parent.iterdir()] == ["p.parquet"]


def test_chunks_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    Unfinished(tmp_path / "p.parquet", LABELS, {"images": "x", "seed": 1}).add(PREDICTIONS, 1.0)
    with pytest.raises(UserError, match=r"were started with other images"):
        Unfinished(tmp_path / "p.parquet", LABELS, {"images": "y", "seed": 1})
