"""The learning curve shows each model, the fitted law, and where the forecast begins."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensmith.errors import UserError
from lensmith.pages.charts import drawing
from lensmith.pages.learning_curve import Curve, LearningCurveData, render_learning_curve, write_learning_curve
from tests.pages.samples import HOSTILE, NAN, has_numbers_only, headings, loads_nothing, text

POINTS = [(100, 0.60), (100, 0.64), (1000, 0.80), (1000, 0.82), (10_000, 0.90)]
BAND = [(100.0, 0.58, 0.62, 0.66), (1000.0, 0.78, 0.8, 0.82), (100_000.0, 0.88, 0.94, 1.0)]
POLYGON = re.compile(r'<polygon points="([^"]*)" fill="var\(--(\w+)\)" fill-opacity="([\d.]+)"')
LINE = re.compile(
    r'<polyline points="([^"]*)" fill="none" stroke="var\(--(\w+)\)"[^>]*? stroke-width="\d+"( stroke-dash)?'
)


def curve(name: str = "probe", **changes: Any) -> Curve:
    sample = Curve(name, POINTS, BAND, f"The forecast of {name}.", f"The check of {name}.", "error = 0.1 + 2 n^-0.45")
    return replace(sample, **changes)


def data(*curves: Curve, **changes: Any) -> LearningCurveData:
    return replace(
        LearningCurveData("Title", "Twice the labels bring 2 points.", list(curves), 2000, [], []), **changes
    )


def dots(page: str) -> list[tuple[float, float]]:
    """Where the dots of the first curve are, in percent from the left and from the top."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)%" r="3.5"', page)][:-1]


def positions(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_names_from_users_are_escaped() -> None:
    for hostile in (HOSTILE, "a & b"):
        one = Curve(hostile, POINTS, BAND, f"It is {hostile}", hostile, hostile)
        page = render_learning_curve(
            LearningCurveData(hostile, hostile, [one, one], 10, [(hostile, hostile)], [hostile])
        )
        assert loads_nothing(page)
        assert text(page).count(hostile) >= 14
    assert "a & b" not in page


def test_each_curve_has_its_forecast_its_check_and_its_law() -> None:
    shown = text(render_learning_curve(data(curve("probe"), curve("lora"))))
    for name in ("probe", "lora"):
        summary = (
            f"{name}: The forecast of {name}. The check of {name}. Fitted law: error = 0.1 + 2 n^-0.45, where n is"
        )
        assert summary in shown


def test_missing_sentences_of_a_curve_are_omitted() -> None:
    page = render_learning_curve(data(curve(check="", law="", sentence="")))
    assert "Fitted law" not in text(page)
    assert "What the curve shows probe Results by size" in text(page)
    assert "Fitted law: x, where n is" in text(render_learning_curve(data(curve(check="", law="x"))))


def test_a_forecast_that_is_the_verdict_is_shown_once() -> None:
    page = render_learning_curve(data(curve(sentence="Shown once."), verdict="Shown once."))
    assert text(page).count("Shown once.") == 1
    assert "What the curve shows probe The check of probe." in text(page)


def test_the_table_has_means_and_extremes() -> None:
    shown = text(render_learning_curve(data(curve(), curve("lora", points=[(100, 0.5), (500, 0.7)]))))
    assert "Training images probe lora" in shown
    assert "100 62.0 % 60.0 to 64.0 % 50.0 % 500 – 70.0 % 1,000 81.0 % 80.0 to 82.0 % – 10,000 90.0 % –" in shown


def test_each_model_has_its_dot() -> None:
    points = dots(render_learning_curve(data(curve())))
    assert len(points) == len(POINTS)
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True)
    assert all(0 <= percent <= 100 for point in points for percent in point)


def test_equal_ratios_of_images_are_equal_distances() -> None:
    points = dots(render_learning_curve(data(curve())))
    xs = sorted({x for x, _ in points})
    assert xs[0] == 0
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.02)
    assert xs[2] == pytest.approx(100 * 2 / 3, abs=0.02)  # the band extends one power of ten further


def test_the_band_is_fainter_and_its_middle_dashed_beyond_the_last_size() -> None:
    page = render_learning_curve(data(curve()))
    (inside, beyond) = [(positions(points), float(opacity)) for points, _, opacity in POLYGON.findall(page)]
    assert inside[1] > beyond[1]
    (solid, dashed) = [(positions(points), bool(dash)) for points, _, dash in LINE.findall(page)]
    assert (solid[1], dashed[1]) == (False, True)
    assert solid[0][-1] == dashed[0][0]
    assert solid[0][-1][0] == pytest.approx(100 * 2 / 3, abs=0.02)
    # Halfway from 1,000 to 100,000 on a log scale, so halfway from 80 to 94 %; the axis goes from 50 to 100 %.
    assert re.findall(r'x="-8".*?>(\d+)<', page) == ["50", "60", "70", "80", "90", "100"]
    assert solid[0][-1][1] == pytest.approx(100 * (100 - 87) / 50, abs=0.02)
    assert max(x for x, _ in inside[0]) == min(x for x, _ in beyond[0])


def test_a_band_with_a_row_at_the_last_size_is_divided_there() -> None:
    band = [*BAND[:2], (10_000.0, 0.85, 0.9, 0.95), BAND[2]]
    page = render_learning_curve(data(curve(band=band)))
    (solid, dashed) = [positions(points) for points, _, _ in LINE.findall(page)]
    assert solid[-1] == dashed[0]
    assert solid[-1][1] == pytest.approx(100 * 10 / 50, abs=0.02)


def test_curves_differ_in_colour_and_mark() -> None:
    names = [f"curve {i}" for i in range(5)]
    page = render_learning_curve(data(*map(curve, names)))
    chart = page[page.index("<figure>") : page.index("</figure>")]
    colours = [colour for _, colour, dash in LINE.findall(chart) if not dash]
    assert colours == ["accent", "second", "third", "fourth", "accent"]
    legend = re.findall(r'<svg class="legend-key" aria-hidden="true">(.*?)</svg>(?:</svg>)?<b>(.*?)</b>', page)
    assert [name for _, name in legend] == names
    assert len({key for key, _ in legend}) == 5
    assert len({str(drawing.mark(0.5, 0.5, shape, "accent")) for shape in range(4)}) == 4
    style = page[: page.index("</style>")]
    assert all(style.count(f"--{colour}:") == 2 for colour in colours)  # light and dark


def test_names_are_at_the_ends_of_their_curves() -> None:
    page = render_learning_curve(data(curve("probe"), curve("lora", band=[])))
    names = re.findall(r'<text class="tag main" x="([\d.]+)%" .*?fill="var\(--(\w+)\)">(.*?)<', page)
    assert names == [("100.0", "accent", "probe"), ("66.67", "second", "lora")]


def test_without_a_law_the_line_is_the_mean() -> None:
    page = render_learning_curve(data(curve(band=[])))
    assert not POLYGON.search(page)
    ((points, _, dash),) = LINE.findall(page)
    assert sorted({x for x, _ in positions(points)}) == pytest.approx([0, 50, 100])
    assert not dash
    assert "Line: their mean." in text(page)
    assert "power law" not in text(page)


def test_the_limits_of_the_forecast_are_explained() -> None:
    shown = text(render_learning_curve(data(curve())))
    assert "scored once on the same 2,000 test images, and nothing was chosen by the result" in shown
    assert "the larger contains all images of the smaller" in shown
    assert "90 % band" in shown
    assert "beyond ten times the largest size is a guess" in shown


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("images", [1, 3, 100, 123_456])
def test_one_point(images: int, accuracy: float) -> None:
    page = render_learning_curve(data(curve(points=[(images, accuracy)], band=[])))
    ((x, y),) = dots(page)
    assert x == pytest.approx(50, abs=0.1)
    assert 0 <= y <= 100
    assert not LINE.search(page)
    assert has_numbers_only(page)
    assert "Line: their mean" not in text(page)


def test_empty_sections_are_omitted() -> None:
    page = render_learning_curve(data())
    assert headings(page) == ["How to read this page"]
    assert "<svg" not in page
    page = render_learning_curve(data(curve(points=[], band=[]), measured=0))
    assert headings(page) == ["What the curve shows", "How to read this page"]
    assert "on the same test images" in text(page)


def test_missing_numbers_are_not_drawn() -> None:
    odd = curve(points=[(100, NAN), (0, 0.5), (200, 0.6)], band=[(100.0, NAN, NAN, NAN), *BAND])
    page = render_learning_curve(data(odd))
    assert has_numbers_only(page)
    assert len(dots(page)) == 1


def test_the_page_is_written(tmp_path: Path) -> None:
    write_learning_curve(tmp_path / "curve.html", data(curve(), notes=["caf\udce9"]))
    assert "caf?" in (tmp_path / "curve.html").read_text(encoding="utf-8")
    with pytest.raises(UserError):
        write_learning_curve(tmp_path / "missing" / "curve.html", data())
