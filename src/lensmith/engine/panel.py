"""Several classifiers that answer about the same images, each its own question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lensmith.engine.classifier import Classifier
from lensmith.models.base import Model
from lensmith.models.memory import out_of_memory
from lensmith.models.views import Views


class Panel:
    """Classifiers of one model object. Its vision tower, which doesn't depend on the question, runs once for all.

    Args:
        classifiers: by name; all score all labels, and have the same model.
    """

    def __init__(self, classifiers: Mapping[str, Classifier]) -> None:
        self.classifiers = dict(classifiers)
        self.model: Model = next(iter(self.classifiers.values())).model
        if any(classifier.model is not self.model for classifier in self.classifiers.values()):
            raise ValueError("the classifiers of a panel share one model")

    def probabilities(self, views: Views, names: Sequence[str]) -> dict[str, list[list[float]]]:
        """The calibrated probabilities of each label, by classifier and image, labels in the classifier's order.

        Args:
            views: (n, 3, H, W) bytes each, of n images of one shape.
            names: the classifiers that answer.

        Raises:
            UserError: as `Classifier.score_all` does.
        """
        rows: dict[str, list[list[float]]] = {name: [] for name in names}
        chosen = {name: self.classifiers[name] for name in names}
        shape = tuple(tuple(view.shape[1:]) for view in views)
        size = min(classifier.batch_size_for(shape) for classifier in chosen.values())
        for start in range(0, len(views[0]), size):
            part = tuple(view[start : start + size] for view in views)
            encoded = self._encoded(part) if len(chosen) > 1 else None
            for name, classifier in chosen.items():
                for scores in classifier.score_all(part, encoded):
                    rows[name] += classifier.calibration.apply(scores.bound).softmax(1).tolist()
        return rows

    @torch.inference_mode()
    def _encoded(self, views: Views) -> Views | None:
        """The tower's states, or None if there isn't memory for so many images; the classifiers then take fewer."""
        try:
            with self.model.autocast():
                return self.model.encode_images(views)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None
