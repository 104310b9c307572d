"""The pages of `check` and `stress`: what they show, that they escape it, and that they stay small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lensmith.measure.metrics import wilson
from lensmith.measure.paired import compare
from lensmith.pages.checks.check import Answer, CheckData, Section, Shown, render_check, write_check
from lensmith.pages.checks.stress import Row, StressData, render_stress
from lensmith.records import Prediction
from tests.pages.samples import HOSTILE, headings, loads_nothing, pictures, text


def noise(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def section(**changes: object) -> Section:
    pair = [Shown(noise(28), "test: cat", "a.png"), Shown(None, "train: cat", "gone.png")]
    sample = Section("leaks", "spoils", "Leaks were found.", "Remove them.", "Certain.", [pair], 3, ["a"], [["b"]])
    return replace(sample, **changes)  # type: ignore[arg-type]


def data(**changes: object) -> CheckData:
    sample = CheckData("Title", "Verdict.", ["A sentence."], [section()], [], [("Data", "mine")], ["A note."])
    return replace(sample, **changes)  # type: ignore[arg-type]


def test_findings_are_shown_with_what_to_do() -> None:
    page = render_check(data(sections=[section(), section(kind="odd", harm="look", sentence="Odd ones.", more=0)]))
    assert loads_nothing(page)
    for words in (
        "Verdict.",
        "A sentence.",
        "Remove them.",
        "Certain.",
        "3 more are in the table.",
        "gone.png",
        "A note.",
    ):
        assert words in text(page)
    assert {"Leaks were found.", "Odd ones."} <= set(headings(page))
    assert len(pictures(page)) == 2  # an image that can't be read has none
    assert "Spoils figures" in page
    assert "Worth a look" in page
    answers = [Answer("as they are", wilson(8, 10), 0, 10, ""), Answer("without colour", wilson(5, 10), 3, 10, "worse")]
    page = render_check(data(answers=answers, sections=[]))
    assert "What the run makes of other images" in headings(page)
    assert "3 of 10" in text(page)


def test_names_from_users_are_escaped_in_both() -> None:
    shown = Shown(noise(28), HOSTILE, HOSTILE)
    hostile = section(
        sentence=HOSTILE, advice=HOSTILE, sure=HOSTILE, pictures=[[shown]], head=[HOSTILE], rows=[[HOSTILE]]
    )
    page = render_check(data(title=HOSTILE, verdict=HOSTILE, sentences=[HOSTILE], sections=[hostile], notes=[HOSTILE]))
    assert loads_nothing(page)
    assert text(page).count(HOSTILE) >= 10
    answers = [Prediction("1", "a", "a")]
    row = Row(HOSTILE, HOSTILE, 1, compare("a", answers, "b", answers), 0, False)
    page = render_stress(StressData(HOSTILE, HOSTILE, wilson(1, 1), [row], [], [HOSTILE]))
    assert loads_nothing(page)
    assert text(page).count(HOSTILE) >= 5


def test_hundreds_of_pictures_stay_below_five_megabytes(tmp_path: Path) -> None:
    pairs = [[Shown(noise(1200, 2 * k + side), "test: cat", "photo.jpg") for side in (0, 1)] for k in range(24)]
    sections = [section(kind=f"kind {k}", pictures=pairs) for k in range(8)]
    write_check(tmp_path / "report.html", data(sections=sections))
    assert (tmp_path / "report.html").stat().st_size < 5_000_000  # of noise, which is the largest of pictures


def test_what_costs_most_comes_first_and_in_colour() -> None:
    clean = [Prediction(str(i), "a", "a") for i in range(100)]
    broken = [replace(p, predicted="b" if i < 40 else "a") for i, p in enumerate(clean)]
    rows = [
        Row("blur", "blurred", 1, compare("clean", clean, "blurred", clean), 0, False),
        Row("crop", "cropped", 1, compare("clean", clean, "cropped", broken), 40, True),
    ]
    page = render_stress(StressData("Title", "It breaks.", wilson(100, 100), rows, [], []))
    assert page.index("cropped") < page.index("blurred")
    assert page.count('class="highlight"') == 1
    assert "40 of 100" in text(page)
