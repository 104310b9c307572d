"""Comparing two classifiers: the verdict, its sentence, and what can't be compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith.errors import UserError
from lensmith.measure.metrics import accuracy, mcnemar, paired_difference
from lensmith.measure.paired import class_hint, compare, compare_all, grouped_difference, images_needed, power_hint
from lensmith.records import Prediction


def answers(outcomes: str) -> list[Prediction]:
    """Predictions, one per character: `+` correct, `-` incorrect, `x` unreadable."""
    predicted = {"+": "cat", "-": "dog", "x": None}
    return [
        Prediction(f"image {i}", "cat", predicted[c], error="truncated" if c == "x" else None)
        for i, c in enumerate(outcomes)
    ]


def pair(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[Prediction], list[Prediction]]:
    first = "+" * both + "+" * only_first + "-" * only_second + "-" * neither
    second = "+" * both + "-" * only_first + "+" * only_second + "-" * neither
    return answers(first), answers(second)


def test_better_and_worse_are_about_the_second_classifier() -> None:
    pixels, tuned = pair(1500, 128, 230, 142)
    comparison = compare("pixels", pixels, "tuned", tuned)
    assert comparison.sentence == (
        "tuned is better than pixels: 86.5 % against 81.4 %, a difference of 5.1 points (3.3 to 6.9), "
        "p < 0.001, on the same 2,000 images."
    )
    assert (comparison.verdict, comparison.n, len(comparison.lost), len(comparison.gained)) == (
        "better",
        2000,
        128,
        230,
    )
    back = compare("tuned", tuned, "pixels", pixels)
    assert back.verdict == "worse"
    assert back.sentence == (
        "pixels is worse than tuned: 81.4 % against 86.5 %, a difference of -5.1 points (-6.9 to -3.3), "
        "p < 0.001, on the same 2,000 images."
    )


def test_with_too_few_images_the_number_needed_is_reported() -> None:
    comparison = compare("zero-shot", pair(68, 40, 56, 36)[0], "tuned", pair(68, 40, 56, 36)[1])
    assert comparison.sentence == (
        "200 images can't tell tuned from zero-shot: 62.0 % against 54.0 %, a difference of 8.0 points (-1.6 to 17.5), "
        "p = 0.125. About 590 images would show a difference of this size."
    )
    assert comparison.needed == images_needed(0.08, 0.48) == 587


def test_for_a_tie_the_detectable_difference_is_reported() -> None:
    first, second = pair(88, 20, 20, 72)
    comparison = compare("a", first, "b", second)
    assert (comparison.verdict, comparison.p, comparison.needed) == ("can't tell", 1.0, None)
    assert comparison.sentence == (
        "200 images can't tell b from a: both 54.0 %. "
        "With 200 images, a difference must be about 8.8 points to be detected with 80 % probability."
    )
    # Two discordant images can't show a difference: p is at least 0.5.
    first, second = pair(198, 1, 1, 0)
    assert "about 3.9 points" in compare("a", first, "b", second).sentence


def test_the_same_answers() -> None:
    same = answers("++-x")
    comparison = compare("a", same, "b", list(same))
    assert comparison.sentence == "4 images can't tell b from a: both 50.0 %. They are correct on the same images."
    assert (comparison.lost, comparison.gained, comparison.p, comparison.verdict) == ([], [], 1.0, "can't tell")
    assert "1 image can't tell b from a: both 100.0 %." in compare("a", answers("+"), "b", answers("+")).sentence


def test_with_few_images_no_number_below_the_present_one_is_reported() -> None:
    # Five of five: p is 0.0625, although the formula gives four images.
    comparison = compare("a", answers("-----"), "b", answers("+++++"))
    assert comparison.verdict == "can't tell"
    assert comparison.sentence.endswith("p = 0.062. More images would be needed to show a difference of this size.")
    assert compare("a", answers("------"), "b", answers("++++++")).verdict == "better"


def test_a_difference_too_small_to_show_has_no_sign() -> None:
    first, second = pair(5000, 1, 0, 0)
    sentence = compare("a", first, "b", second).sentence
    assert "100.0 % against 100.0 %, a difference of 0.0 points (-0.1 to 0.0), p = 1.000." in sentence


def test_a_p_value_close_to_the_level_is_shown_on_its_side() -> None:
    for only_first, only_second in ((10, 22), (25, 42), (117, 150), (188, 229)):
        first, second = pair(1000, only_first, only_second, 100)
        comparison = compare("a", first, "b", second)
        shown = float(re.findall(r"p = ([0-9.]+[0-9])", comparison.sentence)[0])
        assert (shown < 0.05) == (comparison.verdict == "better")


@given(st.lists(st.sampled_from(["++", "+-", "-+", "--", "x+", "-x", "xx"]), min_size=1, max_size=60), st.integers())
def test_swapping_and_shuffling(rows: list[str], seed: int) -> None:
    first, second = answers("".join(r[0] for r in rows)), answers("".join(r[1] for r in rows))
    comparison, back = compare("a", first, "b", second), compare("b", second, "a", first)
    assert comparison.difference.value == -back.difference.value
    assert (comparison.lost, comparison.gained) == (back.gained, back.lost)
    assert (comparison.p, comparison.needed) == (back.p, back.needed)
    assert {"better": "worse", "worse": "better"}.get(comparison.verdict, comparison.verdict) == back.verdict
    assert (comparison.verdict != "can't tell") == (comparison.p < 0.05)
    assert comparison.p == mcnemar([r[0] == "+" for r in rows], [r[1] == "+" for r in rows])
    assert comparison.difference == paired_difference(
        rows.count("+-") + rows.count("+x"), len(comparison.gained), len(rows)
    )
    assert (comparison.accuracy_first, comparison.accuracy_second) == (accuracy(first), accuracy(second))
    assert comparison.difference.value == pytest.approx(
        comparison.accuracy_second.accuracy - comparison.accuracy_first.accuracy
    )
    assert "-0.0" not in comparison.sentence
    shuffled = list(second)
    Random(seed).shuffle(shuffled)
    assert compare("a", first, "b", shuffled) == comparison


def refused(first: list[Prediction], second: list[Prediction]) -> UserError:
    with pytest.raises(UserError) as caught:
        compare("zero-shot", first, "tuned", second)
    assert caught.value.hint
    return caught.value


def test_an_empty_list_is_refused() -> None:
    assert refused([], answers("+")).what == "zero-shot has no predictions, so there is nothing to compare."
    assert refused(answers("+"), []).what == "tuned has no predictions, so there is nothing to compare."


def test_repeated_ids_are_refused() -> None:
    assert refused(answers("++"), answers("++") * 2).what == "tuned has 2 ids more than once, such as 'image 0'."
    assert "1 id more than once" in refused(answers("+") * 3, answers("+")).what


def test_other_images_are_refused() -> None:
    assert refused(answers("+++")[1:], answers("+++")[:2]).what == (
        "zero-shot scored 2 images and tuned 2, and they have 1 in common: "
        "'image 2' is only in zero-shot, 'image 0' is only in tuned."
    )
    assert refused(answers("+++"), answers("+")).what == (
        "zero-shot scored 3 images and tuned 1, and they have 1 in common: 'image 1' is only in zero-shot."
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda p: replace(p, label="mouse"),
            "The true label differs for 1 of 2 images, such as 'image 1': 'cat' for zero-shot, 'mouse' for tuned.",
        ),
        (lambda p: replace(p, label=None), "1 of 2 images of tuned have no true label, such as 'image 1'."),
    ],
)
def test_different_or_missing_labels_are_refused(change: Callable[[Prediction], Prediction], what: str) -> None:
    first, second = answers("++"), answers("+-")
    second[1] = change(second[1])
    assert refused(first, second).what == what


def test_several_comparisons_are_adjusted_for_their_number() -> None:
    first, close = pair(100, 10, 24, 66)
    names, lists = ["zero-shot", "a", "b", "c"], [first, close, list(close), list(first)]
    alone = compare("zero-shot", first, "a", close)
    assert alone.verdict == "better"
    assert 0.017 < alone.p < 0.025
    comparison = compare_all(names, lists)
    assert [c.second for c in comparison] == ["a", "b", "c"]
    assert {c.first for c in comparison} == {"zero-shot"}
    assert [c.p for c in comparison] == pytest.approx([3 * alone.p, 3 * alone.p, 1.0])
    assert [c.verdict for c in comparison] == ["can't tell"] * 3
    assert "p = 0.073 adjusted for 3 comparisons. About" in comparison[0].sentence
    assert comparison[0].difference == alone.difference
    assert compare_all(names[:2], lists[:2]) == [alone]
    many = compare_all(["zero-shot", "a", "b"], [answers("-" * 40), answers("+" * 40), answers("+" * 20 + "-" * 20)])
    assert many[0].sentence.endswith("p < 0.001 adjusted for 2 comparisons, on the same 40 images.")


def test_a_single_run_is_not_compared() -> None:
    with pytest.raises(UserError, match="fewer than two"):
        compare_all(["a"], [answers("+")])
    with pytest.raises(ValueError, match="2 names for 1 lists"):
        compare_all(["a", "b"], [answers("+")])


def test_the_hint_before_a_run() -> None:
    assert power_hint(2000) == (
        "2,000 test images can show an accuracy to within 2.2 points, and a difference between two models from about "
        "2.8 points on."
    )
    assert power_hint(1).startswith("1 test image can show ")
    with pytest.raises(UserError, match="no images"):
        power_hint(0)


def test_a_difference_within_few_groups_is_not_one_of_many_images() -> None:
    first, second = pair(200, 10, 40, 50)
    assert compare("a", first, "b", second).verdict == "better"
    # All images that the second gains are of two houses.
    houses = [f"house {i // 50 if i >= 200 else 10 + i // 5}" for i in range(300)]
    first, second = ([replace(p, group=house) for p, house in zip(run, houses, strict=True)] for run in (first, second))
    comparison = compare("a", first, "b", second)
    assert comparison.verdict == "can't tell"
    assert comparison.p >= 0.05
    assert comparison.difference.low < 0 < comparison.difference.high
    assert (comparison.needed or 0) > 300


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 30)), min_size=1, max_size=60))
def test_groups_of_one_image_agree_with_mcnemar(rows: list[tuple[int, int]]) -> None:
    changes = [change for change, _ in rows]
    estimate, p, effect = grouped_difference(changes, [str(i) for i in range(len(rows))])
    assert effect >= 1
    assert estimate.low <= estimate.value <= estimate.high
    exact = mcnemar([c < 0 for c in changes], [c > 0 for c in changes])
    assert abs(p - exact) < 0.03
    _, p, _ = grouped_difference(changes, [str(house) for _, house in rows])
    assert 0 < p <= 1


def test_classes_with_few_test_images_are_said() -> None:
    assert class_hint(["a"] * 20 + ["b"] * 30) == ""
    hint = class_hint(["a"] * 5 + ["b"] * 19 + ["c"] * 400)
    assert hint.startswith("2 of 3 classes have fewer than 20 test images")
    points = float(re.search(r"within ([\d.]+) points", hint)[1])  # type: ignore[index]
    assert 30 < points < 45
