"""Unlabelled images: labels spread to them over nearest neighbours, and probes are fitted on what arrives.

An image that is like several labelled ones gets a bit of the label of each, and passes it on (Zhou et al., Learning
with Local and Global Consistency, 2003): F = a S F + (1 - a) Y, with S the normalised similarities of nearest
neighbours.
Whether that helps is measured by cross-validation on the labelled images. If it can't be told, it isn't done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensmith.learn.features.probes import fold_count, logistic, scale, split_folds, unscaled
from lensmith.learn.features.table import FeatureTable
from lensmith.models.heads import ClassHead

NEIGHBOURS, KEPT, ROUNDS = 10, 0.9, 30
"""Neighbours of an image, the fraction `a` of its label that comes from them, and the number of rounds."""
SHARPNESS = 0.07
"""A similarity counts exp(cosine / this), as for `heads.Neighbours`."""
WEIGHT = 1 / 3
"""An unlabelled image counts as much as this fraction of a labelled one (dev/LOG.md)."""
C = 0.003
"""Inverse regularisation strength of a probe on so many images, whose labels aren't certain."""


@dataclass(frozen=True)
class Verdict:
    """Whether unlabelled images help a probe, measured on labelled images that it wasn't fitted on."""

    helps: bool
    before: float
    """Log loss without them, in nats."""
    after: float
    images: int
    """Number of labelled images it was measured on; 0 if there are too few to tell."""

    def sentence(self, unlabelled: int) -> str:
        """What was decided, and why."""
        if not self.images:
            return f"{unlabelled:,} unlabelled images aren't used: there are too few labels to tell whether they help."
        change = f"log loss {self.before:.2f} without and {self.after:.2f} with, on {self.images:,} labelled images"
        if self.helps:
            return f"{unlabelled:,} unlabelled images help: {change} that the probe wasn't fitted on."
        return f"{unlabelled:,} unlabelled images aren't used, because it can't be told that they help: {change}."


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

    def spread(self, rows: Sequence[int], labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """The labels of some labelled images, spread to all others.

        Args:
            rows: which of the labelled images.
            labels: (rows,) index of each one's label.

        Returns:
            (unlabelled, classes) probabilities, and (unlabelled,) whether anything arrived.
        """
        seeds = np.zeros((self._normalised.shape[0], classes))
        seeds[list(rows), labels.numpy()] = 1
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
    rows: Sequence[int] | None = None,
) -> ClassHead:
    """A probe on labelled images under all looks, and on unlabelled ones with the labels that reach them.

    Args:
        tables: the labelled images, one table for each look.
        unlabelled: (images, size) of the feature.
        rows: which of the labelled images; None for all.
    """
    known = list(range(len(tables[0]))) if rows is None else list(rows)
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


def judge(
    tables: Sequence[FeatureTable],
    unlabelled: Tensor,
    graph: Graph,
    feature: str,
    labels: Sequence[str],
    without: Any,
    seed: int,
) -> Verdict:
    """Whether unlabelled images help, by cross-validation on the labelled ones.

    They are used if the log loss falls by more than one standard error of its paired difference.

    Args:
        without: function from the rows fitted on and the rows held out to (held out, classes) log-probabilities of the
            probe that is used without unlabelled images.
        seed: for the folds.
    """
    first = tables[0]
    folds = fold_count(first)
    if folds < 2:
        return Verdict(False, float("nan"), float("nan"), 0)
    place = {row: k for k, row in enumerate(first.rows)}
    before, after = [], []
    for fold in split_folds(first, folds, seed):
        rows, held_out = ([place[row] for row in part.rows] for part in (fold.train, fold.held_out))
        y = first.labels[held_out]
        head = fit_spread(tables, unlabelled, graph, feature, labels, rows)
        logs = torch.stack([head(table.feature(feature)[held_out]).log_softmax(1) for table in tables]).mean(0)
        after.append(torch.nn.functional.cross_entropy(logs, y, reduction="none"))
        before.append(torch.nn.functional.cross_entropy(without(rows, held_out), y, reduction="none"))
    gain = torch.cat(before) - torch.cat(after)
    error = float(gain.std(correction=0)) / len(gain) ** 0.5
    losses = float(torch.cat(before).mean()), float(torch.cat(after).mean())
    return Verdict(float(gain.mean()) > error, *losses, len(gain))
