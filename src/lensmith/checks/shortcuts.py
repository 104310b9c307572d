"""Can the class be told without looking at the picture? Then a model may learn that instead, and fail elsewhere.

A small decision tree predicts the class from what the files say: size, format, mode, JPEG tables, EXIF, the folder and
the beginning of the name, the order. If it does better than with the labels shuffled, each fact is tried by itself to
see which gives the class away. The number of bytes isn't used: it follows from the picture. What the pixels' statistics
tell (borders, mean colour, sharpness) is only reported, beside a classifier of the thumbnails, since it may be the
class itself: tomatoes are red.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from lensmith.checks.findings import Finding, Picture
from lensmith.checks.survey import FileFacts, Survey

SHUFFLES = 19
"""Labels are shuffled so often: the true labels do best of 20 by chance in one of twenty sets."""
DEVIATIONS = 3.0
"""The tree must also beat the shuffled labels' mean by so many of their standard deviations."""
MOST = 4_000
"""With more images, a random part of this size is used."""
_FOLDS, _DEPTH = 5, 8
_LEAST = 10
"""Classes with fewer images aren't used."""


@dataclass(frozen=True)
class Told:
    """How well the class is told from some facts. Accuracies are balanced: means over classes; chance is 1/classes."""

    accuracy: float
    shuffled: float
    """The best accuracy with shuffled labels."""
    alarm: bool


def shortcuts(survey: Survey, seed: int = 0) -> Finding | None:
    """What gives the class away without looking; None if nothing does, or if there are too few images to tell."""
    rows, labels = _used(survey, seed)
    if len(set(labels)) < 2:
        return None
    said = _facts(survey, rows)
    facts = {name: _coded(values) for name, values in said.items()}
    facts = {name: values for name, values in facts.items() if len(np.unique(values)) > 1}
    if not facts:
        return None
    told = tell(np.column_stack(list(facts.values())), labels, seed)
    if not told.alarm:
        return None
    alone = {name: tell(values[:, None], labels, seed) for name, values in facts.items()}
    name = max(alone, key=lambda name: (alone[name].alarm, alone[name].accuracy))
    words = said[name]
    table, value, label = _given_away(words, labels)
    classes = len(set(labels))
    examples = [i for i, word, of in zip(rows, words, labels, strict=True) if word == value and of == label][:2]
    others = [i for i, word, of in zip(rows, words, labels, strict=True) if of == label and word != value][:2]
    return Finding(
        "shortcuts",
        "spoils",
        1,
        f"The class can be told without looking at the picture: the files alone give {100 * told.accuracy:.1f} % "
        f"(chance {100 / classes:.1f} %), most by their {name}.",
        f"Make all images alike in their {name}, for example by saving them in one way, before a figure is believed. "
        "`lensmith check RUN` shows what a taught model makes of it.",
        f"With the labels shuffled, the best of {SHUFFLES} trees reached {100 * told.shuffled:.1f} %.",
        [[Picture(i, f"{survey.labels[i]}: {name} {_word(words[rows.index(i)])}")] for i in [*examples, *others]],
        head=[name, "images", *_classes_shown(labels)],
        rows=table,
    )


def pixel_statistics(survey: Survey, seed: int = 0) -> Finding | None:
    """How much of the class the statistics of the pixels tell, beside a classifier of the thumbnails."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]

    rows, labels = _used(survey, seed)
    if len(set(labels)) < 2 or len(rows) < 5 * len(set(labels)):
        return None
    classes = len(set(labels))
    statistics = _accuracy(survey.pixels[rows].astype(np.float64), labels, seed)
    small = survey.thumbnails[rows].reshape(len(rows), 8, 4, 8, 4).mean((2, 4)).reshape(len(rows), -1) / 255 - 0.5
    baseline = _accuracy(small, labels, seed, LogisticRegression(max_iter=60))
    return Finding(
        "pixels",
        "note",
        1,
        f"Brightness, colours, borders and sharpness alone tell the class in {100 * statistics:.1f} % (chance "
        f"{100 / classes:.1f} %); 8 x 8 grey pixels in {100 * baseline:.1f} %.",
        "Nothing, if that is what the classes look like. If it is the studio or the camera, photograph them alike.",
    )


def tell(facts: NDArray[np.float64], labels: Sequence[str], seed: int = 0) -> Told:
    """Whether facts (images, facts) tell the labels better than chance."""
    found = _accuracy(facts, labels, seed)
    random = np.random.default_rng(seed)
    shuffled = [_accuracy(facts, list(random.permutation(labels)), seed) for _ in range(SHUFFLES)]
    beyond = float(np.mean(shuffled) + DEVIATIONS * np.std(shuffled))
    return Told(found, max(shuffled), found > max(max(shuffled), beyond))


def _accuracy(facts: NDArray[np.float64], labels: Sequence[str], seed: int, model: object | None = None) -> float:
    """Balanced accuracy in cross-validation, of a small tree unless another classifier is given."""
    from sklearn.metrics import balanced_accuracy_score  # type: ignore[import-untyped, unused-ignore]
    from sklearn.model_selection import StratifiedKFold, cross_val_predict  # type: ignore[import-untyped, unused-ignore]
    from sklearn.tree import DecisionTreeClassifier  # type: ignore[import-untyped, unused-ignore]

    tree = DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=3, class_weight="balanced", random_state=seed)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a solver that stops early, which is good enough here
        predicted = cross_val_predict(model or tree, facts, labels, cv=folds)
    return float(balanced_accuracy_score(labels, predicted))


def _used(survey: Survey, seed: int) -> tuple[list[int], list[str]]:
    """The images used, and their labels: readable, each content once, of classes with enough images."""
    unique = {survey.contents[i]: i for i in reversed(survey.readable())}
    numbers = Counter(survey.labels[i] for i in unique.values())
    rows = sorted(i for i in unique.values() if numbers[survey.labels[i]] >= _LEAST)
    if len(rows) > MOST:
        rows = sorted(np.random.default_rng(seed).choice(rows, MOST, replace=False).tolist())
        numbers = Counter(survey.labels[i] for i in rows)
        rows = [i for i in rows if numbers[survey.labels[i]] >= _FOLDS]
    return rows, [survey.labels[i] for i in rows]


def _position(survey: Survey, i: int) -> tuple[bool, int]:
    spot = survey.spots[i]
    return spot.split == "test", survey.dataset.split(spot.split).row(spot.index)


Value = str | float


def _facts(survey: Survey, rows: Sequence[int]) -> dict[str, list[Value]]:
    """What the files say, by name of the fact: one value for each image."""
    files = [file for i in rows if (file := survey.files[i])]

    def of(attribute: str) -> list[Value]:
        return [getattr(file, attribute) for file in files]

    labels = [survey.labels[i] for i in rows]
    facts: dict[str, list[Value]] = {
        name.replace("_", " "): of(name) for name in FileFacts.__slots__ if name != "taken"
    }
    facts = {
        ("JPEG quality" if name == "quality" else "JPEG tables" if name == "tables" else name): values
        for name, values in facts.items()
    }
    facts["shape"] = [round(file.width / file.height, 2) for file in files]
    facts["hour"] = [file.taken[11:13] for file in files]
    facts["day"] = [file.taken[:10] for file in files]
    facts |= _of_paths([survey.sources[i] for i in rows], labels)
    # The tenth of the source that an image is in, unless the source is sorted by class.
    order = sorted(range(len(rows)), key=lambda k: _position(survey, rows[k]))
    turns = sum(labels[a] != labels[b] for a, b in pairwise(order))
    if turns > len(labels) * (1 - sum((n / len(labels)) ** 2 for n in Counter(labels).values())) / 2:
        tenth = {k: float(10 * place // len(order)) for place, k in enumerate(order)}
        facts["place in the source"] = [tenth[k] for k in range(len(rows))]
    return facts


def _of_paths(sources: Sequence[str], labels: Sequence[str]) -> dict[str, list[Value]]:
    """The folder within the class's and the beginning of the name, unless they are only other names of the classes."""
    found: dict[str, list[Value]] = {"folder": [], "beginning of the name": [], "extension": []}
    for source, label in zip(sources, labels, strict=True):
        path = PurePath(source.replace("\\", "/"))
        folder = "" if path.parent.name == label else path.parent.name
        begin = re.split(r"[\d_\-. ]", path.stem, maxsplit=1)[0].casefold()
        found["folder"].append("" if label.casefold() in folder.casefold() else folder)
        found["beginning of the name"].append("" if begin and begin in label.casefold() else begin)
        found["extension"].append(path.suffix)
    return {name: values for name, values in found.items() if not _names_the_classes(values, labels)}


def _names_the_classes(values: Sequence[Value], labels: Sequence[str]) -> bool:
    """Whether each value belongs to one class only, as names of the classes do, or to one image only."""
    of_value: dict[Value, set[str]] = {}
    for value, label in zip(values, labels, strict=True):
        of_value.setdefault(value, set()).add(label)
    return all(len(found) == 1 for found in of_value.values()) or len(of_value) > len(values) / 3


def _coded(values: Sequence[Value]) -> NDArray[np.float64]:
    """Values as numbers; words by how frequent they are."""
    if all(isinstance(value, int | float) for value in values):
        return np.array(values, np.float64)
    order = {value: k for k, (value, _) in enumerate(Counter(values).most_common())}
    return np.array([order[value] for value in values], np.float64)


def _classes_shown(labels: Sequence[str]) -> list[str]:
    return [label for label, _ in Counter(labels).most_common(6)]


def _given_away(values: Sequence[Value], labels: Sequence[str]) -> tuple[list[list[str]], Value, str]:
    """A table of the most telling values: how many images of each class have them; and the most telling of all."""
    totals, of_class = Counter(values), Counter(labels)
    both = Counter(zip(values, labels, strict=True))

    def telling(value: Value, label: str) -> float:
        expected = totals[value] * of_class[label] / len(labels)
        return float((both[value, label] - expected) / expected**0.5)

    best = {value: max(of_class, key=lambda label: telling(value, label)) for value in totals}
    ordered = sorted(totals, key=lambda value: -telling(value, best[value]))[:8]
    shown = _classes_shown(labels)
    table = [[_word(v), f"{totals[v]:,}", *(f"{both[v, label]:,}" for label in shown)] for v in ordered]
    return table, ordered[0], best[ordered[0]]


def _word(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
