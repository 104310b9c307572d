"""Which of several classifiers to take: chosen on the validation images, confirmed on the test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from lensmith.measure.metrics import accuracy, is_right
from lensmith.measure.paired import compare
from lensmith.records import Prediction, percent

Predictions = Mapping[str, Sequence[Prediction]]
"""Each classifier's predictions of the same images, by its name."""


@dataclass(frozen=True)
class Choice:
    """The classifier to take, and why, in one sentence."""

    chosen: str
    verdict: str


def choose(names: Sequence[str], validated: Predictions, images: int) -> Choice:
    """The cheapest classifier within one standard error of the best on the validation images.

    The rule is that of Breiman et al. (1984) for pruning trees; the standard error is that of the difference on the
    same images. To take the cheapest that a test can't distinguish from the best would be worse the fewer images there
    are.

    Args:
        names: the cheapest first.
        validated: predictions of the validation images.
        images: the number of validation images.
    """
    rates = {name: accuracy(validated[name]) for name in names}
    correct = {name: [is_right(p) for p in validated[name]] for name in names}
    best = max(names, key=lambda name: rates[name].accuracy)

    def behind(name: str) -> tuple[float, float]:
        """How much less accurate it is than the best, and the standard error of that."""
        differences = [int(b) - int(a) for a, b in zip(correct[name], correct[best], strict=True)]
        mean = fmean(differences)
        return mean, (pvariance(differences, mean) / len(differences)) ** 0.5

    chosen = next(name for name in names if behind(name)[0] <= behind(name)[1])
    take = f"Take {chosen}: {percent(rates[chosen])} of the {images:,} validation images correct"
    if chosen != best:
        gap, error = behind(chosen)
        return Choice(
            chosen,
            f"{take}. The best, {best}, has {percent(rates[best])}: {gap * 100:.1f} points more, which is within one "
            f"standard error ({error * 100:.1f}) of zero.",
        )
    if chosen == names[0]:
        return Choice(chosen, f"{take}, and it is the cheapest.")
    return Choice(chosen, f"{take}, more than one standard error above every cheaper method.")


def confirm(names: Sequence[str], chosen: str, validated: Predictions, tested: Predictions) -> list[str]:
    """What the test images say of a choice, in sentences: against the cheapest and the best on validation, and which
    classifiers they can't distinguish from it."""
    best = max(names, key=lambda name: accuracy(validated[name]).accuracy)
    against = {name: compare(name, tested[name], chosen, tested[chosen]) for name in names if name != chosen}
    sentences = [
        f"On the test images: {against[name].sentence}" for name in dict.fromkeys([names[0], best]) if name != chosen
    ]
    alike = [f"{name} with {percent(c.accuracy_first)}" for name, c in against.items() if c.verdict == "can't tell"]
    if alike:
        sentences.append(f"The test images can't distinguish {chosen} from {' nor from '.join(alike)}.")
    return sentences
