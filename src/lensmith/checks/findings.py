"""What a check finds: a sentence, what to do about it, how sure it is, and the images it is about."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lensmith.checks.survey import Survey
from lensmith.data.corrections import COLUMNS
from lensmith.data.text_tables import guarded

Harm = Literal["spoils", "look", "note"]
"""`spoils`: figures measured on these images are wrong; `look`: a person should look; `note`: good to know."""


@dataclass(frozen=True)
class Picture:
    """An image to show, by its index in the survey, and what to say below it."""

    image: int
    caption: str


@dataclass(frozen=True)
class Line:
    """An image in the table of findings."""

    image: int
    suggested: str = ""
    """The label that it seems to have instead."""
    other: int | None = None
    """The image that it is a copy of."""
    agreement: float | None = None
    remove: bool = False
    """Whether the table removes it unless a person says otherwise."""
    only_in: str = ""
    """The split in which it is removed, if it is also in another."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    kind: str
    """`leaks`, `groups`, `contradictions`, `suspects`, `unreadable`, `odd`, `shortcuts`, `balance`, `copies`."""
    harm: Harm
    count: int
    """The number of images, pairs or classes it is about."""
    sentence: str
    advice: str
    """What to do, in one line."""
    sure: str = ""
    """How sure it is, in one line."""
    pictures: list[list[Picture]] = field(default_factory=list)
    """Images to show side by side, such as the two of a pair."""
    lines: list[Line] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    """Of a small table, for what pictures don't show."""
    rows: list[list[str]] = field(default_factory=list)


def table(surveyed: Survey, findings: Sequence[Finding]) -> tuple[str, int]:
    """The findings as CSV, one row for each image of each finding; and how many images it removes as it stands."""
    out, removed = io.StringIO(), 0
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow([*COLUMNS, "finding", "suggested", "copy_of", "agreement", "split", "file"])
    for found in findings:
        for line in found.lines:
            i = line.image
            label = surveyed.labels[i]
            name = f"{surveyed.contents[i]}@{line.only_in}" if line.only_in else surveyed.ids[i]
            other = surveyed.sources[line.other] if line.other is not None else ""
            agreement = "" if line.agreement is None else f"{line.agreement:.3f}"
            removed += line.remove
            cells = [guarded(label), "" if line.remove else guarded(label), found.kind, guarded(line.suggested)]
            file = guarded(surveyed.sources[i])
            rows.writerow([name, *cells, guarded(other), agreement, surveyed.spots[i].split, file])
    return out.getvalue(), removed
