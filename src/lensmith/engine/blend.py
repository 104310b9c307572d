"""A blend: the weighted mean of several taught models' log-probabilities, each shown an image in one or more ways.

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
from lensmith.models.base import Model
from lensmith.models.tuning import Tuned
from lensmith.models.views import AS_IT_IS, Look, Shape, Views, changed
from lensmith.records import Calibration


@dataclass(frozen=True)
class BlendPart:
    """A classifier of a blend; its calibration is that of its own run."""

    name: str
    weight: float
    classifier: Classifier
    looks: tuple[Look, ...]
    same_tower: bool
    """Whether its vision tower has the base model's weights."""


class Blend(Classifier):
    """The parts of a blend, ready to score images as one classifier.

    Scores are log softmax(sum of weight x log p), where p are a part's calibrated probabilities: a logarithmic opinion
    pool (Genest and Zidek, 1986), which with weights that add up to 1 is the normalised geometric mean.

    Args:
        tuned: has parts.
        calibration: applied to the mean.
        batch_size: see `Classifier`.

    Raises:
        UserError: a head knows other labels than the question's.
    """

    def __init__(
        self, tuned: Tuned, question: Question, calibration: Calibration | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__(tuned.model, question, None, calibration, None, batch_size=batch_size)
        self.parts = [
            BlendPart(
                part.name,
                part.weight,
                Classifier(part.tuned.model, question, part.tuned.head, part.calibration),
                part.looks,
                _same_tower(part.tuned.model, tuned.model),
            )
            for part in tuned.parts
        ]
        self._looks = list(dict.fromkeys(look for part in self.parts for look in part.looks))

    def batch_size_for(self, shape: Shape) -> int:
        """The number of images of this shape that are scored at once."""
        return self.batch_size or min(part.classifier.batch_size_for(shape) for part in self.parts)

    @torch.inference_mode()
    def score(self, views: Views, encoded: Views | None = None) -> Scores:
        """Score the labels of a batch of images; see `Classifier.score`."""
        total: Tensor | int = 0
        for look in self._looks:
            parts = [part for part in self.parts if look in part.looks]
            logs = self._part_logs(parts, changed(views, look), encoded if look == AS_IT_IS else None)
            for part, part_logs in zip(parts, logs, strict=True):
                total = total + part.weight / len(part.looks) * part_logs
        assert isinstance(total, Tensor)
        return Scores.of_all(total.log_softmax(1))

    def _part_logs(self, parts: Sequence[BlendPart], views: Views, encoded: Views | None) -> list[Tensor]:
        """(n, labels) calibrated log-probabilities of each part, for images under one look."""
        if encoded is None and sum(part.same_tower for part in parts) > 1:
            with self.model.autocast():
                encoded = self.model.encode_images(views)
        heads = [c.head for part in parts if (c := part.classifier).head is not None and c.model is self.model]
        features = self.features(views, list(dict.fromkeys(head.feature for head in heads)), encoded)
        logs = []
        for part in parts:
            classifier = part.classifier
            if classifier.head in heads:
                scores = classifier.score_features(features)
            else:
                scores = classifier.score(views, encoded if part.same_tower else None)
            logs.append(classifier.calibration.apply(scores.bound).log_softmax(1))
        return logs


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
    # LoRA's layers have other names, and weights that were trained have memory of their own.
    ours, theirs = (
        {name: weight.data_ptr() for name, weight in m.network.named_parameters() if name.startswith(prefix)}
        for m in (model, base)
    )
    return ours == theirs
