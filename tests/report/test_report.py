"""The report says what the evaluation says, loads nothing from elsewhere, and survives every odd input."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith import metrics
from lensmith.errors import UserError
from lensmith.records import Evaluation, Prediction, Rate
from lensmith.report import Mistake, ReportData, charts, render, write_report

HOSTILE = "<script>alert(1)</script>"
NAMES = ["coat", HOSTILE, "Q&A \"x\" 'y'", "靴 ع"]


def evaluation(name: str = "tuned", labels: list[str] = NAMES, wrong: int = 3, **changes: Any) -> Evaluation:
    """Ten images of each class; `wrong` of them are taken for the next class."""
    answers = [
        Prediction(f"{i}-{k}", label, labels[(i + (k < wrong)) % len(labels)])
        for i, label in enumerate(labels)
        for k in range(10)
    ]
    counts = metrics.confusion(answers, labels)
    classes = metrics.per_class(counts, labels)
    rate, f1 = metrics.accuracy(answers), metrics.macro_f1(classes)
    return replace(Evaluation(name, rate, f1, classes, counts, labels, {"hash": "abc"}, seconds=1234.5), **changes)


def report(**changes: Any) -> ReportData:
    empty = ReportData("Title", "", [evaluation()], [], [], [], "A verdict.", [])
    return replace(empty, **changes)


def text(page: str) -> str:
    """What a reader sees, words apart by one space."""
    body = page.partition("</style>")[2]
    body = re.sub(r"<title>.*?</title>", "", body)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def mistake(size: tuple[int, int] = (28, 28), mode: str = "RGB", label: str = "coat") -> Mistake:
    return Mistake(Image.new(mode, size), label, "shirt", 0.974)


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def full() -> ReportData:
    rate = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    return ReportData(
        title=HOSTILE,
        question=f"Which?\n{HOSTILE}",
        evaluations=[evaluation(HOSTILE), evaluation(unreadable=[f"{HOSTILE}.png is broken."], notes=[HOSTILE])],
        steps=[*({"step": i, "loss": 1 / i} for i in range(1, 200)), {"step": 100, "validation": rate}],
        mistakes=[mistake(label=HOSTILE)],
        facts=[(HOSTILE, HOSTILE)],
        verdict=HOSTILE,
        notes=[HOSTILE],
    )


def test_nothing_a_user_names_becomes_markup() -> None:
    page = render(full())
    assert "<script" not in page
    assert text(page).count(HOSTILE) >= 10
    assert "Q&amp;A &#34;x&#34; &#39;y&#39;" in page
    assert "靴 ع" in page


def test_it_loads_nothing_from_elsewhere() -> None:
    page = render(full())
    assert not re.search(r"https?://", page)
    assert not re.search(r"<(link|iframe|object|embed|base)\b|@import|url\(", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'\bsrc="([^"]*)"', page))


def test_the_table_says_what_the_evaluation_says() -> None:
    rows = [evaluation("zero-shot", wrong=6), evaluation("tuned", wrong=3)]
    shown = text(render(report(evaluations=rows)))
    assert "zero-shot 40.0 % 26.3 to 55.4 % 40 0.400 1,234.5" in shown
    assert "tuned 70.0 % 54.6 to 81.9 % 40 0.700 1,234.5" in shown
    assert "The rest of this page is about tuned" in shown


def test_rows_on_other_images_are_marked() -> None:
    same = [evaluation("a"), evaluation("b")]
    other = [evaluation("a", data={"hash": "other"}), evaluation("b")]
    warning = "not all measured on the same images"
    assert warning not in render(report(evaluations=same))
    assert warning in render(report(evaluations=other))


def test_the_matrix_counts_images_that_could_not_be_read() -> None:
    one = evaluation(labels=["a", "b"], confusion=[[7, 2, 1], [0, 10, 0]])
    assert "(not readable) a 7 2 1 b · 10 ·" in text(render(report(evaluations=[one])))


def test_many_classes_show_the_most_frequent_confusions() -> None:
    labels = [f"class {i:02}" for i in range(100)]
    one = evaluation(labels=labels)
    one.confusion[41][17] = 6
    shown = text(render(report(evaluations=[one])))
    assert "20 most frequent confusions among 100 classes" in shown
    assert "Share class 41 class 17 6 37.5 %" in shown
    assert all(f"{label} 70.0 %" in shown for label in labels)


def test_unreadable_images_are_listed() -> None:
    sentences = [f"photos/{i}.jpg is cut short." for i in range(150)]
    shown = text(render(report(evaluations=[evaluation(unreadable=sentences)])))
    assert "150 in all" in shown
    assert sentences[0] in shown
    assert "listed in evaluation.json" in shown


def test_a_file_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report(notes=["caf\udce9.jpg is broken."]))
    assert "caf?.jpg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_writing_where_nothing_can_be_written_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_report(tmp_path / "missing" / "report.html", report())


def test_empty_parts_are_left_out() -> None:
    page = render(report(evaluations=[]))
    assert "<svg" not in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["How to read this"]


def test_an_evaluation_without_classes() -> None:
    nothing = evaluation(classes=[], confusion=[], labels=["a"], macro_f1=float("nan"))
    page = render(report(evaluations=[replace(nothing, labels=[])]))
    assert "nan" not in page.partition("</style>")[2].lower()
    assert "Class by class" not in page


@pytest.mark.parametrize("steps", [[{"step": 1, "loss": 2.0}], [{"step": 0, "loss": 0.0}]])
def test_a_curve_of_one_point(steps: list[dict[str, Any]]) -> None:
    page = render(report(steps=steps, evaluations=[]))
    assert page.count("<circle") == 1
    assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)


def test_a_log_that_was_resumed_or_holds_no_numbers() -> None:
    steps = [
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": float("nan")},
        {"step": 2, "validation": None},
        {"step": 1, "loss": 3.0},
        {"step": 3, "loss": 1.0},
    ]
    page = render(report(steps=steps))
    assert "Training loss: 3 at step 1, 1 at step 3" in page
    assert "Validation accuracy" not in page


def test_a_long_loss_curve_is_smoothed_and_small() -> None:
    points = [(i, 1.0 + 8 * (i % 10 == 0)) for i in range(20_000)]
    assert {loss for _, loss in charts.running_median(points)} == {1.0}
    assert len(charts.loss_curve(points, 20_000)) < 50_000


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(2.3, [0, 1, 2, 3]), (0.04, [0, 0.01, 0.02, 0.03, 0.04]), (800, [0, 200, 400, 600, 800]), (0, [0, 0.5, 1])],
)
def test_ticks_are_round_and_reach_the_top(high: float, ticks: list[float]) -> None:
    assert charts.nice_ticks(high) == pytest.approx(ticks)


def test_the_interval_is_drawn_where_it_is() -> None:
    drawn = charts.interval(Rate(0.852, 0.829, 0.873, 1000))
    assert 'x1="82.9%" x2="87.3%"' in drawn
    assert 'cx="85.2%"' in drawn
    assert 'aria-label="85.2 %, 95 % interval 82.9 to 87.3 %"' in drawn


def test_pictures_are_inside_at_a_size_to_be_seen() -> None:
    sizes = [(28, 28), (1, 50), (200, 100), (900, 500)]
    page = render(report(mistakes=[mistake(size) for size in sizes]))
    found = pictures(page)
    assert [image.format for image in found] == ["PNG"] * 4
    assert [image.size for image in found] == [(112, 112), (2, 100), (200, 100), (256, 142)]
    assert "is coat , said shirt (97 %)" in text(page)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_every_kind(mode: str) -> None:
    assert pictures(render(report(mistakes=[mistake(mode=mode)])))[0].size == (112, 112)


def test_small_pictures_keep_their_pixels() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 0, 0))
    (shown,) = pictures(render(report(mistakes=[Mistake(image, "a", "b", 0.5)])))
    assert sorted(shown.getcolors() or []) == [(48 * 48, (0, 0, 0)), (48 * 48, (255, 0, 0))]


def test_the_matrix_has_no_column_for_what_did_not_happen() -> None:
    one = evaluation(labels=["a", "b"], confusion=[[7, 3, 0], [0, 10, 0]])
    assert "a 7 3 b · 10 " in text(render(report(evaluations=[one])))
    assert "a 7 3 · b" not in text(render(report(evaluations=[one])))
