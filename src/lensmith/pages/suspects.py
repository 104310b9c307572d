"""The page of images whose labels may be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lensmith.pages.charts import axes
from lensmith.pages.page import data_uri, fill, is_small
from lensmith.runs.files import write

_PAIRS = 30


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong, and what it looks like instead. Shares are in 0..1."""

    image: Image.Image
    label: str
    suggested: str
    own: float
    """The share given to the label."""
    other: float
    """The share given to what is suggested."""
    source: str
    """The file."""


@dataclass(frozen=True)
class SuspectsData:
    """What the page shows. An empty part is left out."""

    title: str
    verdict: str
    sentences: list[str]
    suspects: list[Suspect]
    """The most suspicious first."""
    total: int
    """Suspects in the CSV file."""
    images: int
    """Images that were examined."""
    pairs: list[tuple[str, str, int]]
    """Label, what is suggested and the number of images, the most frequent first; 30 are shown."""
    facts: list[tuple[str, str]]
    notes: list[str]


def render_suspects(data: SuspectsData) -> str:
    """The suspects as HTML."""
    most = max((count for *_, count in data.pairs), default=1)
    return fill(
        "suspects.html.j2",
        [],
        data.notes,
        data=data,
        pairs=[
            (label, suggested, count, axes.bar(count / (most or 1), f"{count:,} images"))
            for label, suggested, count in data.pairs[:_PAIRS]
        ],
        pictures=[(s, data_uri(s.image), is_small(s.image)) for s in data.suspects],
    )


def write_suspects(path: Path, data: SuspectsData) -> None:
    """Write the page of suspects.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_suspects(data))
