"""A ladder runs each method, chooses on the validation images before the test, and resumes after a stop."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

import lensmith
from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.errors import Stopped, UserError
from lensmith.learn import made
from lensmith.learn.blending import SURE
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.learn.methods import methods
from lensmith.measure import pace
from lensmith.measure.calibration import LEAST
from lensmith.measure.choice import Choice, Judged, choose, confirm, price
from lensmith.measure.metrics import accuracy
from lensmith.progress import Advance, Note, silent
from lensmith.records import Prediction
from lensmith.runs.folder import begin_run
from lensmith.runs.predictions import read_predictions
from tests.clock import Clock
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def options(folder: Path, tiny_folder: Path) -> list[str]:
    words = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    return [*words, "data.validation=0.3", "train.epochs=1", "train.batch_size=8", "tune.rank=2"]


def test_a_ladder_compares_the_methods_on_the_same_images(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=50, square=50)
    words = [*options(folder, tiny_folder), "augment.flip=true"]
    code, out, err = run(
        "ladder", *words, "ladder.hourly_cost=3600", "ladder.label_cost=0.5", "--run", "a ladder", "--json"
    )
    assert code == 0, err
    record = json.loads(out)
    rows = {row["name"]: row for row in record["methods"]}
    assert list(rows) == ["zero-shot", "calibrated", "neighbours", "probe", "lora", "lora+head", "blend"]
    n = {row["test"]["n"] for row in record["methods"]}
    assert len(n) == 1
    data = json.loads(Path("a ladder/record.json").read_text())["data"]
    labels = data["train"]["n"] + data["validation"]["n"]
    assert [row["labels"] for row in record["methods"]] == [0, data["validation"]["n"], *[labels] * 5]
    for row in record["methods"]:
        assert row["dollars"] == pytest.approx(row["seconds"] + row["labels"] / 2)
        found = json.loads((Path("a ladder") / row["name"] / "evaluation.json").read_text())
        assert row["test"] == found["accuracy"]
    assert rows["zero-shot"]["seconds"] == 0 < rows["probe"]["seconds"]
    assert rows["probe"]["test"]["accuracy"] >= 0.9
    assert record["chosen"] != "zero-shot"  # the tiny model knows nothing before training
    page = Path(record["report"]).read_text()
    assert f"Take {record['chosen']}" in page
    # Each method's folder is an ordinary run.
    folders = [f"a ladder/{name}" for name in ("zero-shot", "probe", "lora+head", "blend")]
    code, _, err = run("compare", *folders, "--run", "compared")
    assert code == 0, err
    parts = {part["name"] for part in json.loads(Path("a ladder/blend/adapter/blend.json").read_text())["parts"]}
    assert parts <= {"lora", "lora+head", "neighbours", "zero-shot"} | {p for p in parts if p.startswith("probe-")}
    code, out, err = run("evaluate", "a ladder/blend", "--run", "again", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == rows["blend"]["test"]
    code, out, err = run("predict", "a ladder/blend", next((folder / "circle").iterdir()))
    assert code == 0, err
    assert out.split("\t")[1] == "circle"
    code, _, err = run("export", "a ladder/blend", "--to", "npz")
    assert code == 2
    assert "is a blend of several models" in err


def test_a_stopped_ladder_repeats_nothing(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "ladder.methods=[lora, probe, zero-shot]"  # in any order
    recipe = load_recipe(None, [*options(shapes(circle=40, square=40), tiny_folder), more])
    told: list[Any] = []

    def stop(event: Note | Advance) -> None:
        told.append(event)
        if isinstance(event, Advance) and event.task == "training" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        lensmith.ladder(recipe, tmp_path / "part", stop)
    assert stopped.value.folder == tmp_path / "part"
    assert not list((tmp_path / "part").rglob("predictions.parquet"))  # no test image was scored
    again: list[Any] = []
    with monkeypatch.context() as patch:  # the machine is measured for what a first start says
        patch.setattr(pace, "measure", None)
        record = lensmith.resume(tmp_path / "part", again.append)
    assert [row["name"] for row in record["methods"]] == ["zero-shot", "probe", "lora"]
    steps = [e.done for e in again if isinstance(e, Advance) and e.task == "training"]
    assert min(steps) == 3  # it was resumed
    assert not any(isinstance(e, Note) and e.text.startswith("probe:") for e in again)
    whole = lensmith.ladder(recipe, tmp_path / "whole")
    answers = [read_predictions(tmp_path / name / "lora" / "predictions.parquet") for name in ("part", "whole")]
    assert answers[0] == answers[1]
    assert whole["chosen"] == record["chosen"]
    with pytest.raises(UserError, match="nothing to resume"):
        lensmith.resume(tmp_path / "part")


def answers(correct: int, n: int = 100, first: int = 0) -> list[Prediction]:
    """Predictions of which n are correct, from the `first` image on."""
    labels = ["a" if (i - first) % n < correct else "b" for i in range(n)]
    return [Prediction(str(i), "a", label, 0.9) for i, label in enumerate(labels)]


def judged(correct: int, loss: float, noise: float = 0.0, seed: int = 0) -> Judged:
    """What 100 images say of a classifier with this mean log loss, whose losses differ from others' by some noise."""
    around = random.Random(seed)
    changes = [around.gauss(0, noise) for _ in range(100)]
    middle = fmean(changes)
    return Judged(
        [loss + (i % 10) / 10 + change - middle for i, change in enumerate(changes)], accuracy(answers(correct))
    )


def test_the_cheapest_within_half_a_standard_error_of_the_best_is_taken() -> None:
    names = ["zero-shot", "probe", "lora"]
    for results, expected, words in [
        # 0.02 nats behind: the standard error of the difference is about 0.06, and then 0.006.
        (
            (judged(50, 1.0), judged(80, 0.32, 0.6), judged(83, 0.30)),
            "probe",
            "The lowest log loss has lora, 0.750 (83",
        ),
        (
            (judged(50, 1.0), judged(80, 0.32, 0.06), judged(83, 0.30)),
            "lora",
            "worse by more than half a standard error",
        ),
        # As many correct, but surer of them.
        ((judged(50, 1.0), judged(83, 0.40, 0.06), judged(83, 0.30)), "lora", "every cheaper method is worse"),
        ((judged(80, 0.3), judged(60, 0.5), judged(70, 0.4)), "zero-shot", "it is the best, and the cheapest"),
        ((judged(80, 0.3), judged(80, 0.3), judged(80, 0.3)), "zero-shot", "it is the best, and the cheapest"),
    ]:
        choice = choose(names, dict(zip(names, results, strict=True)))
        assert choice.chosen == expected
        assert words in choice.verdict
        assert "100 validation images" in choice.verdict


def test_what_an_answer_costs_is_said() -> None:
    assert price("blend", {"probe": 1.0, "blend": 6.1}) == "An answer of blend takes 6.1 times as long as one of probe."
    assert price("probe", {"probe": 1.0, "blend": 6.1}) == ""
    assert price("lora", {"probe": 1.0, "lora": 1.9}) == ""


def test_the_test_images_confirm_the_choice_or_not() -> None:
    names = ["zero-shot", "probe", "lora"]
    tested = dict(zip(names, map(answers, (50, 70, 90)), strict=True))
    against_nothing, against_best = confirm(names, Choice("probe", "", "lora"), tested)
    assert "probe is better than zero-shot" in against_nothing
    assert "probe is worse than lora" in against_best
    names = ["zero-shot", "neighbours", "probe", "lora"]
    tested = dict(zip(names, map(answers, (50, 60, 89, 90)), strict=True))
    against_nothing, alike = confirm(names, Choice("lora", "", "lora"), tested)
    assert "lora is better than zero-shot" in against_nothing
    assert "can't distinguish lora from probe with 89.0 %" in alike
    assert "neighbours" not in alike
    assert confirm(["probe"], Choice("probe", "", "probe"), {"probe": answers(9)}) == []


def test_what_an_image_chose_is_not_judged_by_it(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the labels of the images that are judged were others, the same would be said of these images, and something
    else of those that are then chosen by them."""
    words = [*options(shapes(circle=90, square=90), tiny_folder), "ladder.methods=[probe, lora, blend]"]
    recipe = load_recipe(None, [*words, "probe.features=[tower mean, tower grid]"])
    asked: list[list[list[int]]] = []
    real = methods()["probe"].held_out

    def spy(run: Any, shared: SharedFrozenModel, parts: Any) -> Any:
        asked.append(parts)
        return real(run, shared, parts)

    monkeypatch.setattr(methods()["probe"], "held_out", spy)
    told: list[Any] = []
    record = lensmith.ladder(recipe, tmp_path / "run", told.append)
    assert sum(isinstance(e, Note) and e.text.startswith("lora:") for e in told) == 1  # it is trained once
    assert "validation images that chose nothing of what they judge" in Path(record["report"]).read_text()
    note = json.loads((tmp_path / "run" / "blend" / "made.json").read_text())["note"]
    assert "On these images" in note
    assert "of its best part alone, " in note
    dataset = open_data(recipe.data)
    ((parts,),) = [asked]
    assert len(parts) == made.PARTS
    assert sorted(i for part in parts for i in part) == list(range(len(dataset.validation)))

    judges, labels = parts[0], list(dataset.validation.labels)
    for i in judges:
        labels[i] = "square" if labels[i] == "circle" else "circle"
    other = replace(dataset, validation=dataset.validation.relabelled(labels))
    for name in ("probe", "blend"):
        said = []
        for known in (dataset, other):
            run = begin_run(tmp_path / "run", recipe, dataset, "ladder", silent, resume=True)
            inner = replace(run.inner(name, methods()[name].recipe(recipe)), dataset=known)
            found = methods()[name].held_out(inner, SharedFrozenModel(recipe, known, silent), parts)
            assert found is not None
            assert not found.isnan().any()
            said.append(found)
        assert torch.allclose(said[0][judges], said[1][judges], atol=1e-5)
        assert not torch.allclose(said[0], said[1], atol=1e-2)


def test_images_of_a_group_judge_together(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shapes(circle=100, square=100)
    for path in folder.rglob("*.jpg"):  # five pictures of each house
        number = int(path.stem.split()[1])
        path.rename(path.with_name(f"house {path.parent.name} {number // 5} {number}.jpg"))
    words = [*options(folder, tiny_folder), "data.group=house ([a-z]+ [0-9]+) ", "ladder.methods=[probe]"]
    asked: list[Any] = []
    real = methods()["probe"].held_out

    def spy(run: Any, shared: SharedFrozenModel, parts: Any) -> Any:
        asked.append(parts)
        return real(run, shared, parts)

    monkeypatch.setattr(methods()["probe"], "held_out", spy)
    recipe = load_recipe(None, words)
    lensmith.ladder(recipe, tmp_path / "run")
    groups, (parts,) = open_data(recipe.data).validation.groups, asked
    assert len(parts) == made.PARTS
    houses = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, houses)) == len(set(groups)) > made.PARTS


@pytest.mark.parametrize("each", [40, 25])
def test_few_validation_images_judge_what_they_chose(
    each: int, shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    words = [*options(shapes(circle=each, square=each), tiny_folder), "ladder.methods=[probe, lora, blend]"]
    record = lensmith.ladder(load_recipe(None, words), tmp_path / "run")
    n = record["methods"][0]["validation"]["n"]
    assert n < (made.FEWEST if each == 40 else LEAST)
    assert "so few validation images that they also chose" in Path(record["report"]).read_text()
    note = json.loads((tmp_path / "run" / "blend" / "made.json").read_text())["note"]
    assert ("Equal weights" in note) == (n < LEAST)
    task = json.loads((tmp_path / "run" / "blend" / "adapter" / "parts" / "lora" / "lensmith.json").read_text())
    assert (task["calibration"]["temperature"] == SURE) == (n < LEAST)  # nothing to fit another by


def test_most_validation_images_are_unreadable(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shapes(circle=20, square=20)
    for label in ("circle", "square"):
        for i in range(60):
            (folder / label / f"broken {i}.jpg").write_bytes(f"no image {label} {i}".encode())
    words = [*options(folder, tiny_folder), "ladder.methods=[probe, blend]"]
    record = lensmith.ladder(load_recipe(None, words), tmp_path / "run")
    for row in record["methods"]:
        rate = row["validation"]
        assert rate["n"] >= made.FEWEST
        assert 0 < rate["accuracy"] < 0.5  # an image that can't be read is a wrong answer
    assert "Equal weights" in json.loads((tmp_path / "run" / "blend" / "made.json").read_text())["note"]


def test_a_ladder_needs_test_images(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = options(shapes(circle=20, square=20), tiny_folder)
    code, _, err = run("ladder", *words, "data.test=0", "--run", "x")
    assert code == 2
    assert "has no test images" in err
    assert not Path("x").exists()


def test_each_method_adapts_the_recipe() -> None:
    recipe = load_recipe(None, ["evaluate.top=5", "tune.head=true", "tune.rates={head: 0.1, language_model: 0.2}"])
    assert methods()["calibrated"].recipe(recipe).evaluate.top is None  # a prior needs the scores of all labels
    assert methods()["zero-shot"].recipe(recipe).evaluate.top == 5
    assert methods()["lora"].recipe(recipe).tune.rates == {"language_model": 0.2}
    assert methods()["lora+head"].recipe(recipe).tune.rates == {"head": 0.1, "language_model": 0.2}
    assert recipe.evaluate.top == 5


def test_a_method_stopped_before_its_report_is_completed(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    words = [*options(shapes(circle=40, square=40), tiny_folder), "ladder.methods=[probe]"]
    lensmith.ladder(load_recipe(None, words), tmp_path / "run")
    task = tmp_path / "run" / "probe" / "adapter" / "lensmith.json"
    kept = json.loads(task.read_text())
    # A stop just after the results were written, before the calibration and the report.
    (tmp_path / "run" / "ladder.json").unlink()
    (tmp_path / "run" / "probe" / "report.html").unlink()
    task.write_text(json.dumps({key: value for key, value in kept.items() if key != "calibration"}))
    record = lensmith.resume(tmp_path / "run")
    assert (tmp_path / "run" / "probe" / "report.html").exists()
    assert json.loads(task.read_text()) == kept
    assert record["methods"][0]["per_thousand"] > 0


def test_milliseconds_are_not_rounded_to_zero(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine on which each step takes no longer than reading the clock.
    for module in (
        "measure.evaluation",
        "verbs.compare.ladder",
        "learn.methods.fitted",
        "learn.methods.lora",
        "learn.features.frozen",
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
    for row in record["methods"]:
        found = json.loads((tmp_path / "run" / row["name"] / "evaluation.json").read_text())
        assert 0 < found["seconds"] < 0.005
        assert row["per_thousand"] == pytest.approx(1000 * found["seconds"] / n)
        assert 0 < row["seconds"] < 0.005
        assert row["dollars"] == pytest.approx(row["seconds"] / 3600)
    logged = [json.loads(line) for line in (tmp_path / "run" / "lora" / "metrics.jsonl").read_text().splitlines()]
    times = [row["seconds"] for row in logged if "loss" in row]
    assert times == sorted(set(times)), "each step takes some time"
    assert 0 < times[0] < 0.001


def test_few_labels_need_no_validation_images(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = [*options(shapes(circle=40, square=40), tiny_folder), "data.validation=0", "data.train_limit=6"]
    code, out, err = run("ladder", *words, "ladder.methods=[neighbours, probe, blend]", "--run", "few", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["chosen"] == "blend"
    assert all(row["validation"] is None for row in record["methods"])
    assert {row["labels"] for row in record["methods"]} == {6}
    assert "Equal weights" in json.loads(Path("few/blend/made.json").read_text())["note"]
    assert "no validation images" in Path("few/report.html").read_text()
    code, out, err = run("ladder", *words, "ladder.methods=[neighbours, blend]", "--run", "shown")
    assert code == 0, err
    assert "Take blend, which is made of the others" in out
    code, _, err = run("ladder", *words, "ladder.methods=[neighbours, probe]", "--run", "none")
    assert code == 2
    assert "has no validation images. A ladder chooses by validation images, unless it ends in a blend." in err


def test_unlabelled_images_are_judged_and_the_blend_says_so(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=40, square=40)
    words = [*options(folder, tiny_folder), "data.validation=0", "data.train_limit=8", "ladder.methods=[probe, blend]"]
    others = Path("others")
    others.mkdir()
    for i, path in enumerate(sorted((folder / "circle").iterdir())[:20]):
        (others / f"{i}.png").write_bytes(path.read_bytes() + b"x")  # other files of the same look
    code, _, err = run("ladder", *words, f"data.unlabelled={others}", "--run", "l")
    assert code == 0, err
    note = json.loads(Path("l/blend/made.json").read_text())["note"]
    assert note.count("20 unlabelled images") == 2  # of each probe's feature
    assert "labelled images" in note
