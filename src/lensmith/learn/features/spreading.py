"""Unlabelled images: labels spread to them over nearest neighbours, and probes are fitted on what arrives.

An image that is like several labelled ones gets a bit of the label of each, and passes it on (Zhou et al., Learning
with Local and Global Consistency, 2003): F = a S F + (1 - a) Y, with S the normalised similarities of nearest
neighbours.
A blend then has the probe on these beside the one without them. Whether that helps is measured by cross-validation on
the labelled images. If it can't be told, it isn't done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensmith.learn.features.folds import assign_folds, fold_count
from lensmith.learn.features.probes import logistic, scale, unscaled
from lensmith.learn.features.selection import clearly_lower
from lensmith.learn.features.table import FeatureTable
from lensmith.measure.calibration import temperature
from lensmith.models.heads import ClassHead

NEIGHBOURS, KEPT, ROUNDS = 10, 0.9, 30
"""Neighbours of an image, the fraction `a` of its label that comes from them, and the number of rounds."""
SHARPNESS = 0.07
"""A similarity counts exp(cosine / this), as for `heads.Neighbours`."""
WEIGHT = 1 / 3
"""An unlabelled image counts as much as this fraction of a labelled one (dev/LOG.md)."""
HELD_OUT, ROUNDS_MOST = 500, 10
"""Cross-validation is repeated with other folds until so many answers are judged, at most so often."""
ALIKE = 0.05
"""An unlabelled image is unlike all classes if its nearest labelled image is farther away than that of all labelled
images but this fraction. Of photographs of the classes 0 to 14 % are, of digits 83 to 100 % (dev/LOG.md)."""
C = 0.003
"""Inverse regularisation strength of a probe on so many images, whose labels aren't certain."""


@dataclass(frozen=True)
class Verdict:
    """Whether unlabelled images help a probe, measured on labelled images that it wasn't fitted on."""

    helps: bool
    before: float
    """Log loss without them, in nats, calibrated."""
    after: float
    """The same of both probes together, with and without them."""
    images: int
    """Number of labelled images it was measured on; 0 if there are too few to tell."""
    temperature: float = 1.0
    """Of the probe with them: its targets are vague, and so would be its answers."""

    def sentence(self, unlabelled: int, unlike: int = 0) -> str:
        """What was decided, and why; and how many of the images are unlike all classes, if these are many."""
        change = f"log loss {self.before:.2f} without and {self.after:.2f} with, on {self.images:,} labelled images"
        if not self.images:
            said = f"{unlabelled:,} unlabelled images aren't used: there are too few labels to tell whether they help."
        elif self.helps:
            said = f"{unlabelled:,} unlabelled images help: {change} that the probe wasn't fitted on."
        else:
            said = f"{unlabelled:,} unlabelled images aren't used, because it can't be told that they help: {change}."
        return said + f" {unlike:,} of them are unlike all classes." * (unlike > 3 * ALIKE * unlabelled)


Answers = Callable[[Tensor, Tensor], Tensor]
"""Takes indices of labelled images to fit a probe on, and of others; gives (others, classes) log-probabilities."""


class Graph:
    """The nearest neighbours of labelled and unlabelled images by one feature.

    Args:
        labelled: (images, size).
        unlabelled: (images, size).
    """

    def __init__(self, labelled: Tensor, unlabelled: Tensor) -> None:
        from scipy.sparse import coo_matrix  # type: ignore[import-untyped, unused-ignore]
        from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped, unused-ignore]

        x = torch.cat([labelled, unlabelled])
        mean, std = scale(x)
        directions = torch.nn.functional.normalize((x - mean) / std, dim=1).numpy()
        n, k = len(x), min(NEIGHBOURS + 1, len(x))
        distance, index = NearestNeighbors(n_neighbors=k).fit(directions).kneighbors(directions)
        cosine = 1 - distance**2 / 2
        weight = np.exp((cosine - 1) / SHARPNESS)
        rows = np.repeat(np.arange(n), k)
        similar = coo_matrix((weight.ravel(), (rows, index.ravel())), (n, n)).tocsr()
        similar.setdiag(0)
        similar = similar.maximum(similar.T)
        root = 1 / np.sqrt(np.maximum(np.asarray(similar.sum(1)).ravel(), 1e-12))
        self._normalised: Any = similar.multiply(root[:, None]).multiply(root[None]).tocsr()
        self.labelled = len(labelled)
        mine = directions[: self.labelled]
        own = mine @ mine.T
        np.fill_diagonal(own, -1)
        nearest = (directions[self.labelled :] @ mine.T).max(1, initial=-1)
        self.unlike = int((nearest < np.quantile(own.max(1), ALIKE)).sum())
        """The number of unlabelled images that are unlike all classes; see `ALIKE`."""

    def spread(self, rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """The labels of some labelled images, spread to all others.

        Args:
            rows: indices of some of the labelled images.
            labels: (rows,) index of each one's label.

        Returns:
            (unlabelled, classes) probabilities, and (unlabelled,) whether anything arrived.
        """
        seeds = np.zeros((self._normalised.shape[0], classes))
        seeds[rows.numpy(), labels.numpy()] = 1
        found = seeds.copy()
        for _ in range(ROUNDS):
            found = KEPT * (self._normalised @ found) + (1 - KEPT) * seeds
        arrived = torch.from_numpy(found[self.labelled :]).float()
        total = arrived.sum(1, keepdim=True)
        return arrived / total.clamp_min(1e-12), total[:, 0] > 1e-9


def fit_spread(
    tables: Sequence[FeatureTable],
    unlabelled: Tensor,
    graph: Graph,
    feature: str,
    labels: Sequence[str],
    rows: Tensor | None = None,
) -> ClassHead:
    """A probe on labelled images under all looks, and on unlabelled ones with the labels that reach them.

    Args:
        tables: the labelled images, one table for each look.
        unlabelled: (images, size) of the feature.
        rows: which of the labelled images; None for all.
    """
    known = torch.arange(len(tables[0])) if rows is None else rows
    y = tables[0].labels[known]
    targets, reached = graph.spread(known, y, len(labels))
    x = torch.cat([*(table.feature(feature)[known] for table in tables), unlabelled[reached]])
    own = torch.nn.functional.one_hot(y, len(labels)).float().repeat(len(tables), 1)
    weights = torch.cat([torch.full((len(own),), 1 / len(tables)), torch.full((int(reached.sum()),), WEIGHT)])
    mean, std = scale(x)
    start = x.new_zeros(len(labels), x.shape[1]), x.new_zeros(len(labels))
    both = torch.cat([own, targets[reached]])
    weight, bias = logistic((x - mean) / std, both, C, torch.ones(len(labels)), *start, None, weights)
    return unscaled(weight, bias, mean, std, labels, feature)


def judge(labelled: FeatureTable, without: Answers, spread: Answers, seed: int) -> Verdict:
    """Whether unlabelled images help, by cross-validation on the labelled ones.

    They are used if the log loss of both probes together is lower than that of the one without by more than a standard
    error of the paired difference.

    Args:
        without: the probe that is used without unlabelled images.
        spread: the probe that learns from them too.
        seed: for the folds.
    """
    folds, n = fold_count(labelled), len(labelled)
    if folds < 2:
        return Verdict(False, float("nan"), float("nan"), 0)
    found: dict[Answers, list[Tensor]] = {without: [], spread: []}
    rounds = min(max(HELD_OUT // n, 1), ROUNDS_MOST)
    for number in range(rounds):
        fold = assign_folds(labelled, folds, seed + number)
        parts = [((fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]) for k in range(folds)]
        order = torch.cat([held_out for _, held_out in parts]).argsort()
        for answers, rows in found.items():
            rows.append(torch.cat([answers(train, held_out) for train, held_out in parts])[order])
    y = labelled.labels.repeat(rounds)
    logs, heats = [], []
    for answers in (without, spread):
        raw = torch.cat(found[answers])
        heats.append(temperature(raw, y))
        logs.append((raw / heats[-1]).log_softmax(1))
    before, after = (
        torch.nn.functional.cross_entropy(both, y, reduction="none").reshape(rounds, n).mean(0)
        for both in (logs[0], torch.stack(logs).mean(0))
    )
    return Verdict(clearly_lower(after, before), float(before.mean()), float(after.mean()), n, heats[1])
