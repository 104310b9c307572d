"""Make shares mean what they say, and take the language model's own liking for some labels away.

A score is log p(label | image, question). A language model says "bag" more readily than "ankle boot" whatever it
sees; that prior can be measured, as the answer to an image that shows nothing, or as the average answer, and taken
away: log p(label | image) - log p(label | no image). A temperature then makes the shares as sure as they are right.
Both are fitted on validation images, by the logarithm of the share of the true label, and kept for the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from lensmith.models.views import stack
from lensmith.records import Calibration

if TYPE_CHECKING:
    from lensmith.engine.classifier import Classifier

ENOUGH = 2000
"""Validation images used at most: a temperature needs few (2402.07417 found tens to be enough)."""
LEAST = 20
"""With fewer validation images nothing is fitted."""
NOISE_IMAGES = 8


def fit(
    classifier: Classifier, scores: Tensor, truth: Tensor, method: str, seed: int = 0
) -> tuple[Calibration, list[dict[str, Any]]]:
    """Choose a calibration.

    Args:
        classifier: for the answers to empty and noise images.
        scores: (n, labels) log-probabilities of validation images, every label scored.
        truth: (n,) index of each one's label.
        method: `temperature`, or a prior and a temperature: `empty`, `noise`, `batch`; `auto` takes the best of all.
        seed: of the noise.

    Returns:
        The calibration, and what was tried: rows of `prior`, `temperature`, `log_loss` (nats), `accuracy`,
        `calibration_error`, `chosen`. The first row is no calibration at all.
    """
    priors = {"temperature": ["none"], "auto": ["none", "empty", "noise", "batch"]}.get(method, [method])
    tried = [Calibration()]
    for prior in priors:
        offsets = () if prior == "none" else tuple(offsets_of(prior, classifier, scores, seed).tolist())
        moved = Calibration(prior, offsets).apply(scores)
        tried.append(Calibration(prior, offsets, temperature(moved, truth)))
    losses = [log_loss(c.apply(scores), truth) for c in tried]
    best = min(range(1, len(tried)), key=losses.__getitem__)
    rows = [
        {"prior": c.prior, "temperature": c.temperature, "log_loss": loss, **_figures(c.apply(scores), truth)}
        | {"chosen": i == best}
        for i, (c, loss) in enumerate(zip(tried, losses, strict=True))
    ]
    return tried[best], rows


def offsets_of(prior: str, classifier: Classifier, scores: Tensor, seed: int) -> Tensor:
    """(labels,) log-probabilities of the labels before anything is seen.

    `empty` asks about a grey image and `noise` about several of random pixels (Lin et al., VisualGPTScore, 2306.01879);
    `batch` is the mean share over the images in `scores` (Zhou et al., Batch Calibration, 2309.17249).
    """
    if prior == "batch":
        return scores.log_softmax(1).logsumexp(0) - torch.tensor(float(len(scores))).log()
    if prior == "empty":
        pictures = [Image.new("RGB", (256, 256), (128, 128, 128))]
    else:
        noise = torch.randint(0, 256, (NOISE_IMAGES, 256, 256, 3), generator=torch.Generator().manual_seed(seed))
        pictures = [Image.fromarray(values) for values in noise.to(torch.uint8).numpy()]
    views = stack([classifier.model.prepare(picture) for picture in pictures])
    found = torch.cat([part.bound.cpu() for part in classifier.score_all(views)])
    return found.log_softmax(1).logsumexp(0) - torch.tensor(float(len(found))).log()


def temperature(scores: Tensor, truth: Tensor) -> float:
    """The temperature in 0.05..20 with the least log loss (Guo et al., 2017), by golden section on its logarithm.

    The log loss is convex in 1 / temperature, so it has one minimum.
    """
    import math

    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20)

    def loss(logarithm: float) -> float:
        return log_loss(scores / math.exp(logarithm), truth)

    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > 1e-4:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = loss(b)
    return math.exp((low + high) / 2)


def log_loss(scores: Tensor, truth: Tensor) -> float:
    """Mean of minus the logarithm of the true label's share, in nats."""
    return float(torch.nn.functional.cross_entropy(scores.double(), truth))


def _figures(scores: Tensor, truth: Tensor) -> dict[str, float]:
    from lensmith.measure.reliability import reliability
    from lensmith.records import Prediction

    share, best = scores.softmax(1).max(1)
    rows: Sequence[tuple[int, int, float]] = list(zip(truth.tolist(), best.tolist(), share.tolist(), strict=True))
    found = reliability([Prediction(str(i), str(t), str(b), s) for i, (t, b, s) in enumerate(rows)])
    return {
        "accuracy": sum(t == b for t, b, _ in rows) / len(rows),
        "calibration_error": found.calibration_error if found else float("nan"),
    }
