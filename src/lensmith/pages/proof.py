"""The page that shows whether an exported model still answers as its run does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lensmith.pages.page import data_uri, fill_template, is_small
from lensmith.records import Comparison
from lensmith.runs.files import write

PICTURES = 40


@dataclass(frozen=True)
class Changed:
    """An image whose answer changed."""

    image: Image.Image
    label: str
    before: str
    now: str
    way: str


@dataclass(frozen=True)
class WayRow:
    """One way of asking the exported file; `divergence` and `largest` are None if it gives only labels."""

    name: str
    changed: int
    allowed: int
    """The largest number of answers that may change."""
    comparison: Comparison
    divergence: float | None
    largest: float | None
    per_second: float


@dataclass(frozen=True)
class ProofData:
    """What the page shows."""

    title: str
    verdict: str
    ways: list[WayRow]
    changed: list[Changed]
    """At most `PICTURES` are shown."""
    usage: str
    facts: list[tuple[str, str]]


def render_proof(data: ProofData) -> str:
    """The page as HTML."""
    shown = [(c, data_uri(c.image), is_small(c.image)) for c in data.changed[:PICTURES]]
    return fill_template("proof.html.j2", [], data=data, pictures=shown)


def write_proof(path: Path, data: ProofData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_proof(data))
