"""Labels that are likely wrong: images whose label is improbable to a probe that was not fitted on them.

Confident learning (Northcutt et al., 1911.00068), by `cleanlab`: each image is evaluated by a probe fitted on the other
folds. It is a suspect if its label is improbable, and the probability of another class exceeds the average probability
of that class on images labelled with it. The features are those of the base model, which never saw these labels: a
model tuned on them would have learned the wrong ones too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.errors import UserError, optional
from lensmith.learn.features import probes, selection
from lensmith.learn.features.folds import split_folds
from lensmith.learn.features.frozen import FrozenModel
from lensmith.learn.features.table import FeatureTable
from lensmith.progress import Note, Tell

SPLITS = ("train", "validation")
"""The splits that are examined. If a model could decide which test labels are correct, the test would favour it."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong; probabilities are in 0..1."""

    split: str
    index: int
    """Index of the image in its split."""
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class Examination:
    """The result of examining the labels."""

    suspects: list[Suspect]
    """The most serious first."""
    images: int
    """The number of images examined; exact copies count once."""
    notes: list[str]
    """Sentences about how the images were examined."""


@dataclass(frozen=True)
class _Source:
    """The image that a row of a pool comes from."""

    split: str
    index: int
    """Index of the image in its split."""


@dataclass(frozen=True)
class _Pool:
    """The images of several splits as one table."""

    table: FeatureTable
    """Its `rows` are indices into `sources`; its `labels` are indices into all labels of the dataset."""
    sources: list[_Source]
    copies: dict[int, list[tuple[_Source, int]]]
    """For a row whose image also occurs under other labels: all its copies, with their labels."""


def find_suspects(recipe: Recipe, dataset: ImageDataset, tell: Tell, frozen: FrozenModel | None = None) -> Examination:
    """Examine the training and validation images.

    Args:
        frozen: the model and the features of the dataset, if they are there already.

    Raises:
        UserError: `cleanlab` isn't installed, or fewer than two classes have enough images.
    """
    optional("cleanlab", "suspects", "Searching for wrong labels")
    from cleanlab.filter import find_label_issues

    folds, labels = recipe.suspects.folds, dataset.labels
    frozen = frozen or FrozenModel(recipe, dataset, tell)
    feature = frozen.fit(probes.probes).head.feature
    pool = _pooled(frozen, dataset)
    counts = Counter(pool.table.labels.tolist())
    large = sorted(c for c, n in counts.items() if n >= folds)
    small = [f"{labels[c]} ({counts[c]})" for c in range(len(labels)) if 0 < counts[c] < folds]
    if len(large) < 2:
        raise UserError(
            f"Fewer than two classes have {folds} readable images, which {folds}-fold cross-validation needs. "
            f"Too small: {', '.join(small)}.",
            "Add images, or lower suspects.folds.",
        )
    table = _only(pool.table, large, len(labels))
    names = [labels[c] for c in large]
    probabilities = _out_of_fold(frozen, table, names, feature, folds, recipe.seed, tell)
    label, predicted = table.labels.numpy(), probabilities.argmax(1).tolist()
    order = find_label_issues(
        label, probabilities.numpy().astype(np.float64), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    sources = [pool.sources[row] for row in table.rows]
    suspects = [
        Suspect(
            sources[k].split,
            sources[k].index,
            names[label[k]],
            names[predicted[k]],
            float(probabilities[k, label[k]]),
            float(probabilities[k, predicted[k]]),
        )
        for k in map(int, order)
        if predicted[k] != label[k]
    ]
    conflicts = _conflicts(pool, table, probabilities, labels, large)
    if conflicts:
        listed = {(s.split, s.index) for s in conflicts}
        suspects = conflicts + [s for s in suspects if (s.split, s.index) not in listed]
    agreement = float((probabilities.argmax(1) == table.labels).float().mean())
    notes = [
        f"Each image was evaluated by a probe ({feature}) fitted on the other {folds - 1} of {folds} folds. "
        f"The probes agree with {agreement * 100:.1f} % of the labels."
    ]
    if conflicts:
        notes.append(f"{len(conflicts):,} labels contradict that of an exact copy of the image. They come first.")
    if small:
        notes.append(f"Classes left out because they have fewer than {folds} images: {', '.join(small)}.")
    return Examination(suspects, len(table), notes)


def _conflicts(
    pool: _Pool, table: FeatureTable, probabilities: torch.Tensor, labels: Sequence[str], large: Sequence[int]
) -> list[Suspect]:
    """The copies of images under several labels, all but those with the label that is the most probable of these."""
    column, places = {c: k for k, c in enumerate(large)}, {row: k for k, row in enumerate(table.rows)}
    found = []
    for row, copies in pool.copies.items():
        # The model says nothing of classes that were left out because they are small.
        known = probabilities[places[row]] if row in places else torch.zeros(len(large))
        p = {c: float(known[column[c]]) if c in column else 0.0 for _, c in copies}
        best = max(p, key=p.__getitem__)
        found += [Suspect(s.split, s.index, labels[c], labels[best], p[c], p[best]) for s, c in copies if c != best]
    return found


def _pooled(frozen: FrozenModel, dataset: ImageDataset) -> _Pool:
    """All images of `SPLITS`; of exact copies only one, since a copy in another fold would confirm a wrong label."""
    sources: list[_Source] = []
    values, labels, groups = [], [], list[str]()
    seen: dict[str, int] = {}
    members: dict[int, list[tuple[_Source, int]]] = defaultdict(list)
    for name in SPLITS:
        table = frozen.table(name)
        rows = []
        for k, content in enumerate(table.names):
            if content not in seen:
                seen[content] = len(seen)
                rows.append(k)
            members[seen[content]].append((_Source(name, table.rows[k]), int(table.labels[k])))
        if rows:
            values.append(table.values[rows])
            labels.append(table.labels[rows])
            sources += [_Source(name, table.rows[k]) for k in rows]
            groups += [table.groups[k] if table.groups else "" for k in rows]
    columns, indices = frozen.table("train").columns, list(range(len(sources)))
    names = list(map(str, indices))
    pooled = FeatureTable(torch.cat(values), columns, torch.cat(labels), indices, {}, names, groups)
    copies = {row: found for row, found in members.items() if len({c for _, c in found}) > 1}
    return _Pool(pooled, sources, copies)


def _only(table: FeatureTable, classes: Sequence[int], labels: int) -> FeatureTable:
    """The images of some classes; labels become indices into `classes`."""
    keep = set(classes)
    table = table.subset([k for k, c in enumerate(table.labels.tolist()) if c in keep])
    new_index = torch.full((labels,), -1).scatter(0, torch.tensor(classes), torch.arange(len(classes)))
    return replace(table, labels=new_index[table.labels])


def _out_of_fold(
    frozen: FrozenModel, table: FeatureTable, labels: Sequence[str], feature: str, folds: int, seed: int, tell: Tell
) -> Tensor:
    """(images, labels) probabilities of each image, by a probe that was fitted on the other folds."""
    index = {row: k for k, row in enumerate(table.rows)}
    splits, device = split_folds(table, folds, seed), frozen.model.device
    # The feature was chosen on the validation images. The regularisation strength is chosen on all images, because
    # wrong labels call for stronger regularisation.
    weights = torch.ones(len(labels))
    candidates = selection.evaluate_candidates(probes.probes, splits, labels, [feature], weights, device, tell)
    setting = selection.best(candidates).setting
    probabilities = torch.zeros(len(table), len(labels))
    for k, (train, held_out) in enumerate(splits):
        head = selection.fit_candidate(probes.probes, train, labels, feature, setting, device=device)
        rows = [index[row] for row in held_out.rows]
        probabilities[rows] = head(held_out.feature(head.feature)).softmax(1)
        tell(Note(f"Evaluated fold {k + 1} of {folds}."))
    return probabilities
