"""Which of two classifiers is better on the same images, whether the images can tell, and how many would."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lensmith.errors import UserError
from lensmith.measure.metrics import (
    accuracy,
    holm,
    images_needed,
    is_right,
    mcnemar,
    paired_difference,
    smallest_difference,
    wilson,
)
from lensmith.records import Comparison, Prediction, Rate

LEVEL = 0.05
AGAIN = "Score both again, on the same part of the same dataset with the same limits and seed."


def compare(first_name: str, first: Sequence[Prediction], second_name: str, second: Sequence[Prediction]) -> Comparison:
    """Two classifiers' answers to the same images, matched by their ids; the order within each list has no effect.

    The verdict goes by the exact McNemar test at 5 %. An image that could not be read is a wrong answer.

    Raises:
        UserError: a list is empty, an id comes twice, the two scored other images or other labels of the same image,
            or an image has no true label.
    """
    answers = _by_id(second_name, second)
    _check_same(first_name, _by_id(first_name, first), second_name, answers)
    pairs = [(p.id, is_right(p), is_right(answers[p.id])) for p in first]
    lost = [key for key, a, b in pairs if a and not b]
    gained = [key for key, a, b in pairs if b and not a]
    n = len(pairs)
    difference = paired_difference(len(lost), len(gained), n)
    return _judge(
        Comparison(
            first=first_name,
            second=second_name,
            n=n,
            accuracy_first=accuracy(first),
            accuracy_second=accuracy(second),
            difference=difference,
            lost=lost,
            gained=gained,
            p=mcnemar([a for _, a, _ in pairs], [b for _, _, b in pairs]),
            verdict="",
            needed=images_needed(difference.value, (len(lost) + len(gained)) / n) if difference.value else None,
            sentence="",
        )
    )


def compare_all(names: Sequence[str], lists: Sequence[Sequence[Prediction]]) -> list[Comparison]:
    """Each classifier after the first, compared with the first as in `compare`.

    With several, p is adjusted by Holm's method, and verdict and sentence go by it. The intervals of the differences
    are not adjusted: each is the one that `compare` gives.

    Raises:
        UserError: there are fewer than two, or what `compare` raises.
        ValueError: there are not as many names as lists.
    """
    if len(names) != len(lists):
        raise ValueError(f"{len(names)} names for {len(lists)} lists")
    if len(names) < 2:
        raise UserError("There are fewer than two to compare.", "Name two runs or more.")
    found = [compare(names[0], lists[0], name, answers) for name, answers in zip(names[1:], lists[1:], strict=True)]
    if len(found) == 1:
        return found
    return [_judge(replace(c, p=p), len(found)) for c, p in zip(found, holm([c.p for c in found]), strict=True)]


def power_hint(n: int) -> str:
    """What n test images can show, to be said before a run: how well one accuracy is known, and two told apart.

    It takes one image in five to be right for only one of the two; half the images right is the widest interval.

    Raises:
        UserError: n is 0.
    """
    rate = wilson(n // 2, n)
    return (
        f"{_count(n, 'test image')}: the accuracy will be known to about {_points((rate.high - rate.low) / 2)} points "
        f"either way. Two models must differ by about {_points(_visible(n, 0.2))} points to be told apart four times "
        "in five, if one in five images is right for only one of them."
    )


def _by_id(name: str, predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    if not predictions:
        raise UserError(f"{name} has no predictions, so there is nothing to compare.", "Score it on some images first.")
    times = Counter(p.id for p in predictions)
    repeated = [key for key, count in times.items() if count > 1]
    if repeated:
        raise UserError(
            f"{name} has {_count(len(repeated), 'id')} more than once, such as {repeated[0]!r}.",
            "Give each image its own id, or score it again.",
        )
    return {p.id: p for p in predictions}


def _check_same(first_name: str, first: dict[str, Prediction], second_name: str, second: dict[str, Prediction]) -> None:
    """Raise unless both scored the same images, and these have the same true labels in both."""
    sides = [(first_name, first, second), (second_name, second, first)]
    alone = [(name, next(key for key in own if key not in other)) for name, own, other in sides if own.keys() - other]
    if alone:
        shared = len(first.keys() & second.keys())
        raise UserError(
            f"{first_name} scored {_count(len(first), 'image')} and {second_name} {len(second):,}, and they share "
            f"{shared:,}: " + ", ".join(f"{key!r} is only in {name}" for name, key in alone) + ".",
            AGAIN,
        )
    for name, own, _ in sides:
        bare = [key for key, p in own.items() if p.label is None]
        if bare:
            raise UserError(
                f"{len(bare):,} of {_count(len(own), 'image')} of {name} have no true label, such as {bare[0]!r}.",
                "Compare on images whose labels are known.",
            )
    other = [key for key, p in first.items() if p.label != second[key].label]
    if other:
        raise UserError(
            f"The true label differs for {len(other):,} of {_count(len(first), 'image')}, such as {other[0]!r}: "
            f"{first[other[0]].label!r} for {first_name}, {second[other[0]].label!r} for {second_name}.",
            AGAIN,
        )


def _judge(found: Comparison, comparisons: int = 1) -> Comparison:
    """The same with verdict and sentence, as `p` and the difference have it."""
    change = found.difference
    verdict = "can't tell" if found.p >= LEVEL else "better" if change.value > 0 else "worse"
    chance = _chance(found.p) + (f" adjusted for {comparisons} comparisons" if comparisons > 1 else "")
    figures = f"{_percent(found.accuracy_second)} against {_percent(found.accuracy_first)}"
    figures += f", a difference of {_points(change.value)} points ({_points(change.low)} to {_points(change.high)})"
    images = _count(found.n, "image")
    unsure = f"{images} can't tell {found.second} from {found.first}:"
    if verdict != "can't tell":
        sentence = f"{found.second} is {verdict} than {found.first}: {figures}, {chance}, on the same {images}."
    elif found.needed is None:
        sentence = f"{unsure} both {_percent(found.accuracy_first)}. {_unseen(found)}"
    else:
        sentence = f"{unsure} {figures}, {chance}. {_more(found.needed, found.n)}"
    return replace(found, verdict=verdict, sentence=sentence)


def _more(needed: int, n: int) -> str:
    """How many images would show the difference found."""
    # The formula knows of no adjusted p, and is too hopeful with a few images.
    if needed <= n:
        return "More images would be needed to show a difference of this size."
    # Two figures: the guess is no better than the difference it is made from.
    step: int = 10 ** max(0, len(str(needed)) - 2)
    return f"About {math.ceil(needed / step) * step:,} images would show a difference of this size."


def _unseen(found: Comparison) -> str:
    """What could have been seen, where no difference was."""
    if not found.lost and not found.gained:
        return "They are right on the same images."
    visible = _visible(found.n, (len(found.lost) + len(found.gained)) / found.n)
    return f"On so many images a difference must be about {_points(visible)} points to be seen four times in five."


def _visible(n: int, discordant: float) -> float:
    """The smallest difference seen on n images four times in five; with very few, it needs more discordant ones."""
    # From about eight on the test can reach p < 0.05: six, all one way, give 0.03, and they vary.
    return smallest_difference(n, min(1.0, max(discordant, 8 / n)))


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _percent(rate: Rate) -> str:
    return f"{rate.accuracy * 100:.1f} %"


def _points(difference: float) -> str:
    shown = f"{difference * 100:.1f}"
    return "0.0" if shown == "-0.0" else shown


def _chance(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    digits = 3
    # More of them close to the level, so that the figure shows on which side it is.
    while digits < 9 and float(f"{p:.{digits}f}") == LEVEL:
        digits += 1
    return f"p = {p:.{digits}f}"
