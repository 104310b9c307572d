"""A ladder makes each rung, chooses by validation before the test is looked at, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lensmith
from lensmith.config import load_recipe
from lensmith.errors import Stopped, UserError
from lensmith.learn.methods import methods
from lensmith.measure.choice import choose, confirm
from lensmith.progress import Advance, Note
from lensmith.records import Prediction
from lensmith.runs.predictions import read_predictions
from tests.clock import Clock
from tests.conftest import Run, Shapes


def options(folder: Path, tiny_folder: Path) -> list[str]:
    words = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    return [*words, "data.validation=0.3", "train.epochs=1", "train.batch_size=8", "tune.rank=2"]


def test_a_ladder_compares_the_methods_on_the_same_images(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = options(shapes(circle=50, square=50), tiny_folder)
    code, out, err = run(
        "ladder", *words, "ladder.hourly_cost=3600", "ladder.label_cost=0.5", "--run", "a ladder", "--json"
    )
    assert code == 0, err
    record = json.loads(out)
    rungs = {rung["name"]: rung for rung in record["methods"]}
    assert list(rungs) == ["zero-shot", "calibrated", "neighbours", "probe", "lora", "lora+head"]
    n = {rung["test"]["n"] for rung in record["methods"]}
    assert len(n) == 1
    data = json.loads(Path("a ladder/record.json").read_text())["data"]
    labels = data["train"]["n"] + data["validation"]["n"]
    assert [rung["labels"] for rung in record["methods"]] == [0, data["validation"]["n"], *[labels] * 4]
    for rung in record["methods"]:
        assert rung["dollars"] == pytest.approx(rung["seconds"] + rung["labels"] / 2)
        found = json.loads((Path("a ladder") / rung["name"] / "evaluation.json").read_text())
        assert rung["test"] == found["accuracy"]
    assert rungs["zero-shot"]["seconds"] == 0 < rungs["probe"]["seconds"]
    assert rungs["probe"]["test"]["accuracy"] >= 0.9
    assert record["chosen"] != "zero-shot"  # the tiny model knows nothing as it is
    page = Path(record["report"]).read_text()
    assert f"Take {record['chosen']}" in page
    # Each is a run like any other.
    code, _, err = run("compare", "a ladder/zero-shot", "a ladder/probe", "a ladder/lora+head", "--run", "compared")
    assert code == 0, err


def test_a_stopped_ladder_makes_nothing_twice(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    more = "ladder.methods=[lora, probe, zero-shot]"  # whatever their order here
    recipe = load_recipe(None, [*options(shapes(circle=40, square=40), tiny_folder), more])
    told: list[Any] = []

    def stop(event: Note | Advance) -> None:
        told.append(event)
        if isinstance(event, Advance) and event.task == "training" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        lensmith.ladder(recipe, tmp_path / "part", stop)
    assert stopped.value.folder == tmp_path / "part"
    assert not list((tmp_path / "part").rglob("predictions.parquet"))  # no test image was looked at
    again: list[Any] = []
    record = lensmith.resume(tmp_path / "part", again.append)
    assert [rung["name"] for rung in record["methods"]] == ["zero-shot", "probe", "lora"]
    steps = [e.done for e in again if isinstance(e, Advance) and e.task == "training"]
    assert min(steps) == 3  # it went on
    assert not any(isinstance(e, Note) and e.text.startswith("probe:") for e in again)
    whole = lensmith.ladder(recipe, tmp_path / "whole")
    answers = [read_predictions(tmp_path / name / "lora" / "predictions.parquet") for name in ("part", "whole")]
    assert answers[0] == answers[1]
    assert whole["chosen"] == record["chosen"]
    with pytest.raises(UserError, match="nothing to resume"):
        lensmith.resume(tmp_path / "part")


def answers(right: int, n: int = 100, first: int = 0) -> list[Prediction]:
    """So many right ones, from the `first` image on."""
    said = ["a" if (i - first) % n < right else "b" for i in range(n)]
    return [Prediction(str(i), "a", label, 0.9) for i, label in enumerate(said)]


def test_the_cheapest_within_a_standard_error_of_the_best_is_taken() -> None:
    names = ["zero-shot", "probe", "lora"]
    for made, expected, words in [
        # Three points behind, by wrong answers of its own: the error of the difference is 5.7.
        ((answers(50), answers(80, first=30), answers(83)), "probe", "lora, reaches 83.0 %"),
        # Three points behind on images that are otherwise the same: the error is 1.7.
        ((answers(50), answers(80), answers(83)), "lora", "above every cheaper method"),
        ((answers(50), answers(60, first=30), answers(90)), "lora", "above every cheaper method"),
        ((answers(80), answers(60), answers(70)), "zero-shot", "it is the cheapest"),
        ((answers(80), answers(80), answers(80)), "zero-shot", "it is the cheapest"),
    ]:
        checked = dict(zip(names, made, strict=True))
        choice = choose(names, checked, 100)
        assert choice.chosen == expected
        assert words in choice.verdict
        assert "100 validation images" in choice.verdict


def test_the_test_images_confirm_the_choice_or_not() -> None:
    names = ["zero-shot", "probe", "lora"]
    checked = dict(zip(names, map(answers, (50, 80, 83)), strict=True))
    tested = dict(zip(names, map(answers, (50, 70, 90)), strict=True))
    against_nothing, against_best = confirm(names, "probe", checked, tested)
    assert "probe is better than zero-shot" in against_nothing
    assert "probe is worse than lora" in against_best
    names = ["zero-shot", "neighbours", "probe", "lora"]
    checked = dict(zip(names, map(answers, (50, 60, 80, 90)), strict=True))
    tested = dict(zip(names, map(answers, (50, 60, 89, 90)), strict=True))
    against_nothing, alike = confirm(names, "lora", checked, tested)
    assert "lora is better than zero-shot" in against_nothing
    assert "can't distinguish lora from probe with 89.0 %" in alike
    assert "neighbours" not in alike
    assert confirm(["probe"], "probe", {"probe": answers(9)}, {"probe": answers(9)}) == []


def test_a_ladder_needs_all_three_parts(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = options(shapes(circle=20, square=20), tiny_folder)
    code, _, err = run("ladder", *words, "data.validation=0", "--run", "x")
    assert code == 2
    assert "has no validation images" in err
    assert not Path("x").exists()


def test_a_rung_takes_from_the_recipe_what_is_its_own() -> None:
    recipe = load_recipe(None, ["evaluate.top=5", "tune.head=true", "tune.rates={head: 0.1, language_model: 0.2}"])
    assert methods()["calibrated"].recipe(recipe).evaluate.top is None  # a prior takes all labels' scores
    assert methods()["zero-shot"].recipe(recipe).evaluate.top == 5
    assert methods()["lora"].recipe(recipe).tune.rates == {"language_model": 0.2}
    assert methods()["lora+head"].recipe(recipe).tune.rates == {"head": 0.1, "language_model": 0.2}
    assert recipe.evaluate.top == 5


def test_what_a_stop_left_out_of_a_rung_is_made_up_for(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    words = [*options(shapes(circle=40, square=40), tiny_folder), "ladder.methods=[probe]"]
    lensmith.ladder(load_recipe(None, words), tmp_path / "run")
    task = tmp_path / "run" / "probe" / "adapter" / "lensmith.json"
    kept = json.loads(task.read_text())
    # A stop just after the figures were written, before calibration and page.
    (tmp_path / "run" / "ladder.json").unlink()
    (tmp_path / "run" / "probe" / "report.html").unlink()
    task.write_text(json.dumps({key: value for key, value in kept.items() if key != "calibration"}))
    record = lensmith.resume(tmp_path / "run")
    assert (tmp_path / "run" / "probe" / "report.html").exists()
    assert json.loads(task.read_text()) == kept
    assert record["methods"][0]["per_thousand"] > 0


def test_what_takes_milliseconds_is_not_rounded_to_nothing(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine on which each step takes no longer than a look at the clock.
    for module in (
        "measure.evaluation",
        "verbs.choose.ladder",
        "learn.methods.fitted",
        "learn.methods.trained",
        "learn.frozen",
        "learn.loop",
    ):
        monkeypatch.setattr(f"lensmith.{module}.time", Clock(tick=0.0001))
    words = [
        *options(shapes(circle=40, square=40), tiny_folder),
        "ladder.methods=[probe, lora]",
        "ladder.hourly_cost=1",
    ]
    record = lensmith.ladder(load_recipe(None, words), tmp_path / "run")
    n = json.loads((tmp_path / "run" / "record.json").read_text())["data"]["test"]["n"]
    for rung in record["methods"]:
        found = json.loads((tmp_path / "run" / rung["name"] / "evaluation.json").read_text())
        assert 0 < found["seconds"] < 0.005
        assert rung["per_thousand"] == pytest.approx(1000 * found["seconds"] / n)
        assert 0 < rung["seconds"] < 0.005
        assert rung["dollars"] == pytest.approx(rung["seconds"] / 3600)
    logged = [json.loads(line) for line in (tmp_path / "run" / "lora" / "metrics.jsonl").read_text().splitlines()]
    times = [row["seconds"] for row in logged if "loss" in row]
    assert times == sorted(set(times)), "each step has taken its time"
    assert 0 < times[0] < 0.001
