"""What is exported: the classifier of a run in float32 on the CPU, its LoRA merged into the model."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith import models
from lensmith.config import ModelOptions, Recipe
from lensmith.data import decode_image
from lensmith.engine.blend import Blend
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import codes, messages, names_of
from lensmith.engine.taught import load_taught
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.loading import weight_sizes
from lensmith.records import TASK, Calibration, Evaluation
from lensmith.runs.folder import adapter_folder, read_evaluation, read_run
from lensmith.runs.shapes import Task, read_as, stored_calibration


@dataclass(frozen=True)
class Original:
    """A finished run and its classifier."""

    run: Path
    recipe: Recipe
    task: Task
    evaluation: Evaluation | None
    """None if there were no test images."""

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, loaded when it is first used. Raises UserError as `models.load_base` does."""
        base = models.load_base(self.options)
        classifier = load_taught(self.run, model=base).classifier
        classifier.top = None
        for model in models_of(classifier):
            if model.peft is not None:
                if isinstance(classifier, Blend):  # its parts share the weights that merging writes to
                    for weights in model.network.parameters():
                        weights.data = weights.data.clone()
                model.peft.merge_and_unload()
                model.peft = None
            model.network.requires_grad_(False)
        return classifier

    def release(self) -> None:
        """Give the model's memory back. It is loaded again if it is needed again."""
        self.__dict__.pop("classifier", None)
        gc.collect()

    @property
    def calibration(self) -> Calibration:
        """How scores become probabilities."""
        return stored_calibration(adapter_folder(self.run), self.task, self.labels)

    @property
    def model(self) -> Model:
        """The classifier's model, LoRA merged."""
        return self.classifier.model

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the scores."""
        return tuple(self.task["labels"])

    @property
    def has_head(self) -> bool:
        """Whether a probe or another head answers instead of the decoder."""
        return self.classifier.head is not None

    @property
    def public_base(self) -> str:
        """The base model's name, without the folder that it lies in on this machine: it goes to others."""
        base = self.task["base"]
        return base if models.on_hub(base) else Path(base).name

    @property
    def options(self) -> ModelOptions:
        """How the base model is loaded."""
        model = replace(self.recipe.model, base=self.task["base"], adapter=None)
        return replace(model, device="cpu", dtype="float32", quantize="none")

    @cached_property
    def digest(self) -> str:
        """16 hex digits that identify what was taught, and the base that it belongs to."""
        content = hashlib.sha256(str(self.task.get("base_weights")).encode())
        folder = adapter_folder(self.run)
        for path in sorted(filter(Path.is_file, folder.rglob("*"))):
            content.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        return content.hexdigest()[:16]

    @property
    def parameters(self) -> int:
        """The number of the base model's weights, from the headers of its files; of a blend, times the number of models
        that it asks."""
        return len(models_of(self.classifier)) * sum(map(prod, weight_sizes(models.find(self.task["base"])).values()))

    def about(self) -> dict[str, Any]:
        """What every exported file says of itself, as plain values."""
        question, accuracy = self.classifier.prompt.text, self.evaluation and asdict(self.evaluation.accuracy)
        about: dict[str, Any] = {"labels": list(self.labels), "base": self.public_base, "question": question}
        about |= {"calibration": asdict(self.classifier.calibration), "test": accuracy}
        return about | {"made_by": f"lensmith {version('lensmith')}"}


def models_of(classifier: Classifier) -> list[Model]:
    """The models that a classifier asks: its own, and in a blend those of the parts, each once."""
    parts = [part.classifier.model for part in classifier.parts] if isinstance(classifier, Blend) else []
    return list({id(model): model for model in (classifier.model, *parts)}.values())


def open_original(run: Path) -> Original:
    """A run that can be exported.

    Raises:
        UserError: it isn't a run folder, isn't finished or has no taught model, or its base has four-bit weights.
    """
    recipe = read_run(run)
    path = adapter_folder(run) / TASK
    unfinished = UserError(f"The run {run} isn't finished.", f"Resume it with: lensmith resume {run}")
    if (run / "checkpoint").exists() or (run / "predictions.unfinished").exists():
        raise unfinished
    if not path.exists():
        if (run / "record.json").exists() and not (run / "evaluation.json").exists():
            raise unfinished
        raise UserError(
            f"The run {run} has no taught model to export.",
            "Use the run folder of a `lensmith train` or `lensmith probe`.",
        )
    task = read_as(path, Task)
    base = models.read_config(models.find(task["base"]), task["base"])
    quantize = "4bit" if "quantization_config" in base else recipe.model.quantize
    if quantize != "none":
        raise UserError(
            f"The run {run} was taught with model.quantize={quantize}, which no format here holds; with other weights "
            "its answers would change.",
            "Train again with model.quantize=none and export that run.",
        )
    evaluation = read_evaluation(run) if (run / "evaluation.json").exists() else None
    return Original(run, recipe, task, evaluation)


def decoded(original: Original, image: bytes, model: Model | None = None) -> Image.Image:
    """An image file as the run reads it, for its model or another. Raises ImageError as `decode_image` does."""
    limit, enough = original.recipe.data.max_pixels, (model or original.model).sufficient_size
    return decode_image(image, name="the image", max_pixels=limit, enough=enough)


def answers(original: Original, classifier: Classifier, image: bytes) -> list[float]:
    """The log-probabilities of the labels for an image file, by a classifier in this process."""
    views = classifier.model.prepare(decoded(original, image, classifier.model))
    scores = classifier.score(tuple(view[None] for view in views)).bound
    logs: list[float] = classifier.calibration.apply(scores).log_softmax(1)[0].tolist()
    return logs


def spoken(original: Original) -> tuple[list[str], list[dict[str, Any]]]:
    """What the model says for each label, and the question as chat messages."""
    question, labels = original.recipe.question, original.labels
    names = [name for name, *_ in names_of(question, labels)]
    if question.answers == "codes":
        said = codes(original.model.tokenizer, len(labels))
        return said, messages(question, [f"{code}. {name}" for code, name in zip(said, names, strict=True)])
    return names, messages(question, names)
