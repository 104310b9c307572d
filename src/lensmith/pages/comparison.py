"""The page that compares runs on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lensmith.pages.charts import cells
from lensmith.pages.page import data_uri, fill, is_small
from lensmith.records import Comparison, Evaluation
from lensmith.runs.files import write

_HEADLINE = 90  # characters; a longer sentence stands beneath a shorter headline
_PICTURES = 40  # of each kind


@dataclass(frozen=True)
class Change:
    """An image that one run had right and another wrong, and both answers; None is an image that could not be read."""

    image: Image.Image
    label: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class ComparisonData:
    """What the page shows. An empty part is left out."""

    title: str
    evaluations: list[Evaluation]
    """One per run; the first is what the others are compared with."""
    comparisons: list[Comparison]
    """Each other run against the first, the most important one first."""
    lost: list[Change]
    """Images of the first comparison that only its first run had right; at most 40 are shown."""
    gained: list[Change]
    """Images of the first comparison that only its second run had right; at most 40 are shown."""
    settings: list[tuple[str, list[str]]]
    """Options of the recipes that differ: the key, and its value in each run."""
    classes: list[tuple[str, float, float, int]]
    """Of the first comparison: class, recall of its first and of its second run (0..1), number of images."""
    facts: list[tuple[str, str]]
    """Where the figures come from: data, runs, commits, time."""
    notes: list[str]
    picture_note: str = ""
    """Why there are no pictures, if so."""


def render_comparison(data: ComparisonData) -> str:
    """The comparison as HTML."""
    reach = cells.difference_reach(c.difference for c in data.comparisons)
    return fill(
        "comparison.html.j2",
        data.evaluations,
        data.notes,
        data=data,
        headline=_headline(data),
        reach=reach,
        difference_axis=cells.difference_axis(reach),
        gained=_pictures(data.gained),
        lost=_pictures(data.lost),
        classes=sorted(data.classes, key=_unchanged),
    )


def write_comparison(path: Path, data: ComparisonData) -> None:
    """Write the comparison.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_comparison(data))


def _headline(data: ComparisonData) -> str:
    """The first comparison in one line; nothing if there is none. Several sentences are listed beneath it."""
    if not data.comparisons:
        return ""
    first = data.comparisons[0]
    if len(data.comparisons) == 1 and len(first.sentence) <= _HEADLINE:
        return first.sentence
    if first.verdict in ("better", "worse"):
        return f"{first.second} is {first.verdict} than {first.first}"
    return f"{first.n:,} images can't tell {first.second} from {first.first}"


def _pictures(changes: list[Change]) -> list[tuple[Change, str, bool]]:
    return [(c, data_uri(c.image), is_small(c.image)) for c in changes[:_PICTURES]]


def _unchanged(row: tuple[str, float, float, int]) -> float:
    """Sorts the largest change first, and what is not known last."""
    change = row[2] - row[1]
    return -abs(change) if math.isfinite(change) else 1.0
