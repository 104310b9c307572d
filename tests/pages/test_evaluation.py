"""The evaluation page shows what the evaluation contains, loads nothing, and can show unusual input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith.errors import UserError
from lensmith.pages.evaluation import EvaluationData, Mistake, render_evaluation, write_evaluation
from lensmith.records import ClassResult, CoveragePoint, Estimate, ReliabilityBin
from tests.pages.samples import (
    HOSTILE,
    NAN,
    NO_RATE,
    confidence,
    evaluation,
    has_numbers_only,
    headings,
    loads_nothing,
    pictures,
    rate,
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


def data(**changes: Any) -> EvaluationData:
    empty = EvaluationData("Title", "", [evaluation()], [], [], [], "A verdict.", [])
    return replace(empty, **changes)


def mistake(
    size: tuple[int, int] = (28, 28), mode: str = "RGB", label: str = "coat", probability: float = 0.974
) -> Mistake:
    return Mistake(Image.new(mode, size), label, "shirt", probability)


def full() -> EvaluationData:
    rate = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    detail = evaluation(
        unreadable=[f"{HOSTILE}.png is broken."],
        notes=[HOSTILE],
        calibration={"prior": HOSTILE, "tried": [{"prior": HOSTILE, "chosen": True}]},
        **confidence(),
    )
    return EvaluationData(
        title=HOSTILE,
        question=f"Which?\n{HOSTILE}",
        evaluations=[evaluation(HOSTILE), detail],
        steps=[*({"step": i, "loss": 1 / i} for i in range(1, 200)), {"step": 100, "validation": rate}],
        mistakes=[mistake(label=HOSTILE)],
        facts=[(HOSTILE, HOSTILE)],
        verdict=HOSTILE,
        notes=[HOSTILE],
    )


def test_names_from_users_are_escaped() -> None:
    page = render_evaluation(full())
    assert "<script" not in page
    assert text(page).count(HOSTILE) >= 12
    assert "Q&amp;A &#34;x&#34; &#39;y&#39;" in page
    assert "靴 ع" in page


def test_the_page_loads_nothing() -> None:
    assert loads_nothing(render_evaluation(full()))


def test_the_table_shows_the_metrics_of_each_evaluation() -> None:
    rows = [evaluation("zero-shot", wrong=6), evaluation("tuned", wrong=3)]
    shown = text(render_evaluation(data(evaluations=rows)))
    assert "zero-shot 40.0 % 30.0 to 50.0 % 0.400 0.350 to 0.450 40 1,234.5" in shown
    assert "tuned 70.0 % 60.0 to 80.0 % 0.700 0.650 to 0.750 40 1,234.5" in shown
    assert "The rest of this page is about tuned" in shown
    assert "Top 5" not in shown


def test_top_5_accuracy_is_shown_if_an_evaluation_has_it() -> None:
    rows = [evaluation("pixels"), evaluation("tuned", top5=rate(0.9, 40))]
    shown = text(render_evaluation(data(evaluations=rows)))
    assert "Accuracy Top 5 Macro-F1" in shown
    assert "pixels 70.0 % 60.0 to 80.0 % – 0.700" in shown
    assert "tuned 70.0 % 60.0 to 80.0 % 90.0 % 80.0 to 100.0 % 0.700" in shown


def test_confidence_in_words() -> None:
    shown = text(render_evaluation(data(evaluations=[evaluation(**confidence())])))
    assert "differ by 3.2 points on average" in shown
    assert "more confident than it should be: mean confidence 86.6 %, accuracy 82.6 %." in shown
    assert "If the least confident 10 % of answers are left out, 85.0 % of the others are correct" in shown
    assert "(95 % interval 90.0 to 96.0)." in shown
    assert "with a confidence of at least 55.0 %." in shown
    assert "The vertical axis starts at 90 %." in shown
    assert "were scored exactly" not in shown


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (0.705, "about as confident as it should be"),
        (0.6, "less confident than it could be"),
        (0.8, "more confident than it should be"),
    ],
)
def test_too_confident_or_not_confident_enough(mean: float, words: str) -> None:
    one = evaluation(reliability=[ReliabilityBin(0.5, 1, mean, rate(0.7))])
    shown = text(render_evaluation(data(evaluations=[one])))
    assert words in shown
    assert "expected calibration error" not in shown  # as that is None
    assert "left out" not in shown


def test_a_search_states_how_exact_the_probabilities_are() -> None:
    one = evaluation(data={"hash": "abc", "top": 7}, **confidence())
    shown = text(render_evaluation(data(evaluations=[one])))
    assert (
        "Only the top 7 labels of each image were scored exactly; probabilities are known to within 1 point." in shown
    )


def test_without_probabilities_there_is_no_section_on_confidence() -> None:
    assert "Confidence" not in headings(render_evaluation(data()))


def test_with_few_images_no_tenth_is_left_out() -> None:
    one = evaluation(coverage=[CoveragePoint(1.0, 0.4, rate(0.5, 1))])
    page = render_evaluation(data(evaluations=[one]))
    assert "Confidence" in headings(page)
    assert "left out" not in text(page)


def test_bins_with_missing_numbers_are_omitted() -> None:
    bins = [ReliabilityBin(0, 0.5, NAN, NO_RATE), ReliabilityBin(0.5, 1, NAN, rate(0.5))]
    one = evaluation(calibration_error=NAN, reliability=bins, coverage=[CoveragePoint(0.9, NAN, NO_RATE)])
    page = render_evaluation(data(evaluations=[one]))
    assert has_numbers_only(page)
    assert "Confidence" not in headings(page)


def test_the_calibrations_that_were_tried() -> None:
    page = render_evaluation(data(evaluations=[evaluation(calibration=CALIBRATION)]))
    assert "chosen on 307 validation images" in text(page)
    assert "none 1.00 0.610 86.0 % 7.0 %" in text(page)
    assert "batch used here 1.37 0.542 86.6 % 2.8 %" in text(page)
    assert page.count('class="chosen"') == 1


def test_an_incomplete_calibration_record() -> None:
    page = render_evaluation(data(evaluations=[evaluation(calibration={"prior": "empty", "temperature": 2.0})]))
    assert "Used here: prior empty, temperature 2.00." in text(page)
    page = render_evaluation(data(evaluations=[evaluation(calibration={"tried": [{"prior": "empty"}]})]))
    assert "empty – – – –" in text(page)
    assert has_numbers_only(page)


def test_rows_on_different_images_get_a_warning() -> None:
    same = [evaluation("a", data={"hash": "abc", "top": 5}), evaluation("b")]
    other = [evaluation("a", data={"hash": "other"}), evaluation("b")]
    warning = "not all measured on the same images"
    assert warning not in render_evaluation(data(evaluations=same))
    assert warning in render_evaluation(data(evaluations=other))


def test_the_matrix_counts_unreadable_images() -> None:
    one = evaluation(labels=["a", "b"], confusion=[[7, 2, 1], [0, 10, 0]])
    assert "(unreadable) a 7 2 1 b · 10 ·" in text(render_evaluation(data(evaluations=[one])))


def test_many_classes_show_the_most_frequent_confusions() -> None:
    labels = [f"class {i:02}" for i in range(100)]
    one = evaluation(labels=labels)
    one.confusion[41][17] = 6
    shown = text(render_evaluation(data(evaluations=[one])))
    assert "20 most frequent confusions among 100 classes" in shown
    assert "Percentage class 41 class 17 6 37.5 %" in shown
    assert all(f"{label} 70.0 %" in shown for label in labels)


def test_unreadable_images_are_listed() -> None:
    sentences = [f"photos/{i}.jpg is cut short." for i in range(150)]
    shown = text(render_evaluation(data(evaluations=[evaluation(unreadable=sentences)])))
    assert "150 in total" in shown
    assert sentences[0] in shown
    assert "listed in evaluation.json" in shown


def test_a_file_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "report.html", data(notes=["caf\udce9.jpg is broken."]))
    assert "caf?.jpg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_unwritable_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_evaluation(tmp_path / "missing" / "report.html", data())


def test_empty_sections_are_omitted() -> None:
    page = render_evaluation(data(evaluations=[]))
    assert "<svg" not in page
    assert headings(page) == ["How to read this page"]


def test_an_evaluation_without_classes() -> None:
    nothing = Estimate(NAN, NAN, NAN)
    page = render_evaluation(data(evaluations=[evaluation(classes=[], confusion=[], labels=[], macro_f1=nothing)]))
    assert has_numbers_only(page)
    assert "Results by class" not in headings(page)


def test_a_missing_number_is_shown_as_a_dash() -> None:
    nothing = Estimate(NAN, NAN, NAN)
    one = evaluation(accuracy=NO_RATE, top5=NO_RATE, macro_f1=nothing, classes=[ClassResult("a", NO_RATE, NAN, NAN)])
    page = render_evaluation(data(evaluations=[one], mistakes=[mistake(probability=NAN)]))
    assert has_numbers_only(page)
    assert "tuned – – – 0 1,234.5" in text(page)
    assert "predicted: shirt (–)" in text(page)


def test_a_thousand_classes() -> None:
    labels = [f"class {i:03}" for i in range(1000)]
    page = render_evaluation(data(evaluations=[evaluation(labels=labels, **confidence())]))
    shown = text(page)
    assert all(f"{label} 70.0 %" in shown for label in labels)
    assert len(page) < 2_000_000


@pytest.mark.parametrize("steps", [[{"step": 1, "loss": 2.0}], [{"step": 0, "loss": 0.0}]])
def test_a_curve_of_one_point(steps: list[dict[str, Any]]) -> None:
    page = render_evaluation(data(steps=steps, evaluations=[]))
    assert page.count("<circle") == 1
    assert has_numbers_only(page)


def test_a_log_with_repeated_steps_and_missing_numbers() -> None:
    steps = [
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": float("nan")},
        {"step": 2, "validation": None},
        {"step": 1, "loss": 3.0},
        {"step": 3, "loss": 1.0},
    ]
    page = render_evaluation(data(steps=steps))
    assert "Training loss: 3 at step 1, 1 at step 3" in page
    assert "Validation accuracy" not in page


def test_pictures_are_embedded_at_a_visible_size() -> None:
    sizes = [(28, 28), (1, 50), (200, 100), (900, 500)]
    page = render_evaluation(data(mistakes=[mistake(size) for size in sizes]))
    images = pictures(page)
    assert [image.format for image in images] == ["PNG"] * 4
    assert [image.size for image in images] == [(112, 112), (2, 100), (200, 100), (256, 142)]
    assert "label: coat predicted: shirt (97 %)" in text(page)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_every_mode(mode: str) -> None:
    assert pictures(render_evaluation(data(mistakes=[mistake(mode=mode)])))[0].size == (112, 112)


def test_small_pictures_keep_their_pixels() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 0, 0))
    (shown,) = pictures(render_evaluation(data(mistakes=[Mistake(image, "a", "b", 0.5)])))
    assert sorted(shown.getcolors() or []) == [(48 * 48, (0, 0, 0)), (48 * 48, (255, 0, 0))]


def test_without_unreadable_images_the_matrix_has_no_column_for_them() -> None:
    one = evaluation(labels=["a", "b"], confusion=[[7, 3, 0], [0, 10, 0]])
    assert "a 7 3 b · 10 " in text(render_evaluation(data(evaluations=[one])))
    assert "a 7 3 · b" not in text(render_evaluation(data(evaluations=[one])))
