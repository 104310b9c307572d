"""Each kind of finding, with a planted fault and without one."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lensmith.checks.balance import balance, similar
from lensmith.checks.copies import Copies, Pair, find_copies
from lensmith.checks.findings import Finding, Line, table
from lensmith.checks.leaks import (
    compared,
    contradictions,
    copies_finding,
    group_finding,
    leak_finding,
    leaks_of,
    without,
)
from lensmith.checks.odd import deviations, odd, unreadable
from lensmith.checks.shortcuts import shortcuts, tell
from lensmith.checks.survey import Survey
from lensmith.data import open_dataset
from lensmith.errors import UserError
from lensmith.progress import silent
from lensmith.records import Prediction
from tests.checks.scenes import copy, folder_of, save, scene, surveyed

NO_COPIES = Copies([], 0.0, 1.0, 0.0, [])


def names(survey: Survey, lines: list[Line]) -> set[str]:
    return {Path(survey.sources[line.image]).name for line in lines}


def test_copies_of_test_images_are_leaks(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 60)
    shutil.copy(folder / "test/barn/3.png", folder / "train/barn/again.png")
    save(copy(scene(11), "reencoded"), folder / "train/barn/nearly.png")
    save(copy(scene(0), "brighter"), folder / "train/lake/harmless.png")  # of a training image
    survey = surveyed(folder)
    copies = find_copies(survey, None, silent)
    leaks = leaks_of(survey, copies)
    assert {Path(survey.sources[leak.test]).name for leak in leaks} == {"3.png", "11.png"}
    finding = leak_finding(survey, copies, leaks)
    assert finding is not None
    assert finding.harm == "spoils"
    assert "2 test images (13.3 %) have copies" in finding.sentence
    assert "1 byte for byte, 1 nearly the same" in finding.sentence
    assert names(survey, finding.lines) == {"again.png", "nearly.png"}
    assert all(line.remove for line in finding.lines)
    only_in = {Path(survey.sources[line.image]).name: line.only_in for line in finding.lines}
    assert only_in == {"again.png": "train", "nearly.png": ""}  # the test keeps its own copy of the same file
    inside = copies_finding(survey, copies)
    assert inside is not None
    assert inside.harm == "note"
    assert leak_finding(survey, NO_COPIES, []) is None


def test_many_copies_of_one_image_give_few_leaks(tmp_path: Path) -> None:
    for split, number in (("train", 300), ("test", 200)):
        for i in range(number):
            save(scene(i % 2), tmp_path / "same" / split / "ab"[i % 2] / f"{i}.png")
    survey = surveyed(tmp_path / "same")
    leaks = leaks_of(survey, NO_COPIES)
    assert {leak.test for leak in leaks} == set(survey.split("test"))
    assert {leak.other for leak in leaks} == set(survey.split("train"))
    assert len(leaks) <= len(survey)


def test_accuracy_without_the_leaked_images() -> None:
    answers = [Prediction(str(i), "a", "a" if i < 80 else "b") for i in range(100)]
    assert without(answers, {str(i) for i in range(50)}) == (
        "Accuracy: 80.0 % (71.1 to 86.7); without the 50 leaked images, 60.0 % (46.2 to 72.4)."
    )
    assert "None of its images" in without(answers, {"other"})
    assert "all of its images have copies" in without(answers, {p.id for p in answers})


def test_copies_under_two_labels_contradict_each_other(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 40)
    assert contradictions(surveyed(folder), NO_COPIES) is None
    shutil.copy(folder / "train/barn/1.png", folder / "train/lake/1 too.png")
    survey = surveyed(folder)
    finding = contradictions(survey, NO_COPIES)
    assert finding is not None
    assert (finding.harm, finding.count) == ("spoils", 1)
    assert "barn and lake" in finding.sentence
    assert not any(line.remove for line in finding.lines)
    assert names(survey, finding.lines) == {"1.png", "1 too.png"}
    one, other = survey.split("train")[0], survey.split("train")[-1]
    assert survey.labels[one] != survey.labels[other]
    near = Copies([Pair(one, other, 0.99, 0.03)], 0.1, 0.98, 0.5, [])
    assert (contradictions(survey, near) or finding).count == 2


def test_groups_that_names_show_and_that_matter(tmp_path: Path) -> None:
    for house in range(10):
        for room in range(6):
            split = "test" if room == 5 else "train"
            save(scene(house), tmp_path / "homes" / split / "ab"[house % 2] / f"house{house}_{room}.png")
    survey = surveyed(tmp_path / "homes")
    house_of = [Path(source).stem.partition("_")[0] for source in survey.sources]
    same = {
        i: next(j for j, house in enumerate(house_of) if house == house_of[i] and j != i) for i in range(len(survey))
    }
    finding = group_finding(survey, same)
    assert finding is not None
    assert finding.count == 10
    assert "house" in finding.sentence
    pattern = finding.advice.partition("data.group='")[2].partition("'")[0]
    grouped = open_dataset(str(tmp_path / "homes"), splits={"train": ["train", "test"]}, group=pattern)
    assert {group for split in grouped.splits for group in split.groups} == {f"house{k}" for k in range(10)}
    # Where the names say nothing of how alike the images are, they are no groups.
    unlike = {i: (i + 7) % len(survey) for i in range(len(survey))}
    assert group_finding(survey, unlike) is None


def test_odd_images_are_named_and_ordinary_ones_are_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 120)
    survey = surveyed(folder)
    assert odd(survey, None) is None
    assert unreadable(survey) is None
    save(Image.new("RGB", (96, 72), "navy"), folder / "train/lake/blank.png")
    save(scene(1, (9, 7)), folder / "train/lake/tiny.png")
    save(scene(2, (900, 30)), folder / "train/lake/strip.png")
    save(scene(3).convert("L"), folder / "train/lake/grey.png")
    (folder / "train/lake/torn.png").write_bytes(b"\x89PNG torn")
    survey = surveyed(folder)
    finding = odd(survey, None)
    assert finding is not None
    assert names(survey, finding.lines) == {"blank.png", "tiny.png", "strip.png", "grey.png"}
    captions = " ".join(picture.caption for pair in finding.pictures for picture in pair)
    for word in ("one colour", "tiny (9 x 7)", "wide (900 x 30)", "grey"):
        assert word in captions
    torn = unreadable(survey)
    assert torn is not None
    assert names(survey, torn.lines) == {"torn.png"}


def test_images_far_from_all_others(tmp_path: Path) -> None:
    survey = surveyed(folder_of(tmp_path / "pictures", 60))
    far = np.random.default_rng(0).uniform(0.2, 0.3, len(survey))
    assert odd(survey, far) is None
    far[17] = 5.0
    finding = odd(survey, far)
    assert finding is not None
    assert [line.image for line in finding.lines] == [17]


def test_deviations_are_robust() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(5, 2, 1000), [500.0], [np.nan]])
    found = deviations(values)
    assert abs(np.nanstd(found[:1000]) - 1) < 0.1
    assert found[1000] > 200
    assert np.isnan(found[1001])
    assert (deviations(np.full(10, 3.0)) == 0).all()
    assert deviations(np.array([1.0] * 99 + [9.0]))[99] > 20  # where most are equal


def qualities(tmp_path: Path, share: float) -> Path:
    """Two classes, of which a share is told by the quality at which its images were saved."""
    random = np.random.default_rng(0)
    for i in range(600):
        told = random.random() < share
        quality = (75 if i % 2 else 90) if told else int(random.choice([75, 90]))
        save(
            scene(i, (24, 18)),
            tmp_path / f"share {share}" / ("barn" if i % 2 else "lake") / f"{i}.jpg",
            quality=quality,
        )
    return tmp_path / f"share {share}"


@pytest.mark.long
def test_a_class_that_its_files_give_away(tmp_path: Path) -> None:
    assert shortcuts(surveyed(qualities(tmp_path, 0.0), validation=0.1)) is None
    finding = shortcuts(surveyed(qualities(tmp_path, 0.5), validation=0.1))
    assert finding is not None
    assert finding.harm == "spoils"
    assert "JPEG" in finding.sentence
    assert finding.rows
    assert finding.pictures


@pytest.mark.long
def test_names_of_classes_in_names_of_files_are_no_shortcut(tmp_path: Path) -> None:
    for i in range(200):
        label = ("barn", "lake")[i % 2]
        save(scene(i, (24, 18)), tmp_path / "named" / label / f"{label}_{i:04}.png")
    assert shortcuts(surveyed(tmp_path / "named")) is None


def test_shuffled_labels_are_the_measure() -> None:
    random = np.random.default_rng(1)
    labels = [str(i % 3) for i in range(300)]
    assert not tell(random.normal(size=(300, 4)), labels).alarm
    facts = random.normal(size=(300, 4))
    facts[:, 2] += np.array([int(label) for label in labels])
    told = tell(facts, labels)
    assert told.alarm
    assert told.accuracy > 0.45 > told.shuffled


def test_balance_names_what_cannot_be_measured(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 16)
    for i in range(3):
        save(scene(100 + i), folder / "train" / "boat" / f"{i}.png")
    finding = balance(surveyed(folder).dataset)
    assert finding.harm == "look"
    assert "1 class can't be tested (boat)" in finding.sentence
    assert "have fewer than 20 test images" in finding.sentence
    assert finding.rows[0][:4] == ["boat", "3", "0", "0"]
    enough = tmp_path / "enough"
    for split, number in (("train", 10), ("test", 25)):
        for i in range(number * 2):
            save(scene(i, (8, 8)), enough / split / ("barn" if i % 2 else "lake") / f"{i}.png")
    assert balance(surveyed(enough).dataset).harm == "note"


def test_labels_that_are_spelled_alike() -> None:
    assert similar(["sandal", "sandals", "boot"]) == [("sandal", "sandals")]
    assert similar(["grey cat", "gray-cat", "dog"]) == []  # one letter of seven: they may well be two
    assert similar(["light_blue", "light-blue"]) == [("light_blue", "light-blue")]
    assert similar(["t-shirt", "shirt", "class 1", "class 2", "n0144", "n0145"]) == []


def test_the_table_of_findings_corrects_the_dataset(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 40)
    shutil.copy(folder / "test/barn/3.png", folder / "train/barn/=again.png")
    survey = surveyed(folder)
    finding = leak_finding(survey, NO_COPIES, leaks_of(survey, NO_COPIES))
    assert finding is not None
    other = Finding("suspects", "look", 1, "", "", lines=[Line(0, "barn")])
    text, removed = table(survey, [finding, other])
    assert removed == 1
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["finding"] for row in rows] == ["leaks", "suspects"]
    assert [row["label"] for row in rows] == ["", survey.labels[0]]
    path = tmp_path / "check.csv"
    path.write_text(text)
    from lensmith.config import DataOptions
    from lensmith.data import open_data

    corrected = open_data(DataOptions(str(folder), validation=0, corrections=str(path)))
    assert len(corrected.train) == len(survey.dataset.train) - 1
    assert len(corrected.test) == len(survey.dataset.test)
    assert not set(corrected.train.contents) & set(corrected.test.contents)


def test_a_published_list_is_compared(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 40)
    shutil.copy(folder / "test/barn/3.png", folder / "train/barn/zz.png")
    survey = surveyed(folder)
    tests, trains = ([Path(survey.sources[i]).name for i in survey.split(name)] for name in ("test", "train"))
    known = tmp_path / "known.csv"
    known.write_text(f"TestID,TrainID\n{tests.index('3.png')},{trains.index('zz.png')}\n0,0\n")
    finding = compared(survey, NO_COPIES, known)
    assert finding.sentence == "Of 2 pairs in known.csv, 1 was found."
    assert len(finding.pictures) == 1
    known.write_text("TestID,TrainID\n999,0\n")
    with pytest.raises(UserError, match="Line 2"):
        compared(survey, NO_COPIES, known)
    with pytest.raises(UserError, match="can't be read"):
        compared(survey, NO_COPIES, tmp_path / "none.csv")
