"""`lensmith.Classifier`: a model that is taught images, with the interface of a scikit-learn classifier."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped, unused-ignore]
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped, unused-ignore]

from lensmith.config import Recipe, load_recipe
from lensmith.data import ImageDataset, decode_image
from lensmith.data.build import build_dataset
from lensmith.data.source import Row, Source
from lensmith.engine.classifier import Classifier as Asked
from lensmith.engine.classifier import predict as predict_loop
from lensmith.engine.taught import load_taught
from lensmith.errors import UserError
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.learn.made import classifier_of, make
from lensmith.learn.methods import methods
from lensmith.measure.calibration import LEAST
from lensmith.measure.evaluation import calibrate
from lensmith.progress import silent
from lensmith.runs.folder import Run, keep_calibration, read_run

VALIDATION = 0.1
"""Fraction of the images of `fit` that weights and temperatures are fitted on, if that is at least twenty images."""
CLASSES = "classes.json"
"""File in a saved classifier's folder: the classes as they were given, not as text."""


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Teaches a vision-language model classes of images, and classifies others.

    Images are paths, PIL images, or arrays of (height, width) or (height, width, 3) bytes or floats in 0..1; several
    images are a sequence of these, or one array with a further first dimension.

    Args:
        base: the base model: `model.base` of a recipe.
        method: how it is taught: a name of `ladder.methods`, such as `blend`, `probe`, `lora`. A blend is one of
            probes and neighbours; with the option `blend.methods=[lora]` of a trained model as well.
        options: of the recipe, as on the command line: `["augment.flip=true"]`.
        random_state: the seed.
    """

    def __init__(
        self, base: str = "nano", method: str = "blend", options: Sequence[str] = (), random_state: int = 0
    ) -> None:
        self.base = base
        self.method = method
        self.options = options
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Classifier:
        """Teach the model.

        Args:
            X: n images.
            y: (n,) the class of each, of any type that NumPy can sort and JSON can hold.

        Raises:
            UserError: X holds no images, a class has another's name, there is one class only, or the method can't
                work with these images.
        """
        images, classes = _images(X), np.unique(np.asarray(y))
        if len(images) != len(np.asarray(y)):
            raise UserError(f"There are {len(images)} images and {len(np.asarray(y))} labels.", "Give one of each.")
        names = tuple(str(value) for value in classes.tolist())
        if len(classes) < 2 or len(set(names)) != len(names):
            raise UserError(
                f"There are {len(set(names))} classes.", "A classifier needs at least two, with other names."
            )
        words = [f"model.base={self.base}", f"seed={self.random_state}", *self.options]
        recipe = load_recipe(None, words)
        if self.method not in methods():
            raise UserError(f"There is no method {self.method!r}.", f"Known: {', '.join(methods())}.")
        dataset = _dataset(images, np.searchsorted(classes, np.asarray(y)).tolist(), names)
        folder = Path(tempfile.mkdtemp(prefix="lensmith-classifier-"))
        try:
            run = Run(folder, recipe, dataset, silent)
            method = methods()[self.method]
            method.require(method.recipe(recipe), dataset)
            inner = make(method, run, SharedFrozenModel(recipe, dataset, silent))
            asked = classifier_of(inner)
            calibrate(inner, asked, dataset.test)
            if (inner.folder / "adapter").is_dir():
                keep_calibration(inner.folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        asked.top = None
        self.classes_, self.folder_, self.asked_ = classes, inner.folder, asked
        return self

    def predict_proba(self, X: Any) -> Any:
        """(n, classes) probabilities, in the order of `classes_`.

        Raises:
            ImageError: an image can't be read.
        """
        check_is_fitted(self)
        asked: Asked = self.asked_
        images = _images(X)
        items = [(str(i), None, lambda image=image: _opened(image, asked)) for i, image in enumerate(images)]
        found = list(predict_loop(asked, items))
        for prediction in found:
            if prediction.error:
                raise UserError(prediction.error, "Remove the image.")
        return np.array([asked.probabilities(prediction) for prediction in found]).reshape(
            len(found), len(self.classes_)
        )

    def predict(self, X: Any) -> Any:
        """(n,) the most probable class of each image. Raises as `predict_proba` does."""
        return self.classes_[self.predict_proba(X).argmax(1)] if len(_images(X)) else self.classes_[:0]

    def save(self, folder: str | Path) -> None:
        """Write what was taught as a run folder, which `lensmith predict` and `lensmith serve` take, too.

        Raises:
            UserError: the folder exists, or the method teaches nothing (zero-shot).
        """
        check_is_fitted(self)
        if Path(folder).exists():
            raise UserError(f"The folder {folder} exists already.", "Choose another.")
        if not (self.folder_ / "adapter").is_dir():
            raise UserError(f"The method {self.method} teaches nothing that could be saved.", "Use another method.")
        shutil.copytree(self.folder_, folder)
        parameters = {"base": self.base, "method": self.method, "options": list(self.options)}
        about = {"classes": self.classes_.tolist(), "parameters": parameters | {"random_state": self.random_state}}
        (Path(folder) / CLASSES).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        """What `save` wrote, or any run folder with a taught model. Raises UserError as `load_taught` does."""
        run = Path(folder)
        recipe: Recipe = read_run(run)
        path = run / CLASSES
        about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        made = cls(**about.get("parameters", {"base": recipe.model.base}))
        made.asked_ = load_taught(run).classifier
        made.asked_.top = None
        made.classes_ = np.array(about.get("classes", list(made.asked_.labels)))
        made.folder_ = run
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded model, which can't be sent to another process."""
        state = dict(super().__getstate__())
        state.pop("asked_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "folder_" in state:
            self.asked_ = load_taught(state["folder_"]).classifier
            self.asked_.top = None


def _images(X: Any) -> list[Any]:
    """The images as a list.

    Raises:
        UserError: these are no images.
    """
    if isinstance(X, str | Path | Image.Image):
        raise UserError("This is one image.", "Give a list of images.")
    images = list(X)
    for k, image in enumerate(images):
        shape = getattr(image, "shape", None)
        if shape is not None and not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
            raise UserError(
                f"Image {k} is an array of the shape {tuple(shape)}.", "Give (height, width) or (height, width, 3)."
            )
        if shape is None and not isinstance(image, str | Path | Image.Image):
            raise UserError(f"Image {k} is a {type(image).__name__}.", "Give a path, a PIL image or an array.")
    return images


def _picture(image: Any) -> Image.Image:
    """A PIL image, of one or of an array."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = (values.clip(0, 1) * 255).round()
    values = values.astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values).convert("RGB")


def _opened(image: Any, asked: Asked) -> Image.Image:
    if isinstance(image, str | Path):
        return decode_image(Path(image), name=str(image), enough=asked.model.sufficient_size)
    return _picture(image)


def _dataset(images: Sequence[Any], labels: Sequence[int], names: tuple[str, ...]) -> ImageDataset:
    """The images as a dataset without a test."""

    def rows() -> Any:
        for k, (image, label) in enumerate(zip(images, labels, strict=True)):
            if isinstance(image, str | Path):
                yield Row(label, str(Path(image).resolve()))
            else:
                stream = io.BytesIO()
                _picture(image).save(stream, "PNG")
                yield Row(label, f"image {k}", stream.getvalue())

    validation = VALIDATION if len(images) * VALIDATION >= LEAST else 0.0
    source = Source(rows(), names=names)
    return build_dataset("the images of fit", source, class_names=None, validation=validation, test=0.0)
