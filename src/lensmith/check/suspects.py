"""Labels that are likely wrong: images whose class is improbable to a probe that never saw their labels.

Confident learning (Northcutt et al., 1911.00068), by `cleanlab`: each image is evaluated by a probe fitted on the other
folds. It is a suspect if its label is improbable, and another class more probable than that class is on average for its
own images. Features are those of the base model, which never saw these labels: a model tuned on them would have learned
the wrong ones too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.errors import UserError, optional
from lensmith.learn import probes
from lensmith.learn.feature_table import Table
from lensmith.learn.frozen import FrozenModel
from lensmith.progress import Note, Tell

SPLITS = ("train", "validation")
"""What is examined. If a model could say which test labels are right, the test would favour it."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong; probabilities are in 0..1."""

    split: str
    index: int
    """Of the image in its split."""
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class Examination:
    """What examining the labels found."""

    suspects: list[Suspect]
    """The most serious first."""
    images: int
    """Examined, copies counted once."""
    notes: list[str]
    """Sentences on how."""


@dataclass(frozen=True)
class _Pool:
    """Images of several splits as one table."""

    table: Table
    """Its `rows` count the pool's images; `truth` counts into all labels."""
    where: list[tuple[str, int]]
    """Split and index of each row."""


def find_suspects(recipe: Recipe, dataset: ImageDataset, tell: Tell) -> Examination:
    """Examine the training and validation images.

    Raises:
        UserError: `cleanlab` isn't installed, or fewer than two classes have enough images.
    """
    optional("cleanlab", "suspects", "Looking for wrong labels")
    from cleanlab.filter import find_label_issues

    folds, labels = recipe.suspects.folds, dataset.labels
    frozen = FrozenModel(recipe, dataset, tell)
    feature = frozen.fit(probes.probes).head.feature
    pool = _pooled(frozen, dataset)
    counts = Counter(pool.table.truth.tolist())
    large = sorted(c for c, n in counts.items() if n >= folds)
    small = [f"{labels[c]} ({counts[c]})" for c in range(len(labels)) if 0 < counts[c] < folds]
    if len(large) < 2:
        raise UserError(
            f"Fewer than two classes have {folds} readable images, which a fit on the other folds needs: "
            f"{', '.join(small)}.",
            "Add images, or lower suspects.folds.",
        )
    table = _only(pool.table, large, len(labels))
    names = [labels[c] for c in large]
    probabilities = _out_of_fold(frozen, table, names, feature, folds, recipe.seed, tell)
    truth, best = table.truth.numpy(), probabilities.argmax(1).tolist()
    order = find_label_issues(
        truth, probabilities.numpy().astype(np.float64), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    suspects = [
        Suspect(
            *pool.where[table.rows[k]],
            names[truth[k]],
            names[best[k]],
            float(probabilities[k, truth[k]]),
            float(probabilities[k, best[k]]),
        )
        for k in map(int, order)
        if best[k] != truth[k]
    ]
    agreement = float((probabilities.argmax(1) == table.truth).float().mean())
    notes = [
        f"Each image was evaluated by a probe ({feature}) fitted on the other {folds - 1} of {folds} folds, "
        f"which agrees with {agreement * 100:.1f} % of the labels."
    ]
    if small:
        notes.append(f"Left out, with fewer than {folds} images: {', '.join(small)}.")
    return Examination(suspects, len(table), notes)


def _pooled(frozen: FrozenModel, dataset: ImageDataset) -> _Pool:
    """All images of `SPLITS`, exact copies once: a copy in another fold would vouch for its own label."""
    where: list[tuple[str, int]] = []
    values, truth, seen = [], [], set[str]()
    for name in SPLITS:
        table = frozen.table(name)
        rows = []
        for k, content in enumerate(table.names):
            if content not in seen:
                seen.add(content)
                rows.append(k)
        if rows:
            values.append(table.values[rows])
            truth.append(table.truth[rows])
            where += [(name, table.rows[k]) for k in rows]
    numbers = list(range(len(where)))
    places = frozen.table("train").places
    return _Pool(Table(torch.cat(values), places, torch.cat(truth), numbers, {}, list(map(str, numbers))), where)


def _only(table: Table, classes: Sequence[int], labels: int) -> Table:
    """The images of some classes, which are numbered anew from 0."""
    keep = set(classes)
    table = table.some([k for k, c in enumerate(table.truth.tolist()) if c in keep])
    number = torch.full((labels,), -1).scatter(0, torch.tensor(classes), torch.arange(len(classes)))
    return Table(table.values, table.places, number[table.truth], table.rows, {}, table.names)


def _out_of_fold(
    frozen: FrozenModel, table: Table, labels: Sequence[str], feature: str, folds: int, seed: int, tell: Tell
) -> Tensor:
    """(images, labels) probabilities of each image by a probe that was fitted on the other folds."""
    index = {row: k for k, row in enumerate(table.rows)}
    pairs, device = probes.split_folds(table, folds, seed), frozen.model.device
    # The feature was chosen on the validation images. How strongly to regularise is chosen on all images: wrong labels
    # ask for more.
    tried = probes.judge(probes.probes, pairs, labels, [feature], torch.ones(len(labels)), device)
    setting = probes.best(tried).setting
    probabilities = torch.zeros(len(table), len(labels))
    for k, (train, held_out) in enumerate(pairs):
        head = probes.fit_one(probes.probes, train, labels, feature, setting, device=device)
        rows = [index[row] for row in held_out.rows]
        probabilities[rows] = head(held_out.of(head.feature)).softmax(1)
        tell(Note(f"Fold {k + 1} of {folds} evaluated."))
    return probabilities
