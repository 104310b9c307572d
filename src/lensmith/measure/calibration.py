"""Calibration of probabilities, and removal of the language model's prior preference for some labels.

A score is log p(label | image, question). A language model answers "bag" more readily than "ankle boot", whatever the
image shows. This prior can be measured, as the answer to an image that shows nothing or as the average answer, and
removed: log p(label | image) - log p(label | no image). A temperature then adjusts the confidence to the accuracy. Both
are fitted on validation images, by the log loss of the true labels, and then applied to the test images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from lensmith.models.views import stack
from lensmith.records import Calibration

if TYPE_CHECKING:
    from lensmith.engine.classifier import Classifier

ENOUGH = 2000
"""The maximum number of validation images used. A temperature needs few; tens are enough (2402.07417)."""
LEAST = 20
"""With fewer validation images, nothing is fitted."""
NOISE_IMAGES = 8


def fit(
    classifier: Classifier, scores: Tensor, labels: Tensor, method: str, seed: int = 0
) -> tuple[Calibration, list[dict[str, Any]]]:
    """Choose a calibration.

    Args:
        classifier: answers about empty and noise images.
        scores: (n, labels) log-probabilities for validation images, with every label scored.
        labels: (n,) index of each image's label.
        method: `temperature` for a temperature only; `empty`, `noise` or `batch` for that prior and a temperature;
            `auto` for the best of these.
        seed: for the noise.

    Returns:
        The calibration, and one row for each candidate: `prior`, `temperature`, `log_loss` (nats), `accuracy`,
        `calibration_error`, `chosen`. The first row is without calibration.
    """
    priors = {"temperature": ["none"], "auto": ["none", "empty", "noise", "batch"]}.get(method, [method])
    candidates = [Calibration()]
    for prior in priors:
        offsets = () if prior == "none" else tuple(prior_offsets(prior, classifier, scores, seed).tolist())
        without_prior = Calibration(prior, offsets).apply(scores)
        candidates.append(Calibration(prior, offsets, temperature(without_prior, labels)))
    losses = [log_loss(c.apply(scores), labels) for c in candidates]
    best = min(range(1, len(candidates)), key=losses.__getitem__)
    rows = [
        {"prior": c.prior, "temperature": c.temperature, "log_loss": loss, **_figures(c.apply(scores), labels)}
        | {"chosen": i == best}
        for i, (c, loss) in enumerate(zip(candidates, losses, strict=True))
    ]
    return candidates[best], rows


def prior_offsets(prior: str, classifier: Classifier, scores: Tensor, seed: int) -> Tensor:
    """(labels,) prior log-probabilities of the labels, independent of the image.

    `empty` asks about a grey image, and `noise` about several images of random pixels (Lin et al., VisualGPTScore,
    2306.01879). `batch` is the mean probability over the images in `scores` (Zhou et al., Batch Calibration,
    2309.17249).
    """
    if prior == "batch":
        return scores.log_softmax(1).logsumexp(0) - torch.tensor(float(len(scores))).log()
    if prior == "empty":
        images = [Image.new("RGB", (256, 256), (128, 128, 128))]
    else:
        noise = torch.randint(0, 256, (NOISE_IMAGES, 256, 256, 3), generator=torch.Generator().manual_seed(seed))
        images = [Image.fromarray(values) for values in noise.to(torch.uint8).numpy()]
    views = stack([classifier.model.prepare(image) for image in images])
    answers = torch.cat([part.bound.cpu() for part in classifier.score_all(views)])
    return answers.log_softmax(1).logsumexp(0) - torch.tensor(float(len(answers))).log()


def temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature in 0.05..20 with the lowest log loss (Guo et al., 2017).

    It is found by golden-section search on its logarithm. The log loss is convex in 1 / temperature, so it has a single
    minimum.
    """
    import math

    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20)

    def loss(logarithm: float) -> float:
        return log_loss(scores / math.exp(logarithm), labels)

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


def log_loss(scores: Tensor, labels: Tensor) -> float:
    """Mean negative log-probability of the true labels, in nats."""
    return float(torch.nn.functional.cross_entropy(scores.double(), labels))


def _figures(scores: Tensor, labels: Tensor) -> dict[str, float]:
    from lensmith.measure.reliability import reliability
    from lensmith.records import Prediction

    probabilities, predicted = scores.softmax(1).max(1)
    rows = zip(labels.tolist(), predicted.tolist(), probabilities.tolist(), strict=True)
    predictions = [Prediction(str(i), str(label), str(best), p) for i, (label, best, p) in enumerate(rows)]
    curve = reliability(predictions)
    return {
        "accuracy": sum(p.label == p.predicted for p in predictions) / len(predictions),
        "calibration_error": curve.calibration_error if curve else float("nan"),
    }
