"""Folds for cross-validation within a split: of all classes alike, and with copies and groups together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lensmith.learn.features.table import FeatureTable

FOLDS = 5


class Fold(NamedTuple):
    """The images that a classifier is fitted on, and those that it is evaluated on."""

    train: FeatureTable
    held_out: FeatureTable


def fold_count(table: FeatureTable, most: int = FOLDS) -> int:
    """How many folds the smallest class allows, counting exact copies and the images of a group once; 1 if it can't be
    split."""
    distinct = set(zip(table.labels.tolist(), table.units, strict=True))
    return max(1, min(most, *Counter(label for label, _ in distinct).values()))


def split_folds(table: FeatureTable, folds: int, seed: int) -> list[Fold]:
    """The folds of `assign_folds`, each held out once; none if there are fewer than two."""
    fold = assign_folds(table, folds, seed)
    return [
        Fold(table.subset((fold != k).nonzero()[:, 0]), table.subset((fold == k).nonzero()[:, 0]))
        for k in range(folds if folds > 1 else 0)
    ]


def assign_folds(table: FeatureTable, folds: int, seed: int) -> Tensor:
    """(images,) the number of each image's fold; see `folds_of`."""
    return folds_of(table.labels, table.units, folds, seed)


def folds_of(labels: Tensor, units: Sequence[str], folds: int, seed: int) -> Tensor:
    """(images,) the number of each image's fold: each class is split into k folds at random (stratified k-fold).

    Exact copies of an image are in the same fold, so that no image is evaluated by a classifier fitted on its copy. The
    images of a group are, too.

    Args:
        labels: (images,) index of each image's label.
        units: what each image can't be separated from: its group, or else its exact copies.
    """
    generator, fold_by_name = torch.Generator().manual_seed(seed), dict[str, int]()
    for label in labels.unique():
        names = dict.fromkeys(units[k] for k in (labels == label).nonzero()[:, 0].tolist())
        unassigned = [name for name in names if name not in fold_by_name]
        order = torch.randperm(len(unassigned), generator=generator).tolist()
        fold_by_name |= {unassigned[k]: position % folds for position, k in enumerate(order)}
    return torch.tensor([fold_by_name[name] for name in units])
