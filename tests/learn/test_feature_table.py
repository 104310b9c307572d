"""Vectors are kept, found again, and never those of another question, model or image."""

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
from lensmith.learn import feature_store
from lensmith.learn.feature_table import Table, read_table
from lensmith.measure.evaluation import classifier_for
from lensmith.models.base import Model
from lensmith.models.tuning import Tuned
from lensmith.progress import silent
from tests.conftest import Shapes


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "cache"))


class Looks:
    """Counts the images that a model's tower looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        self.patch = monkeypatch

    def at(self, model: Model) -> None:
        see = model.encode_images

        def counted(views: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            self.images += len(views[0])
            return see(views)

        self.patch.setattr(model, "see", counted)


def recipe_for(folder: Path, tiny_folder: Path, *more: str) -> Recipe:
    return load_recipe(
        None,
        [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu", *more],
    )


def asked(recipe: Recipe, looks: Looks) -> Classifier:
    model = models.load_base(recipe.model)
    looks.at(model)
    question = make_question(model, recipe.question, open_data(recipe.data).labels)
    return classifier_for(Tuned(model), question, recipe.evaluate)


def read(recipe: Recipe, looks: Looks, wanted: list[str] | None = None, part: str = "train") -> Table:
    split = getattr(open_data(recipe.data), part)
    return read_table(asked(recipe, looks), split, wanted, 10**8, recipe.data.unreadable, silent)


def test_images_are_looked_at_once(shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, looks = shapes(circle=20, square=20), Looks(monkeypatch)
    recipe = recipe_for(folder, tiny_folder)
    first = read(recipe, looks)
    assert looks.images == len(first) == len(open_data(recipe.data).train)
    again = read(recipe, looks)
    assert looks.images == len(first) + 1  # one, to know how large a vector is
    assert torch.equal(first.values, again.values)
    assert (first.places, first.rows) == (again.places, again.rows)
    other = read(recipe_for(folder, tiny_folder, "question.text='Which? {labels}'"), looks)
    assert looks.images == 2 * len(first) + 1
    assert torch.equal(other.of("tower mean"), first.of("tower mean"))
    assert not torch.equal(other.of("decoder end"), first.of("decoder end"))


def test_a_row_is_what_the_classifier_sees_of_that_image(
    shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looks = shapes(circle=20, square=20), Looks(monkeypatch)
    Image.new("RGB", (300, 60), "red").save(folder / "circle" / "wide.png")  # another shape
    recipe = recipe_for(folder, tiny_folder, "data.validation=0")
    found, classifier = read(recipe, looks), asked(recipe, looks)
    split = open_data(recipe.data).train
    for k in range(0, len(found), 5):
        i = found.rows[k]
        views = tuple(view[None] for view in classifier.model.prepare(split.image(i)))
        for kind, vector in classifier.features(views, feature_names(classifier.model)).items():
            torch.testing.assert_close(found.of(kind)[k], vector[0], atol=2e-2, rtol=2e-3)  # kept in float16
        assert classifier.labels[int(found.truth[k])] == split.labels[i]


def test_what_cannot_be_read_has_no_row_and_a_sentence(
    shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looks = shapes(circle=20, square=20), Looks(monkeypatch)
    for file in sorted((folder / "circle").iterdir())[:5]:
        file.write_bytes(file.read_bytes()[:200])
    recipe = recipe_for(folder, tiny_folder, "data.validation=0", "data.test=0.1")
    found, split = read(recipe, looks), open_data(recipe.data).train
    assert found.errors
    assert sorted([*found.rows, *found.errors]) == list(range(len(split)))
    with pytest.raises(ImageError, match=r"data\.unreadable=skip"):
        read(recipe_for(folder, tiny_folder, "data.validation=0", "data.test=0.1", "data.unreadable=stop"), looks)
    for file in folder.rglob("*.jpg"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="no readable training image"):
        read(recipe, looks)


def test_pixels_need_no_model(shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    found = read(recipe_for(shapes(circle=20, square=20), tiny_folder), looks, [PIXELS])
    assert looks.images == 0
    assert found.of(PIXELS).shape == (len(found), 28 * 28)


def test_a_full_disk_costs_the_cache_and_not_the_work(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looks = shapes(circle=20, square=20), Looks(monkeypatch)
    recipe = recipe_for(folder, tiny_folder)
    kept = read(recipe, looks)
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(feature_store, "SPARE", 1 << 60)
    assert torch.equal(read(recipe, looks).values, kept.values)
    assert not list((tmp_path / "another").rglob("*.safetensors"))


def test_a_lower_limit_of_pixels_is_not_passed_by_what_was_kept(
    shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looks = shapes(circle=20, square=20), Looks(monkeypatch)
    recipe = recipe_for(folder, tiny_folder, "data.validation=0")
    split = open_data(recipe.data).train
    assert len(read_table(asked(recipe, looks), split, None, 10**8, "skip", silent)) == len(split)
    with pytest.raises(UserError, match="no readable training image"):
        read_table(asked(recipe, looks), split, None, 100, "skip", silent)
