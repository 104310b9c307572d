"""The choice between several classifiers: made on the validation images, confirmed on the test images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from lensmith.measure.paired import compare
from lensmith.records import Prediction, Rate, percent

Predictions = Mapping[str, Sequence[Prediction]]
"""Each classifier's predictions for the same images, by the classifier's name."""
WITHIN = 0.5
"""A classifier is as good as the best if it is within so many standard errors of it. In simulated choices from 300
images, half an error took the cheapest of the equal ones more often than none or a whole one (dev/LOG.md)."""


@dataclass(frozen=True)
class Judged:
    """How a classifier did on validation images."""

    losses: Sequence[float]
    """Of each image, the log loss in nats: minus the logarithm of the probability of its class, calibrated."""
    accuracy: Rate


@dataclass(frozen=True)
class Choice:
    """The chosen classifier, and the reason."""

    chosen: str
    verdict: str
    """The choice and its reason, for people."""
    best: str
    """The classifier with the lowest log loss."""


def choose(names: Sequence[str], judged: Mapping[str, Judged]) -> Choice:
    """The cheapest classifier whose log loss is within half a standard error of the lowest.

    Breiman et al. (1984) prune trees by such a rule. The standard error is that of the paired difference on the same
    images. The log loss tells classifiers apart on far fewer images than the accuracy does, because an image also
    counts if both are right about it and one of them is surer.

    Args:
        names: the classifiers, the cheapest first.
        judged: by name, on the same images in the same order.
    """
    losses = {name: fmean(judged[name].losses) for name in names}
    best = min(names, key=lambda name: losses[name])

    def error(name: str) -> float:
        """The standard error of the difference to the best."""
        gaps = [a - b for a, b in zip(judged[name].losses, judged[best].losses, strict=True)]
        return math.sqrt(pvariance(gaps) / len(gaps))

    chosen = next(name for name in names if losses[name] - losses[best] <= WITHIN * error(name))
    rate = judged[chosen].accuracy
    take = (
        f"Take {chosen}: log loss {losses[chosen]:.3f}, and {percent(rate)} of the {rate.n:,} validation images correct"
    )
    if chosen != best:
        verdict = (
            f"{take}. The lowest log loss has {best}, {losses[best]:.3f} ({percent(judged[best].accuracy)} correct); "
            f"the difference is within half a standard error ({WITHIN * error(chosen):.3f})."
        )
    elif chosen == names[0]:
        verdict = f"{take}; it is the best, and the cheapest."
    else:
        verdict = f"{take}; every cheaper method is worse by more than half a standard error."
    return Choice(chosen, verdict, best)


def confirm(names: Sequence[str], choice: Choice, tested: Predictions) -> list[str]:
    """Sentences about a choice on the test images: how the chosen classifier compares with the cheapest one and with
    the one that was best on validation, and which ones the test images can't distinguish from it."""
    chosen = choice.chosen
    comparisons = {name: compare(name, tested[name], chosen, tested[chosen]) for name in names if name != chosen}
    references = [name for name in dict.fromkeys([names[0], choice.best]) if name != chosen]
    sentences = [f"On the test images: {comparisons[name].sentence}" for name in references]
    alike = [f"{name} with {percent(c.accuracy_first)}" for name, c in comparisons.items() if c.verdict == "can't tell"]
    if alike:
        sentences.append(f"The test images can't distinguish {chosen} from {' or from '.join(alike)}.")
    return sentences


def price(chosen: str, seconds: Mapping[str, float]) -> str:
    """A sentence on what an answer of the chosen classifier costs, if another one takes less than half of it.

    Args:
        seconds: of each classifier for the same images, all above 0.
    """
    fastest = min(seconds, key=lambda name: seconds[name])
    times = seconds[chosen] / seconds[fastest]
    return f"An answer of {chosen} takes {times:.1f} times as long as one of {fastest}." if times > 2 else ""
