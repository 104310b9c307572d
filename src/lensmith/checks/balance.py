"""How many images each class has in each split, and how well its accuracy will be known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from lensmith.checks.findings import Finding
from lensmith.data import ImageDataset
from lensmith.data.source import count
from lensmith.data.splitting.names import SPLITS
from lensmith.measure.paired import FEW_OF_A_CLASS, precision

_ALIKE = 0.9


def balance(dataset: ImageDataset) -> Finding:
    """The classes by split. Classes that can't be tested, or hardly, are worth a look."""
    numbers = {split.name: Counter(split.labels) for split in dataset.splits}
    test, train = numbers["test"], numbers["train"]
    rows = []
    for label in sorted(dataset.labels, key=lambda label: (test[label], train[label])):
        points = "" if not test[label] else f"+/- {100 * precision(test[label]):.0f} points"
        rows.append([label, *(f"{numbers[name][label]:,}" for name in SPLITS), points])
    missing = [label for label in dataset.labels if test.total() and not test[label]]
    few = [label for label in dataset.labels if 0 < test[label] < FEW_OF_A_CLASS]
    untaught = [label for label in dataset.labels if train.total() and not train[label]]
    alike = similar(dataset.labels)
    parts = []
    if missing:
        parts.append(f"{count(len(missing), 'class', 'classes')} can't be tested ({_some(missing)})")
    if untaught:
        parts.append(f"{count(len(untaught), 'class', 'classes')} have no training image ({_some(untaught)})")
    if few:
        parts.append(
            f"{len(few):,} of {count(len(dataset.labels), 'class', 'classes')} have fewer than {FEW_OF_A_CLASS} test "
            f"images, and accuracies known to {100 * precision(min(test[label] for label in few)):.0f} points at worst"
        )
    parts += [f"the labels {a!r} and {b!r} are spelled alike" for a, b in alike]
    if parts:
        sentence, advice = "; ".join(parts) + ".", "Label more images of these classes, or join classes that are one."
    else:
        least = min((test[label] for label in dataset.labels), default=0)
        sentence = f"Each class has {least:,} test images or more." if least else "There are no test images."
        advice = "Nothing."
    sentence = sentence[0].upper() + sentence[1:]
    return Finding(
        "balance",
        "look" if parts else "note",
        len(missing) + len(untaught) + len(few) + len(alike),
        sentence,
        advice,
        "The last column is the widest half of a 95 % interval (Wilson's), at an accuracy of 50 %.",
        head=["class", *SPLITS, "accuracy known to"],
        rows=rows,
    )


def similar(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Labels that may be one, misspelled: nearly equal but for case, spaces and punctuation, with the same digits."""
    plain = [(label, re.sub(r"[\W_]+", "", label.casefold())) for label in labels]
    if len(plain) > 2000:
        return []
    found = []
    for k, (label, text) in enumerate(plain):
        for other, word in plain[k + 1 :]:
            if min(len(text), len(word)) < 4 or abs(len(text) - len(word)) > 2 or _digits(text) != _digits(word):
                continue
            if text == word or (text[0] == word[0] and SequenceMatcher(None, text, word).ratio() >= _ALIKE):
                found.append((label, other))
    return found


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + ", ..." * (len(labels) > 5)
