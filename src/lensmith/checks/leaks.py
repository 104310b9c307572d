"""What makes a test look better than it is: copies of test images in training, and groups of images in several splits.

Also copies under two labels, one of which must be wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from lensmith.checks.copies import Copies, Pair
from lensmith.checks.findings import Finding, Line, Picture
from lensmith.checks.survey import Survey
from lensmith.data.source import count
from lensmith.data.text_tables import rows_of
from lensmith.errors import UserError
from lensmith.measure.metrics import accuracy
from lensmith.records import Prediction, percent

SHOWN = 24
"""Pairs shown of one kind."""
_LARGEST = 0.2
"""A group with more of the images than this is no group but what all have in common, such as `IMG_`."""
_TOGETHER = 3.0
"""Groups matter if an image's nearest one is of its group this many times as often as by chance."""


@dataclass(frozen=True)
class Leak:
    """A test image, a copy of it that the model learned from or was chosen by, and how alike they are."""

    test: int
    other: int
    agreement: float
    """1 for the same file."""
    chance: float = 0.0


def leaks_of(survey: Survey, copies: Copies) -> list[Leak]:
    """The test images with copies in another split; the surest first, each pair once."""
    found = []
    by_content: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(survey.contents):
        by_content[content].append(i)
    for members in by_content.values():
        found += _across(survey, members, members, 1.0, 0.0)
    for pair in copies.pairs:  # of one file each; all copies of the file stand for it
        first, second = by_content[survey.contents[pair.first]], by_content[survey.contents[pair.second]]
        found += _across(survey, first, second, pair.agreement, pair.chance)
        found += _across(survey, second, first, pair.agreement, pair.chance)
    return found


def _across(survey: Survey, first: Sequence[int], second: Sequence[int], agreement: float, chance: float) -> list[Leak]:
    """The leaks between test images of the first and other images of the second: each is in one, not in all."""
    tests = [i for i in first if survey.spots[i].split == "test"]
    others = [i for i in second if survey.spots[i].split != "test"]
    if not tests or not others:
        return []
    pairs = [*((test, others[0]) for test in tests), *((tests[0], other) for other in others[1:])]
    return [Leak(test, other, agreement, chance) for test, other in pairs]


def leak_finding(survey: Survey, copies: Copies, leaks: Sequence[Leak]) -> Finding | None:
    """What the leaks mean; None if there are none."""
    if not leaks:
        return None
    tests = {leak.test for leak in leaks}
    exact = {leak.test for leak in leaks if leak.agreement == 1.0}
    of_test = 100 * len(tests) / max(1, len(survey.split("test")))
    have = "has a copy" if len(tests) == 1 else "have copies"
    sentence = (
        f"{count(len(tests), 'test image')} ({of_test:.1f} %) {have} among the training or validation images: "
        f"{len(exact):,} byte for byte, {len(tests - exact):,} nearly the same."
    )
    expected = sum(leak.chance for leak in {leak.test: leak for leak in reversed(leaks)}.values())
    sure = "Byte for byte: certain."
    if tests - exact:
        sure = (
            f"Nearly the same: their detail agrees by {copies.limit:.3f} or more after aligning; {copies.usual:.2f} is "
            f"usual here. Of them, chance would explain about {expected:.0f}."
        )
    others = {leak.other: leak for leak in reversed(leaks)}
    lines = [
        # A copy of the same file is left out of its split only; another file wherever it is.
        Line(other, "", leak.test, leak.agreement, True, survey.spots[other].split if leak.agreement == 1.0 else "")
        for other, leak in others.items()
    ]
    # Nearly the same first: they are what a person wants to see.
    ordered = sorted(leaks, key=lambda leak: (leak.agreement == 1.0, leak.chance, -leak.agreement))
    return Finding(
        "leaks",
        "spoils",
        len(tests),
        sentence,
        f"Leave the {count(len(others), 'copy', 'copies')} out of training and validation: the table's rows do so "
        "(data.corrections).",
        sure,
        _pictures(survey, [(leak.test, leak.other) for leak in ordered]),
        lines,
    )


def without(predictions: Sequence[Prediction], leaked: Iterable[str]) -> str:
    """A sentence on a run's accuracy with and without the leaked test images, given by their ids.

    Raises:
        UserError: all images were leaked.
    """
    ids = set(leaked)
    kept = [p for p in predictions if p.id not in ids]
    left_out = len(predictions) - len(kept)
    if not left_out:
        return f"Accuracy: {percent(accuracy(predictions))}. None of its images is among the leaked ones."
    if not kept:
        return (
            f"Accuracy: {percent(accuracy(predictions))}, but all of its images have copies in training or validation."
        )
    return (
        f"Accuracy: {percent(accuracy(predictions))}; without the {count(left_out, 'leaked image')}, "
        f"{percent(accuracy(kept))}."
    )


def copies_finding(survey: Survey, copies: Copies) -> Finding | None:
    """Copies within a split, which count twice."""
    inside = [p for p in copies.pairs if survey.spots[p.first].split == survey.spots[p.second].split]
    repeated = len(survey) - len(set(zip(survey.contents, (s.split for s in survey.spots), strict=True)))
    if not inside and not repeated:
        return None
    return Finding(
        "copies",
        "note",
        len(inside) + repeated,
        f"Within a split, {count(repeated, 'image')} repeat{'s' * (repeated == 1)} another byte for byte, and "
        f"{count(len(inside), 'pair')} {'is' if len(inside) == 1 else 'are'} nearly the same.",
        "Nothing, unless they are many: what occurs twice counts twice.",
        pictures=_pictures(survey, [(p.first, p.second) for p in inside], 8),
        lines=[Line(p.second, other=p.first, agreement=p.agreement) for p in inside],
    )


def contradictions(survey: Survey, copies: Copies) -> Finding | None:
    """Copies under different labels."""
    by_content: dict[str, dict[str, int]] = defaultdict(dict)
    for i, content in enumerate(survey.contents):
        by_content[content].setdefault(survey.labels[i], i)
    pairs = []
    for found in by_content.values():
        if len(found) > 1:
            first, second, *_ = found.values()
            pairs.append(Pair(first, second, 1.0, 0.0))
    exact = len(pairs)
    pairs += [p for p in copies.pairs if survey.labels[p.first] != survey.labels[p.second]]
    if not pairs:
        return None
    which = Counter(tuple(sorted((survey.labels[p.first], survey.labels[p.second]))) for p in pairs)
    (one, other), most = which.most_common(1)[0]
    lines = []
    for p in pairs:
        lines.append(Line(p.first, survey.labels[p.second], p.second, p.agreement))
        lines.append(Line(p.second, survey.labels[p.first], p.first, p.agreement))
    return Finding(
        "contradictions",
        "spoils",
        len(pairs),
        f"{count(len(pairs), 'pair')} of copies {'has' if len(pairs) == 1 else 'have'} two labels ({exact:,} byte for "
        f"byte), most often {one} and {other} ({most:,}).",
        "Correct one label of each in the table, or empty both to leave the image out.",
        f"Of the {len(pairs) - exact:,} that are nearly the same, chance would explain about "
        f"{sum(p.chance for p in pairs):.0f}."
        if len(pairs) > exact
        else "Certain.",
        _pictures(survey, [(p.first, p.second) for p in pairs]),
        lines,
    )


def _pictures(survey: Survey, pairs: Sequence[tuple[int, int]], most: int = SHOWN) -> list[list[Picture]]:
    return [[Picture(i, f"{survey.spots[i].split}: {survey.labels[i]}") for i in pair] for pair in pairs[:most]]


def group_finding(survey: Survey, nearest: Mapping[int, int]) -> Finding | None:
    """Groups that people name or that cameras make, and that are in several splits.

    Args:
        nearest: for each image, the one that is most alike.
    """
    split = [spot.split for spot in survey.spots]
    worst: tuple[int, str, str, float, dict[str, list[int]]] | None = None
    for what, pattern, named in _groupings(survey):
        groups = {name: members for name, members in named.items() if len(members) > 1}
        if len(groups) < 3 or max(map(len, groups.values())) > _LARGEST * len(survey):
            continue
        crossing = {
            g: m for g, m in groups.items() if "test" in {split[i] for i in m} and {split[i] for i in m} - {"test"}
        }
        if not crossing:
            continue
        times = _together(groups, nearest, survey.labels)
        if times >= _TOGETHER and (worst is None or len(crossing) > worst[0]):
            worst = len(crossing), what, pattern, times, crossing
    if worst is None:
        return None
    number, what, pattern, times, crossing = worst
    example = max(crossing, key=lambda name: len(crossing[name]))
    advice = f"Keep them together: data.group='{pattern}'." if pattern else "Keep them together with data.group."
    return Finding(
        "groups",
        "look",
        number,
        f"{count(number, 'group')} of images with {what} {'is' if number == 1 else 'are'} in the test and in training "
        f"or validation, for example {example} ({count(len(crossing[example]), 'image')}).",
        advice,
        f"An image's nearest one is of its own group {times:.0f} times as often as by chance.",
        [[Picture(i, f"{split[i]}: {survey.labels[i]}") for i in _mixed(crossing[example], split)]],
    )


def _mixed(members: Sequence[int], split: Sequence[str]) -> list[int]:
    """A few of a group, from the test and from elsewhere."""
    test, others = ([i for i in members if (split[i] == "test") is side] for side in (True, False))
    return [*test[:2], *others[:2]]


def _together(groups: Mapping[str, Sequence[int]], nearest: Mapping[int, int], labels: Sequence[str]) -> float:
    """How many times as often as by chance an image's nearest one is of its own group, among those of its class."""
    group_of = {i: name for name, members in groups.items() for i in members}
    of_class, inside = Counter(labels), Counter((name, labels[i]) for i, name in group_of.items())
    seen, expected = 0, 0.0
    for i, name in group_of.items():
        if i in nearest:
            seen += group_of.get(nearest[i]) == name
            expected += (inside[name, labels[i]] - 1) / max(1, of_class[labels[i]] - 1)
    return seen / expected if expected else 0.0


def _groupings(survey: Survey) -> Iterable[tuple[str, str, dict[str, list[int]]]]:
    """Ways in which images may belong together: what they have in common, the pattern for `data.group`, the groups."""
    folders, stems, moments = defaultdict(list), defaultdict(list), defaultdict(list)
    for i, source in enumerate(survey.sources):
        path = PurePath(source.replace("\\", "/"))
        if len(path.parts) > 1 and path.parent.name != survey.labels[i]:
            folders[path.parent.name].append(i)
        stem = re.match(r"(.*\d.*?)[_\-. ]+[A-Za-z0-9]{1,6}$", path.stem)
        if stem:
            stems[stem[1]].append(i)
        file = survey.files[i]
        if file and file.camera and file.taken:
            moments[f"{file.camera}, {file.taken[:16]}"].append(i)
    yield "the same folder", r"([^/]+)/[^/]+$", folders
    yield "the same beginning of the name", r"([^/]*[0-9][^/]*?)[_\-. ]+[A-Za-z0-9]{1,6}\.[^./]+$", stems
    yield "the same camera and minute", "", moments


def compared(survey: Survey, copies: Copies, path: Path) -> Finding:
    """How many of a published list's pairs were found.

    Raises:
        UserError: the list can't be read, or names images that the source doesn't have.
    """
    order: dict[str, list[int]] = {"test": [], "train": []}
    for i in sorted(
        range(len(survey)), key=lambda i: survey.dataset.split(survey.spots[i].split).row(survey.spots[i].index)
    ):
        order["test" if survey.spots[i].split == "test" else "train"].append(i)
    found = {frozenset((survey.contents[p.first], survey.contents[p.second])) for p in copies.pairs}
    seen = total = k = 0
    missed: list[list[Picture]] = []
    try:
        for k, row in rows_of(path):  # noqa: B007 (it is used in an error)
            test, train = order["test"][int(row["TestID"])], order["train"][int(row["TrainID"])]
            total += 1
            if survey.contents[test] == survey.contents[train] or (
                frozenset((survey.contents[test], survey.contents[train])) in found
            ):
                seen += 1
            elif len(missed) < SHOWN:
                missed.append([Picture(i, f"{survey.spots[i].split}: {survey.labels[i]}") for i in (test, train)])
    except OSError as error:
        raise UserError(f"The list {path} can't be read: {error.strerror}.", "Check the path.") from None
    except (KeyError, ValueError, IndexError):
        raise UserError(
            f"Line {k} of {path} doesn't name a test and a training image of {survey.dataset.uri} by their numbers.",
            "It needs the columns TestID and TrainID, which count from 0.",
        ) from None
    return Finding(
        "known",
        "note",
        total - seen,
        f"Of {count(total, 'pair')} in {path.name}, {seen:,} {'was' if seen == 1 else 'were'} found.",
        "Nothing; the pairs below were not found.",
        pictures=missed,
    )
