"""`next` chooses images that have no label yet, and what it writes can be filled in and trained with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def fill(path: Path, only: int | None = None) -> list[dict[str, str]]:
    """Write the right labels, which the files' names begin with, into a table."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows[:only]:
        row["label"] = Path(row["image"]).stem.split()[0]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return rows


def test_from_no_label_to_two_rounds(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    images = shapes(circle=40, square=40)
    words = [f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu", "data.validation=0"]
    code, out, err = run("next", images, "-n", "8", "--test", "20", "--out", "first", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert len(set(record["chosen"])) == 8
    assert len(set(record["drawn"])) == 20
    assert not set(record["chosen"]) & set(record["drawn"])
    rows = fill(Path("first/next.csv"))
    assert [row["split"] for row in rows] == ["train"] * 8 + ["test"] * 20
    page = Path("first/report.html").read_text()
    assert "never use them as test images" in page.lower()
    tasks = json.loads(Path("first/label-studio.json").read_text())
    assert len(tasks) == 28

    code, out, err = run("probe", "first/next.csv", *words, "--run", "one", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"]["n"] == 20

    code, out, err = run("next", "one", images, "-n", "6", "--out", "second", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["drawn"] == []  # the run has test images
    assert not {row["image"] for row in rows} & set(record["chosen"])
    second = fill(Path("second/next.csv"), only=4)
    assert all(row["suggested"] in ("circle", "square") for row in second)
    assert 'Choice value="circle"' in Path("second/label-studio.xml").read_text()

    code, out, err = run(
        "probe", "first/next.csv", *words, "data.corrections=second/next.csv", "--run", "two", "--json"
    )
    assert code == 0, err
    data = json.loads(Path("two/record.json").read_text())["data"]
    assert (data["train"]["n"], data["test"]["n"]) == (12, 20)
    assert "4 training images added" in " ".join(data["notes"])
    assert "2 rows have no label yet" in " ".join(data["notes"])
    code, out, err = run("next", "two", images, "-n", "5", "--out", "third")
    assert code == 0, err
    assert "data.corrections=[" in out  # the tables from before are not forgotten
    assert "third/next.csv]" in out


def test_a_class_may_appear_for_the_first_time(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    images = shapes(circle=20, square=20)
    words = [f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu", "data.validation=0"]
    new = Path("new")
    new.mkdir()
    for i, path in enumerate(sorted((images / "square").iterdir())[:4]):
        (new / f"star {i}.png").write_bytes(path.read_bytes() + b"x")
    code, _, err = run("probe", images, *words, "--run", "one")
    assert code == 0, err
    code, _, err = run("next", "one", new, "-n", "3", "--out", "n")
    assert code == 0, err
    fill(Path("n/next.csv"))
    code, _, err = run("probe", images, *words, "data.corrections=n/next.csv", "--run", "two", "--json")
    assert code == 0, err
    assert "New classes: star." in " ".join(json.loads(Path("two/record.json").read_text())["data"]["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images", "-n", "300"], "There are 40 images that aren't labelled yet, and 308 are wanted."),
        (["images", "-n", "0"], "--number is 0"),
        (["nothing"], "No such file or folder"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_sentence(shapes: Shapes, run: Run, words: list[str], message: str) -> None:
    images = shapes(circle=20, square=20)
    code, _, err = run("next", *[str(images) if word == "images" else word for word in words], "--out", "n")
    assert code == 2
    assert message in err
    assert not Path("n").exists()
