"""The report says what the evaluation says, loads nothing from elsewhere, and survives every odd input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith.errors import UserError
from lensmith.pages.evaluation import Mistake, ReportData, render, write_report
from lensmith.records import ClassResult, CoveragePoint, Estimate, ReliabilityBin
from tests.pages.samples import (
    HOSTILE,
    NAN,
    NO_RATE,
    evaluation,
    has_numbers_only,
    headings,
    loads_nothing,
    pictures,
    rate,
    sureness,
    text,
)

CALIBRATION = {
    "prior": "batch",
    "temperature": 1.37,
    "n": 307,
    "split": "validation",
    "tried": [
        {
            "prior": "none",
            "temperature": 1.0,
            "log_loss": 0.61,
            "accuracy": 0.86,
            "calibration_error": 0.07,
            "chosen": False,
        },
        {
            "prior": "batch",
            "temperature": 1.37,
            "log_loss": 0.542,
            "accuracy": 0.866,
            "calibration_error": 0.028,
            "chosen": True,
        },
    ],
}


def report(**changes: Any) -> ReportData:
    empty = ReportData("Title", "", [evaluation()], [], [], [], "A verdict.", [])
    return replace(empty, **changes)


def mistake(
    size: tuple[int, int] = (28, 28), mode: str = "RGB", label: str = "coat", probability: float = 0.974
) -> Mistake:
    return Mistake(Image.new(mode, size), label, "shirt", probability)


def full() -> ReportData:
    rate = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    detail = evaluation(
        unreadable=[f"{HOSTILE}.png is broken."],
        notes=[HOSTILE],
        calibration={"prior": HOSTILE, "tried": [{"prior": HOSTILE, "chosen": True}]},
        **sureness(),
    )
    return ReportData(
        title=HOSTILE,
        question=f"Which?\n{HOSTILE}",
        evaluations=[evaluation(HOSTILE), detail],
        steps=[*({"step": i, "loss": 1 / i} for i in range(1, 200)), {"step": 100, "validation": rate}],
        mistakes=[mistake(label=HOSTILE)],
        facts=[(HOSTILE, HOSTILE)],
        verdict=HOSTILE,
        notes=[HOSTILE],
    )


def test_nothing_a_user_names_becomes_markup() -> None:
    page = render(full())
    assert "<script" not in page
    assert text(page).count(HOSTILE) >= 12
    assert "Q&amp;A &#34;x&#34; &#39;y&#39;" in page
    assert "靴 ع" in page


def test_it_loads_nothing_from_elsewhere() -> None:
    assert loads_nothing(render(full()))


def test_the_table_says_what_the_evaluation_says() -> None:
    rows = [evaluation("zero-shot", wrong=6), evaluation("tuned", wrong=3)]
    shown = text(render(report(evaluations=rows)))
    assert "zero-shot 40.0 % 30.0 to 50.0 % 0.400 0.350 to 0.450 40 1,234.5" in shown
    assert "tuned 70.0 % 60.0 to 80.0 % 0.700 0.650 to 0.750 40 1,234.5" in shown
    assert "The rest of this page is about tuned" in shown
    assert "Top 5" not in shown


def test_the_five_best_count_where_there_are_more_classes() -> None:
    rows = [evaluation("pixels"), evaluation("tuned", top5=rate(0.9, 40))]
    shown = text(render(report(evaluations=rows)))
    assert "Accuracy Top 5 Macro-F1" in shown
    assert "pixels 70.0 % 60.0 to 80.0 % – 0.700" in shown
    assert "tuned 70.0 % 60.0 to 80.0 % 90.0 % 80.0 to 100.0 % 0.700" in shown


def test_how_sure_it_is_in_words() -> None:
    shown = text(render(report(evaluations=[evaluation(**sureness())])))
    assert "differ by 3.2 points on average" in shown
    assert "surer than it should be: 86.6 % sure, 82.6 % right." in shown
    assert "If it may leave out the least sure 10 %, 85.0 % of the rest are right (90.0 to 96.0)." in shown
    assert "at least 55.0 % sure of" in shown
    assert "The upright axis starts at 90 %." in shown
    assert "were searched for" not in shown


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.705, "about as sure as it should be"), (0.6, "less sure than it could be"), (0.8, "surer than it should be")],
)
def test_which_way_it_is_unsure(confidence: float, words: str) -> None:
    one = evaluation(reliability=[ReliabilityBin(0.5, 1, confidence, rate(0.7))])
    shown = text(render(report(evaluations=[one])))
    assert words in shown
    assert "expected calibration error" not in shown  # as that is None
    assert "leave out" not in shown


def test_a_search_says_how_well_probabilities_are_known() -> None:
    one = evaluation(data={"hash": "abc", "top": 7}, **sureness())
    shown = text(render(report(evaluations=[one])))
    assert "Only the 7 best labels of each image were searched for; probabilities are known within 1 point." in shown


def test_without_probabilities_there_is_no_word_on_confidence() -> None:
    assert "How sure it is" not in headings(render(report()))


def test_a_few_images_can_not_leave_out_a_tenth() -> None:
    one = evaluation(coverage=[CoveragePoint(1.0, 0.4, rate(0.5, 1))])
    page = render(report(evaluations=[one]))
    assert "How sure it is" in headings(page)
    assert "leave out" not in text(page)


def test_bins_without_a_number_are_left_out() -> None:
    bins = [ReliabilityBin(0, 0.5, NAN, NO_RATE), ReliabilityBin(0.5, 1, NAN, rate(0.5))]
    one = evaluation(calibration_error=NAN, reliability=bins, coverage=[CoveragePoint(0.9, NAN, NO_RATE)])
    page = render(report(evaluations=[one]))
    assert has_numbers_only(page)
    assert "How sure it is" not in headings(page)


def test_what_was_tried_to_calibrate() -> None:
    page = render(report(evaluations=[evaluation(calibration=CALIBRATION)]))
    assert "chosen on 307 validation images" in text(page)
    assert "none 1.00 0.610 86.0 % 7.0 %" in text(page)
    assert "batch used here 1.37 0.542 86.6 % 2.8 %" in text(page)
    assert page.count('class="chosen"') == 1


def test_a_calibration_that_says_little() -> None:
    page = render(report(evaluations=[evaluation(calibration={"prior": "empty", "temperature": 2.0})]))
    assert "Used here: prior empty, temperature 2.00." in text(page)
    page = render(report(evaluations=[evaluation(calibration={"tried": [{"prior": "empty"}]})]))
    assert "empty – – – –" in text(page)
    assert has_numbers_only(page)


def test_rows_on_other_images_are_marked() -> None:
    same = [evaluation("a", data={"hash": "abc", "top": 5}), evaluation("b")]
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
    assert headings(page) == ["How to read this"]


def test_an_evaluation_without_classes() -> None:
    nothing = Estimate(NAN, NAN, NAN)
    page = render(report(evaluations=[evaluation(classes=[], confusion=[], labels=[], macro_f1=nothing)]))
    assert has_numbers_only(page)
    assert "Class by class" not in headings(page)


def test_what_is_not_a_number_is_a_dash() -> None:
    nothing = Estimate(NAN, NAN, NAN)
    one = evaluation(accuracy=NO_RATE, top5=NO_RATE, macro_f1=nothing, classes=[ClassResult("a", NO_RATE, NAN, NAN)])
    page = render(report(evaluations=[one], mistakes=[mistake(probability=NAN)]))
    assert has_numbers_only(page)
    assert "tuned – – – 0 1,234.5" in text(page)
    assert "said shirt (–)" in text(page)


def test_a_thousand_classes() -> None:
    labels = [f"class {i:03}" for i in range(1000)]
    page = render(report(evaluations=[evaluation(labels=labels, **sureness())]))
    assert all(f"{label} 70.0 %" in text(page) for label in labels)
    assert len(page) < 2_000_000


@pytest.mark.parametrize("steps", [[{"step": 1, "loss": 2.0}], [{"step": 0, "loss": 0.0}]])
def test_a_curve_of_one_point(steps: list[dict[str, Any]]) -> None:
    page = render(report(steps=steps, evaluations=[]))
    assert page.count("<circle") == 1
    assert has_numbers_only(page)


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


def test_pictures_are_inside_at_a_size_to_be_seen() -> None:
    sizes = [(28, 28), (1, 50), (200, 100), (900, 500)]
    page = render(report(mistakes=[mistake(size) for size in sizes]))
    found = pictures(page)
    assert [image.format for image in found] == ["PNG"] * 4
    assert [image.size for image in found] == [(112, 112), (2, 100), (200, 100), (256, 142)]
    assert "is coat, said shirt (97 %)" in text(page)


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
