"""Predictions to an Evaluation: every image counts, and what could not be read is wrong and listed."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import metrics
from lensmith.data import ImageDataset, Split
from lensmith.records import Evaluation, Prediction


def evaluate(
    name: str, predictions: Sequence[Prediction], dataset: ImageDataset, split: Split, seconds: float = 0.0
) -> Evaluation:
    """Figures of one classifier on one part of a dataset.

    Raises:
        UserError: there are no predictions.
        ValueError: the predictions are not of this part's samples, in their order.
    """
    rate = metrics.accuracy(predictions)
    if [p.id for p in predictions] != list(split.ids):
        raise ValueError("The predictions are of other samples than the split's.")
    labels = list(dataset.labels)
    counts = metrics.confusion(predictions, labels)
    classes = metrics.per_class(counts, labels)
    notes = list(dataset.notes)
    if split.name != "test":
        notes.append(f"These are the {split.name} images: not a test.")
    return Evaluation(
        name=name,
        accuracy=rate,
        macro_f1=metrics.macro_f1(classes),
        classes=classes,
        confusion=counts,
        labels=labels,
        data={"uri": dataset.uri, "split": split.name, "n": len(split), "hash": split.hash},
        unreadable=[p.error for p in predictions if p.error],
        seconds=round(seconds, 2),
        notes=notes,
    )
