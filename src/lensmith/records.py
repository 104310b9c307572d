"""Results as plain data: written to run folders, printed by `--json`, and shown in reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

TASK = "lensmith.json"
"""File beside tuned weights, with all that is needed to use them: question, labels, base model, calibration."""


def strict(value: Any) -> Any:
    """Plain values that JSON can hold: NaN and infinity are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    return [strict(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Rate:
    """A proportion `accuracy` of `n` samples, with its 95 % interval `low`..`high`."""

    accuracy: float
    low: float
    high: float
    n: int


def percent(rate: Rate) -> str:
    """`81.4 % (79.6 to 83.1)`"""
    return f"{rate.accuracy:.1%} ({rate.low * 100:.1f} to {rate.high * 100:.1f})".replace("%", " %", 1)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval `low`..`high`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image. An unreadable image has an `error` and no prediction.

    `probability` is the calibrated probability of the predicted label. If only the top k labels were scored exactly, it
    lies in `probability_low`..`probability_high`, and `probability` is the middle; otherwise all three are equal.
    """

    id: str
    label: str | None
    predicted: str | None = None
    probability: float | None = None
    rank: int | None = None
    """Rank of the true label, 1 for the best; None if it is unknown or not among the labels that were scored."""
    error: str | None = None
    probability_low: float | None = None
    probability_high: float | None = None
    scores: tuple[float, ...] = ()
    """Uncalibrated log-probabilities in the order of the labels; NaN for a label that was not scored."""
    group: str = ""
    """What the image has in common with others that aren't independent of it (`data.group`), if anything."""


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities: softmax((scores - offsets) / temperature)."""

    prior: str = "none"
    """The prior that is subtracted: `none`, or the answer to an `empty` image, to `noise`, or to the average image
    (`batch`)."""
    offsets: tuple[float, ...] = ()
    """Log-probabilities of the prior in the order of the labels; empty for `none`."""
    temperature: float = 1.0
    """Above 1 if the model was overconfident."""

    def apply(self, scores: Any) -> Any:
        """Calibrate a tensor of log-probabilities (images, labels), up to a constant per image."""
        if self.offsets:
            scores = scores - scores.new_tensor(self.offsets)
        return scores / self.temperature


@dataclass(frozen=True)
class ClassResult:
    """Results of one class: recall with its interval, precision and F1."""

    label: str
    recall: Rate
    precision: float
    f1: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose probability lies in `low`..`high`: their mean confidence and their accuracy."""

    low: float
    high: float
    confidence: float
    accuracy: Rate


@dataclass(frozen=True)
class CoveragePoint:
    """Accuracy of the most confident predictions: `coverage` is their fraction of all images, `confidence` the lowest
    confidence among them."""

    coverage: float
    confidence: float
    accuracy: Rate


@dataclass
class Evaluation:
    """Results of one classifier on one set of images."""

    name: str
    """Name of the classifier: `zero-shot`, `tuned`, `pixels`."""
    accuracy: Rate
    top5: Rate | None
    """Fraction of images whose true label is among the top five; None with five labels or fewer."""
    macro_f1: Estimate
    classes: list[ClassResult]
    confusion: list[list[int]]
    """Counts by [true label][predicted label], with a last column for unreadable images."""
    labels: list[str]
    data: dict[str, Any]
    """Address, split, number of images, and hash of the sample ids and labels; `left_out`, the number of further images
    whose class the model never learned."""
    calibration_error: float | None = None
    """Expected calibration error in 0..1; None if no image has a probability."""
    reliability: list[ReliabilityBin] = field(default_factory=list)
    coverage: list[CoveragePoint] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    """How probabilities were calibrated: `prior`, `temperature`, `n` validation images, and the candidates `tried`."""
    unreadable: list[str] = field(default_factory=list)
    """One sentence for each unreadable image. These images count as wrong."""
    unanswered: list[str] = field(default_factory=list)
    """One sentence for each image that an outside model gave no answer to. These images count as wrong."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two classifiers compared on the same images; `difference` is the second's accuracy minus the first's."""

    first: str
    second: str
    n: int
    accuracy_first: Rate
    accuracy_second: Rate
    difference: Estimate
    lost: list[str]
    """Ids of the images that only the first classified correctly."""
    gained: list[str]
    """Ids of the images that only the second classified correctly."""
    p: float
    """p-value of the exact two-sided McNemar test; with several comparisons, adjusted by Holm's method."""
    verdict: str
    """Whether the second is `better` or `worse`, or the images `can't tell`."""
    needed: int | None
    """About how many images it would take to show a difference of this size; None if there was no difference."""
    sentence: str


@dataclass
class Training:
    """State and results of a training."""

    steps: int = 0
    seconds: float = 0.0
    best_step: int = 0
    checked_step: int = 0
    """The last step that was followed by a validation."""
    worse: int = 0
    """Number of validations since the best one."""
    validation: Rate | None = None
    unreadable: list[str] = field(default_factory=list)
    """One sentence for each unreadable training or validation image."""
    finished: bool = False

    def note(self, errors: Iterable[str]) -> None:
        """Add the sentences of unreadable images, each only once."""
        self.unreadable = list(dict.fromkeys([*self.unreadable, *errors]))
