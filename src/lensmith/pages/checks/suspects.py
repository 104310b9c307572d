"""The page that shows images whose labels may be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lensmith.pages.charts import cells
from lensmith.pages.page import data_uri, fill_template, is_small
from lensmith.runs.files import write

_PAIRS = 30


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong, and the label it seems to have instead."""

    image: Image.Image
    label: str
    suggested: str
    label_probability: float
    """Probability of the label, in 0..1."""
    suggested_probability: float
    """Probability of the suggested label, in 0..1."""
    source: str
    """The file."""


@dataclass(frozen=True)
class SuspectsData:
    """What the page shows. Empty sections are omitted."""

    title: str
    verdict: str
    sentences: list[str]
    suspects: list[Suspect]
    """The most suspicious first."""
    total: int
    """Number of suspects in the CSV file."""
    images: int
    """Number of images examined."""
    pairs: list[tuple[str, str, int]]
    """Label, suggested label and number of images, the most frequent first; 30 are shown."""
    facts: list[tuple[str, str]]
    notes: list[str]


def render_suspects(data: SuspectsData) -> str:
    """The page as HTML."""
    most = max((count for *_, count in data.pairs), default=1)
    return fill_template(
        "suspects.html.j2",
        data.notes,
        data=data,
        pairs=[
            (label, suggested, count, cells.bar(count / (most or 1), f"{count:,} images"))
            for label, suggested, count in data.pairs[:_PAIRS]
        ],
        pictures=[(s, data_uri(s.image), is_small(s.image)) for s in data.suspects],
    )


def write_suspects(path: Path, data: SuspectsData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_suspects(data))
