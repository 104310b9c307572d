"""The ladder shows the accuracy, time and cost of each method, and which one is recommended."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensmith.errors import UserError
from lensmith.pages.ladder import LadderData, MethodRow, render_ladder, write_ladder
from lensmith.records import Rate
from tests.pages.samples import HOSTILE, NAN, NO_RATE, has_numbers_only, headings, loads_nothing, text

ROW = re.compile(r"<tr( class=\"chosen\")?><th scope=\"row\">(.*?)</tr>", re.DOTALL)
DOT = re.compile(r'<g><title>(.*?), .*?</title>.*?<circle cx="([\d.]+)%" cy="([\d.]+)%"')
NAME = re.compile(
    r'<text class="tag( main)?" x="([\d.]+)%" y="([\d.]+)%" dx="(-?[\d.]+)" dy="(-?\d+)" .*?"(\w+)" .*?>(.*?)<'
)


def rate(accuracy: float, n: int = 600) -> Rate:
    return Rate(accuracy, accuracy - 0.03, accuracy + 0.03, n)


def method(name: str = "probe", seconds: float = 20.0, accuracy: float = 0.85, **changes: Any) -> MethodRow:
    row = MethodRow(name, f"what {name} is", rate(accuracy + 0.01), rate(accuracy, 2000), 3000, seconds, 1.25, 300.5)
    return replace(row, **changes)


METHODS = [
    method("zero-shot", 0, 0.52, labels=0, dollars=0),
    method("probe", 20),
    method("lora", 2000, 0.87, dollars=1301.25),
]


def data(methods: list[MethodRow] = METHODS, chosen: str = "probe", **changes: Any) -> LadderData:
    return replace(LadderData("Title", "Take the probe.", [], methods, chosen, [], []), **changes)


def dots(page: str) -> dict[str, tuple[float, float]]:
    """Positions of the dots in the chart, in percent from the left and from the top."""
    return {m[1].rpartition(" ")[0].rpartition(" ")[0]: (float(m[2]), float(m[3])) for m in DOT.finditer(page)}


def test_names_from_users_are_escaped() -> None:
    for hostile in (HOSTILE, "a & b"):
        named = [method(hostile, about=hostile), method(hostile, 0, about=hostile)]
        facts = [(hostile, hostile)]
        page = render_ladder(LadderData(hostile, hostile, [hostile], named, hostile, facts, [hostile]))
        assert loads_nothing(page)
        assert text(page).count(hostile) >= 10
    assert "a & b" not in page


def test_the_reasons_are_below_the_verdict() -> None:
    shown = text(render_ladder(data(sentences=["Because.", "The test confirmed it: 85.0 %."])))
    assert shown.index("Take the probe.") < shown.index("Because. The test confirmed it: 85.0 %.")


def test_the_table_has_every_number() -> None:
    shown = text(render_ladder(data()))
    assert "zero-shot 52.0 % 49.0 to 55.0 % 53.0 % 50.0 to 56.0 % 0 no training 1.2 s $0.00" in shown
    assert "lora 87.0 % 84.0 to 90.0 % 88.0 % 85.0 to 91.0 % 3,000 33 min 1.2 s $1,301.25" in shown


def test_the_recommended_method_is_marked_in_the_table() -> None:
    marked = [
        (bool(m[1]), "recommended" in m[2], m[2].startswith("probe")) for m in ROW.finditer(render_ladder(data()))
    ]
    assert marked == [(False, False, False), (True, True, True), (False, False, False)]


def test_the_recommended_method_is_circled_in_the_chart() -> None:
    page = render_ladder(data())
    groups = re.findall(r"<g><title>(\w\S*).*?</g>", page)
    rings = re.findall(r'<g><title>([\w-]+)(?:(?!</g>).)*fill="none"(?:(?!</g>).)*</g>', page)
    assert groups == ["zero-shot", "probe", "lora"]
    assert rings == ["probe"]
    assert [m[7] for m in NAME.finditer(page) if m[1]] == ["probe"]


def test_each_method_is_described() -> None:
    shown = text(render_ladder(data()))
    assert "zero-shot what zero-shot is probe what probe is lora what lora is" in shown
    assert "based on the validation images alone. The test images were scored once, afterwards" in shown


def test_equal_ratios_of_time_are_equal_distances() -> None:
    methods = [method("a", 0, 0.5), method("b", 10, 0.6), method("c", 100, 0.7), method("d", 1000, 0.8)]
    at = dots(render_ladder(data(methods)))
    assert at["c"][0] - at["b"][0] == pytest.approx(at["d"][0] - at["c"][0], abs=0.02)
    assert at["a"][0] < 22 < at["b"][0]
    assert at["a"][1] > at["b"][1] > at["c"][1] > at["d"][1]


def test_no_space_for_methods_without_training_if_there_are_none() -> None:
    page = render_ladder(data([method("a", 10), method("b", 1000)]))
    assert ">no training</text>" not in page
    assert dots(page)["a"][0] == 0
    assert ">no training</text>" in render_ladder(data())


@pytest.mark.parametrize("seconds", [0, 0.003, 0.5, 1, 20, 59, 4000, 36e6, 1e9])
@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_a_single_method_stays_inside_the_chart(seconds: float, accuracy: float) -> None:
    page = render_ladder(data([method("one", seconds, test=Rate(accuracy, accuracy, accuracy, 5))]))
    ((x, y),) = dots(page).values()
    assert 0 <= x <= 100
    assert 0 <= y <= 100
    assert has_numbers_only(page)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        ([15, 500], ["10 s", "1 min", "10 min"]),
        ([65, 500], ["1 min", "2 min", "5 min", "10 min"]),
        ([1, 40_000], ["1 s", "1 min", "1 h", "4 days", "10 s", "10 min", "10 h"]),
    ],
)
def test_the_time_axis_has_round_times(seconds: list[float], labels: list[str]) -> None:
    page = render_ladder(data([method(f"{s}", s) for s in seconds]))
    assert re.findall(r'dy="1.5em" text-anchor="middle" fill="var\(--muted\)">(.*?)<', page) == labels


def test_the_accuracy_axis_shows_only_the_range_that_is_needed() -> None:
    page = render_ladder(data([method("a", 5, 0.85), method("b", 50, 0.88)]))
    assert re.findall(r'x="-8".*?>(\d+)<', page) == ["82", "84", "86", "88", "90", "92"]


def test_names_do_not_cover_each_other() -> None:
    methods = [method(f"method {i}", 100 + i, 0.86 - 0.004 * i) for i in range(5)]
    page = render_ladder(data(methods))
    for width in (290, 800):
        boxes = []
        for m in NAME.finditer(page):
            length = 6.6 * len(m[7])
            left = float(m[2]) / 100 * width + float(m[4]) - {"start": 0, "middle": length / 2, "end": length}[m[6]]
            base = float(m[3]) / 100 * 320 + float(m[5])
            boxes.append((left, base - 10, left + length, base + 3))
        assert len(boxes) == 5
        overlaps = [
            (a, b)
            for i, a in enumerate(boxes)
            for b in boxes[i + 1 :]
            if min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
        ]
        assert overlaps == []


def test_long_names_are_shortened_only_in_the_chart() -> None:
    long = "a method whose name goes on and on and does not end"
    page = render_ladder(data([method(long)]))
    (name,) = NAME.finditer(page)
    assert name[7] == "a method whose name goe…"
    assert text(page).count(long) == 3  # in the table, and twice in the descriptions


def test_a_method_that_was_not_tested_shows_its_validation_accuracy_as_a_ring() -> None:
    page = render_ladder(data([method("a", 5), method("b", 50, test=None)], chosen="a"))
    assert "b – not scored 86.0 % 83.0 to 89.0 %" in text(page)
    assert "Rings: accuracy on the validation images, because some methods were not scored" in text(page)
    assert re.search(r"<title>b 86.0 %, 50 s</title><line [^>]*/><circle [^>]*fill=\"var\(--paper\)\"", page)


def test_no_method_was_tested() -> None:
    page = render_ladder(data([method("a", 5, test=None)]))
    assert "Method Validation Labels" in text(page)
    assert "a 86.0 % 83.0 to 89.0 % 3,000" in text(page)
    assert "Dots: accuracy on the test images" not in text(page)
    assert "No test images were scored" in text(page)


def test_without_prices_there_is_no_column_for_the_cost() -> None:
    page = render_ladder(data([method("a", dollars=None)]))
    assert "Cost" not in text(page)
    assert "a 85.0 % 82.0 to 88.0 % 86.0 % 83.0 to 89.0 % 3,000 20 s 1.2 s 0 50 100" in text(page)
    assert "Cost: the cost of making the classifier" in text(render_ladder(data()))


@pytest.mark.parametrize(
    ("dollars", "shown"), [(0, "$0.00"), (0.001, "under $0.01"), (1234.5, "$1,234.50"), (NAN, "–"), (None, "–")]
)
def test_costs_are_in_dollars_and_cents(dollars: float | None, shown: str) -> None:
    page = render_ladder(data([method("other"), method("a", dollars=dollars)]))
    assert f'data-name="cost">{shown}</td>' in page


def test_empty_sections_are_omitted() -> None:
    page = render_ladder(LadderData("Title", "Nothing.", [], [], "", [], []))
    assert headings(page) == ["How to read this page"]
    assert "<svg" not in page


def test_a_missing_number_is_shown_as_a_dash() -> None:
    odd = method("odd", NAN, test=NO_RATE, validation=NO_RATE, per_thousand=NAN, dollars=NAN)
    page = render_ladder(data([odd, method("a", 5)]))
    assert has_numbers_only(page)
    assert "odd – – 3,000 – – –" in text(page)
    assert list(dots(page)) == ["a"]


def test_the_page_is_written(tmp_path: Path) -> None:
    write_ladder(tmp_path / "ladder.html", data(notes=["caf\udce9"]))
    assert "caf?" in (tmp_path / "ladder.html").read_text(encoding="utf-8")
    with pytest.raises(UserError):
        write_ladder(tmp_path / "missing" / "ladder.html", data())
