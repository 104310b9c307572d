"""The choice of a feature and a setting for a simple classifier, on images that it wasn't fitted on.

They are chosen on validation images, by the log loss after temperature scaling: how probable the correct label is once
the probabilities are calibrated. The first feature is left for another only if that is better by a standard error,
because the best of many on few images is often the luckiest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lensmith.errors import UserError
from lensmith.learn.features.folds import Fold, fold_count, split_folds
from lensmith.learn.features.probes import HeadPath
from lensmith.learn.features.table import FeatureTable
from lensmith.measure.calibration import LEAST, temperature
from lensmith.models.heads import Head
from lensmith.progress import Tell, counter, silent

FEATURE_CHOICE_IMAGES = 5_000
"""With more training images than this, the feature is chosen on a random subset of this size."""


@dataclass(frozen=True)
class Candidate:
    """One combination of feature and setting, evaluated on images that were not used to fit it."""

    feature: str
    setting: float
    """C of a probe, or the number of neighbours."""
    log_loss: float
    """After temperature scaling, in nats."""
    accuracy: float
    losses: Tensor = field(repr=False, compare=False)
    """(images,) the log loss of each image."""

    def record(self) -> dict[str, Any]:
        """Plain values for a run's record."""
        about = {"feature": self.feature, "setting": self.setting}
        return about | {"log_loss": self.log_loss, "accuracy": self.accuracy}


@dataclass(frozen=True)
class Fitted:
    """A classifier on frozen features, and how it was chosen."""

    head: Head
    setting: float
    """C of a probe, or the number of neighbours."""
    setting_text: str
    """The setting as it is written."""
    candidates: list[Candidate]
    ranked: list[str]
    """The features, the chosen one first."""
    evaluated: int
    """The number of images that the candidates were evaluated on."""
    folds: int
    """0 if these were validation images. Otherwise the number of folds the training images were split into; 1 if there
    were too few images to split, and nothing was chosen."""

    def record(self) -> dict[str, Any]:
        """Plain values for a run's record."""
        about = {"feature": self.head.feature, "setting": self.setting, "judged": self.evaluated, "folds": self.folds}
        return about | {"tried": [candidate.record() for candidate in self.candidates]}

    def sentence(self) -> str:
        """What was chosen, and on which images."""
        what = f"{self.head.feature}, {self.setting_text}"
        if not self.evaluated:
            return f"Used without a choice: {what}; there are too few images to choose by."
        images = f"training images ({self.folds}-fold cross-validation)" if self.folds else "validation images"
        on = f"of {len(self.candidates)} candidates on {self.evaluated:,} {images}"
        if best(self.candidates).feature == self.head.feature:
            return f"Chosen: {what}; lowest log loss {on}."
        return f"Chosen: {what}; no other feature is better by a standard error, {on}."


def fit(
    path: HeadPath,
    train: FeatureTable,
    validation: FeatureTable,
    labels: Sequence[str],
    features: Sequence[str] | None = None,
    balanced: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tell: Tell = silent,
) -> Fitted:
    """The best classifier of one type: of the feature that is ranked first (`rank`), the setting with the lowest log
    loss on validation images.

    With fewer than twenty validation images, the choice is made by cross-validation on the training images.

    Args:
        path: `probes` or `neighbours`.
        features: the features to choose among; None for all in the table.
        balanced: weight the classes equally, however many images each has.
        seed: for the folds, and for the subset that the feature is chosen on when there are many images.

    Raises:
        UserError: the training images have fewer than two classes, or there is no such feature.
    """
    known = list(train.columns)
    wanted = list(features or known)
    if unknown := [feature for feature in wanted if feature not in known]:
        raise UserError(f"There is no feature {unknown[0]!r}.", f"There are: {', '.join(known)}.")
    if len(set(train.labels.tolist())) < 2:
        raise UserError("A classifier needs readable training images of at least two classes.")
    counts = train.labels.bincount(minlength=len(labels)).clamp(min=1)
    weights = len(train) / (len(labels) * counts) if balanced else torch.ones(len(labels))
    folds = 0 if len(validation) >= LEAST else fold_count(train)

    def folds_of(table: FeatureTable) -> list[Fold]:
        return split_folds(table, folds, seed) if folds else [Fold(table, validation)]

    subset_candidates, ranked = [], wanted
    if len(train) > FEATURE_CHOICE_IMAGES and len(wanted) > 1 and folds != 1:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        subset = train.subset(order[:FEATURE_CHOICE_IMAGES].sort()[0])
        subset_candidates = evaluate_candidates(path, folds_of(subset), labels, wanted, weights, device, tell)
        ranked = rank(subset_candidates, wanted)
        wanted = ranked[:1]
    candidates = []
    if folds != 1:
        candidates = evaluate_candidates(path, folds_of(train), labels, wanted, weights, device, tell)
        if not subset_candidates:
            ranked = rank(candidates, wanted)
    own = [candidate for candidate in candidates if candidate.feature == ranked[0]]
    setting = best(own).setting if own else path.default  # of one image a class, there is nothing to choose by
    head = fit_candidate(path, train, labels, ranked[0], setting, weights, device)
    evaluated = 0 if folds == 1 else len(train) if folds else len(validation)
    every = [*subset_candidates, *candidates]
    return Fitted(head, setting, path.setting.format(setting), every, ranked, evaluated, folds)


def fit_candidate(
    path: HeadPath,
    train: FeatureTable,
    labels: Sequence[str],
    feature: str,
    setting: float,
    class_weights: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Head:
    """The classifier for one feature and setting."""
    weights = torch.ones(len(labels)) if class_weights is None else class_weights
    heads = path(train.feature(feature).to(device), train.labels.to(device), labels, feature, weights.to(device))
    # A copy, because moving a head to another device would move the one that is remembered.
    return deepcopy(next(head for head_setting, head in heads if head_setting == setting)).cpu()


def evaluate_candidates(
    path: HeadPath,
    folds: Sequence[Fold],
    labels: Sequence[str],
    features: Sequence[str],
    class_weights: Tensor,
    device: torch.device | str,
    tell: Tell = silent,
) -> list[Candidate]:
    """Fit every feature and setting on the training images of each fold, and evaluate it on all held-out images.

    With one fold, the settings of a feature are tried in order until the log loss rises.
    """
    candidates = []
    y_held_out = torch.cat([fold.held_out.labels for fold in folds])
    done, progress = 0, counter("fitting", len(features) * len(folds), tell, "fits")
    progress(0)
    for feature in features:
        scores: dict[float, list[Tensor]] = {}
        least = float("inf")
        for fold in folds:
            x = fold.train.feature(feature).to(device)
            y = fold.train.labels.to(device)
            x_held_out = fold.held_out.feature(feature).to(device)
            for setting, head in path(x, y, labels, feature, class_weights.to(device)):
                scores.setdefault(setting, []).append(head(x_held_out).log_softmax(1).cpu())
                if len(folds) > 1:
                    continue
                candidates.append(_candidate(feature, setting, scores[setting][0], y_held_out))
                if candidates[-1].log_loss > least:
                    break
                least = candidates[-1].log_loss
            done += 1
            progress(done)
        if len(folds) > 1:
            # A small fold may not allow the largest numbers of neighbours.
            complete = {setting: parts for setting, parts in scores.items() if len(parts) == len(folds)}
            candidates += [_candidate(feature, s, torch.cat(parts), y_held_out) for s, parts in complete.items()]
    return candidates


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the lowest log loss; the first of them if several are equal."""
    return min(candidates, key=lambda candidate: candidate.log_loss)


def rank(candidates: Sequence[Candidate], features: Sequence[str]) -> list[str]:
    """Features in the order in which they would be chosen: the first that is left, unless the best candidate of the
    others has a lower log loss by more than a standard error of the paired difference."""
    left, ranked = list(features), list[str]()
    while left:
        first = best([candidate for candidate in candidates if candidate.feature == left[0]])
        lowest = best([candidate for candidate in candidates if candidate.feature in left])
        ranked.append(lowest.feature if clearly_lower(lowest.losses, first.losses) else first.feature)
        left.remove(ranked[-1])
    return ranked


def clearly_lower(losses: Tensor, others: Tensor) -> bool:
    """Whether losses are lower than others on the same images, by more than a standard error of the difference."""
    gain = (others - losses).double()
    error = float(gain.std(correction=0)) / math.sqrt(len(gain))
    return float(gain.mean()) > error


def calibrated_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """(images,) the log loss of each image in nats, after temperature scaling."""
    return cross_entropy((scores / temperature(scores, labels)).double(), labels, reduction="none")


def _candidate(feature: str, setting: float, scores: Tensor, labels: Tensor) -> Candidate:
    losses = calibrated_losses(scores, labels)
    right = float((scores.argmax(1) == labels).float().mean())
    return Candidate(feature, setting, float(losses.mean()), right, losses)
