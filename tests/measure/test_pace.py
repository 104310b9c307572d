"""The time that a verb states before its work: what it counts, and that it is of the right size."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.engine.classifier import predict
from lensmith.engine.question import make_question
from lensmith.engine.step import images_at_once
from lensmith.measure.evaluation import classifier_for
from lensmith.measure.pace import BACKWARD, Memory, Pace, measure, shorter
from lensmith.models.cost import ImageCost
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


class Images(list[None]):
    """As many test images as it has entries, for `shorter`."""

    name = "test"


def test_long_work_is_offered_what_makes_it_shorter() -> None:
    cost = ImageCost(tokens=256, operations=1e11, past=50, budget=64, budget_tokens=64, budget_share=0.25)
    pace = Pace(reading=0.01, tower=0.3, decoder=0.1)
    images: Any = Images([None] * 10_000)
    lines = shorter(pace, cost, images, lambda pace, n: pace.scoring(n))
    assert lines == [
        f"To make it shorter: model.image_tokens=64 shows less detail and takes about {duration(1100)}.",
        f"To make it shorter: data.test_limit=1000 tells the accuracy to within 3 points in about {duration(410)}.",
    ]
    assert shorter(pace, cost, Images([None] * 1000), lambda pace, n: pace.scoring(n)) == []  # type: ignore[arg-type]
    images.name = "train"
    assert len(shorter(pace, None, images, lambda pace, n: pace.scoring(n))) == 0, "nothing would help"


@given(st.integers(1, 64), st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 10**11))
def test_memory_of_a_training_is_that_of_a_step(batch: int, question: int, sample: int, total: int) -> None:
    memory = Memory(peak=0, resting=0, batch=0, question=question, sample=sample, total=total)
    recipe = load_recipe(None, [f"train.batch_size={batch}"])
    assert memory.training(recipe) == question + min(batch, images_at_once(total, question, sample)) * sample
    assert memory.training(load_recipe(None, [f"train.batch_size={batch}", "train.micro_batch=1"])) == question + sample


@pytest.mark.long
def test_the_memory_that_is_stated_is_enough(shapes: Shapes, tmp_path: Path) -> None:
    """In a process of its own, whose peak is its own."""
    data = shapes(circle=40, square=40)
    code = (
        "import resource, sys; from lensmith.cli.main import main; code = main(sys.argv[1:]);"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, code)"
    )
    words = ["probe", str(data), "--run", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    peak, returned = (int(word) for word in done.stdout.split("PEAK")[1].split())
    assert returned == 0, done.stderr
    stated = re.search(r"up to ([\d.]+) ([MG])B of memory", done.stderr)
    assert stated, done.stderr
    limit = float(stated[1]) * {"M": 1e6, "G": 1e9}[stated[2]]
    assert peak / 2 < limit, "of the right size"
    assert peak < 1.15 * limit, "the libraries that are loaded later, and the report, aren't counted"
