"""Probes for a blend: fitted on images under several looks, and, with few labels, on top of the model's own answers.

With one or two labels a class, what the model knows without training is worth more than a label. The scores are then
W x + b + s log p, with p the model's own probabilities as they are without training, and W and b learn only what these
lack. The strength s and C are those that did well in trials, unless cross-validation among the training images clearly
prefers others, so that no image has to be kept for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensmith.config.options import AugmentOptions
from lensmith.learn.features.folds import assign_folds, fold_count
from lensmith.learn.features.frozen import FrozenModel
from lensmith.learn.features.probes import HeadPath, logistic, neighbours, probes, scale, unscaled
from lensmith.learn.features.selection import best, calibrated_losses, clearly_lower
from lensmith.learn.features.spreading import Graph, fit_spread, judge
from lensmith.learn.features.table import FeatureTable
from lensmith.learn.looking import features_of, the_images
from lensmith.measure.calibration import temperature
from lensmith.models.heads import ClassHead, Head
from lensmith.models.views import AS_IT_IS, Look

STRENGTHS, FEW_C = (0.0, 0.25, 0.5, 1.0), (0.01, 0.1, 1.0)
"""Candidate strengths of the model's own answers, relative to these after temperature scaling; candidates of C."""
FEW = 16
"""With at least so many labels a class, the model's own answers no longer help (dev/LOG.md), and aren't asked for; C is
then that of the probe."""
TEMPERATURES = (1.0, 4.0)
"""The range of their temperature, which is fitted on few images."""
MANY = 5_000
"""With more training images, heads are fitted on the images as they are, and looks are averaged at prediction alone:
with 2,693 images that kept half of the gain."""
VOTES = 3
"""The least number of neighbours: the vote of one is all or nothing, which in a mean of logarithms decides."""
FEATURES = 2
"""Number of features with a probe each: the best by the log loss."""


def looks_of(augment: AugmentOptions) -> tuple[Look, ...]:
    """The looks under which images keep their class, by what the recipe lets training change: mirrored if `flip`, moved
    in four directions if `shift`."""
    looks = [AS_IT_IS, *([Look(mirrored=True)] if augment.flip else [])]
    if augment.shift:
        looks += [Look(right=step) for step in (augment.shift, -augment.shift)]
        looks += [Look(down=step) for step in (augment.shift, -augment.shift)]
    return tuple(looks)


@dataclass(frozen=True)
class Looked:
    """Training images under each look, with the model's own answers: one row for each image that can be read."""

    tables: list[FeatureTable]
    """One for each look, with equal rows."""
    prior: Tensor | None
    """(images, classes) log-probabilities of the model's own answers; None if they aren't used."""

    def subset(self, which: Tensor) -> Looked:
        """The rows with these indices."""
        prior = None if self.prior is None else self.prior[which]
        return Looked([table.subset(which) for table in self.tables], prior)

    @property
    def labels(self) -> Tensor:
        """(images,) index of each image's label."""
        return self.tables[0].labels


def fit_probe(looked: Looked, feature: str, labels: Sequence[str], c: float, strength: float) -> ClassHead:
    """A probe on one feature of images under all looks, each of which counts for an equal part of its image.

    Args:
        c: inverse regularisation strength; see `probes.logistic`.
        strength: of the model's own answers.
    """
    looks = len(looked.tables)
    x = torch.cat([table.feature(feature) for table in looked.tables])
    mean, std = scale(x)
    offset = None if looked.prior is None or not strength else strength * looked.prior.repeat(looks, 1)
    rows = torch.full((len(x),), 1 / looks)
    start = x.new_zeros(len(labels), x.shape[1]), x.new_zeros(len(labels))
    y = looked.labels.repeat(looks)
    weight, bias = logistic((x - mean) / std, y, c, torch.ones(len(labels)), *start, offset, rows)
    return unscaled(weight, bias, mean, std, labels, feature)


def scores(head: Head, tables: Sequence[FeatureTable], answers: Tensor | None = None, strength: float = 0.0) -> Tensor:
    """(images, classes) log-probabilities of a head, averaged over the looks, on top of the model's own answers.

    Args:
        answers: (images, classes) log-probabilities of these; None if they aren't used.
        strength: how often they are added.
    """
    logs = torch.stack([head(table.feature(head.feature)).log_softmax(1) for table in tables]).mean(0)
    return (logs if answers is None else logs + strength * answers).log_softmax(1)


@dataclass(frozen=True)
class Setting:
    """How a probe is fitted on top of the model's own answers."""

    strength: float
    c: float


USUAL = Setting(0.25, 0.01)
"""Within a point of the best setting at 1 to 8 labels a class in trials with nano (dev/LOG.md)."""


def choose_setting(looked: Looked, feature: str, labels: Sequence[str], seed: int) -> Setting:
    """The usual setting, unless another is better by a standard error in cross-validation on the training images.

    If a class has a single image, there is nothing to choose by.
    """
    first = looked.tables[0]
    folds = fold_count(first)
    if folds < 2:
        return USUAL
    logs = {Setting(strength, c): torch.zeros(len(first), len(labels)) for strength in STRENGTHS for c in FEW_C}
    fold = assign_folds(first, folds, seed)
    for k in range(folds):
        train, held_out = (looked.subset(rows.nonzero()[:, 0]) for rows in (fold != k, fold == k))
        for setting, found in logs.items():
            head = fit_probe(train, feature, labels, setting.c, setting.strength)
            found[fold == k] = scores(head, held_out.tables, held_out.prior, setting.strength)
    losses = {setting: calibrated_losses(found, looked.labels) for setting, found in logs.items()}
    best_setting = min(losses, key=lambda setting: float(losses[setting].mean()))
    return best_setting if clearly_lower(losses[best_setting], losses[USUAL]) else USUAL


@dataclass(frozen=True)
class FewPart:
    """A head fitted on frozen features, for a blend."""

    name: str
    head: Head
    looks: tuple[Look, ...]
    strength: float = 0.0
    """Of the log-probabilities of the model's own answers, which are added to its scores."""


@dataclass(frozen=True)
class FewFit:
    """What was fitted for a blend."""

    parts: list[FewPart]
    notes: list[str]
    """Sentences on what was decided."""


def fit_few(frozen: FrozenModel, unlabelled: Sequence[Path] = (), choosers: Sequence[int] | None = None) -> FewFit:
    """Neighbours and probes on the best features of a dataset's training images, for a blend.

    Args:
        unlabelled: image files whose class nobody has said.
        choosers: rows in the table of the validation images: those that choose settings. None for all, which choose
            the features in any case: another feature would have to be extracted under all looks.

    Raises:
        UserError: as `FrozenModel.fit`.
    """
    by = frozen if choosers is None else frozen.chosen_by(choosers)
    settings = {feature: _setting(by, probes, feature) for feature in frozen.fit(probes).ranked[:FEATURES]}
    voting = frozen.fit(neighbours).head.feature
    basis = frozen.once("basis of a blend", lambda: _basis(frozen, list(settings), voting, unlabelled))
    parts, notes = [], list[str]()
    for feature, c in settings.items():
        fitted = frozen.once(("probes of a blend", feature, c), partial(_fit_probes, frozen, basis, feature, c))
        parts += fitted.parts
        notes += fitted.notes
    votes = max(_setting(by, neighbours, voting), VOTES)
    head = frozen.once(("neighbours of a blend", votes), lambda: _fit_neighbours(frozen, basis.looked, voting, votes))
    return FewFit([*parts, FewPart("neighbours", head, looks_of(frozen.recipe.augment))], notes)


def _setting(frozen: FrozenModel, path: HeadPath, feature: str) -> float:
    """The best setting of a method for a feature, or the default if nothing can choose."""
    own = [candidate for candidate in frozen.fit(path).candidates if candidate.feature == feature]
    return best(own).setting if own else path.default


@dataclass(frozen=True)
class Basis:
    """What the heads of a blend are fitted on."""

    looked: Looked
    heat: float
    """The temperature by which the model's own answers are divided."""
    others: dict[str, Any]
    """(images, size) each feature of the unlabelled images; empty if there are none."""


def _basis(frozen: FrozenModel, probed: Sequence[str], voting: str, unlabelled: Sequence[Path]) -> Basis:
    dataset, augmented = frozen.dataset, looks_of(frozen.recipe.augment)
    looks, needed = augmented if len(dataset.train) <= MANY else (AS_IT_IS,), list(dict.fromkeys([*probed, voting]))
    looked, heat = Looked([frozen.looked(dataset.train, needed, look) for look in looks], None), 1.0
    if len(looked.labels) < FEW * len(dataset.labels):
        answers = frozen.answers(dataset.train, looked.tables[0].rows)
        heat = min(max(temperature(answers, looked.labels), TEMPERATURES[0]), TEMPERATURES[1])
        looked = replace(looked, prior=answers / heat)
    others: dict[str, Any] = {}
    if items := the_images(unlabelled, frozen.model):
        others, _ = features_of(frozen.asked, items, probed, "looking at unlabelled images", frozen.tell)
    return Basis(looked, heat, others)


def _fit_probes(frozen: FrozenModel, basis: Basis, feature: str, c: float) -> FewFit:
    """The probe on a feature, and the one that has also learned from unlabelled images, if these help."""
    labels, looked, looks = frozen.dataset.labels, basis.looked, looks_of(frozen.recipe.augment)
    setting = Setting(0.0, c)
    if looked.prior is not None:
        setting = choose_setting(looked, feature, labels, frozen.recipe.seed)
    name = f"probe {feature}".replace(" ", "-")
    head = fit_probe(looked, feature, labels, setting.c, setting.strength)
    parts, notes = [FewPart(name, head, looks, setting.strength / basis.heat)], list[str]()
    if basis.others:
        others = torch.from_numpy(basis.others[feature])
        spread, note = with_unlabelled(frozen, looked, feature, setting, others)
        notes.append(note)
        if spread is not None:
            parts.append(FewPart(f"{name}-unlabelled", spread, looks))
    return FewFit(parts, notes)


def _fit_neighbours(frozen: FrozenModel, looked: Looked, feature: str, number: float) -> Head:
    """The nearest-neighbour classifier on images under all looks."""
    labels = frozen.dataset.labels
    x = torch.cat([table.feature(feature) for table in looked.tables])
    y = looked.labels.repeat(len(looked.tables))
    heads = dict(neighbours(x, y, labels, feature, torch.ones(len(labels))))
    return heads[min(number, max(heads))]  # a few images don't allow so many


def with_unlabelled(
    frozen: FrozenModel, looked: Looked, feature: str, setting: Setting, others: Tensor
) -> tuple[ClassHead | None, str]:
    """A probe that has also learned from unlabelled images, or None if it can't be told that they help; and what was
    decided, in words.

    Args:
        looked: the labelled images.
        setting: of the probe without unlabelled images.
        others: (images, size) the feature of the unlabelled images.
    """
    labels, seed = frozen.dataset.labels, frozen.recipe.seed
    graph = Graph(looked.tables[0].feature(feature), others)

    def without(rows: Tensor, held_out: Tensor) -> Tensor:
        test = looked.subset(held_out)
        head = fit_probe(looked.subset(rows), feature, labels, setting.c, setting.strength)
        return scores(head, test.tables, test.prior, setting.strength)

    def spread(rows: Tensor, held_out: Tensor) -> Tensor:
        head = fit_spread(looked.tables, others, graph, feature, labels, rows)
        return scores(head, looked.subset(held_out).tables)

    verdict, head = judge(looked.tables[0], without, spread, seed), None
    if verdict.helps:
        head = fit_spread(looked.tables, others, graph, feature, labels)
        for values in head.parameters():
            values.div_(verdict.temperature)
    return head, f"{feature[0].upper()}{feature[1:]}: {verdict.sentence(len(others), graph.unlike)}"
