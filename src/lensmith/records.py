"""What was found, as plain data: written to run folders, printed by `--json`, read by reports; and safe writing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

TASK = "lensmith.json"
"""Beside tuned weights: the question and the labels they were taught, and what else using them needs."""


@dataclass(frozen=True)
class Rate:
    """A proportion with its 95 % interval: `accuracy` of `n` samples lies in `low`..`high`."""

    accuracy: float
    low: float
    high: float
    n: int


def percent(rate: Rate) -> str:
    """`81.4 % (79.6 to 83.1)`"""
    return f"{rate.accuracy:.1%} ({rate.low * 100:.1f} to {rate.high * 100:.1f})".replace("%", " %", 1)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """One scored image. One that could not be read has an `error` and no answer.

    `probability` is the answer's among the labels, after calibration. A search that did not score every label knows
    that it lies in `probability_low`..`probability_high`, and gives the middle; else all three are equal.
    """

    id: str
    label: str | None
    predicted: str | None = None
    probability: float | None = None
    rank: int | None = None
    """The place of the true label among all, 1 for the best; None if unknown or beyond the labels searched for."""
    error: str | None = None
    probability_low: float | None = None
    probability_high: float | None = None
    scores: tuple[float, ...] = ()
    """Log-probabilities in the order of the labels, before calibration; NaN for a label that was not scored."""


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of scores: softmax((scores - offsets) / temperature)."""

    prior: str = "none"
    """What was taken away: `none`, or the answer to an `empty` image, to `noise`, or to the average image (`batch`)."""
    offsets: tuple[float, ...] = ()
    """Its log-probabilities in the order of the labels; empty for none."""
    temperature: float = 1.0
    """Above 1: the model was too sure of itself."""

    def apply(self, scores: Any) -> Any:
        """(images, labels) log-probabilities, as a tensor -> the same calibrated, up to a constant for each image."""
        if self.offsets:
            scores = scores - scores.new_tensor(self.offsets)
        return scores / self.temperature


@dataclass(frozen=True)
class ClassResult:
    """How one class fared: recall with its interval, precision, F1."""

    label: str
    recall: Rate
    precision: float
    f1: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers whose probability lies in `low`..`high`: their mean confidence, and how often they are right."""

    low: float
    high: float
    confidence: float
    accuracy: Rate


@dataclass(frozen=True)
class CoveragePoint:
    """Accuracy of the most confident answers: `coverage` is their fraction of all images, `confidence` the least of
    theirs."""

    coverage: float
    confidence: float
    accuracy: Rate


@dataclass
class Evaluation:
    """One classifier on one set of images."""

    name: str
    """What was scored: `zero-shot`, `tuned`, `pixels`."""
    accuracy: Rate
    top5: Rate | None
    """Share of images whose true label is among the five best; None with five labels or fewer."""
    macro_f1: Estimate
    classes: list[ClassResult]
    confusion: list[list[int]]
    """[true label][predicted label] counts, and a last column for images that could not be read."""
    labels: list[str]
    data: dict[str, Any]
    """Address, split, number of images, hash of the sample ids and labels."""
    calibration_error: float | None = None
    """Expected calibration error in 0..1; None if no image has a probability."""
    reliability: list[ReliabilityBin] = field(default_factory=list)
    coverage: list[CoveragePoint] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    """How probabilities were calibrated: `prior`, `temperature`, `n` validation images, and what was `tried`."""
    unreadable: list[str] = field(default_factory=list)
    """One sentence for each image that could not be read; each counts as wrong."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images; `difference` is the second's accuracy less the first's."""

    first: str
    second: str
    n: int
    accuracy_first: Rate
    accuracy_second: Rate
    difference: Estimate
    lost: list[str]
    """Ids of the images that the first had right and the second wrong."""
    gained: list[str]
    """Ids of the images that the second had right and the first wrong."""
    p: float
    """Exact McNemar test, two-sided; with several comparisons, adjusted by Holm's method."""
    verdict: str
    """The second is `better`, `worse`, or the images `can't tell`."""
    needed: int | None
    """About how many images would show a difference of this size; None if there was no difference at all."""
    sentence: str


@dataclass
class Training:
    """What a training did."""

    steps: int = 0
    seconds: float = 0.0
    best_step: int = 0
    checked_step: int = 0
    """The last step after which the validation images were scored."""
    worse: int = 0
    """Validations since the best one."""
    validation: Rate | None = None
    unreadable: list[str] = field(default_factory=list)
    """One sentence for each training or validation image that could not be read."""
    finished: bool = False

    def note(self, errors: Iterable[str]) -> None:
        """List unreadable images, each once."""
        self.unreadable = list(dict.fromkeys([*self.unreadable, *errors]))
