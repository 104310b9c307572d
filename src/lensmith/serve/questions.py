"""Typed questions, answered from the probabilities of a model's classes.

A model was taught one set of classes. A question in another form is answered where these classes answer it, and
refused where they don't: its options must be classes. If they are only some of them, the others are impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lensmith.serve.refusal import Refusal
from lensmith.serve.service import Answer

YES = ("yes", "true")
"""Names of a class that mean yes, in lower case."""
NO = ("no", "false")


@dataclass(frozen=True)
class Choice:
    """The answer to a question with options."""

    option: str
    confidence: float
    """From 0 (all options are equally probable) to 1."""
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Score:
    """The answer to a question with levels, which count from 0."""

    score: float
    """The mean level."""
    confidence: float
    probabilities: list[float]


def choice(answer: Answer, options: Sequence[str]) -> Choice:
    """The most probable option; its confidence is max(0, (p - 1/n) / (1 - 1/n)), as in transformers' decisions.

    Args:
        options: classes of the model; none for all of them.

    Raises:
        Refusal: the model doesn't know one of them.
    """
    among = answer.among(options) if options else answer
    n = len(among.probabilities)
    most = among.probabilities[among.label]
    confidence = 1.0 if n == 1 else max(0.0, (most - 1 / n) / (1 - 1 / n))
    listed = {label: among.probabilities[label] for label in options} if options else dict(among.probabilities)
    return Choice(among.label, confidence, listed)


def score(answer: Answer, levels: Sequence[str]) -> Score:
    """The mean level. Its confidence is 1 - E|level - mode| / E|level - mean| of even probabilities, as in
    transformers' decisions.

    Args:
        levels: classes of the model, from the lowest level to the highest.

    Raises:
        Refusal: the model doesn't know one of them, or one occurs twice.
    """
    if len(set(levels)) < len(levels):
        raise Refusal(422, "A level occurs twice.")
    among = answer.among(levels)
    found = [among.probabilities[level] for level in levels]
    mode, n = found.index(max(found)), len(found)
    distance = sum(p * abs(level - mode) for level, p in enumerate(found))
    even = sum(abs(level - (n - 1) / 2) for level in range(n)) / n
    confidence = max(0.0, 1 - distance / even) if even else 1.0
    return Score(sum(level * p for level, p in enumerate(found)), confidence, found)


def yes(answer: Answer, name: str | None, true: str | None = None, false: str | None = None) -> float:
    """The probability of yes.

    The classes that mean yes and no are those that the question describes as true and false; or the class that the
    question is named after, against all others; or those called yes and no, or true and false.

    Raises:
        Refusal: there are no such classes.
    """
    known = answer.probabilities
    if true is not None and true in known:
        return answer.among([true, false]).probabilities[true] if false is not None and false in known else known[true]
    if name in known:
        return known[str(name)]
    affirmative = [label for label in known if label.casefold() in YES]
    negative = [label for label in known if label.casefold() in NO]
    if len(affirmative) == len(negative) == 1:
        return answer.among([*affirmative, *negative]).probabilities[affirmative[0]]
    raise Refusal(
        422,
        f"A yes/no question must be called like a class, or describe true by a class. The model {answer.model!r} "
        f"knows: {', '.join(sorted(known))}.",
    )
