"""Simple classifiers on frozen features: logistic regression (a linear probe) and nearest neighbours.

They are fitted in seconds. With a good vision tower they are the baseline to beat: a linear probe on SigLIP So400m
reaches 84.6 % on CIFAR-100 with 16 images per class. The feature and the setting are chosen on validation images, by
the log loss after temperature scaling: how probable the correct label is once the probabilities are calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import count
from typing import Any

import torch
from torch import Tensor

from lensmith.errors import UserError
from lensmith.learn.features.folds import Fold, fold_count, split_folds
from lensmith.learn.features.table import FeatureTable
from lensmith.measure.calibration import LEAST, log_loss, temperature
from lensmith.models.heads import ClassHead, Head, Neighbours
from lensmith.progress import Tell, counter, silent

C_VALUES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Candidate settings of a probe: C, the inverse regularisation strength, as in scikit-learn's LogisticRegression."""
NEIGHBOUR_COUNTS = (1, 3, 5, 10, 20, 50)
"""Candidate settings of the nearest-neighbour classifier."""
FEATURE_CHOICE_IMAGES = 5_000
"""With more training images than this, the feature is chosen on a random subset of this size."""

FitHeads = Callable[[Tensor, Tensor, Sequence[str], str, Tensor], Iterator[tuple[float, Head]]]
"""Takes (images, size) features, (images,) label indices, class names, the feature's name and (classes,) class weights.
Yields pairs of setting and head.
"""


@dataclass(frozen=True)
class HeadPath:
    """Fits one head for each value of one setting, in a fixed order (for probes, the regularisation path).

    Made by the decorator `head_path`.
    """

    fit: FitHeads
    setting: str
    """How a value is written: "C = {:g}"."""
    default: float
    """The value that is used if there are no images to choose it by; one of those the function yields."""

    def __call__(
        self, x: Tensor, y: Tensor, labels: Sequence[str], feature: str, class_weights: Tensor
    ) -> Iterator[tuple[float, Head]]:
        """See `FitHeads`."""
        return self.fit(x, y, labels, feature, class_weights)


def head_path(setting: str, default: float) -> Callable[[FitHeads], HeadPath]:
    """Makes a `HeadPath` of a function; see its fields."""
    return lambda fit: HeadPath(fit, setting, default)


def remembering(path: HeadPath) -> HeadPath:
    """The same path, which fits no head twice: on images of the same content it yields those that it yielded before,
    and goes on from there."""
    known: dict[Any, tuple[list[tuple[float, Head]], Iterator[tuple[float, Head]]]] = {}

    def fit(
        x: Tensor, y: Tensor, labels: Sequence[str], feature: str, class_weights: Tensor
    ) -> Iterator[tuple[float, Head]]:
        content = blake2b(b"".join(t.cpu().contiguous().numpy().tobytes() for t in (x, y, class_weights))).digest()
        key = (feature, *labels, *x.shape, content)
        made, rest = known.setdefault(key, ([], path(x, y, labels, feature, class_weights)))
        for number in count():
            if number == len(made):
                following = next(rest, None)
                if following is None:
                    return
                made.append(following)
            yield made[number]

    return replace(path, fit=fit)


@dataclass(frozen=True)
class Candidate:
    """One combination of feature and setting, evaluated on images that were not used to fit it."""

    feature: str
    setting: float
    """C of a probe, or the number of neighbours."""
    log_loss: float
    """After temperature scaling, in nats."""
    accuracy: float


@dataclass(frozen=True)
class Fitted:
    """A classifier on frozen features, and how it was chosen."""

    head: Head
    setting: float
    """C of a probe, or the number of neighbours."""
    setting_text: str
    """The setting as it is written."""
    candidates: list[Candidate]
    evaluated: int
    """The number of images that the candidates were evaluated on."""
    folds: int
    """0 if these were validation images. Otherwise the number of folds the training images were split into; 1 if there
    were too few images to split, and nothing was chosen."""

    def record(self) -> dict[str, Any]:
        """Plain values for a run's record."""
        about = {"feature": self.head.feature, "setting": self.setting, "judged": self.evaluated, "folds": self.folds}
        return about | {"tried": [asdict(candidate) for candidate in self.candidates]}

    def sentence(self) -> str:
        """What was chosen, and on which images."""
        what = f"{self.head.feature}, {self.setting_text}"
        if not self.evaluated:
            return f"Used without a choice: {what}; there are too few images to choose by."
        images = f"training images ({self.folds}-fold cross-validation)" if self.folds else "validation images"
        return f"Chosen: {what}; lowest log loss of {len(self.candidates)} candidates on {self.evaluated:,} {images}."


@head_path("C = {:g}", default=0.1)
def probes(
    x: Tensor, y: Tensor, labels: Sequence[str], feature: str, class_weights: Tensor
) -> Iterator[tuple[float, ClassHead]]:
    """One probe for each of `C_VALUES`, in increasing order; each fit starts from the previous one. See `logistic`."""
    mean, std = scale(x)
    scaled = (x - mean) / std
    weight, bias = x.new_zeros(len(labels), x.shape[1]), x.new_zeros(len(labels))
    for c in C_VALUES:
        weight, bias = logistic(scaled, y, c, class_weights, weight, bias)
        yield c, unscaled(weight, bias, mean, std, labels, feature).to(x.device)


@head_path("neighbours = {:g}", default=1)
def neighbours(
    x: Tensor, y: Tensor, labels: Sequence[str], feature: str, _: Tensor
) -> Iterator[tuple[float, Neighbours]]:
    """One nearest-neighbour classifier for each of `NEIGHBOUR_COUNTS` that the images allow. Ignores class weights."""
    mean, std = scale(x)
    keys = Neighbours.direction(x, mean, std).half()
    for k in NEIGHBOUR_COUNTS:
        if k == 1 or k < len(x):
            yield k, Neighbours(mean, std, keys, y, k, labels, feature)


def scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of (images, size) features; for a constant column, 1 as deviation."""
    std = x.std(0, correction=0)
    return x.mean(0), std.where(std > 1e-6, 1.0)


def unscaled(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor, labels: Sequence[str], feature: str) -> ClassHead:
    """A head for features as they are, of weights that were fitted on scaled ones; see `scale`."""
    head = ClassHead(weight.shape[1], labels, feature).requires_grad_(False)
    head.weight.copy_(weight / std)
    head.bias.copy_(bias - (weight / std) @ mean)
    return head


def logistic(
    x: Tensor,
    y: Tensor,
    c: float,
    class_weights: Tensor,
    weight: Tensor,
    bias: Tensor,
    offset: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: minimises C * (sum of losses) + |weight|^2 / 2.

    Gives the result of scikit-learn's LogisticRegression(C=c), on any device. On two CPU cores it takes half the time
    (dev/LOG.md).

    Args:
        x: (images, size) features.
        y: (images,) label indices, or (images, classes) probabilities.
        c: inverse regularisation strength.
        class_weights: (classes,) the weight of an image of each class.
        weight: (classes, size) to start from.
        bias: (classes,) to start from.
        offset: (images, classes) added to the scores; the weights learn what it lacks.
        row_weights: (images,) how often each image counts; None for once each.

    Returns:
        weight and bias.
    """
    total = len(x) if row_weights is None else float(row_weights.sum())
    weight, bias = (t.clone().requires_grad_() for t in (weight, bias))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        solver.zero_grad()
        scores = x @ weight.T + bias if offset is None else x @ weight.T + bias + offset
        if row_weights is None:
            loss = torch.nn.functional.cross_entropy(scores, y, class_weights, reduction="sum") / total
        else:
            losses = torch.nn.functional.cross_entropy(scores, y, class_weights, reduction="none")
            loss = (losses * row_weights).sum() / total
        loss = loss + weight.square().sum() / (2 * c * total)
        torch.autograd.backward([loss])
        return loss.item()

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach(), bias.detach()


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
    """The best classifier of one type: the feature and setting with the lowest log loss on validation images.

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

    subset_candidates = []
    if len(train) > FEATURE_CHOICE_IMAGES and len(wanted) > 1 and folds != 1:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        subset = train.subset(order[:FEATURE_CHOICE_IMAGES].sort()[0])
        subset_candidates = evaluate_candidates(path, folds_of(subset), labels, wanted, weights, device, tell)
        wanted = [best(subset_candidates).feature]
    candidates = []
    if folds != 1:
        candidates = evaluate_candidates(path, folds_of(train), labels, wanted, weights, device, tell)
    nothing_to_choose_by = Candidate(wanted[0], path.default, float("nan"), float("nan"))
    chosen = best(candidates) if candidates else nothing_to_choose_by
    head = fit_candidate(path, train, labels, chosen.feature, chosen.setting, weights, device)
    evaluated = 0 if folds == 1 else len(train) if folds else len(validation)
    return Fitted(
        head, chosen.setting, path.setting.format(chosen.setting), [*subset_candidates, *candidates], evaluated, folds
    )


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
    return next(head for head_setting, head in heads if head_setting == setting).cpu()


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


def _candidate(feature: str, setting: float, scores: Tensor, labels: Tensor) -> Candidate:
    loss = log_loss(scores / temperature(scores, labels), labels)
    return Candidate(feature, setting, loss, float((scores.argmax(1) == labels).float().mean()))
