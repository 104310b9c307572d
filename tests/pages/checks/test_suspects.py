"""The page of suspects shows each picture with both labels, and presents it as a question."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith.errors import UserError
from lensmith.pages.checks.suspects import Suspect, SuspectsData, render_suspects, write_suspects
from tests.pages.samples import HOSTILE, NAN, has_numbers_only, headings, loads_nothing, pictures, text

PAIRS = [("shirt", "coat", 1200), ("coat", "shirt", 300)]
BAR = re.compile(r'<svg class="bar" [^>]*aria-label="([^"]*)"><title>[^<]*</title><line x1="0" x2="([\d.]+)%"')


def suspect(label: str = "coat", suggested: str = "shirt", source: str = "photos/1.jpg", **changes: Any) -> Suspect:
    return replace(Suspect(Image.new("RGB", (28, 28)), label, suggested, 0.021, 0.934, source), **changes)


def data(**changes: Any) -> SuspectsData:
    sample = SuspectsData("Title", "3 % may be wrong.", [], [suspect()], 112, 3600, PAIRS, [], [])
    return replace(sample, **changes)


def test_names_from_users_are_escaped() -> None:
    for hostile in (HOSTILE, "a & b"):
        one = suspect(hostile, hostile, hostile)
        facts = [(hostile, hostile)]
        page = render_suspects(
            SuspectsData(hostile, hostile, [hostile], [one], 1, 2, [(hostile, hostile, 1)], facts, [hostile])
        )
        assert loads_nothing(page)
        assert text(page).count(hostile) >= 11
    assert "a & b" not in page


def test_the_verdict_and_the_number_of_suspects() -> None:
    shown = text(render_suspects(data(sentences=["Most are shirts.", "See the file."])))
    assert "3 % may be wrong. Most are shirts. See the file. 112 of 3,600 examined images (3.1 %)." in shown


def test_each_picture_shows_its_label_and_the_suggested_label() -> None:
    page = render_suspects(
        data(
            suspects=[
                suspect(),
                suspect("bag", "boot", "photos/2.jpg", label_probability=0.4, suggested_probability=0.6),
            ]
        )
    )
    assert len(pictures(page)) == 2
    assert "is labelled coat (2 %) ; looks like shirt (93 %) photos/1.jpg" in text(page)
    assert "is labelled bag (40 %) ; looks like boot (60 %) photos/2.jpg" in text(page)
    assert 'alt="An image labelled bag that looks like boot"' in page


def test_the_order_is_kept() -> None:
    page = render_suspects(data(suspects=[suspect(source=f"{i}.jpg") for i in (3, 1, 2)]))
    assert re.findall(r'file">(\d).jpg', page) == ["3", "1", "2"]


def test_a_long_file_name_can_wrap() -> None:
    page = render_suspects(data(suspects=[suspect(source="x" * 300)]))
    assert f'<span class="range file">{"x" * 300}</span>' in page
    assert re.search(r"\.file \{[^}]*overflow-wrap: anywhere", page)


def test_without_a_file_name_there_is_no_line_for_it() -> None:
    assert 'class="range file"' not in render_suspects(data(suspects=[suspect(source="")]))


def test_the_number_of_suspects_that_are_shown() -> None:
    assert "1 of 112 suspects; the CSV file lists all." in text(render_suspects(data()))
    assert "the CSV file lists all." not in text(render_suspects(data(total=1)))


def test_the_bar_of_a_pair_shows_its_number() -> None:
    page = render_suspects(data())
    assert "Labelled Looks like Suspects shirt coat 1,200 coat shirt 300" in text(page)
    assert BAR.findall(page) == [("1,200 images", "100.0"), ("300 images", "25.0")]
    assert "most frequent of" not in text(page)


def test_two_hundred_labels_with_long_names() -> None:
    names = [f"a class with quite a long name, number {i:03}" for i in range(200)]
    pairs = [(name, names[i - 1], 400 - i) for i, name in enumerate(names)]
    suspects = [suspect(name, names[i - 1], f"{name}.jpg") for i, name in enumerate(names)]
    page = render_suspects(data(pairs=pairs, suspects=suspects, total=200))
    assert "The 30 most frequent of 200 pairs." in text(page)
    assert len(BAR.findall(page)) == 30
    assert all(0 <= float(width) <= 100 for _, width in BAR.findall(page))
    assert len(pictures(page)) == 200
    assert all(f"is labelled {name} (2 %)" in text(page) for name in names)
    assert len(page) < 500_000


def test_a_suspect_is_presented_as_a_question() -> None:
    shown = text(render_suspects(data()))
    assert "trained on the other folds only" in shown
    assert "confident learning" in shown
    assert "a question, not a verdict" in shown
    assert "write the correct one into the column label" in shown
    assert "set data.corrections to that file" in shown


def test_empty_sections_are_omitted() -> None:
    page = render_suspects(SuspectsData("Title", "None.", [], [], 0, 0, [], [], []))
    assert headings(page) == ["How to read this page"]
    assert "<svg" not in page
    assert "examined images" not in text(page)


def test_a_missing_number_is_shown_as_a_dash() -> None:
    page = render_suspects(
        data(suspects=[suspect(label_probability=NAN, suggested_probability=NAN)], pairs=[("a", "b", 0)])
    )
    assert has_numbers_only(page)
    assert "is labelled coat (–) ; looks like shirt (–)" in text(page)


def test_the_page_is_written(tmp_path: Path) -> None:
    write_suspects(tmp_path / "suspects.html", data(suspects=[suspect(source="caf\udce9.jpg")]))
    assert "caf?.jpg" in (tmp_path / "suspects.html").read_text(encoding="utf-8")
    with pytest.raises(UserError):
        write_suspects(tmp_path / "missing" / "suspects.html", data())
