"""The comparison shows which run is better, by how much, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith.errors import UserError
from lensmith.pages.comparison import Change, ComparisonData, render_comparison, write_comparison
from lensmith.records import Estimate
from tests.pages.samples import (
    HOSTILE,
    NAN,
    comparison,
    evaluation,
    has_numbers_only,
    headings,
    loads_nothing,
    pictures,
    rate,
    text,
)

LONG = "A sentence that gives the whole result, with every number, " + "and goes on " * 5


def data(**changes: Any) -> ComparisonData:
    runs = [evaluation("zero-shot"), evaluation("tuned", wrong=2)]
    return replace(ComparisonData("Two runs", runs, [comparison()], [], [], [], [], [], []), **changes)


def change(first: str | None = "shirt", second: str | None = "coat", label: str = "coat") -> Change:
    return Change(Image.new("RGB", (28, 28)), label, first, second)


def full() -> ComparisonData:
    named = comparison(first=HOSTILE, second=HOSTILE, sentence=HOSTILE, verdict="can't tell")
    return ComparisonData(
        title=HOSTILE,
        evaluations=[evaluation(HOSTILE, top5=rate(0.9)), evaluation(HOSTILE, notes=[HOSTILE])],
        comparisons=[named, named],
        lost=[change(HOSTILE, None, HOSTILE)],
        gained=[change(None, HOSTILE, HOSTILE)],
        settings=[(HOSTILE, [HOSTILE, HOSTILE])],
        classes=[(HOSTILE, 0.5, 0.6, 10)],
        facts=[(HOSTILE, HOSTILE)],
        notes=[f"A note on {HOSTILE}"],
        picture_note=HOSTILE,
    )


def test_names_from_users_are_escaped() -> None:
    page = render_comparison(full())
    assert loads_nothing(page)
    assert text(page).count(HOSTILE) >= 30


def test_a_short_sentence_is_the_headline() -> None:
    page = render_comparison(data())
    assert '<p class="verdict">The verdict is better.</p>' in page
    assert text(page).count("The verdict is better.") == 1


@pytest.mark.parametrize(
    ("verdict", "headline"),
    [
        ("better", "tuned is better than zero-shot"),
        ("worse", "tuned is worse than zero-shot"),
        ("can't tell", "tuned and zero-shot can't be distinguished on 100 images"),
    ],
)
def test_a_long_sentence_is_shown_below_a_headline(verdict: str, headline: str) -> None:
    shown = text(render_comparison(data(comparisons=[comparison(verdict, sentence=LONG)])))
    assert f"Two runs {headline} {LONG}" in shown


def test_several_sentences_are_listed() -> None:
    several = [comparison(), comparison("worse", second="pixels")]
    shown = text(render_comparison(data(comparisons=several)))
    assert "tuned is better than zero-shot The verdict is better. The verdict is worse." in shown
    assert "Holm" in shown
    assert "Holm" not in text(render_comparison(data()))


def test_the_tables_show_the_results() -> None:
    shown = text(render_comparison(data()))
    assert "zero-shot 70.0 % 60.0 to 80.0 % 0.700 0.650 to 0.750 40" in shown
    assert "tuned 80.0 % 70.0 to 90.0 % 0.800 0.750 to 0.850 40" in shown
    assert "tuned against zero-shot +5.0 −1.0 to +11.0 7 2 0.180 better" in shown
    assert "The rest of this page" not in shown


def test_the_number_of_images_needed_to_distinguish_the_runs() -> None:
    sentence = "To distinguish tuned from zero-shot, about 2,400 images would be needed"
    assert sentence in text(render_comparison(data(comparisons=[comparison("can't tell")])))
    assert "would be needed" not in text(render_comparison(data()))


@pytest.mark.parametrize("needed", [None, 50])
def test_an_unknown_or_reached_number_of_images_is_not_shown(needed: int | None) -> None:
    page = render_comparison(data(comparisons=[comparison("can't tell", needed=needed)]))
    assert "would be needed" not in text(page)


def test_gained_and_lost_are_shown() -> None:
    page = render_comparison(data(gained=[change()] * 5, lost=[change("coat", "bag"), change("coat", None)]))
    assert len(pictures(page)) == 7
    assert "Gained: tuned is correct where zero-shot is wrong 5 of 7 images." in text(page)
    assert "label: coat first run: shirt second run: coat" in text(page)
    assert "Lost: tuned is wrong where zero-shot is correct label: coat first run: coat second run: bag" in text(page)
    assert "first run: coat second run: unreadable" in text(page)


def test_at_most_forty_pictures_of_each() -> None:
    page = render_comparison(data(gained=[change()] * 50))
    assert len(pictures(page)) == 40


def test_the_reason_for_missing_pictures_is_shown() -> None:
    page = render_comparison(data(picture_note="The images are not on this machine."))
    assert "Gained and lost The images are not on this machine." in text(page)


def test_classes_with_the_largest_change_come_first() -> None:
    rows = [("a", 0.5, 0.51, 10), ("b", NAN, 0.5, 0), ("c", 0.5, 0.3, 1000), ("d", 0.2, 0.3, 10)]
    page = render_comparison(data(classes=rows))
    assert "c −20.0 50.0 % 30.0 % 1,000 d +10.0 20.0 % 30.0 % 10 a +1.0 50.0 % 51.0 % 10 b – – 50.0 % 0" in text(page)
    assert has_numbers_only(page)


def test_settings_that_differ() -> None:
    shown = text(render_comparison(data(settings=[("tune.rank", ["4", "16"])])))
    assert "Settings that differ Option zero-shot tuned tune.rank 4 16" in shown


def test_empty_sections_are_omitted() -> None:
    page = render_comparison(ComparisonData("Title", [], [], [], [], [], [], [], []))
    assert headings(page) == ["How to read this page"]
    assert "<svg" not in page


def test_a_missing_number_is_shown_as_a_dash() -> None:
    unknown = comparison("can't tell", difference=Estimate(NAN, NAN, NAN), p=NAN, needed=None)
    page = render_comparison(data(comparisons=[unknown]))
    assert has_numbers_only(page)
    assert "against zero-shot – 7 2 – can't tell" in text(page)


def test_the_page_is_written(tmp_path: Path) -> None:
    write_comparison(tmp_path / "comparison.html", data(notes=["caf\udce9"]))
    assert "caf?" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    with pytest.raises(UserError):
        write_comparison(tmp_path / "missing" / "comparison.html", data())
