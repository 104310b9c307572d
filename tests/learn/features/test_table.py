"""Features are cached and reused, but never for another question, model or image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import PIXELS, feature_names
from lensmith.engine.question import make_question
from lensmith.errors import ImageError, UserError
from lensmith.learn.features import store
from lensmith.learn.features.table import FeatureTable, read_table
from lensmith.measure.evaluation import classifier_for
from lensmith.models.base import Model
from lensmith.models.tuning import Tuned
from lensmith.progress import silent
from tests.conftest import Shapes


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "cache"))


class ExtractionCounter:
    """Counts the images that a model's vision tower processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        self.patch = monkeypatch

    def watch(self, model: Model) -> None:
        encode_images = model.encode_images

        def counted(views: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            self.images += len(views[0])
            return encode_images(views)

        self.patch.setattr(model, "encode_images", counted)


def recipe_for(folder: Path, tiny_folder: Path, *more: str) -> Recipe:
    return load_recipe(
        None,
        [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu", *more],
    )


def asked(recipe: Recipe, counter: ExtractionCounter) -> Classifier:
    model = models.load_base(recipe.model)
    counter.watch(model)
    question = make_question(model, recipe.question, open_data(recipe.data).labels)
    return classifier_for(Tuned(model), question, recipe.evaluate)


def read(
    recipe: Recipe, counter: ExtractionCounter, wanted: list[str] | None = None, split_name: str = "train"
) -> FeatureTable:
    split = getattr(open_data(recipe.data), split_name)
    return read_table(asked(recipe, counter), split, wanted, 10**8, recipe.data.unreadable, silent)


def test_features_are_extracted_once(shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, counter = shapes(circle=20, square=20), ExtractionCounter(monkeypatch)
    recipe = recipe_for(folder, tiny_folder)
    first = read(recipe, counter)
    assert counter.images == len(first) == len(open_data(recipe.data).train)
    again = read(recipe, counter)
    assert counter.images == len(first) + 1  # one extraction, to know the sizes of the features
    assert torch.equal(first.values, again.values)
    assert (first.columns, first.rows) == (again.columns, again.rows)
    other = read(recipe_for(folder, tiny_folder, "question.text='Which? {labels}'"), counter)
    assert counter.images == 2 * len(first) + 1
    assert torch.equal(other.feature("tower mean"), first.feature("tower mean"))
    assert not torch.equal(other.feature("decoder end"), first.feature("decoder end"))


def test_a_row_holds_the_features_of_its_image(
    shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, counter = shapes(circle=20, square=20), ExtractionCounter(monkeypatch)
    Image.new("RGB", (300, 60), "red").save(folder / "circle" / "wide.png")  # another shape
    recipe = recipe_for(folder, tiny_folder, "data.validation=0")
    table, classifier = read(recipe, counter), asked(recipe, counter)
    split = open_data(recipe.data).train
    for k in range(0, len(table), 5):
        i = table.rows[k]
        views = tuple(view[None] for view in classifier.model.prepare(split.image(i)))
        for name, feature in classifier.features(views, feature_names(classifier.model)).items():
            torch.testing.assert_close(table.feature(name)[k], feature[0], atol=2e-2, rtol=2e-3)  # stored in float16
        assert classifier.labels[int(table.labels[k])] == split.labels[i]


def test_an_unreadable_image_has_no_row_and_is_reported_in_one_sentence(
    shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, counter = shapes(circle=20, square=20), ExtractionCounter(monkeypatch)
    for file in sorted((folder / "circle").iterdir())[:5]:
        file.write_bytes(file.read_bytes()[:200])
    recipe = recipe_for(folder, tiny_folder, "data.validation=0", "data.test=0.1")
    table, split = read(recipe, counter), open_data(recipe.data).train
    assert table.errors
    assert sorted([*table.rows, *table.errors]) == list(range(len(split)))
    with pytest.raises(ImageError, match=r"data\.unreadable=skip"):
        read(recipe_for(folder, tiny_folder, "data.validation=0", "data.test=0.1", "data.unreadable=stop"), counter)
    for file in folder.rglob("*.jpg"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="no readable training image"):
        read(recipe, counter)


def test_pixels_need_no_model(shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = ExtractionCounter(monkeypatch)
    table = read(recipe_for(shapes(circle=20, square=20), tiny_folder), counter, [PIXELS])
    assert counter.images == 0
    assert table.feature(PIXELS).shape == (len(table), 28 * 28)


def test_with_a_full_disk_features_are_extracted_but_not_cached(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, counter = shapes(circle=20, square=20), ExtractionCounter(monkeypatch)
    recipe = recipe_for(folder, tiny_folder)
    cached = read(recipe, counter)
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(store, "SPARE_BYTES", 1 << 60)
    assert torch.equal(read(recipe, counter).values, cached.values)
    assert not list((tmp_path / "another").rglob("*.safetensors"))


def test_cached_features_do_not_bypass_a_lower_pixel_limit(
    shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, counter = shapes(circle=20, square=20), ExtractionCounter(monkeypatch)
    recipe = recipe_for(folder, tiny_folder, "data.validation=0")
    split = open_data(recipe.data).train
    assert len(read_table(asked(recipe, counter), split, None, 10**8, "skip", silent)) == len(split)
    with pytest.raises(UserError, match="no readable training image"):
        read_table(asked(recipe, counter), split, None, 100, "skip", silent)
