"""Labels that were changed on purpose are found, and the table that lists them corrects them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from lensmith.checks.suspects import find_suspects
from lensmith.config import load_recipe
from lensmith.data import open_dataset
from lensmith.progress import silent
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def options(folder: Path, tiny_folder: Path) -> list[str]:
    words = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    return [*words, "data.test=0.1"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_wrong_labels_are_found_and_the_table_corrects_them(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes("my <images>", circle=60, square=60)
    wrong = {f"circle {i}.jpg" for i in range(4)}
    for name in wrong:
        shutil.move(folder / "circle" / name, folder / "square" / name)
    words = options(folder, tiny_folder)
    held = {
        open_dataset(str(folder), test=0.1).test.source(i) for i in range(len(open_dataset(str(folder), test=0.1).test))
    }
    there = {name for name in wrong if not any(name in source for source in held)}
    code, out, err = run("suspects", *words, "--run", "doubts", "--json")
    assert code == 0, err
    record = json.loads(out)
    found = rows(Path(record["table"]))
    assert {Path(row["file"]).name for row in found} == there
    assert {(row["was"], row["label"], row["suggested"]) for row in found} == {("square", "square", "circle")}
    assert all(float(row["probability_of_label"]) < 0.5 < float(row["probability_of_suggested"]) for row in found)
    assert record["suspects"] == len(there)
    page = Path(record["report"]).read_text()
    assert page.count("data:image/png") == len(there)
    assert "my &lt;images&gt;" in page

    # A person corrects one label, leaves one image out, and accepts the other labels.
    found[0]["label"], found[1]["label"] = "circle", ""
    with Path("corrected.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, found[0])
        table.writeheader()
        table.writerows(found)
    code, out, err = run("suspects", *words, "data.corrections=corrected.csv", "--run", "fewer", "--json")
    assert code == 0, err
    left = {row["id"] for row in rows(Path(json.loads(out)["table"]))}
    assert not left & {found[0]["id"], found[1]["id"]}
    assert "1 labels changed, 1 images left out" in err


def test_copies_do_not_confirm_each_others_labels(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=40, square=40)
    for i in range(30):  # many copies of one wrongly labelled image
        shutil.copy(folder / "circle" / "circle 0.jpg", folder / "square" / f"copy {i}.jpg")
    (folder / "circle" / "circle 0.jpg").unlink()
    code, out, err = run("suspects", *options(folder, tiny_folder), "data.test=0", "--run", "doubts", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["images"] == 80
    assert [row["suggested"] for row in rows(Path(record["table"]))] == ["circle"]


def test_the_same_file_under_two_labels_is_the_surest_suspect(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=20, square=20)
    for i in range(3):
        shutil.copy(folder / "circle" / f"circle {i}.jpg", folder / "square" / f"copy {i}.jpg")
    code, out, err = run("suspects", *options(folder, tiny_folder), "data.test=0", "--run", "doubts", "--json")
    assert code == 0, err
    record = json.loads(out)
    first = rows(Path(record["table"]))[:3]
    assert {Path(row["file"]).name for row in first} == {"copy 0.jpg", "copy 1.jpg", "copy 2.jpg"}
    assert {(row["was"], row["suggested"]) for row in first} == {("square", "circle")}
    assert "3 labels contradict that of an exact copy of the image. They come first." in record["notes"]


def test_copies_under_two_labels_are_listed_though_their_classes_are_small(
    shapes: Shapes, tiny_folder: Path, run: Run
) -> None:
    folder = shapes(circle=20, square=20, moon=2, star=2)
    shutil.copy(folder / "moon" / "moon 0.jpg", folder / "star" / "copy.jpg")
    shutil.copy(folder / "circle" / "circle 0.jpg", folder / "star" / "also.jpg")
    code, out, err = run("suspects", *options(folder, tiny_folder), "data.test=0", "--run", "doubts", "--json")
    assert code == 0, err
    found = {frozenset((row["was"], row["suggested"])) for row in rows(Path(json.loads(out)["table"]))[:2]}
    assert found == {frozenset(("moon", "star")), frozenset(("circle", "star"))}


def test_a_class_with_too_few_images_is_left_out_and_named(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=30, square=30, star=3)
    code, out, err = run("suspects", *options(folder, tiny_folder), "data.test=0", "--run", "doubts", "--json")
    assert code == 0, err
    assert any("star (3)" in note for note in json.loads(out)["notes"])
    assert json.loads(out)["images"] == 60
    few = shapes("few", circle=30, square=3)
    code, _, err = run("suspects", *options(few, tiny_folder), "data.test=0", "--run", "none")
    assert code == 2
    assert "Fewer than two classes have 5 readable images" in err
    assert "square (3)" in err
    assert not Path("none").exists()


def test_the_test_images_are_not_examined(shapes: Shapes, tiny_folder: Path) -> None:
    recipe = load_recipe(None, options(shapes(circle=30, square=30), tiny_folder))
    from lensmith.data import open_data

    dataset = open_data(recipe.data)
    examined = find_suspects(recipe, dataset, silent).images
    assert examined == len(dataset.train) + len(dataset.validation)


def test_without_cleanlab_the_install_command_is_named(
    shapes: Shapes, tiny_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cleanlab", None)
    code, _, err = run("suspects", *options(shapes(circle=9, square=9), tiny_folder), "--run", "x")
    assert code == 2
    assert "pip install 'lensmith[suspects]'" in err
    assert not Path("x").exists()
