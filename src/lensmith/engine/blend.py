"""A blend: the weighted mean of the log-probabilities of several taught models.

The parts share a base model. Its vision tower runs once for all parts that leave it as it is, and the features that
several heads need are extracted together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmith.engine.classifier import Classifier
from lensmith.engine.labels import Scores
from lensmith.engine.question import Question
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.tuning import Tuned
from lensmith.models.views import Shape, Views
from lensmith.records import Calibration


@dataclass(frozen=True)
class BlendPart:
    """A classifier of a blend; its calibration is that of its own run."""

    name: str
    weight: float
    classifier: Classifier
    same_tower: bool
    """Whether its vision tower has the base model's weights."""


class Blend(Classifier):
    """The parts of a blend, ready to score images as one classifier.

    Scores are log softmax(sum of weight x log p), where p are a part's calibrated probabilities: the normalised
    geometric mean of the parts (a logarithmic opinion pool; Genest and Zidek, 1986).

    Args:
        tuned: has parts.
        calibration: applied to the mean.
        batch_size: see `Classifier`.

    Raises:
        UserError: a part knows other labels than the question's.
    """

    def __init__(
        self,
        tuned: Tuned,
        question: Question,
        calibration: Calibration | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(tuned.model, question, None, calibration, None, batch_size=batch_size)
        for part in tuned.parts:
            if part.calibration.offsets and len(part.calibration.offsets) != len(question.labels):
                raise UserError("A blend only knows the classes that its parts were taught.")
        self.parts = [
            BlendPart(
                part.name,
                part.weight,
                Classifier(part.tuned.model, question, part.tuned.head, part.calibration),
                _same_tower(part.tuned.model, tuned.model),
            )
            for part in tuned.parts
        ]

    def batch_size_for(self, shape: Shape) -> int:
        """The number of images of this shape that are scored at once."""
        return self.batch_size or min(part.classifier.batch_size_for(shape) for part in self.parts)

    @torch.inference_mode()
    def score(self, views: Views, encoded: Views | None = None) -> Scores:
        """Score the labels of a batch of images; see `Classifier.score`."""
        return Scores.of_all(self.mean(self.part_logs(views, encoded)))

    def part_logs(self, views: Views, encoded: Views | None = None) -> list[Tensor]:
        """(n, labels) calibrated log-probabilities of each part."""
        if encoded is None and sum(part.same_tower for part in self.parts) > 1:
            with self.model.autocast():
                encoded = self.model.encode_images(views)
        heads = [c.head for part in self.parts if (c := part.classifier).head is not None and c.model is self.model]
        features = self.features(views, list(dict.fromkeys(head.feature for head in heads)), encoded)
        logs = []
        for part in self.parts:
            classifier = part.classifier
            if classifier.head in heads:
                scores = classifier.score_features(features)
            else:
                scores = classifier.score(views, encoded if part.same_tower else None)
            logs.append(classifier.calibration.apply(scores.bound).log_softmax(1))
        return logs

    def mean(self, logs: Sequence[Tensor]) -> Tensor:
        """(n, labels) log-probabilities of the blend, from those of each part."""
        weighted = [part.weight * part_logs for part, part_logs in zip(self.parts, logs, strict=True)]
        return torch.stack(weighted).sum(0).log_softmax(1)


def classifier_of(
    tuned: Tuned,
    question: Question,
    calibration: Calibration | None = None,
    top: int | None = None,
    batch_size: int | None = None,
) -> Classifier:
    """The classifier that tuned weights make: of the decoder, of a head, or a blend. See `Classifier`."""
    if tuned.parts:
        return Blend(tuned, question, calibration, batch_size)
    return Classifier(tuned.model, question, tuned.head, calibration, top, batch_size=batch_size)


def _same_tower(model: Model, base: Model) -> bool:
    """Whether a model's vision tower has the weights of the base model."""
    if model is base:
        return True
    prefix = model.components["vision_tower"] + "."
    # LoRA's layers have other names, and weights that were trained have a memory of their own.
    ours, theirs = (
        {name: weight.data_ptr() for name, weight in m.network.named_parameters() if name.startswith(prefix)}
        for m in (model, base)
    )
    return ours == theirs
