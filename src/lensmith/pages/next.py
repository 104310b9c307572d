"""The page that shows the images to label next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lensmith.pages.page import data_uri, fill_template, is_small
from lensmith.runs.files import write


@dataclass(frozen=True)
class Picture:
    """An image to label."""

    image: Image.Image
    suggested: str
    """What the model takes it for; empty if it wasn't asked."""
    probability: float | None
    """Of that class, in 0..1."""
    file: str


@dataclass(frozen=True)
class NextData:
    """What the page shows."""

    title: str
    verdict: str
    notes: list[str]
    pictures: list[Picture]
    facts: list[tuple[str, str]]


def render_next(data: NextData) -> str:
    """The page as HTML."""
    pictures = [(p, data_uri(p.image), is_small(p.image)) for p in data.pictures]
    return fill_template("next.html.j2", data.notes, data=data, pictures=pictures)


def write_next(path: Path, data: NextData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_next(data))
