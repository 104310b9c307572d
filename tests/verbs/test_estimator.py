"""`lensmith.Classifier` behaves as scikit-learn's own classifiers do, on images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

import lensmith
from lensmith.errors import UserError
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long

WORDS = ["model.dtype=float32", "model.device=cpu", "probe.features=[tower mean]"]


@pytest.fixture
def images(shapes: Shapes) -> tuple[list[str], NDArray[np.str_]]:
    folder = shapes(circle=24, square=24)
    paths = sorted(folder.rglob("*.jpg")) or sorted(path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in paths], np.array([path.parent.name for path in paths])


def test_it_learns_and_is_saved_and_loaded(
    images: tuple[list[str], NDArray[np.str_]], tiny_folder: Path, tmp_path: Path, run: Run
) -> None:
    paths, y = images
    model = lensmith.Classifier(str(tiny_folder), "probe", WORDS).fit(paths[::2], y[::2])
    assert model.classes_.tolist() == ["circle", "square"]
    assert model.score(paths[1::2], y[1::2]) >= 0.9
    probabilities = model.predict_proba(paths[1::2])
    assert probabilities.shape == (24, 2)
    assert np.allclose(probabilities.sum(1), 1)
    assert (model.classes_[probabilities.argmax(1)] == model.predict(paths[1::2])).all()

    model.save(tmp_path / "saved")
    again = lensmith.Classifier.load(tmp_path / "saved")
    assert again.get_params() == model.get_params()
    assert np.allclose(again.predict_proba(paths[1::2]), probabilities, atol=1e-6)
    code, out, err = run("predict", tmp_path / "saved", paths[1])  # what is saved is a run folder
    assert code == 0, err
    assert out.split("\t")[1] == model.predict(paths[1:2])[0]
    with pytest.raises(UserError, match="exists already"):
        model.save(tmp_path / "saved")
    sent = pickle.loads(pickle.dumps(model))
    assert np.allclose(sent.predict_proba(paths[1::2]), probabilities, atol=1e-6)


def test_paths_pictures_and_arrays_are_the_same(images: tuple[list[str], NDArray[np.str_]], tiny_folder: Path) -> None:
    paths, y = images
    model = lensmith.Classifier(str(tiny_folder), "probe", WORDS).fit(paths, y == "square")
    assert model.classes_.tolist() == [False, True]
    some = paths[:4]
    pictures = [Image.open(path).convert("RGB") for path in some]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    expected = model.predict_proba(some)
    assert np.allclose(model.predict_proba(pictures), expected, atol=1e-5)
    assert np.allclose(model.predict_proba(arrays), expected, atol=1e-5)
    assert np.allclose(model.predict_proba(arrays / 255), expected, atol=1e-5)
    assert model.predict(pictures).dtype == bool
    assert len(model.predict([])) == 0


def test_it_works_in_cross_validation_and_in_a_grid_search(
    images: tuple[list[str], NDArray[np.str_]], tiny_folder: Path
) -> None:
    paths, y = images
    model = lensmith.Classifier(str(tiny_folder), "neighbours", WORDS)
    assert cross_val_score(model, paths, y, cv=3).mean() > 0.8
    search = GridSearchCV(model, {"method": ["neighbours", "probe"]}, cv=2).fit(paths, y)
    assert search.best_params_["method"] in ("neighbours", "probe")
    assert search.best_estimator_.score(paths, y) > 0.9


def test_a_blend_of_few_images(images: tuple[list[str], NDArray[np.str_]], tiny_folder: Path) -> None:
    paths, y = images
    few = [*range(3), *range(24, 27)]
    model = lensmith.Classifier(str(tiny_folder), options=[*WORDS, "augment.flip=true"])
    model.fit([paths[i] for i in few], y[few])
    assert model.score(paths, y) > 0.7


def test_scikit_learns_own_checks() -> None:
    """Those that don't feed tables of numbers; the others give an estimator rows that aren't images."""
    estimator = lensmith.Classifier()
    name = type(estimator).__name__
    for check in (
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
    ):
        check(name, clone(estimator))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([np.zeros((8, 8, 5))] * 2, ["a", "b"], "Image 0 is an array of the shape"),
        ([3, 4], ["a", "b"], "Image 0 is a int"),
        ([np.zeros((8, 8))] * 2, ["a", "a"], "There are 1 classes"),
        ([np.zeros((8, 8))] * 2, ["a"], "2 images and 1 labels"),
        ("one.png", ["a"], "This is one image"),
    ],
)
def test_what_is_no_set_of_images_is_refused(x: object, y: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lensmith.Classifier().fit(x, y)
