"""The time that a verb states before its work: what it counts, and that it is of the right size."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.engine.classifier import predict
from lensmith.engine.question import make_question
from lensmith.measure.evaluation import classifier_for
from lensmith.measure.pace import BACKWARD, Pace, measure
from lensmith.progress import duration
from tests.conftest import Shapes

PACE = Pace(reading=0.001, tower=0.1, decoder=0.01)


def training(shapes: Shapes, *options: str) -> float:
    """Seconds of ten epochs with 20 images, as estimated."""
    base = [f"data.uri={shapes(circle=10, square=10)}", "data.test=0", "data.validation=0", "train.epochs=10"]
    recipe = load_recipe(None, [*base, *options])
    return PACE.training(recipe, open_data(recipe.data))


def test_a_frozen_tower_runs_once_and_a_trained_one_in_each_step(shapes: Shapes) -> None:
    decoder, reading = 200 * BACKWARD * 0.01, 20 * 0.001
    assert training(shapes) == pytest.approx(20 * 0.1 + decoder + reading)
    assert training(shapes, "train.cache_features=false") == pytest.approx(200 * 0.1 + decoder + reading)
    assert training(shapes, "tune.vision_tower=true") == pytest.approx(200 * BACKWARD * 0.1 + decoder + reading)


def test_a_measured_pace_is_that_of_scoring(shapes: Shapes, tiny_folder: Path) -> None:
    recipe = load_recipe(None, [f"data.uri={shapes(circle=80, square=80)}", f"model.base={tiny_folder}"])
    dataset = open_data(recipe.data)
    tuned = models.load(recipe.model)
    question = make_question(tuned.model, recipe.question, dataset.labels)
    classifier = classifier_for(tuned, question, recipe.evaluate)
    pace = measure(classifier, dataset.train, recipe.data.max_pixels)
    assert pace is not None
    clock = time.perf_counter()
    list(predict(classifier, dataset.train.items()))
    seconds = time.perf_counter() - clock
    assert seconds / 10 < pace.scoring(len(dataset.train)) < 10 * seconds, "of the right size, on any machine"


def test_without_a_readable_image_there_is_no_estimate(shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=6, square=6)
    recipe = load_recipe(None, [f"data.uri={data}", f"model.base={tiny_folder}", "data.test=0", "data.validation=0"])
    dataset = open_data(recipe.data)
    tuned = models.load(recipe.model)
    question = make_question(tuned.model, recipe.question, dataset.labels)
    for picture in data.rglob("*.jpg"):
        picture.write_bytes(b"no image any more")
    assert measure(classifier_for(tuned, question, Recipe().evaluate), dataset.train, 10**6) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "1 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (5900, "98 min"),
        (6600, "1 h 50 min"),
        (7200, "2 h"),
        (36_000, "10 h"),
        (172_000, "48 h"),
        (300_000, "3 days"),
    ],
)
def test_durations_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text
