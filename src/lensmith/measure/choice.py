"""The choice between several classifiers: made on the validation images, confirmed on the test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance
from typing import NamedTuple

from lensmith.measure.metrics import accuracy, is_correct
from lensmith.measure.paired import compare
from lensmith.records import Prediction, percent

Predictions = Mapping[str, Sequence[Prediction]]
"""Each classifier's predictions for the same images, by the classifier's name."""


class _Gap(NamedTuple):
    """How much less accurate a classifier is than the best one, with the standard error of this difference."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Choice:
    """The chosen classifier, and the reason."""

    chosen: str
    verdict: str
    """The choice and its reason, for people."""


def choose(names: Sequence[str], validated: Predictions, images: int) -> Choice:
    """The cheapest classifier within one standard error of the best on the validation images.

    This is the rule of Breiman et al. (1984) for pruning trees; the standard error is that of the paired difference on
    the same images. Taking the cheapest classifier that a significance test can't distinguish from the best would give
    worse choices the fewer images there are.

    Args:
        names: the classifiers, the cheapest first.
        validated: predictions for the validation images.
        images: the number of validation images.
    """
    rates = {name: accuracy(validated[name]) for name in names}
    correct = {name: [is_correct(p) for p in validated[name]] for name in names}
    best = max(names, key=lambda name: rates[name].accuracy)

    def gap_to_best(name: str) -> _Gap:
        differences = [int(b) - int(a) for a, b in zip(correct[name], correct[best], strict=True)]
        mean = fmean(differences)
        return _Gap(mean, (pvariance(differences, mean) / len(differences)) ** 0.5)

    gaps = {name: gap_to_best(name) for name in names}
    chosen = next(name for name in names if gaps[name].value <= gaps[name].standard_error)
    take = f"Take {chosen}: {percent(rates[chosen])} of the {images:,} validation images correct"
    if chosen != best:
        gap = gaps[chosen]
        return Choice(
            chosen,
            f"{take}. The most accurate, {best}, reaches {percent(rates[best])}: {gap.value * 100:.1f} points more, "
            f"which is within one standard error ({gap.standard_error * 100:.1f} points).",
        )
    if chosen == names[0]:
        return Choice(chosen, f"{take}, and it is the cheapest.")
    return Choice(chosen, f"{take}, more than one standard error above every cheaper method.")


def confirm(names: Sequence[str], chosen: str, validated: Predictions, tested: Predictions) -> list[str]:
    """Sentences about a choice on the test images: how the chosen classifier compares with the cheapest one and with
    the one that was best on validation, if there were such images, and which ones the test images can't distinguish
    from it."""
    best = max(names, key=lambda name: accuracy(validated[name]).accuracy) if validated else chosen
    comparisons = {name: compare(name, tested[name], chosen, tested[chosen]) for name in names if name != chosen}
    references = [name for name in dict.fromkeys([names[0], best]) if name != chosen]
    sentences = [f"On the test images: {comparisons[name].sentence}" for name in references]
    alike = [f"{name} with {percent(c.accuracy_first)}" for name, c in comparisons.items() if c.verdict == "can't tell"]
    if alike:
        sentences.append(f"The test images can't distinguish {chosen} from {' or from '.join(alike)}.")
    return sentences
