"""Answers come as a table on standard output or in a file, and none is lost to an odd name."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensmith.records import Prediction
from lensmith.verbs.use.predict import write_answers
from tests.conftest import Run, Shapes

ODD = [
    Prediction("a,b.png", None, "cat", 0.75),
    Prediction("=HYPERLINK(1).png", None, "-v", 1.0),
    Prediction("caf\udce9.png", None, "猫", 0.5),
    Prediction("'x\n.png", None, error="It can't be read."),
]


def test_a_table_of_answers_holds_every_row(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        write_answers(tmp_path / f"a.{suffix}", ODD)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "label", "probability", "error"]
    assert [row[0] for row in rows[1:]] == ["a,b.png", "'=HYPERLINK(1).png", "caf\\udce9.png", "''x\n.png"]
    assert rows[2][1:3] == ["'-v", "1.0"]
    assert rows[4][1:] == ["", "", "It can't be read."]
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines] == [p.id for p in ODD]
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["label"] for row in table] == ["cat", "-v", "猫", None]
    assert table[2]["image"] == "caf\\udce9.png"


@pytest.mark.long
def test_answers_are_printed_or_written(run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["probe", shapes(circle=9, square=9), f"model.base={tiny_folder}", "model.dtype=float32", "--run", "p"]
    assert run(*words)[0] == 0
    picture = tmp_path / "my shapes" / "circle" / "circle 0.jpg"
    for name in ("tab\there.jpg", "new\nline.jpg"):
        (tmp_path / "n").mkdir(exist_ok=True)
        shutil.copy(picture, tmp_path / "n" / name)
    code, out, _ = run("predict", "p", "n")
    assert code == 0
    assert sorted(line.split("\t")[0] for line in out.splitlines()) == ["n/new\\nline.jpg", "n/tab\\there.jpg"]
    code, out, _ = run("predict", "p", "n", "--out", "answers.csv")
    assert (code, out) == (0, "2 images, of which 0 can't be read: answers.csv\n")
    assert len(Path("answers.csv").read_text().splitlines()) == 4, "a header, and a line end within a name"
    code, _, err = run("predict", "p", "n", "--out", "answers.xlsx")
    assert code == 2
    assert "Answers can be written to .csv, .jsonl, .parquet, or to a folder" in err
