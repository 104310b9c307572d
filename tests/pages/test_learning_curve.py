"""The learning curve shows each model, what the law makes of them, and where it begins to guess."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensmith.errors import UserError
from lensmith.pages.charts import axes
from lensmith.pages.learning_curve import CurveData, Line, render_curve, write_curve
from tests.pages.samples import HOSTILE, NAN, has_numbers_only, headings, loads_nothing, text

POINTS = [(100, 0.60), (100, 0.64), (1000, 0.80), (1000, 0.82), (10_000, 0.90)]
BAND = [(100.0, 0.58, 0.62, 0.66), (1000.0, 0.78, 0.8, 0.82), (100_000.0, 0.88, 0.94, 1.0)]
POLYGON = re.compile(r'<polygon points="([^"]*)" fill="var\(--(\w+)\)" fill-opacity="([\d.]+)"')
LINE = re.compile(
    r'<polyline points="([^"]*)" fill="none" stroke="var\(--(\w+)\)"[^>]*? stroke-width="\d+"( stroke-dash)?'
)


def line(name: str = "probe", **changes: Any) -> Line:
    made = Line(name, POINTS, BAND, f"The forecast of {name}.", f"The check of {name}.", "error = 0.1 + 2 n^-0.45")
    return replace(made, **changes)


def data(*lines: Line, **changes: Any) -> CurveData:
    return replace(CurveData("Title", "Twice the labels bring 2 points.", list(lines), 2000, [], []), **changes)


def dots(page: str) -> list[tuple[float, float]]:
    """Where the dots of the first line are, in percent from the left and from the top."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)%" r="3.5"', page)][:-1]


def places(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_nothing_a_user_names_becomes_markup() -> None:
    for hostile in (HOSTILE, "a & b"):
        one = Line(hostile, POINTS, BAND, f"It is {hostile}", hostile, hostile)
        page = render_curve(CurveData(hostile, hostile, [one, one], 10, [(hostile, hostile)], [hostile]))
        assert loads_nothing(page)
        assert text(page).count(hostile) >= 14
    assert "a & b" not in page


def test_every_line_says_its_forecast_its_check_and_its_law() -> None:
    shown = text(render_curve(data(line("probe"), line("lora"))))
    for name in ("probe", "lora"):
        said = f"{name}: The forecast of {name}. The check of {name}. The law: error = 0.1 + 2 n^-0.45, n being"
        assert said in shown


def test_what_a_line_does_not_say_is_left_out() -> None:
    page = render_curve(data(line(check="", law="", sentence="")))
    assert "The law" not in text(page)
    assert "What the line says probe Size by size" in text(page)
    assert "The law: x, n being" in text(render_curve(data(line(check="", law="x"))))


def test_a_forecast_that_is_the_verdict_is_said_once() -> None:
    page = render_curve(data(line(sentence="Said once."), verdict="Said once."))
    assert text(page).count("Said once.") == 1
    assert "What the line says probe The check of probe." in text(page)


def test_the_table_has_means_and_extremes() -> None:
    shown = text(render_curve(data(line(), line("lora", points=[(100, 0.5), (500, 0.7)]))))
    assert "Training images probe lora" in shown
    assert "100 62.0 % 60.0 to 64.0 % 50.0 % 500 – 70.0 % 1,000 81.0 % 80.0 to 82.0 % – 10,000 90.0 % –" in shown


def test_each_model_has_its_dot() -> None:
    found = dots(render_curve(data(line())))
    assert len(found) == len(POINTS)
    heights = [y for _, y in found]
    assert heights == sorted(heights, reverse=True)
    assert all(0 <= share <= 100 for spot in found for share in spot)


def test_equal_ratios_of_images_are_equal_distances() -> None:
    found = dots(render_curve(data(line())))
    across = sorted({x for x, _ in found})
    assert across[0] == 0
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.02)
    assert across[2] == pytest.approx(100 * 2 / 3, abs=0.02)  # the band reaches one ratio further


def test_the_band_is_fainter_and_its_middle_dashed_beyond_the_last_size() -> None:
    page = render_curve(data(line()))
    (inside, beyond) = [(places(points), float(opacity)) for points, _, opacity in POLYGON.findall(page)]
    assert inside[1] > beyond[1]
    (solid, dashed) = [(places(points), bool(dash)) for points, _, dash in LINE.findall(page)]
    assert (solid[1], dashed[1]) == (False, True)
    assert solid[0][-1] == dashed[0][0]
    assert solid[0][-1][0] == pytest.approx(100 * 2 / 3, abs=0.02)
    # Half way by ratio from 1,000 to 100,000, so half way from 80 to 94 %; the axis goes from 50 to 100 %.
    assert re.findall(r'x="-8".*?>(\d+)<', page) == ["50", "60", "70", "80", "90", "100"]
    assert solid[0][-1][1] == pytest.approx(100 * (100 - 87) / 50, abs=0.02)
    assert max(x for x, _ in inside[0]) == min(x for x, _ in beyond[0])


def test_a_band_that_has_the_last_size_is_cut_there() -> None:
    band = [*BAND[:2], (10_000.0, 0.85, 0.9, 0.95), BAND[2]]
    page = render_curve(data(line(band=band)))
    (solid, dashed) = [places(points) for points, _, _ in LINE.findall(page)]
    assert solid[-1] == dashed[0]
    assert solid[-1][1] == pytest.approx(100 * 10 / 50, abs=0.02)


def test_lines_differ_by_colour_and_by_mark() -> None:
    names = [f"line {i}" for i in range(5)]
    page = render_curve(data(*map(line, names)))
    chart = page[page.index("<figure>") : page.index("</figure>")]
    colours = [colour for _, colour, dash in LINE.findall(chart) if not dash]
    assert colours == ["accent", "second", "third", "fourth", "accent"]
    looks = re.findall(r'<svg class="sample" aria-hidden="true">(.*?)</svg>(?:</svg>)?<b>(.*?)</b>', page)
    assert [name for _, name in looks] == names
    assert len({look for look, _ in looks}) == 5
    assert len({str(axes.mark(0.5, 0.5, kind, "accent")) for kind in range(4)}) == 4
    style = page[: page.index("</style>")]
    assert all(style.count(f"--{colour}:") == 2 for colour in colours)  # light and dark


def test_names_stand_at_the_ends_of_their_lines() -> None:
    page = render_curve(data(line("probe"), line("lora", band=[])))
    found = re.findall(r'<text class="tag main" x="([\d.]+)%" .*?fill="var\(--(\w+)\)">(.*?)<', page)
    assert found == [("100.0", "accent", "probe"), ("66.67", "second", "lora")]


def test_without_a_law_the_line_is_the_mean() -> None:
    page = render_curve(data(line(band=[])))
    assert not POLYGON.search(page)
    ((points, _, dash),) = LINE.findall(page)
    assert sorted({x for x, _ in places(points)}) == pytest.approx([0, 50, 100])
    assert not dash
    assert "Line: their mean." in text(page)
    assert "power law" not in text(page)


def test_how_far_to_trust_it() -> None:
    shown = text(render_curve(data(line())))
    assert "scored once on the same 2,000 test images, and nothing was chosen by them" in shown
    assert "the larger has all images of the smaller" in shown
    assert "90 % band" in shown
    assert "beyond ten times the largest size is a guess" in shown


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("images", [1, 3, 100, 123_456])
def test_one_point(images: int, accuracy: float) -> None:
    page = render_curve(data(line(points=[(images, accuracy)], band=[])))
    ((x, y),) = dots(page)
    assert x == pytest.approx(50, abs=0.1)
    assert 0 <= y <= 100
    assert not LINE.search(page)
    assert has_numbers_only(page)
    assert "Line: their mean" not in text(page)


@pytest.mark.parametrize(
    ("ends", "few", "labels", "minor"),
    [
        ((100, 3000), 5, ["100", "200", "500", "1,000", "2,000"], []),
        ((100, 20_000), 5, ["100", "1,000", "10,000"], ["200", "500", "2,000", "5,000", "20,000"]),
        ((1, 10**9), 5, ["1", "100", "10,000", "1,000,000", "100,000,000"], []),
        ((2e-4, 5e-3), 3, ["0.0002", "0.001", "0.005"], ["0.0005", "0.002"]),
        ((3, 4), 5, ["3", "4"], []),
        ((100, 100), 5, ["50", "100", "200"], []),
    ],
)
def test_labels_of_a_logarithmic_axis(ends: tuple[float, float], few: int, labels: list[str], minor: list[str]) -> None:
    axis = axes.logarithmic(ends, few)
    assert [label for _, label in axis.ticks] == labels
    assert [label for _, label in axis.minor] == minor
    assert [axis.at(axis.low), axis.at(axis.high)] == [0, 1]


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.86, 0.88], (0.86, 0.88)),
        ([0.52, 0.91], (0.5, 1)),
        ([0.1, 0.9], (0, 1)),
        ([1.0], (0.99, 1)),
        ([0], (0, 0.01)),
    ],
)
def test_a_zoomed_axis_holds_all_values(values: list[float], ends: tuple[float, float]) -> None:
    axis = axes.zoomed(values)
    assert (axis.low, axis.high) == pytest.approx(ends)
    assert len(axis.ticks) <= 6


def test_empty_parts_are_left_out() -> None:
    page = render_curve(data())
    assert headings(page) == ["How to read this"]
    assert "<svg" not in page
    page = render_curve(data(line(points=[], band=[]), measured=0))
    assert headings(page) == ["What the line says", "How to read this"]
    assert "on the same test images" in text(page)


def test_what_is_not_a_number_is_not_drawn() -> None:
    odd = line(points=[(100, NAN), (0, 0.5), (200, 0.6)], band=[(100.0, NAN, NAN, NAN), *BAND])
    page = render_curve(data(odd))
    assert has_numbers_only(page)
    assert len(dots(page)) == 1


def test_it_is_written(tmp_path: Path) -> None:
    write_curve(tmp_path / "curve.html", data(line(), notes=["caf\udce9"]))
    assert "caf?" in (tmp_path / "curve.html").read_text(encoding="utf-8")
    with pytest.raises(UserError):
        write_curve(tmp_path / "missing" / "curve.html", data())
