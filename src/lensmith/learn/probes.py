"""Simple classifiers on frozen vectors: logistic regression (a linear probe) and nearest neighbours.

They take seconds, and with a good tower they are the baseline to beat (a linear probe on SigLIP So400m reaches 84.6 %
on CIFAR-100 with 16 images a class). Which vector, and how freely a probe may fit, is chosen on validation images by
the log loss after a temperature: how probable the right label is once shares are as sure as they are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lensmith.errors import UserError
from lensmith.learn.feature_table import Table
from lensmith.measure.calibration import LEAST, log_loss, temperature
from lensmith.models.heads import ClassHead, Head, Neighbours

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""How freely a probe may fit: C of scikit-learn's LogisticRegression."""
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
MANY = 5_000
"""Of more training images than so many, a part chooses the vector."""
FOLDS = 5

Path = Callable[[Tensor, Tensor, Sequence[str], str, Tensor], Iterator[tuple[float, Head]]]
"""(images, size) vectors, (images,) labels, class names, kind, (classes,) weights -> a head for each setting."""


@dataclass(frozen=True)
class Tried:
    """One vector and setting, judged on images that the fit had not seen."""

    feature: str
    setting: float
    """A probe's strength, or the number of neighbours."""
    log_loss: float
    """After a temperature, in nats."""
    accuracy: float


@dataclass(frozen=True)
class Fitted:
    """A classifier on frozen vectors, and how it was chosen."""

    head: Head
    setting: float
    tried: list[Tried]
    judged: int
    """Images it was chosen by."""
    folds: int
    """0 if these were validation images; else the training images, judged in so many folds."""

    def record(self) -> dict[str, Any]:
        """Plain values for a run's record."""
        about = {"feature": self.head.feature, "setting": self.setting, "judged": self.judged, "folds": self.folds}
        return about | {"tried": [asdict(row) for row in self.tried]}

    def sentence(self) -> str:
        """What was chosen, and by what."""
        by = f"the training images themselves, in {self.folds} folds" if self.folds else "validation images"
        what = f"strength {self.setting:g}"
        if isinstance(self.head, Neighbours):
            what = f"{self.setting:g} neighbour{'s' if self.setting > 1 else ''}"
        found = f"the best log loss of {len(self.tried)} tried on {self.judged:,} {by}" if self.judged else "untried"
        return f"Chosen: {self.head.feature}, {what}; {found}."


def probes(
    x: Tensor, y: Tensor, labels: Sequence[str], feature: str, worth: Tensor
) -> Iterator[tuple[float, ClassHead]]:
    """Probes of growing strength, each fitted from where the one before ended. See `logistic`."""
    mean, spread = scale(x)
    scaled = (x - mean) / spread
    weight, bias = x.new_zeros(len(labels), x.shape[1]), x.new_zeros(len(labels))
    for strength in STRENGTHS:
        weight, bias = logistic(scaled, y, strength, worth, weight, bias)
        head = ClassHead(x.shape[1], labels, feature).requires_grad_(False)
        head.weight.copy_(weight / spread)  # scaling is part of the layer
        head.bias.copy_(bias - (weight / spread) @ mean)
        yield strength, head.to(x.device)


def neighbours(
    x: Tensor, y: Tensor, labels: Sequence[str], feature: str, _: Tensor
) -> Iterator[tuple[float, Neighbours]]:
    """Nearest neighbours, more and more of them. Classes can't be weighted."""
    mean, spread = scale(x)
    keys = Neighbours.direction(x, mean, spread).half()
    for k in NEIGHBOURS:
        if k == 1 or k < len(x):
            yield k, Neighbours(mean, spread, keys, y, k, labels, feature)


def scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each value of (images, size) vectors; one that never changes stays as it is."""
    spread = x.std(0, correction=0)
    return x.mean(0), spread.where(spread > 1e-6, 1.0)


def logistic(
    x: Tensor, y: Tensor, strength: float, worth: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: the least of strength * sum of losses + |weight|^2 / 2.

    The same as scikit-learn's LogisticRegression(C=strength), on any device; on two CPU cores in half of its time
    (dev/LOG.md).

    Args:
        x: (images, size); y: (images,) labels by number; worth: (classes,) what an image of each counts.
        weight: (classes, size) to start from; bias: (classes,).

    Returns:
        weight and bias.
    """
    weight, bias = (t.clone().requires_grad_() for t in (weight, bias))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        solver.zero_grad()
        found = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, worth, reduction="sum") / len(x)
        found = found + weight.square().sum() / (2 * strength * len(x))
        torch.autograd.backward([found])
        return found.item()

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach(), bias.detach()


def fit(
    path: Path,
    train: Table,
    validation: Table,
    labels: Sequence[str],
    features: Sequence[str] | None = None,
    balanced: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Fitted:
    """The best classifier of a kind (`probes` or `neighbours`).

    With fewer than twenty validation images, the training images choose, each judged by a fit that has not seen it.

    Args:
        features: the kinds of vectors to choose among; None for all of the table but pixels.
        balanced: each class counts the same, however many images it has.
        seed: of the folds, and of the part that chooses the vector where there are many images.

    Raises:
        UserError: the training images are of fewer than two classes, or there is no such kind of vector.
    """
    known = list(train.places)
    wanted = list(features or known)
    if unknown := [feature for feature in wanted if feature not in known]:
        raise UserError(f"There is no feature {unknown[0]!r}.", f"There are: {', '.join(known)}.")
    if len(set(train.truth.tolist())) < 2:
        raise UserError("A classifier needs readable training images of at least two classes.")
    counts = train.truth.bincount(minlength=len(labels)).clamp(min=1)
    weights = len(train) / (len(labels) * counts) if balanced else torch.ones(len(labels))
    folds = 0 if len(validation) >= LEAST else folds_of(train)

    def pairs(table: Table) -> list[tuple[Table, Table]]:
        return split_folds(table, folds, seed) if folds else [(table, validation)]

    tried = []
    if len(train) > MANY and len(wanted) > 1 and folds != 1:
        part = train.some(torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:MANY].sort()[0])
        tried = judge(path, pairs(part), labels, wanted, weights, device)
        wanted = [best(tried).feature]
    rows = judge(path, pairs(train), labels, wanted, weights, device) if folds != 1 else []
    chosen = best(rows) if rows else Tried(wanted[0], middle(path), float("nan"), float("nan"))
    head = fit_one(path, train, labels, chosen.feature, chosen.setting, weights, device)
    judged = 0 if folds == 1 else len(train) if folds else len(validation)
    return Fitted(head, chosen.setting, [*tried, *rows], judged, folds)


def fit_one(
    path: Path,
    train: Table,
    labels: Sequence[str],
    feature: str,
    setting: float,
    worth: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Head:
    """The classifier of one vector and setting."""
    weights = torch.ones(len(labels)) if worth is None else worth
    heads = path(train.of(feature).to(device), train.truth.to(device), labels, feature, weights.to(device))
    return next(head for found, head in heads if found == setting).cpu()


def judge(
    path: Path,
    pairs: Sequence[tuple[Table, Table]],
    labels: Sequence[str],
    features: Sequence[str],
    worth: Tensor,
    device: torch.device | str,
) -> list[Tried]:
    """Every vector and setting, fitted on the first of each pair and judged on all the second ones together.

    With one pair, a vector's path ends when its log loss has turned upwards.
    """
    rows = []
    truth = torch.cat([check.truth for _, check in pairs])
    for feature in features:
        scores: dict[float, list[Tensor]] = {}
        least = float("inf")
        for train, check in pairs:
            x, y, seen = (t.to(device) for t in (train.of(feature), train.truth, check.of(feature)))
            for setting, head in path(x, y, labels, feature, worth.to(device)):
                scores.setdefault(setting, []).append(head(seen).log_softmax(1).cpu())
                if len(pairs) > 1:
                    continue
                rows.append(_tried(feature, setting, scores[setting][0], truth))
                if rows[-1].log_loss > least:
                    break
                least = rows[-1].log_loss
        if len(pairs) > 1:
            whole = {s: parts for s, parts in scores.items() if len(parts) == len(pairs)}
            rows += [_tried(feature, s, torch.cat(parts), truth) for s, parts in whole.items()]
    return rows


def best(rows: Sequence[Tried]) -> Tried:
    """The row with the least log loss; of equal ones the first."""
    return min(rows, key=lambda row: row.log_loss)


def middle(path: Path) -> float:
    """The setting that is taken where there is nothing to choose by."""
    return 0.01 if path is probes else 1


def folds_of(table: Table, most: int = FOLDS) -> int:
    """How many folds the table's smallest class allows, copies counted once; 1 for none."""
    distinct = set(zip(table.truth.tolist(), table.names, strict=True))
    return max(1, min(most, *Counter(label for label, _ in distinct).values()))


def split_folds(table: Table, folds: int, seed: int) -> list[tuple[Table, Table]]:
    """Each class divided among so many folds at random: what is fitted on, and what is judged by it. Copies of an image
    are in one fold: what was fitted on one of them has seen the other."""
    if folds < 2:
        return []
    generator, fold = torch.Generator().manual_seed(seed), dict[str, int]()
    for label in table.truth.unique():
        names = dict.fromkeys(table.names[k] for k in (table.truth == label).nonzero()[:, 0].tolist())
        fresh = [name for name in names if name not in fold]
        order = torch.randperm(len(fresh), generator=generator).tolist()
        fold |= {fresh[k]: place % folds for place, k in enumerate(order)}
    of = torch.tensor([fold[name] for name in table.names])
    return [(table.some((of != k).nonzero()[:, 0]), table.some((of == k).nonzero()[:, 0])) for k in range(folds)]


def _tried(feature: str, setting: float, scores: Tensor, truth: Tensor) -> Tried:
    loss = log_loss(scores / temperature(scores, truth), truth)
    return Tried(feature, setting, loss, float((scores.argmax(1) == truth).float().mean()))
