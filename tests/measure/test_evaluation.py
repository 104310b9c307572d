"""Scoring a split: a resumed evaluation gives the same file, and the metrics cover every image."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import lensmith
from lensmith.config import Recipe, load_recipe
from lensmith.data import ImageDataset, Split, open_data
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.errors import Stopped, UserError
from lensmith.measure.evaluation import evaluate, fit_calibration, predict_split
from lensmith.models.base import Model
from lensmith.progress import Advance, Note
from lensmith.records import Calibration, Prediction
from lensmith.runs.folder import Run
from lensmith.runs.predictions import read_predictions
from tests.conftest import Shapes


@pytest.fixture
def dataset(shapes: Shapes) -> ImageDataset:
    shapes(size=(40, 40), circle=40, square=40)
    folder = shapes(size=(90, 40), triangle=20)
    for i in range(8):
        (folder / "circle" / f"cut {i}.jpg").write_bytes((folder / "circle" / "circle 0.jpg").read_bytes()[: 200 + i])
    return open_data(recipe_for(folder).data)


def recipe_for(folder: Path, *options: str) -> Recipe:
    return load_recipe(None, [f"data.uri={folder}", "data.test=0.6", "evaluate.batch_size=3", *options])


def classifier_of(model: Model, dataset: ImageDataset, recipe: Recipe) -> Classifier:
    return Classifier(
        model, make_question(model, recipe.question, dataset.labels), batch_size=recipe.evaluate.batch_size
    )


def scored(
    model: Model, run: Run, path: Path, split: Split | None = None, calibration: Calibration | None = None
) -> float:
    """Score a split, by default the test images, into a file."""
    classifier = classifier_of(model, run.dataset, run.recipe)
    classifier.calibration = calibration or Calibration()
    return predict_split(run, classifier, split or run.dataset.test, path, "scoring")


def test_a_resumed_evaluation_gives_the_same_file(tiny: Model, dataset: ImageDataset, tmp_path: Path) -> None:
    recipe = recipe_for(Path(dataset.uri))
    uninterrupted = tmp_path / "uninterrupted" / "p.parquet"
    uninterrupted.parent.mkdir()
    scored(tiny, Run(uninterrupted.parent, recipe, dataset), uninterrupted)
    stopped = tmp_path / "stopped" / "p.parquet"
    stopped.parent.mkdir()
    seen: list[int] = []

    def interrupt(event: Note | Advance) -> None:
        assert isinstance(event, Advance)
        seen.append(event.done)
        if len(seen) % 2 == 0:  # Ctrl-C, between two windows or in one
            signal.raise_signal(signal.SIGINT)

    def go() -> None:
        scored(tiny, Run(stopped.parent, recipe, dataset, interrupt), stopped)

    with pytest.raises(Stopped) as stop:
        go()
    assert stop.value.folder == stopped.parent
    while not stopped.exists():
        with suppress(Stopped):
            go()
    assert stopped.read_bytes() == uninterrupted.read_bytes()
    assert [p.id for p in read_predictions(stopped)] == list(dataset.test.ids)
    ends = sorted(set(seen))
    assert len(ends) > 3
    assert all(b - a <= 12 for a, b in pairwise(ends)), "four batches of three at a time"
    assert [p.name for p in stopped.parent.iterdir()] == ["p.parquet"]


def test_predictions_under_different_conditions_are_not_mixed(
    tiny: Model, dataset: ImageDataset, tmp_path: Path
) -> None:
    recipe = recipe_for(Path(dataset.uri))
    path = tmp_path / "p.parquet"

    def stop(event: Note | Advance) -> None:
        raise KeyboardInterrupt

    run = Run(tmp_path, recipe, dataset)
    with pytest.raises(Stopped):
        scored(tiny, replace(run, tell=stop), path)
    with pytest.raises(UserError, match=r"started with other calibration"):
        scored(tiny, run, path, calibration=Calibration(temperature=3.0))
    with pytest.raises(UserError, match=r"started with other images"):
        scored(tiny, run, path, dataset.train)


def test_a_missing_calibration_is_explained(tiny: Model, dataset: ImageDataset) -> None:
    def reason(*options: str, split: str = "test", top: int | None = None) -> str:
        recipe = recipe_for(Path(dataset.uri), *options)
        classifier = Classifier(tiny, make_question(tiny, recipe.question, dataset.labels), top=top)
        run = Run(Path(), recipe, dataset)
        chosen, record = fit_calibration(run, classifier, dataset.split(split), lambda _: None)
        assert chosen == Calibration()
        return str(record.get("note", ""))

    assert reason("evaluate.calibration=none") == ""
    assert "needs 20 validation images" in reason()
    assert "every label's score" in reason(top=1)
    assert "which calibration would use" in reason(split="validation")


def test_invalid_options_are_refused_before_anything_is_written(
    tiny_folder: Path, dataset: ImageDataset, tmp_path: Path
) -> None:
    def refused(sentence: str, *options: str) -> None:
        recipe = recipe_for(Path(dataset.uri), f"model.base={tiny_folder}", *options)
        for verb in (lensmith.evaluate, lensmith.train):
            with pytest.raises(UserError, match=sentence):
                verb(recipe, tmp_path / "run")
            assert not (tmp_path / "run").exists()

    refused("evaluate.top is 1", "evaluate.calibration=auto", "evaluate.top=1")
    refused("are the same to the model", "question.names={circle: square}")
    refused("which is not a class", "question.names={cicle: round}")


def test_predictions_of_other_images_are_refused(dataset: ImageDataset) -> None:
    with pytest.raises(ValueError, match="don't belong to this split's images"):
        evaluate("x", [Prediction("1", "circle", "circle")], dataset, dataset.test)


def test_the_metrics_cover_every_image(tiny_folder: Path, dataset: ImageDataset, tmp_path: Path) -> None:
    options = [f"model.base={tiny_folder}", "model.dtype=float32", "data.validation=0.3"]
    record = lensmith.evaluate(recipe_for(Path(dataset.uri), *options), tmp_path / "run")
    assert record["accuracy"]["n"] == sum(map(sum, record["confusion"])) == record["data"]["n"]
    assert 0 < len(record["unreadable"]) == sum(row[-1] for row in record["confusion"])
    assert record["coverage"][-1]["accuracy"]["accuracy"] == pytest.approx(record["accuracy"]["accuracy"])
    assert record["calibration"]["n"] >= 20
    assert record["top5"] is None
    assert sum(b["accuracy"]["n"] for b in record["reliability"]) == record["data"]["n"] - len(record["unreadable"])
