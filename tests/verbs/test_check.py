"""`lensmith check` and `lensmith stress`: what is said, what is written, the exit code, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.checks.scenes import copy, folder_of, save, scene
from tests.conftest import Run

QUICK = ("check.features=false", "data.validation=0")


def kinds(out: str) -> dict[str, str]:
    return {found["kind"]: found["harm"] for found in json.loads(out)["findings"]}


@pytest.mark.long
def test_leaks_end_with_one_and_the_table_removes_them(run: Run, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "my <images>", 64)
    shutil.copy(folder / "test/barn/3.png", folder / "train/barn/again.png")
    save(copy(scene(6), "reencoded"), folder / "train/lake/nearly.jpg", quality=60)
    code, out, err = run("check", folder, *QUICK, "--run", "first", "--json")
    assert code == 1, err
    record = json.loads(out)
    assert kinds(out)["leaks"] == "spoils"
    assert "2 test images" in record["verdict"]
    assert record["removed"] == 2
    page = Path(record["report"]).read_text()
    assert "my &lt;images&gt;" in page
    assert page.count("data:image/") >= 4
    assert "<script" not in page
    with Path(record["table"]).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["finding"] == "leaks"]
    assert {Path(row["file"]).name for row in rows} == {"again.png", "nearly.jpg"}
    assert all(row["label"] == "" for row in rows)
    code, out, err = run("check", folder, *QUICK, f"data.corrections={record['table']}", "--run", "second", "--json")
    assert "leaks" not in kinds(out)
    assert code == 0, err
    code, _, _ = run("check", folder, *QUICK, f"data.corrections={record['table']}", "--run", "third", "--strict")
    assert code == 1  # few test images are worth a look


@pytest.mark.long
def test_what_a_run_is_worth_without_the_leaks(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 64)
    shutil.copy(folder / "test/barn/3.png", folder / "train/barn/again.png")
    words = (f"model.base={tiny_folder}", "model.dtype=float32", "data.validation=0.1")
    code, _, err = run("probe", folder, *words, "--run", "probe")
    assert code == 0, err
    code, out, err = run("check", "probe", "--run", "checked")
    assert code == 1, err
    assert "without the 1 leaked image" in out
    assert "Without the outer 0.1 of the sides:" in out
    assert "Next: lensmith train" in out
    record = json.loads(Path("checked/check.json").read_text())
    assert [answer["about"] for answer in record["answers"]][-1] == "without colour"
    assert "What the run makes of other images" in Path("checked/report.html").read_text()
    # The same command on other images is refused, before anything is written.
    other = folder_of(tmp_path / "other", 24)
    for file in other.rglob("*.png"):
        save(scene(1000 + int(file.stem)), file)
    code, _, err = run("check", "probe", other, "--run", "wrong")
    assert code == 2
    assert "was scored on other images" in err
    assert not Path("wrong").exists()

    code, out, err = run("stress", "probe", "stress.images=6", "--run", "stressed", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["images"] == 6
    assert len(record["changes"]) == 24
    assert {row["severity"] for row in record["changes"]} == {1, 2, 3}
    page = Path(record["report"]).read_text()
    assert "ImageNet-C" in page
    assert page.count("<tr><th") >= 24
    again = json.loads(run("stress", "probe", "stress.images=6", "--run", "again", "--json")[1])
    assert [row["changed"] for row in again["changes"]] == [row["changed"] for row in record["changes"]]


@pytest.mark.long
def test_features_that_cannot_be_had_are_left_out_and_named(run: Run, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 24)
    code, out, err = run("check", folder, f"model.base={tmp_path / 'nothing'}", "--run", "checked", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert any("what the model's features show" in what and "nothing" in what for what in record["left_out"])
    assert "suspects" not in kinds(out)


@pytest.mark.long
def test_wrong_labels_are_a_part_of_it(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "shades"
    around = np.random.default_rng(0)
    for i in range(80):
        noise = around.normal(128, 40, (40, 40)).clip(0, 255).astype(np.uint8)
        save(Image.fromarray(noise // 4 + np.uint8((40 if i % 2 else 200) - 30)), folder / "ab"[i % 2] / f"{i}.png")
    wrong = folder / "a" / "0.png"
    shutil.move(wrong, folder / "b" / "wrong.png")
    words = (f"model.base={tiny_folder}", "model.dtype=float32", "data.test=0")
    code, out, err = run("check", folder, *words, "--run", "checked", "--json")
    assert code == 0, err
    assert kinds(out)["suspects"] == "look"
    with Path("checked/check.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["finding"] == "suspects"]
    assert "wrong.png" in {Path(row["file"]).name for row in rows}
    assert {row["label"] for row in rows} == {row["was"] for row in rows}


def test_what_cannot_be_checked_is_said_in_a_sentence(run: Run, tmp_path: Path) -> None:
    save(scene(0), tmp_path / "one class" / "lake" / "0.png")
    save(scene(1), tmp_path / "one class" / "lake" / "1.png")
    code, _, err = run("check", "one class", *QUICK, "--run", "c")
    assert code == 2
    assert "There is only one class" in err
    save(scene(0), tmp_path / "loose" / "0.png")
    code, _, err = run("check", "loose", *QUICK, "--run", "c")
    assert code == 2
    assert "aren't in class folders" in err
    code, _, err = run("stress", "one class")
    assert code == 2
    assert "Which run shall be stressed?" in err
    code, _, err = run("check", "nowhere")
    assert code == 2
    assert not Path("c").exists()


@pytest.mark.long
def test_one_image_and_no_test_images_are_checked_all_the_same(run: Run, tmp_path: Path) -> None:
    save(scene(0), tmp_path / "one" / "test" / "lake" / "0.png")
    code, out, err = run("check", "one", *QUICK, "--run", "single", "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == 1
    folder = folder_of(tmp_path / "pictures", 24)
    shutil.rmtree(folder / "test")
    code, out, err = run("check", folder, *QUICK, "data.test=0", "--run", "untested")
    assert code == 0, err
    assert "There are no test images." in out
