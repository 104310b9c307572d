"""Simple classifiers on frozen features: logistic regression (a linear probe) and nearest neighbours.

They are fitted in seconds. With a good vision tower they are the baseline to beat: a linear probe on SigLIP So400m
reaches 84.6 % on CIFAR-100 with 16 images per class. Which feature and setting are used is chosen in `selection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lensmith.models.heads import ClassHead, Head, Neighbours

C_VALUES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Candidate settings of a probe: C, the inverse regularisation strength, as in scikit-learn's LogisticRegression."""
NEIGHBOUR_COUNTS = (1, 3, 5, 10, 20, 50)
"""Candidate settings of the nearest-neighbour classifier."""
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
            loss = cross_entropy(scores, y, class_weights, reduction="sum") / total
        else:
            losses = cross_entropy(scores, y, class_weights, reduction="none")
            loss = (losses * row_weights).sum() / total
        loss = loss + weight.square().sum() / (2 * c * total)
        torch.autograd.backward([loss])
        return loss.item()

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach(), bias.detach()
