"""Files are written whole or not at all, and a run folder is never written over."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensmith.checkpoint import replacing
from lensmith.errors import UserError
from lensmith.records import Prediction, new_run_folder, provenance, read_lines, write, write_predictions


def test_a_write_that_fails_keeps_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with replacing(folder) as new:
        (new / "a").write_text("1")

    def fail(reason: str) -> None:
        with replacing(folder) as new:
            (new / "a").write_text("2")
            raise RuntimeError(reason)

    with pytest.raises(RuntimeError, match="half way"):
        fail("half way")
    assert (folder / "a").read_text() == "1"
    with pytest.raises(UserError, match="disk is full"):
        fail("I/O error: No space left on device")  # as safetensors says it
    with replacing(folder) as new:
        (new / "b").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_run_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path / "new" / "run").is_dir()
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists already"):
            new_run_folder(taken)
    with pytest.raises(UserError, match="can't be created"):
        new_run_folder(tmp_path / "file" / "run")


def test_predictions_read_back(tmp_path: Path) -> None:
    found = [Prediction("1", "a", "b", 0.75, (-1.5, -0.5)), Prediction("2", None, error="cut short")]
    write_predictions(tmp_path / "p.parquet", found, ["a", "b"])
    first, second = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert first == {"id": "1", "label": "a", "predicted": "b", "share": 0.75, "error": None,
                     "score: a": -1.5, "score: b": -0.5}  # fmt: skip
    assert second["error"] == "cut short"
    assert second["score: a"] is None


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert list(read_lines(tmp_path / "log.jsonl")) == [{"step": 1}, {"step": 2}]


def test_provenance_names_program_and_machine() -> None:
    where = provenance()
    assert {"torch", "transformers", "peft", "lensmith"} <= set(where["packages"])
    assert where["machine"]["cores"] >= 1
