"""Files and folders are written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lensmith.errors import UserError
from lensmith.runs.files import read_lines, replacing, write


def test_a_failed_write_keeps_the_previous_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
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
        fail('I/O error: No space left on device (os error 28) at path "x"')  # as safetensors reports it
    with pytest.raises(UserError, match="can't be written: Read-only file system"):
        fail('I/O error: Read-only file system (os error 30) at path "x"')
    with replacing(folder) as new:
        (new / "b").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_truncated_line_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert list(read_lines(tmp_path / "log.jsonl")) == [{"step": 1}, {"step": 2}]
