"""The sweep page shows every trial, the options that mattered, and the settings to train with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensmith.errors import UserError
from lensmith.pages.sweep import Finalist, SweepData, Trial, render_sweep, write_sweep
from tests.pages.samples import HOSTILE, NAN, has_numbers_only, headings, loads_nothing, text

RANGES = {
    "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "tune.rank": [8, 16],
    "train.warmup": {"low": 0.0, "high": 0.2, "log": False},
}
GROUP = re.compile(r"<g><title>trial (\d+): [^<]*</title>(.*?)</g>")
SMALL = re.compile(r'<svg class="curve small" [^>]*aria-label="Accuracy by ([^"]*)">(.*?)</figure>', re.DOTALL)
ORDER = re.compile(r'<svg class="curve" [^>]*>(.*?)</figure>', re.DOTALL)


def trial(number: int, accuracy: float | None = 0.8, state: str = "finished", **changes: Any) -> Trial:
    values = {"train.learning_rate": 1e-3, "tune.rank": 16, "train.warmup": 0.1}
    return replace(Trial(number, state, values, accuracy, 1.0), **changes)


def rates(*rates: float) -> list[Trial]:
    """A trial for each learning rate, with all other settings equal."""
    return [trial(i, values={"train.learning_rate": r, "tune.rank": 8}) for i, r in enumerate(rates)]


TRIALS = [
    trial(0, 0.80),
    trial(1, 0.84, values={"train.learning_rate": 2e-3, "tune.rank": 8, "train.warmup": 0.0}),
    trial(2, 0.79, "pruned", fraction=1 / 3),
    trial(3, None, "failed", fraction=0.02),
]
FINALISTS = [Finalist(0, TRIALS[0].values, [0.80, 0.78]), Finalist(1, TRIALS[1].values, [0.84, 0.82, 0.83])]


def data(**changes: Any) -> SweepData:
    sample = SweepData(
        title="Title",
        verdict="Train with rank 8.",
        sentences=[],
        trials=TRIALS,
        importance=[("tune.rank", 0.75), ("train.learning_rate", 0.25)],
        ranges=RANGES,
        finalists=FINALISTS,
        chosen=1,
        validation=600,
        recipe="tune:\n  rank: 8\n",
        facts=[],
        notes=[],
    )
    return replace(sample, **changes)


def positions(body: str) -> dict[int, tuple[float, float]]:
    """Positions of the trials in a chart, in percent from the left and from the top."""
    matches = {
        int(n): re.search(r'(?:cx|svg x)="([\d.]+)%" c?y="([\d.]+)%"', marks) for n, marks in GROUP.findall(body)
    }
    return {n: (float(m[1]), float(m[2])) for n, m in matches.items() if m}


def charts(page: str) -> dict[str, dict[int, tuple[float, float]]]:
    return {name: positions(body) for name, body in SMALL.findall(page)}


def test_names_from_users_are_escaped() -> None:
    for hostile in (HOSTILE, "a & b"):
        values = {hostile: hostile, "list": [hostile]}
        page = render_sweep(
            SweepData(
                title=hostile,
                verdict=hostile,
                sentences=[hostile],
                trials=[Trial(1, hostile, values, 0.5, 1)],
                importance=[(hostile, 1.0)],
                ranges={hostile: [hostile, hostile * 9]},
                finalists=[Finalist(1, values, [0.5])],
                chosen=1,
                validation=10,
                recipe=hostile,
                facts=[(hostile, hostile)],
                notes=[hostile],
            )
        )
        assert loads_nothing(page)
        assert text(page).count(hostile) >= 20
    assert "a & b" not in page


def test_the_verdict_and_its_sentences() -> None:
    shown = text(render_sweep(data(sentences=["Four trials.", "It took 5 %."])))
    assert "Title Train with rank 8. Four trials. It took 5 %." in shown


def test_what_was_searched_and_what_mattered() -> None:
    page = render_sweep(data())
    shown = text(page)
    assert "Option Chosen Importance tune.rank 8, 16 8 75 % train.learning_rate 0.0001 to 0.01, log scale" in shown
    assert "log scale 0.002 25 % train.warmup 0 to 0.2 0 – Bold" in shown
    bars = re.findall(r'aria-label="importance of ([^"]*)">.*?</title>(?:<line x1="0" x2="([\d.]+)%")?', page)
    assert bars == [("tune.rank", "75.0"), ("train.learning_rate", "25.0"), ("train.warmup", "")]


def test_without_importance_there_are_no_bars() -> None:
    page = render_sweep(data(importance=[]))
    assert "mportance" not in text(page)
    assert 'class="bar"' not in page
    assert "What was searched" in headings(page)


def test_each_option_has_a_chart_of_the_trials_with_an_accuracy() -> None:
    by_option = charts(render_sweep(data()))
    assert list(by_option) == ["tune.rank", "train.learning_rate", "train.warmup"]
    for one in by_option.values():
        assert sorted(one) == [0, 1, 2]
        assert all(0 <= percent <= 100 for point in one.values() for percent in point)
        assert one[1][1] < one[0][1] < one[2][1]  # better is higher


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis() -> None:
    points = charts(render_sweep(data(trials=rates(1e-4, 1e-3, 1e-2))))["train.learning_rate"]
    assert [points[i][0] for i in range(3)] == pytest.approx([0, 50, 100])


def test_equal_differences_are_equal_distances_on_a_linear_axis() -> None:
    trials = [trial(i, values={"train.warmup": v}) for i, v in enumerate((0.05, 0.1, 0.15))]
    points = charts(render_sweep(data(trials=trials)))["train.warmup"]
    assert [points[i][0] for i in range(3)] == pytest.approx([25, 50, 75])


def test_choices_are_columns() -> None:
    trials = [trial(i, values={"tune.rank": (8, 16)[i % 2]}) for i in range(10)]
    page = render_sweep(data(trials=trials))
    points = charts(page)["tune.rank"]
    assert all(points[i][0] < 50 for i in range(0, 10, 2))
    assert all(points[i][0] > 50 for i in range(1, 10, 2))
    assert re.findall(r'<text x="([\d.]+)%"[^>]*>(8|16)<', page) == [("25.0", "8"), ("75.0", "16")]


def test_choices_with_long_names_are_numbered() -> None:
    names = [f"a choice with a long name {i}" for i in range(1, 4)]
    trials = [trial(i, values={"option": name}) for i, name in enumerate(names)]
    page = render_sweep(data(trials=trials, ranges={"option": names}, importance=[]))
    assert re.findall(r'dy="1.5em" text-anchor="middle"[^>]*>([^<]*)<', dict(SMALL.findall(page))["option"]) == [*"123"]
    assert f"1: {names[0]}; 2: {names[1]}; 3: {names[2]}" in text(page)


def test_values_are_shown_as_a_recipe_writes_them() -> None:
    values = {"a": None, "b": True, "c": ["q_proj", 2], "d": 20_000, "e": 5e-5, "f": NAN, "g": 0.1234567}
    page = render_sweep(data(trials=[trial(0, values=values)], ranges={}, importance=[], finalists=[], chosen=None))
    assert "100 % null true [q_proj, 2] 20000 5e-05 – 0.1235" in text(page)
    assert list(charts(page)) == list("abcdefg")
    assert has_numbers_only(page)


def test_pruned_trials_are_rings() -> None:
    body = dict(SMALL.findall(render_sweep(data())))["tune.rank"]
    marks = {int(n): one for n, one in GROUP.findall(body)}
    assert 'fill="var(--paper)"' in marks[2]
    assert "paper" not in marks[0] + marks[1]


def test_the_chosen_trial_is_circled_and_not_hidden() -> None:
    page = render_sweep(data())
    bodies = [*dict(SMALL.findall(page)).values(), *ORDER.findall(page)]
    assert len(bodies) == 4
    for body in bodies:
        groups = GROUP.findall(body)
        assert [n for n, marks in groups if 'stroke="var(--ink)"' in marks] == ["1"]
        assert groups[-1][0] == "1"
    assert "Circled" in text(page)
    assert "Circled" not in text(render_sweep(data(chosen=None)))


def test_trials_in_order_and_the_best_so_far() -> None:
    trials = [trial(0, 0.80), trial(1, 0.95, "pruned"), trial(2, 0.79), trial(4, 0.9)]
    page = render_sweep(data(trials=trials, chosen=None))
    (body,) = ORDER.findall(page)
    points = positions(body)
    assert [points[i][0] for i in (0, 1, 2, 4)] == pytest.approx([0, 25, 50, 100])
    (line,) = re.findall(r'<polyline points="([^"]*)"', body)
    steps = [tuple(map(float, pair.split(","))) for pair in line.split()]
    assert steps[0] == pytest.approx((0, points[0][1]), abs=0.01)
    assert (100, points[0][1]) in [pytest.approx(step, abs=0.01) for step in steps]  # until the last trial is better
    assert steps[-1] == pytest.approx((100, points[4][1]), abs=0.01)
    assert "the best finished trial 90.0 %" in page
    assert "1 trial has no accuracy and is not shown." in text(render_sweep(data()))


def test_an_outlier_does_not_flatten_the_other_trials() -> None:
    trials = [*(trial(i, 0.8 + i / 100) for i in range(9)), trial(9, 0.1)]
    page = render_sweep(data(trials=trials, chosen=9))
    points = charts(page)["tune.rank"]
    assert points[9][1] == 100
    marks = dict(GROUP.findall(dict(SMALL.findall(page))["tune.rank"]))
    assert [n for n, mark in marks.items() if "<path" in mark] == ["9"]
    assert points[0][1] - points[8][1] > 50
    assert "Triangles at the bottom: 1 trial below 80 %." in text(page)
    assert "Triangles" not in text(render_sweep(data()))


def test_finalists_show_each_seed_and_their_mean() -> None:
    page = render_sweep(data())
    shown = text(page)
    assert "1 chosen 83.0 % 82.0 to 84.0 % 3 train.learning_rate 0.002 tune.rank 8 train.warmup 0" in shown
    assert "0 79.0 % 78.0 to 80.0 % 2 train.learning_rate 0.001" in shown
    assert shown.index("1 chosen 83.0 %") < shown.index("0 79.0 % 78.0")
    first, second = re.findall(r'<svg class="spread".*?</svg>', page)
    assert [float(x) for x in re.findall(r'cx="([\d.]+)%"', first)] == pytest.approx([100, 66.67, 83.33], abs=0.01)
    assert re.findall(r'x1="([\d.]+)%" x2="[\d.]+%" y1="22%"', first) == ["83.33"]
    assert re.findall(r'x1="([\d.]+)%" x2="[\d.]+%" y1="22%"', second) == ["16.67"]
    assert 'aria-label="Axis from 78 to 84 %"' in page


def test_a_finalist_with_one_training() -> None:
    page = render_sweep(data(finalists=[Finalist(1, {}, [0.8]), Finalist(2, {}, [NAN]), Finalist(3, {}, [])]))
    assert "1 chosen 80.0 % 1 2 – 0 3 – 0" in text(page)
    assert has_numbers_only(page)


def test_all_trials_are_listed_best_first() -> None:
    page = render_sweep(data())
    table = text("</style>" + page[page.index('class="trials"') :])
    assert "Trial Accuracy State Trained tune. rank train. learning_rate train. warmup" in table
    rows = [
        "1 chosen 84.0 % finished 100 % 8 0.002 0",
        "0 80.0 % finished 100 % 16 0.001 0.1",
        "2 79.0 % pruned 33 % 16 0.001 0.1",
        "3 – failed 2 % 16 0.001 0.1",
    ]
    assert " ".join(rows) in table
    assert page.count('<tr class="chosen"') == 2  # here and among the finalists


def test_an_option_that_a_trial_did_not_set_is_a_dash() -> None:
    page = render_sweep(data(trials=[trial(0, values={"a": 1}), trial(1, values={"b": 2})], ranges={}, importance=[]))
    assert "0 80.0 % finished 100 % 1 – 1 chosen 80.0 % finished 100 % – 2" in text(page)


def test_the_recipe_keeps_its_lines() -> None:
    assert '<pre class="recipe">tune:\n  rank: 8\n</pre>' in render_sweep(data())


def test_the_limits_of_the_search_are_explained() -> None:
    shown = text(render_sweep(data()))
    assert "scored on the same 600 validation images. The test images were not used" in shown
    assert "the accuracy of the best trial, 84.0 %, has a 95 % interval of 80.9 to 86.7 %" in shown
    assert "looks better than it is" in shown


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 5.0])
def test_one_trial(accuracy: float, rate: float) -> None:
    one = trial(7, accuracy, values={"train.learning_rate": rate, "new": 3})
    page = render_sweep(data(trials=[one], chosen=7, finalists=[]))
    assert has_numbers_only(page)
    assert "The finalists" not in headings(page)
    assert all(0 <= percent <= 100 for chart in charts(page).values() for point in chart.values() for percent in point)
    assert positions(ORDER.findall(page)[0])[7][0] == 50


def test_no_trial_has_an_accuracy() -> None:
    failed = [trial(0, None, "failed"), trial(1, NAN, "failed")]
    page = render_sweep(data(trials=failed, finalists=[], chosen=None, importance=[], recipe=""))
    assert headings(page) == ["What was searched", "All trials", "How to read this page"]
    assert has_numbers_only(page)


def test_empty_sections_are_omitted() -> None:
    page = render_sweep(SweepData("Title", "Nothing.", [], [], [], {}, [], None, 0, "", [], []))
    assert headings(page) == ["How to read this page"]
    assert "<svg" not in page


def test_hundreds_of_trials_stay_small() -> None:
    page = render_sweep(data(trials=[trial(i, 0.8 + (i % 90) / 1000) for i in range(500)]))
    assert len(page) < 1_000_000


def test_the_page_is_written(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep.html", data(notes=["caf\udce9"]))
    assert "caf?" in (tmp_path / "sweep.html").read_text(encoding="utf-8")
    with pytest.raises(UserError):
        write_sweep(tmp_path / "missing" / "sweep.html", data())
